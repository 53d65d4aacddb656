"""How much a rating depends on the seed and on the amount of data (DNA, tables 8 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pynas.data import ImageData
from pynas.data.images import stratified_split
from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.rating import Scores
from pynas.report.figures import save_figure
from pynas.report.robustness import robustness_figure
from pynas.runs.run import Request, Run
from pynas.runs.search import find_limits
from pynas.runs.settings import Settings, member_folder
from pynas.runs.truth import read_truth
from pynas.spaces import Architecture
from pynas.tabular.robustness import compare_networks, compare_runs

_NETWORKS = "pynas.network_scores"


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
        return member_folder(self.seed) if self.fraction == 1 else f"fraction_{self.fraction:g}"


def seeds_of(text: str) -> int | list[int]:
    """Read a number of seeds, "3", or seeds separated by commas, "0,41,42".

    Raises:
        InputError: something else, or a seed twice.
    """
    parts = text.split(",")
    seeds = [int(part) for part in parts if part.strip().isdecimal()]
    if len(seeds) < len(parts) or len(set(seeds)) < len(seeds):
        raise InputError(
            f"[robustness] expected a number of seeds, or different seeds separated by commas, got {text!r}"
        )
    return seeds[0] if len(seeds) == 1 else seeds


def variants(first: int, seeds: int | Sequence[int], fractions: Sequence[float]) -> list[Variant]:
    """Return the reference (the first seed, all images), the other seeds, then the parts of the images, largest first.

    seeds: so many, from the first on, or all of them.
    """
    numbers = range(first, first + seeds) if isinstance(seeds, int) else seeds
    if not len(numbers):
        raise InputError(f"[robustness] expected at least one seed, got {seeds}")
    parts = [Variant(first, fraction) for fraction in sorted(set(fractions), reverse=True)]
    return list(dict.fromkeys([Variant(first), *map(Variant, numbers), *parts]))


def check_robustness(
    base: Run,
    seeds: int | Sequence[int] = 3,
    fractions: Sequence[float] = (0.25, 0.5, 1.0),
    sample: int = 1000,
    truth: Path | None = None,
    loss: str | None = None,
    norm: str | None = None,
    limits: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and rate with other seeds and with less data, compare the ratings, and write and return robustness.json.

    Seeds change the supernet's weights and the sampled paths; teacher, split and number of steps stay the same. Each variant
    but the first has a subfolder, a seed the one that it has in a run of several `seeds`; what is done already is not done
    again. robustness.png and .svg show the result.

    A method that rates no paths rates the sampled networks, and the network found is the best of these.

    seeds: so many, from the run's on, or those beside the run's. sample: architectures whose ranks are compared.
    truth: CSV file of trained networks' accuracies. limits: of the search, as `Run.search` takes them.
    """
    base.recipe.defaults.check_rating(loss, norm)
    if base.settings.method == "dna-plus":
        raise InputError(
            "[robustness] expected a method of one supernet, got dna-plus; compare its generations in generations.json"
        )
    accuracies = None if truth is None else read_truth(truth, base.space)
    chosen = variants(base.settings.seed, seeds, fractions)
    found = find_limits(base, Request(limits or {}), base.costs)
    if found.lower:
        raise InputError(f"[robustness] expected upper limits alone, got a lower one on {', '.join(found.lower)}")
    bounds = found.upper
    if base.recipe.defaults.averages:
        scores = {variant.name: rated_variant(base, variant, loss, norm) for variant in chosen}
        rated_by = scores[chosen[0].name].metadata
        compared = compare_runs(scores, base.costs, bounds, sample, accuracies)
    else:
        rng = np.random.default_rng(0)
        drawn = list(dict.fromkeys(base.space.sample(rng) for _ in range(sample)))
        networks = [*drawn, *(accuracies or {})]
        rated_by = {"loss": loss or base.recipe.defaults.loss, "norm": norm or base.recipe.defaults.norms[0]}
        values = {each.name: _scores_of(trained_variant(base, each), networks, rated_by) for each in chosen}
        compared = compare_networks(base.space, drawn, values, base.costs, bounds, accuracies)
    pictures = save_figure(robustness_figure([each.name for each in compared.runs], compared.totals, compared.tau),
                           base.folder / "robustness")  # fmt: skip
    content = header("pynas.robustness", space=base.space.name, data=base.data.fingerprint) | {
        "loss": rated_by["loss"], "norm": rated_by["norm"], "limits": bounds, "sample": compared.totals.shape[1],
        "blocks": len(base.space),
        "runs": [asdict(each) for each in compared.runs], "tau": compared.tau,
        "pictures": [path.name for path in pictures]}  # fmt: skip
    write_json(base.folder / "robustness.json", content)
    return content


def trained_variant(base: Run, variant: Variant) -> Run:
    """Train a variant in a subfolder of its own, the reference in the run's folder; what is done already is not done again.

    The teacher, the split and the images that are rated on are the base run's; with a part of the training images there
    are as many more epochs, and epochs of warm-up, each with so much less decay, that steps and learning rates stay the same
    (section 4.5).
    """
    if variant == Variant(base.settings.seed):
        run = base
    else:
        run = base.variant(variant.name, _settings(base, variant))
        if variant.fraction < 1:
            run.data = part_of(base.data, variant.fraction)
    run.train_alone()
    return run


def rated_variant(base: Run, variant: Variant, loss: str | None, norm: str | None) -> Scores:
    """Train and rate a variant, see `trained_variant`."""
    scores = trained_variant(base, variant).rate_alone(loss, norm)
    assert scores is not None
    return scores


def _scores_of(run: Run, networks: Sequence[Architecture], rated_by: Mapping[str, Any]) -> np.ndarray:
    """Return the scores of networks by a supernet that rates whole ones; those that the run's folder keeps are read."""
    path = run.folder / "network_scores.json"
    made_from = {**rated_by, "space": run.space.name, "data": run.data.fingerprint}
    kept = read_json(path, _NETWORKS) if path.exists() else {}
    known = kept["scores"] if kept and kept["metadata"] == made_from else {}
    fresh = [network for network in networks if str(network) not in known]
    if fresh:
        known |= dict(zip(map(str, fresh), run.score(fresh, **rated_by).tolist()))
        write_json(path, header(_NETWORKS, **made_from) | {"scores": known})
    return np.array([known[str(network)] for network in networks])


def _settings(base: Run, variant: Variant) -> Settings:
    settings = base.settings
    epochs, options = max(1, round(settings.epochs / variant.fraction)), dict(settings.options)
    if epochs != settings.epochs and "decay" in base.options:
        options["decay"] = base.options["decay"] ** (settings.epochs / epochs)
    for name in ("warmup_epochs", "linear_epochs", "head_epochs"):
        if variant.fraction < 1 and name in base.options:
            longer = base.options[name] / variant.fraction
            options[name] = round(longer) if isinstance(base.options[name], int) else longer
    return settings.replace(seed=variant.seed, seeds=1, epochs=epochs, options=options)


def part_of(data: ImageData, fraction: float) -> ImageData:
    """Return the data with a stratified part of the training images, which does not depend on the run's seed."""
    kept, _ = stratified_split(np.asarray(data.train.labels), 1 - fraction, seed=0)
    return replace(data, train=data.train.select(kept), fingerprint=f"{data.fingerprint}-{fraction:g}")
