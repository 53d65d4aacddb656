"""Recipes to train a network with: the two of the papers, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pynas.data import ImageData, Loader


@dataclass(frozen=True)
class Recipe:
    """Numbers of a training.

    optimizer, schedule: timm's names.
    learning_rate: for batches of `batch_size`; scaled in proportion to the size of other batches.
    epochs, warmup_epochs, decay_epochs: for another number of epochs, the schedule is stretched or shortened.
    ema: decay of the moving average of the weights, 0 for none; the decay warms up.
    drop: dropout before the classifier. drop_path: stochastic depth of the last residual layer, see `regularise`.
    augmentation, erasing, repeats: see `ImageData.loader`.
    """

    name: str
    optimizer: str
    learning_rate: float
    batch_size: int
    weight_decay: float
    schedule: str
    epochs: int
    warmup_epochs: float = 5.0
    decay_epochs: float | None = None
    decay_rate: float = 0.1
    min_rate: float = 0.0
    momentum: float = 0.9
    epsilon: float | None = None
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    drop: float = 0.0
    drop_path: float = 0.0
    augmentation: str = "standard"
    erasing: float = 0.0
    repeats: int = 1
    ema: float = 0.0


# DNA (ViTs) and BossNet-T: AdamW, 1e-3 for 1,024 images, cosine, 300 epochs; the rest is DeiT's (arXiv:2012.12877, table 9).
DEIT = Recipe(
    "deit", "adamw", 1e-3, 1024, 0.05, "cosine", 300, min_rate=1e-2, mixup=0.8, cutmix=1.0, drop_path=0.1,
    augmentation="rand-m9-mstd0.5-inc1", erasing=0.25, repeats=3, ema=0.99996,
)  # fmt: skip
# DNA (MBConv) and BossNet-M: RMSprop with momentum 0.9, 0.256 for 4,096 images, times 0.97 every 2.4 epochs; the rest is
# EfficientNet's (arXiv:1905.11946, section 5.2).
EFFICIENTNET = Recipe(
    "efficientnet", "rmsproptf", 0.256, 4096, 1e-5, "step", 350, decay_epochs=2.4, decay_rate=0.97, epsilon=1e-3, drop=0.2,
    drop_path=0.2, augmentation="rand-m9-mstd0.5", ema=0.9999,
)  # fmt: skip

RECIPES = {recipe.name: recipe for recipe in (DEIT, EFFICIENTNET)}


def training_loader(
    data: ImageData, recipe: Recipe, batch_size: int, *, seed: int = 0, workers: int = 0, device: Any = "cpu"
) -> Loader:
    """Return the loader of the training images with the recipe's augmentation."""
    return data.loader("train", batch_size, recipe.augmentation, erasing=recipe.erasing, repeats=recipe.repeats,
                       seed=seed, workers=workers, device=device)  # fmt: skip
