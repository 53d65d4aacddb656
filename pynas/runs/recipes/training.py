"""The training stage of methods that `pynas.fit` trains."""

from __future__ import annotations

from pynas.data import Loader
from pynas.runs.run import Run
from pynas.train import fit


def train_supernet(run: Run, loader: Loader | None = None) -> None:
    """Train the method's supernet, or go on where its training was stopped.

    loader: of the training images; None for the run's own.
    """
    method, settings = run.method(), run.settings
    fit(method, loader or run.training_loader(), settings.epochs, run.folder, seed=settings.seed,
        accumulate=settings.accumulate, on_step=run.progress.steps(), spread=run.spread,
        keep_epochs=settings.keep_epochs, keep=run.keep)  # fmt: skip
