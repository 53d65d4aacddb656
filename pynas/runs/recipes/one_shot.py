"""SPOS and FairNAS: train the supernet with labels, rate whole networks by their error, search by trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pynas.checked import fields
from pynas.evaluation.error_rate import NORMS
from pynas.rating import Scores
from pynas.runs.defaults import Defaults
from pynas.runs.export import export_from
from pynas.runs.options import Options
from pynas.runs.recipes.by_trial import LOSS, STAGES, error_rate, find_by_trial, rate_networks
from pynas.runs.recipes.training import train_supernet
from pynas.runs.run import Request, Run
from pynas.spaces import Architecture
from pynas.train.team import is_first_process

_SMALL = {"epochs": 20, "batch_size": 64}
# Guo et al., arXiv:1904.00420, section 4, also as the baseline of DNA's table 7, on whose 50,000 validation images (section 4.1)
# it is rated; Chu et al., arXiv:1907.01845, section 4.1.
SPOS = {"learning_rate": 0.5, "weight_decay": 4e-5, "label_smoothing": 0.1, "schedule": "linear", "search": "evolution",
        "budget": 1000, "epochs": 120, "batch_size": 1024, "val_images": 50_000}  # fmt: skip
FAIRNAS = {"learning_rate": 0.045, "weight_decay": 4e-5, "epochs": 150, "batch_size": 256}


class OneShotRecipe:
    """`pynas run --method spos` and `--method fairnas`, on supernets whose candidates have weights of their own.

    method: `pynas.methods.spos` or `pynas.methods.fairnas`. paper: the recipe of its paper.
    """

    defaults = Defaults(space="nasbench201-mini", loss=LOSS, losses=(), norms=NORMS, averages=False)

    def __init__(self, method: Callable[..., Any], paper: Mapping[str, Any]):
        self._method, self._recipes = method, {"small": _SMALL, "paper": paper}
        self.summary = (method.__doc__ or "").partition("\n")[0]

    def options(self) -> Options:
        """Return the method's options and those of the search."""
        return Options(fields(self._method), STAGES, self._recipes)

    def teacher(self, run: Run) -> None:
        """Return None: labels teach."""

    def build(self, run: Run) -> Any:
        """Return the method on the run's supernet."""
        return self._method(run.net, **run.method_options)

    def train(self, run: Run) -> None:
        """Train the supernet."""
        train_supernet(run)

    def rate(self, run: Run, loss: str | None, norm: str) -> Scores | None:
        """With search=all, rate every architecture."""
        net, digest = self._trained(run)
        return rate_networks(run, net, digest, norm) if is_first_process() else None

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Search by trial, or exactly where everything is rated."""
        return find_by_trial(run, request, lambda: self._trained(run))

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Measure the errors of some networks."""
        return error_rate(run, self._trained(run)[0], norm).many(networks, run.progress.count())

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out of the supernet."""
        return export_from(run, *self._trained(run), architecture)

    def _trained(self, run: Run) -> tuple[Any, str]:
        method, digest = run.trained_method()
        return method.net, digest
