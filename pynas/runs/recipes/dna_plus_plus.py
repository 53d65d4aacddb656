"""DNA++: teacher and supernet learn together without labels; rated by the same loss, searched exactly."""

from __future__ import annotations

from pynas.methods import DNAPlusPlus
from pynas.ops.path_distance import KINDS as DISTANCES
from pynas.runs.recipes.paths import PathRecipe
from pynas.runs.run import Defaults, Run
from pynas.teachers import Teacher


def _teacher(run: Run) -> Teacher:
    """Return a timm teacher (fresh with --no-pretrained) or a small fresh one."""
    return run.named_teacher or run.fresh_teacher()


def _build(run: Run) -> DNAPlusPlus:
    """Return the method with its teacher."""
    return DNAPlusPlus(run.net, _teacher(run), image_shape=run.data.image_shape, **run.method_options)


# A few hundred steps on a small data set are too few for LARS's usual trust of 0.001.
DNA_PLUS_PLUS = PathRecipe(
    DNAPlusPlus,
    _build,
    _teacher,
    Defaults(space="vit-mini", views=2, loss="self_supervised", losses=DISTANCES),
    skip=("taps", "image_shape", "loss"),
    option_defaults={"trust": 0.03},
    note="DNA++ trains every block on the teacher's features, not on those of the block before: this network has to be "
    "trained, by `pynas retrain --run {folder}`.",
)
