"""Recipes to train a network with: those of the papers, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from pynas.checked import AtLeastOne, Fraction, NonNegative, Positive, checked
from pynas.data import ImageData, Loader
from pynas.errors import InputError


@checked("retrain")
@dataclass(frozen=True, kw_only=True)
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
    learning_rate: Positive
    batch_size: AtLeastOne
    weight_decay: NonNegative
    schedule: Literal["cosine", "step", "tanh", "poly"]
    epochs: AtLeastOne
    warmup_epochs: NonNegative = 5.0
    decay_epochs: Positive | None = None
    decay_rate: Positive = 0.1
    min_rate: NonNegative = 0.0
    momentum: NonNegative = 0.9
    epsilon: Positive | None = None
    label_smoothing: Fraction = 0.1
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    drop: Fraction = 0.0
    drop_path: Fraction = 0.0
    augmentation: str = "standard"
    erasing: Fraction = 0.0
    repeats: Annotated[int, Ge(1)] = 1
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        from timm.optim import list_optimizers

        if self.optimizer not in list_optimizers():
            raise InputError(
                f"[retrain] expected an optimizer that timm knows, as sgd, adamw or rmsproptf, got {self.optimizer!r}"
            )

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """Return a copy with other numbers.

        Raises:
            InputError: a number that a recipe does not have, of a wrong type or out of its range.
        """
        names = [field.name for field in fields(self) if field.name != "name"]
        for name in values:
            if name not in names:
                raise InputError(f"[retrain] expected numbers of a recipe of {', '.join(names)}, got {name!r}")
        return Recipe(**{**asdict(self), **values})


# A short training for small images: the one-cycle schedule's warm-up and cosine.
SMALL = Recipe(name="small", optimizer="adamw", learning_rate=0.005, batch_size=64, weight_decay=0.05, schedule="cosine",
               epochs=10, warmup_epochs=3.0)  # fmt: skip
# DNA (ViTs) and BossNet-T: AdamW, 1e-3 for 1,024 images, cosine, 300 epochs; the rest is DeiT's (arXiv:2012.12877, table 9).
DEIT = Recipe(
    name="deit", optimizer="adamw", learning_rate=1e-3, batch_size=1024, weight_decay=0.05, schedule="cosine", epochs=300,
    min_rate=1e-2, mixup=0.8, cutmix=1.0, drop_path=0.1, augmentation="rand-m9-mstd0.5-inc1", erasing=0.25, repeats=3,
    ema=0.99996,
)  # fmt: skip
# DNA (MBConv) and BossNet-M: RMSprop with momentum 0.9, 0.256 for 4,096 images, times 0.97 every 2.4 epochs; the rest is
# EfficientNet's (arXiv:1905.11946, section 5.2). Plain, by AutoAugment and by RandAugment, as the rows of DNA's table 2.
EFFICIENTNET = Recipe(
    name="efficientnet", optimizer="rmsproptf", learning_rate=0.256, batch_size=4096, weight_decay=1e-5, schedule="step",
    epochs=350, decay_epochs=2.4, decay_rate=0.97, epsilon=1e-3, drop=0.2, drop_path=0.2, ema=0.9999,
)  # fmt: skip
EFFICIENTNET_AA = replace(EFFICIENTNET, name="efficientnet-aa", augmentation="v0")
EFFICIENTNET_RA = replace(EFFICIENTNET, name="efficientnet-ra", augmentation="rand-m9-mstd0.5")
# Pi-NAS, section 4.2: 270 epochs as ResNeSt's (arXiv:2004.08955, section 5.1: 0.1 for 256 images, cosine, mixup 0.2, dropout;
# without its DropBlock), by AugMix (table 2) or by AutoAugment, as ResNeSt (table 1).
RESNEST = Recipe(
    name="resnest", optimizer="momentum", learning_rate=0.1, batch_size=256, weight_decay=1e-4, schedule="cosine", epochs=270,
    mixup=0.2, drop=0.2, augmentation="augmix-m3-w3",
)  # fmt: skip
RESNEST_AA = replace(RESNEST, name="resnest-aa", augmentation="original")
RECIPES = {
    recipe.name: recipe for recipe in (SMALL, DEIT, EFFICIENTNET, EFFICIENTNET_AA, EFFICIENTNET_RA, RESNEST, RESNEST_AA)
}

# Transfer to another data set. DNA, table 3, follows Kornblith et al. (arXiv:1805.08974, appendix A.5): 20,000 steps of 256
# images, SGD with Nesterov's momentum, a cosine; rate and decay are from the middle of their grids. 100 epochs are 19,600 steps
# of CIFAR. PreNAS, table 5, follows DeiT, whose authors give SGD at 0.01 for 768 images and 1,000 epochs, without erasing and
# stochastic depth, otherwise as on ImageNet (their answer in issue 45 of their repository).
TRANSFER_CNN = Recipe(
    name="transfer-cnn", optimizer="sgd", learning_rate=0.01, batch_size=256, weight_decay=1e-4, schedule="cosine", epochs=100,
    warmup_epochs=0.0, label_smoothing=0.0,
)  # fmt: skip
TRANSFER_VIT = replace(
    DEIT, name="transfer-vit", optimizer="sgd", learning_rate=0.01, batch_size=768, weight_decay=1e-4, epochs=1000,
    drop_path=0.0, erasing=0.0,
)  # fmt: skip
TRANSFERS = {recipe.name: recipe for recipe in (TRANSFER_CNN, TRANSFER_VIT)}


def recipe_of(name: str, recipes: Mapping[str, Recipe] = RECIPES) -> Recipe:
    """Return the recipe of a name.

    Raises:
        InputError: an unknown name; the message lists the names.
    """
    if name not in recipes:
        raise InputError(f"[retrain] expected a recipe of {', '.join(recipes)}, got {name!r}")
    return recipes[name]


def training_loader(data: ImageData, recipe: Recipe, batch_size: int, *, seed: int = 0, device: Any = "cpu") -> Loader:
    """Return the loader of the training images with the recipe's augmentation."""
    return data.loader("train", batch_size, recipe.augmentation, erasing=recipe.erasing, repeats=recipe.repeats,
                       seed=seed, device=device)  # fmt: skip
