"""DNA: train with a teacher, rate by its features, search exactly."""

from __future__ import annotations

from typing import Any

from pynas import methods
from pynas.runs import search as finding
from pynas.runs import stages
from pynas.cli.display import Show
from pynas.runs.recipe import Flow
from pynas.runs.stages import Run


def build(run: Run, show: Show) -> Any:
    """The method with the run's teacher, which is trained first if it is a small one."""
    options = {**run.settings.options, "rating_batches": run.loader("val")}
    return methods.DNA(run.net, run.teacher(show.teacher()), image_shape=run.data.image_shape, **options)


def train(run: Run, show: Show) -> None:
    """As every method; on the images as they are where the teacher's features of these are kept."""
    stages.train(run, show, "none" if run.settings.options.get("cache_training") else None)


OWN = ("taps", "image_shape", "rating_batches")
FLOW = Flow(methods.DNA, build, train, stages.rate, finding.find, stages.export_found, own=OWN)
