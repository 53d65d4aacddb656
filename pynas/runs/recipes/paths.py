"""The recipe of methods that `pynas.fit` trains, whose paths are rated, and whose space is searched exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pynas.checked import fields
from pynas.rating import Scores
from pynas.runs.defaults import Defaults
from pynas.runs.export import export_trained
from pynas.runs.options import SMALL, Fields, Options, loader_options
from pynas.runs.rate import rate_paths, score_networks
from pynas.runs.recipes.training import train_supernet
from pynas.runs.run import Request, Run
from pynas.runs.search import find_exactly
from pynas.spaces import Architecture
from pynas.teachers import Teacher


@dataclass(frozen=True)
class PathRecipe:
    """Recipe of a method with `rate_block`; its keyword-only arguments are the options.

    method: its class. make, teach: called with the run, return the method and its teacher. skip: keyword-only arguments
    that are no options. stages, recipes: see `Options`. note: printed with an exported network; `{folder}` stands for the
    run's folder.
    """

    method: Callable[..., Any]
    make: Callable[[Run], Any]
    teach: Callable[[Run], Teacher | None] = lambda run: None
    defaults: Defaults = field(default_factory=Defaults)
    skip: tuple[str, ...] = ("taps", "image_shape")
    stages: Fields = field(default_factory=loader_options)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {SMALL: {}})
    note: str = ""

    @property
    def summary(self) -> str:
        """First line of the method's docstring."""
        return (self.method.__doc__ or "").partition("\n")[0]

    def options(self) -> Options:
        """Return the options of the method's constructor, and those of the stages."""
        return Options(fields(self.method, self.skip), self.stages, self.recipes)

    def teacher(self, run: Run) -> Teacher | None:
        """Return the method's teacher, None where it has none."""
        return self.teach(run)

    def build(self, run: Run) -> Any:
        """Return the method on the run's supernet."""
        return self.make(run)

    def train(self, run: Run) -> None:
        """Train the supernet."""
        train_supernet(run)

    def rate(self, run: Run, loss: str | None, norm: str) -> Scores:
        """Rate every path of every block."""
        return rate_paths(run, loss, norm)

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Search the rated paths exactly."""
        return find_exactly(run, request)

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Rate the paths of some networks alone."""
        return score_networks(run, networks, loss, norm)

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out of the supernet."""
        note = {"note": self.note.format(folder=run.folder)} if self.note else {}
        return export_trained(run, architecture) | note
