"""DNA++: teacher and supernet learn together without labels; rated by the same loss, searched exactly."""

from __future__ import annotations

from pynas.checked import fields
from pynas.methods import DNAPlusPlus
from pynas.methods.dna.self_supervised_loss import SelfSupervisedLoss
from pynas.ops.path_distance import KINDS as DISTANCES
from pynas.runs.block_teachers import fresh_teacher
from pynas.runs.defaults import Defaults
from pynas.runs.options import loader_options
from pynas.runs.recipes.paths import PathRecipe
from pynas.runs.run import Run
from pynas.teachers import Teacher


def _teacher(run: Run) -> Teacher:
    """Return a timm teacher (fresh with --no-pretrained) or a small fresh one."""
    return run.tapped_teacher or fresh_teacher(run)


def _build(run: Run) -> DNAPlusPlus:
    """Return the method with its teacher."""
    loss = SelfSupervisedLoss(**{name: run.options[name] for name in _LOSS})
    settings = run.settings
    return DNAPlusPlus(run.net, _teacher(run), image_shape=run.data.image_shape, loss=loss,
                       batch_size=settings.batch_size * settings.accumulate, **run.method_options)  # fmt: skip


_LOSS = fields(SelfSupervisedLoss)
# A few hundred steps on a small data set are too few for LARS's usual trust of 0.001.
_SMALL = {"learning_rate": 1.32, "trust": 0.03, "epochs": 20, "batch_size": 64}
# Section 4.1: a "50k-image validation set" out of the training images. Section 4.4; the rate 0.33 is taken to be swapped with DNA's
# 0.0025. Eq. 11 has the hinge of the teacher alone. The paper leaves the augmentations open: BYOL's.
_PAPER = {
    "learning_rate": 0.33,
    "trust": 0.001,
    "augmentation": "strong",
    "both": False,
    "epochs": 20,
    "batch_size": 256,
    "val_images": 50_000,
}
DNA_PLUS_PLUS = PathRecipe(
    DNAPlusPlus,
    _build,
    _teacher,
    Defaults(space="vit-mini", views=2, loss="self_supervised", losses=DISTANCES),
    skip=("taps", "image_shape", "loss", "batch_size"),
    stages={**_LOSS, **loader_options()},
    recipes={"small": _SMALL, "paper": _PAPER},
    note="DNA++ trains every block on the teacher's features, not on those of the block before: this network has to be "
    "trained, by `pynas retrain --run {folder}`.",
)
