"""DNA+: the found architecture, scaled and trained, is the teacher of the next search (Progressive Learning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pynas.checked import AtLeastOne, checked
from pynas.methods.dna.dna import DNA
from pynas.methods.dna.scaling import scaled_space, scaled_teacher
from pynas.rating import Scores
from pynas.spaces import Architecture, Space
from pynas.supernets import Supernet
from pynas.teachers import Teacher

# Number of uniformly drawn architectures whose scores are compared between generations.
_COMPARED = 1000


@dataclass(frozen=True)
class Generation:
    """Result of a generation: the best architecture and the scores of its search."""

    architecture: Architecture
    scores: Scores


class DNAPlus:
    """Generations of DNA; each one's teacher is the architecture found by the one before, scaled and trained (eq. 8-9).

    The first generation's teacher is given. The search stops early when a generation finds an architecture that was found
    before, or when two generations in a row rank architectures alike: Kendall's tau of at least `saturation` over 1,000
    architectures drawn uniformly.

    generations: maximal number of generations. phi: of `pynas.methods.dna.scaling.compound_scaling`. dna: options of each
    generation's `DNA`.

    Raises:
        InputError: numbers out of range, a space that has no rule of scaling.
    """

    @checked("dna-plus")
    def __init__(
        self,
        space: Space,
        *,
        generations: AtLeastOne = 3,
        phi: float | str = 2.0,
        saturation: float = 0.95,
        dna: Mapping[str, Any] | None = None,
    ):
        if generations > 1:  # fail before a generation is trained where the space has no rule of scaling
            scaled_space(space, space.sample(np.random.default_rng(0)), phi)
        self.space, self.generations, self.phi, self.saturation = space, generations, phi, saturation
        self.options = dict(dna or {})
        self.dna: DNA | None = None

    def begin(self, net: Supernet, teacher: Teacher, **given: Any) -> DNA:
        """Return this generation's DNA on a fresh supernet. given: options that the user does not choose (image_shape, ...)."""
        self.dna = DNA(net, teacher, **self.options, **given)
        return self.dna

    def next_teacher(self, found: Architecture, num_classes: int) -> Teacher:
        """Return the next generation's teacher beta = Scaling(alpha*), untrained (eq. 9)."""
        return scaled_teacher(self.space, found, self.phi, num_classes)

    def correlation(self, before: Scores, after: Scores) -> float:
        """Kendall's tau of two generations' scores over the same architectures; NaN where one's scores are all equal."""
        rng = np.random.default_rng(0)
        drawn = [self.space.sample(rng) for _ in range(_COMPARED)]
        totals = [scores.total(drawn) for scores in (before, after)]
        if min(len(np.unique(total)) for total in totals) < 2:
            return float("nan")
        return float(stats.kendalltau(*totals).statistic)

    def why_stop(self, history: Sequence[Generation]) -> str | None:
        """Return the reason to stop after these generations; None to go on."""
        *before, last = history
        for number, generation in enumerate(before, 1):
            if generation.architecture == last.architecture:
                return f"the architecture of generation {number} was found again"
        if before:
            tau = self.correlation(before[-1].scores, last.scores)
            if tau >= self.saturation:
                return f"the scores rank architectures as those before: tau {tau:.3f}, at least {self.saturation}"
        return f"{self.generations} generations" if len(history) >= self.generations else None
