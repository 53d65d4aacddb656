"""How much a rating depends on the seed and on the amount of data (DNA, tables 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pynas.data import Arrays, Folder, ImageData
from pynas.data.images import stratified_split
from pynas.errors import InputError
from pynas.files import header, write_json
from pynas.rating import Scores
from pynas.report.figures import save_figure
from pynas.report.robustness import robustness_figure
from pynas.runs.run import Request, Run
from pynas.runs.search import find_limits
from pynas.runs.settings import Settings
from pynas.runs.truth import read_truth
from pynas.tabular.robustness import compare_runs


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
        """Name of the variant's subfolder, and in tables."""
        return f"seed_{self.seed}" if self.fraction == 1 else f"fraction_{self.fraction:g}"


def variants(first: int, seeds: int, fractions: Sequence[float]) -> list[Variant]:
    """Return the reference (the first seed, all images), the other seeds, then the parts of the images, largest first."""
    if seeds < 1:
        raise InputError(f"[robustness] expected at least one seed, got {seeds}")
    parts = [Variant(first, fraction) for fraction in sorted(set(fractions), reverse=True)]
    return list(dict.fromkeys([*(Variant(first + n) for n in range(seeds)), *parts]))


def check_robustness(
    base: Run,
    seeds: int = 3,
    fractions: Sequence[float] = (0.25, 0.5, 1.0),
    sample: int = 1000,
    truth: Path | None = None,
    loss: str | None = None,
    norm: str | None = None,
    limits: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and rate DNA with other seeds and with less data, compare the ratings, and write and return robustness.json.

    Seeds change the supernet's weights and the sampled paths; teacher, split and number of steps stay the same. Each variant
    has a subfolder; what is done already is not done again. robustness.png and .svg show the result.

    sample: architectures whose ranks are compared. truth: CSV file of trained networks' accuracies. limits: of the search,
    as `Run.search` takes them.
    """
    accuracies = None if truth is None else read_truth(truth, base.space)
    chosen = variants(base.settings.seed, seeds, fractions)
    scores = {variant.name: rated_variant(base, variant, loss, norm) for variant in chosen}
    rated_by = scores[chosen[0].name].metadata
    bounds = find_limits(base, Request(limits or {}), base.costs).upper
    compared = compare_runs(scores, base.costs, bounds, sample, accuracies)
    pictures = save_figure(robustness_figure(list(scores), compared.totals, compared.tau), base.folder / "robustness")
    content = header("pynas.robustness", space=base.space.name, data=base.data.fingerprint) | {
        "loss": rated_by["loss"], "norm": rated_by["norm"], "limits": bounds, "sample": sample,
        "runs": [asdict(each) for each in compared.runs], "tau": compared.tau,
        "pictures": [path.name for path in pictures]}  # fmt: skip
    write_json(base.folder / "robustness.json", content)
    return content


def rated_variant(base: Run, variant: Variant, loss: str | None, norm: str | None) -> Scores:
    """Train and rate a variant in a subfolder of its own; what is done already is read.

    The teacher, the split and the images that are rated on are the base run's; with a part of the training images there
    are as many more epochs, each with so much less decay, that steps and learning rates stay the same (section 4.5).
    """
    settings = _settings(base, variant)
    run = Run(base.folder / variant.name, settings, base.recipe, str(base.device), progress=base.progress)
    run.data = base.data if variant.fraction == 1 else part_of(base.data, variant.fraction)
    if base.settings.teacher == "small":
        run.named_teacher = base.teacher()
    run.train()
    scores = run.rate(loss, norm)
    assert scores is not None
    return scores


def _settings(base: Run, variant: Variant) -> Settings:
    settings = base.settings
    epochs, options = max(1, round(settings.epochs / variant.fraction)), dict(settings.options)
    if epochs != settings.epochs and "decay" in base.options:
        options["decay"] = base.options["decay"] ** (settings.epochs / epochs)
    return settings.replace(seed=variant.seed, epochs=epochs, options=options)


def part_of(data: ImageData, fraction: float) -> ImageData:
    """Return the data with a stratified part of the training images, which does not depend on the run's seed."""
    train = data.train
    labels = train.labels.numpy() if isinstance(train, Arrays) else np.array([label for _, label in train.samples])
    kept, _ = stratified_split(labels, 1 - fraction, seed=0)
    if isinstance(train, Arrays):
        part: Arrays | Folder = Arrays(*train.batch(kept))
    else:
        part = Folder([train.samples[i] for i in kept])
    return replace(data, train=part, fingerprint=f"{data.fingerprint}-{fraction:g}")
