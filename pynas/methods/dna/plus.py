"""DNA+: the searched architecture, scaled and trained, teaches the next search (Distillation via Progressive Learning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pynas.errors import InputError
from pynas.methods.dna.dna import DNA
from pynas.methods.dna.scaling import scaled_space, scaled_teacher
from pynas.rating import ScoreTable
from pynas.spaces import Architecture, Space
from pynas.supernets import Supernet
from pynas.teachers import Teacher

# Architectures, drawn uniformly, whose scores are compared from generation to generation.
_COMPARED = 1000

Tables = Sequence[Sequence[ScoreTable]]


@dataclass(frozen=True)
class Generation:
    """What a generation ended with."""

    architecture: Architecture
    tables: Tables


class DNAPlus:
    """Generations of DNA; the teacher of each is the architecture found before it, scaled and trained (eq. 8-9).

    The first generation's teacher is given. The search stops before `generations` are reached when an architecture comes
    again, or when the scores of one generation rank architectures as those of the one before did: Kendall's tau of at
    least `saturation` over 1,000 architectures drawn uniformly.

    generations: at most so many. phi: the coefficient of `pynas.methods.dna.scaling.compound_scaling`. teacher_epochs: of a
    scaled teacher's training. dna: options of each generation's `DNA`.

    Raises:
        InputError: numbers out of range, a space that has no rule of scaling.
    """

    def __init__(
        self,
        space: Space,
        *,
        generations: int = 3,
        phi: float = 2.0,
        saturation: float = 0.95,
        teacher_epochs: int = 10,
        dna: Mapping[str, Any] | None = None,
    ):
        for name, value in (("generations", generations), ("teacher_epochs", teacher_epochs)):
            if value < 1:
                raise InputError(f"[dna-plus] expected {name} of at least 1, got {value}")
        if generations > 1:  # whether the space scales is to be known before a generation is trained
            scaled_space(space, space.sample(np.random.default_rng(0)), phi)
        self.space, self.generations, self.phi, self.saturation = space, generations, phi, saturation
        self.teacher_epochs, self.options = teacher_epochs, dict(dna or {})
        self.dna: DNA | None = None

    def begin(self, net: Supernet, teacher: Teacher, **given: Any) -> DNA:
        """This generation's DNA on a fresh supernet; given: what is not the user's to choose (image_shape, ...)."""
        self.dna = DNA(net, teacher, **self.options, **given)
        return self.dna

    def next_teacher(self, found: Architecture, num_classes: int) -> Teacher:
        """The next generation's teacher, beta = Scaling(alpha*), still to be trained (eq. 9)."""
        return scaled_teacher(self.space, found, self.phi, num_classes)

    def correlation(self, before: Tables, after: Tables) -> float:
        """Kendall's tau of two generations' scores over the same architectures; NaN where one has no order."""
        rng = np.random.default_rng(0)
        drawn = [self.space.sample(rng) for _ in range(_COMPARED)]
        scores = [[_score(tables, architecture) for architecture in drawn] for tables in (before, after)]
        if min(len(set(each)) for each in scores) < 2:
            return float("nan")
        return float(stats.kendalltau(*scores).statistic)

    def why_stop(self, history: Sequence[Generation]) -> str | None:
        """Why there is no generation after these; None where there is one."""
        *before, last = history
        for number, generation in enumerate(before, 1):
            if generation.architecture == last.architecture:
                return f"the architecture of generation {number} came again"
        if before:
            tau = self.correlation(before[-1].tables, last.tables)
            if tau >= self.saturation:
                return f"the scores rank as those before did: tau {tau:.3f}, at least {self.saturation}"
        return f"{self.generations} generations" if len(history) >= self.generations else None


def _score(tables: Tables, architecture: Architecture) -> float:
    return sum(tables[b][choice.cell][choice.path] for b, choice in enumerate(architecture))
