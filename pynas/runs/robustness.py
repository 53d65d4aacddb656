"""The runs that a robustness check compares: other seeds, and parts of the training images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pynas.runs import stages
from pynas.cli.display import Show
from pynas.runs.recipe import Flow
from pynas.runs.settings import Settings
from pynas.runs.stages import Run
from pynas.data import Arrays, Folder, ImageData
from pynas.data.images import stratified_split
from pynas.errors import InputError
from pynas.rating import ScoreTable


@dataclass(frozen=True)
class Variant:
    """A seed of the weights and the path sampling, and a share of the training images."""

    seed: int
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"[robustness] expected fractions above 0 and up to 1, got {self.fraction}")

    @property
    def name(self) -> str:
        """Of the subfolder, and in tables."""
        return f"seed_{self.seed}" if self.fraction == 1 else f"fraction_{self.fraction:g}"


def variants(first: int, seeds: int, fractions: list[float]) -> list[Variant]:
    """The reference (the first seed, all images), the other seeds, then the parts of the images, largest first."""
    if seeds < 1:
        raise InputError(f"[robustness] expected at least one seed, got {seeds}")
    parts = [Variant(first, fraction) for fraction in sorted(set(fractions), reverse=True)]
    return list(dict.fromkeys([*(Variant(first + n) for n in range(seeds)), *parts]))


def rated_variant(base: Run, variant: Variant, loss: str, norm: str, show: Show) -> list[list[ScoreTable]]:
    """Train and rate a variant in a subfolder of its own; what is done already is read.

    The teacher, the split and the images that are rated on are the base run's; with a part of the training images there
    are as many more epochs, each with so much less decay, that steps and learning rates stay the same (section 4.5).
    """
    run = Run(base.folder / variant.name, _settings(base.settings, variant, base.flow), base.flow, str(base.device))
    data = base.data if variant.fraction == 1 else part_of(base.data, variant.fraction)
    run.__dict__["data"] = data  # in the place of the cached property
    if base.settings.teacher == "small":
        run.__dict__["named_teacher"] = base.teacher(show.teacher())
    base.flow.train(run, show)
    return stages.rate(run, loss, norm, show)


def _settings(settings: Settings, variant: Variant, flow: Flow) -> Settings:
    epochs, options = max(1, round(settings.epochs / variant.fraction)), dict(settings.options)
    if epochs != settings.epochs and "decay" in flow.options:
        options["decay"] = options.get("decay", flow.options["decay"]) ** (settings.epochs / epochs)
    return replace(settings, seed=variant.seed, epochs=epochs, options=options)


def part_of(data: ImageData, fraction: float) -> ImageData:
    """A stratified part of the training images, the same for every seed; all else as it is."""
    train = data.train
    labels = train.labels.numpy() if isinstance(train, Arrays) else np.array([label for _, label in train.samples])
    kept, _ = stratified_split(labels, 1 - fraction, seed=0)
    if isinstance(train, Arrays):
        part: Arrays | Folder = Arrays(*train.batch(kept))
    else:
        part = Folder([train.samples[i] for i in kept])
    return replace(data, train=part, fingerprint=f"{data.fingerprint}-{fraction:g}")
