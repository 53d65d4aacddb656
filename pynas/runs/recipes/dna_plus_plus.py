"""DNA++: teacher and supernet learn together without labels; rated by the same loss, searched exactly."""

from __future__ import annotations

from typing import Any

import torch

from pynas import methods, teachers
from pynas.runs import search as finding
from pynas.runs import stages
from pynas.cli.display import Show
from pynas.runs.recipe import Flow
from pynas.runs.stages import Run
from pynas.spaces import Architecture

# A few hundred steps on a small data set are too few for LARS's usual 0.001.
DEFAULTS = {"trust": 0.03}


def build(run: Run, show: Show) -> Any:
    """The method with a teacher by its timm name (fresh with --no-pretrained) or a small one with fresh weights."""
    teacher = run.named_teacher or fresh_small(run)
    return methods.DNAPlusPlus(run.net, teacher, image_shape=run.data.image_shape, **run.method_options)


def fresh_small(run: Run) -> teachers.Teacher:
    """A small teacher with the shapes of the supernet's blocks and weights from the run's seed."""
    shape = run.data.image_shape
    blocks, stem = teachers.small_like(run.net.block_shapes(shape), shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.settings.seed)
        module = teachers.small(run.data.num_classes, blocks, stem)
    return teachers.Teacher(module, [f"blocks.{b}" for b in range(len(blocks))])


def export_found(run: Run, architecture: Architecture | None) -> dict[str, Any]:
    """Take the network out with the supernet's weights, and say that these are no measure of it."""
    note = (f"DNA++ trains every block on the teacher's features, not on those of the block before: this network has to be "
            f"trained, by `pynas retrain --run {run.folder}`.")  # fmt: skip
    return stages.export_found(run, architecture) | {"note": note}


FLOW = Flow(
    methods.DNAPlusPlus,
    build,
    stages.train,
    stages.rate,
    finding.find,
    export_found,
    own=("taps", "image_shape", "loss"),
    space="vit-mini",
    views=2,
    loss="self_supervised",
    defaults=DEFAULTS,
)
