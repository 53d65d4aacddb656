"""DNA: train with a teacher, rate by its features, search exactly."""

from __future__ import annotations

from typing import Any

from pynas import methods
from pynas.cli import finding, stages
from pynas.cli.display import Show
from pynas.cli.flow import Flow
from pynas.cli.stages import Run


def build(run: Run, show: Show) -> Any:
    """The method with the run's teacher, which is trained first if it is a small one."""
    return methods.DNA(run.net, run.teacher(show.teacher()), image_shape=run.data.image_shape, **run.settings.options)


FLOW = Flow(
    methods.DNA, build, stages.train, stages.rate, finding.find, stages.export_found, own=("taps", "image_shape")
)
