"""The protocol of the methods' recipes: what a run asks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from pynas import teachers
from pynas.rating import Scores
from pynas.runs.defaults import Defaults
from pynas.runs.options import Options
from pynas.runs.request import Request
from pynas.spaces import Architecture


class Recipe(Protocol):
    """How a method goes from the settings of a `Run` to a found network; each stage works from files to files."""

    @property
    def summary(self) -> str:
        """The method in a line."""

    @property
    def defaults(self) -> Defaults:
        """Settings of the method's runs that the user leaves open."""

    def options(self) -> Options:
        """Return the options that users give by name."""

    def teacher(self, run: Any) -> teachers.Teacher | None:
        """Return the teacher that the method learns from; None where it has none."""

    def build(self, run: Any) -> Any:
        """Return the method, a `pynas.train.Method` on the run's net."""

    def train(self, run: Any) -> None:
        """Train the supernet, or go on where a training was stopped."""

    def rate(self, run: Any, loss: str | None, norm: str) -> Scores | None:
        """Rate the trained supernet and write the scores; None where the search rates whole networks."""

    def find(self, run: Any, request: Request) -> dict[str, Any]:
        """Search, and write and return search.json."""

    def score(self, run: Any, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Rate some networks alone, those that a benchmark knows; return their scores `[N]`, lower is better."""

    def export(self, run: Any, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out (None: the best of search.json), measure it and write subnet.safetensors."""
