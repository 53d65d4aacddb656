"""Options of BossNAS: ensemble bootstrapping, the sizes of the heads, and the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pynas.checked import AtLeastOne, Fraction, NonNegative, checked


@checked("bossnas")
@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Settings of ensemble bootstrapping.

    paths: P, the number of paths sampled per step.
    target: "ensemble" (eq. 3), or an ablation of table 5: "naive" (each path's own average), "classification" (labels),
        "distillation" (the pooled features of a teacher after the block).
    feed: "best": blocks train one after the other, on the output of the best paths before them. "joint": all blocks
        train in every step, each on the output of a random path before it.
    sampling: "fair" or "random"; None: fair unless the space forbids some paths.
    views: "each": every path has a pair of views of its own (the paper). "shared": all paths share one pair, which makes
        augmentation P times cheaper.
    both_views: also predict the first views from the second ones. renormalize: normalise the mean of the targets. The
        released code does both.
    momentum: of the weights' average, rising to 1 by a cosine.
    """

    paths: AtLeastOne = 4
    target: Literal["ensemble", "naive", "classification", "distillation"] = "ensemble"
    feed: Literal["best", "joint"] = "best"
    sampling: Literal["fair", "random"] | None = None
    views: Literal["each", "shared"] = "each"
    both_views: bool = False
    renormalize: bool = False
    momentum: Fraction = 0.99


@checked("bossnas")
@dataclass(frozen=True, kw_only=True)
class Heads:
    """Sizes of the projectors and predictors: hidden layers and outputs (dim).

    width: common width that the features of a block's paths are brought to; None takes the widest.
    """

    hidden: AtLeastOne = 4096
    dim: AtLeastOne = 256
    width: AtLeastOne | None = None


@checked("bossnas")
@dataclass(frozen=True, kw_only=True)
class Optimization:
    """Settings of LARS.

    rate: learning rate for batches of 4096 images, scaled by `batch_size` / 4096. amp: forward passes in bfloat16;
        "auto" where that is faster (`Precision`).
    """

    rate: NonNegative = 4.8
    weight_decay: NonNegative = 1e-6
    warmup_epochs: NonNegative = 1.0
    amp: bool | Literal["auto"] = False
