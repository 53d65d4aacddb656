"""Pi-NAS: train without labels, then a classifier by linear evaluation; rate whole networks, search by trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pynas.checked import AtLeastOne, Positive, fields
from pynas.evaluation.error_rate import NORMS
from pynas.methods import LinearEvaluation, PiNAS
from pynas.rating import Scores
from pynas.runs.defaults import Defaults
from pynas.runs.export import export_from
from pynas.runs.options import Options
from pynas.runs.recipes.by_trial import LOSS, STAGES, error_rate, find_by_trial, rate_networks
from pynas.runs.recipes.training import train_supernet
from pynas.runs.run import Request, Run
from pynas.spaces import Architecture
from pynas.tensor_files import read_tensors
from pynas.train import fit
from pynas.train.checkpoint import CHECKPOINT, LAST
from pynas.train.team import is_first_process

# Epochs, images per batch (None: the run's) and rate of the linear evaluation.
_LINEAR = {
    "linear_epochs": (AtLeastOne, 20),
    "linear_batch_size": (AtLeastOne | None, None),
    "linear_rate": (Positive, 0.3),
}
# For images as few and small as the digits.
_SMALL = {
    "queue_size": 1024,
    "projector_norm": True,
    "momentum": 0.99,
    "learning_rate": 0.06,
    "epochs": 20,
    "batch_size": 64,
}
# Section 4.1; the queue and its temperature are the released code's. Batch norm is re-estimated on 50,000 images.
# "We randomly pick out 50 images per class from the original 1.28M training set to build a 50k validation set."
_PAPER = {"queue_size": 49_152, "temperature": 0.2, "projector_norm": False, "momentum": 0.999, "learning_rate": 0.03,
          "weight_decay": 1e-4, "augmentation": "moco", "epochs": 100, "batch_size": 192, "linear_epochs": 100,
          "linear_batch_size": 256, "linear_rate": 30.0, "search": "action-space", "budget": 1000,
          "calibration_batches": 261, "val_images": 50_000}  # fmt: skip


class PiNASRecipe:
    """`pynas run --method pinas`."""

    summary = (PiNAS.__doc__ or "").partition("\n")[0]
    defaults = Defaults(space="nasbench201-mini", views=4, loss=LOSS, losses=(), norms=NORMS, averages=False)

    def options(self) -> Options:
        """Return the method's options, and those of the search and of the linear evaluation."""
        return Options(fields(PiNAS), {**STAGES, **_LINEAR}, {"small": _SMALL, "paper": _PAPER})

    def teacher(self, run: Run) -> None:
        """Return None: the average of the supernet's own weights teaches it."""

    def build(self, run: Run) -> PiNAS:
        """Return the method on the run's supernet."""
        return PiNAS(run.net, **run.method_options)

    def train(self, run: Run) -> None:
        """Train the supernet."""
        train_supernet(run, run.training_loader(None if run.options["augmented_views"] else 1))

    def rate(self, run: Run, loss: str | None, norm: str) -> Scores | None:
        """Train the classifier; with search=all, rate every architecture."""
        net, digest = self._classifying(run)
        return rate_networks(run, net, digest, norm) if is_first_process() else None

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Search by trial, or exactly where everything is rated."""
        return find_by_trial(run, request, lambda: self._classifying(run))

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Measure the errors of some networks."""
        return error_rate(run, self._classifying(run)[0], norm).many(networks, run.progress.count())

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out of the supernet with the classifier of the linear evaluation."""
        return export_from(run, *self._classifying(run), architecture)

    def _classifying(self, run: Run) -> tuple[Any, str]:
        """Return the trained supernet with its classifier, trained by linear evaluation and kept in the folder `linear`."""
        method, _ = run.trained_method()
        linear = LinearEvaluation(method.net, learning_rate=run.options["linear_rate"]).to(run.device)
        folder = run.folder / "linear"
        loader = run.loader("train", "standard", batch_size=run.options["linear_batch_size"])
        fit(linear, loader, run.options["linear_epochs"], folder, seed=run.settings.seed,
            on_step=run.progress.steps("train classifier"))  # fmt: skip
        return linear.net, read_tensors(folder / LAST, CHECKPOINT).digest
