"""DNA+: when generations end, and that each is a DNA under the last one's scaled architecture."""

import numpy as np
import pytest
from scipy import stats

from pynas import spaces, supernet, teachers
from pynas.errors import InputError
from pynas.methods import DNA, DNAPlus
from pynas.methods.dna.plus import Generation
from pynas.rating import Scores, ScoreTable

SPACE = spaces.get("mbconv-mini")


def tables(seed, like=None, noise=0.0):
    rng = np.random.default_rng(seed)
    return Scores(SPACE, [
        [ScoreTable((rng.random(cell.counts) * noise) + (0 if like is None else like[b][c].scores)) for c, cell in
         enumerate(cells)] for b, cells in enumerate(SPACE.blocks)
    ])  # fmt: skip


def architectures(count):
    rng = np.random.default_rng(0)
    return [SPACE.sample(rng) for _ in range(count)]


def test_generations_end_when_an_architecture_comes_again():
    plus = DNAPlus(SPACE, generations=5)
    a, b, c = architectures(3)
    history = [Generation(net, tables(seed, noise=1.0)) for seed, net in enumerate((a, b, c, b))]
    assert [plus.why_stop(history[:n]) for n in (1, 2, 3)] == [None] * 3
    assert plus.why_stop(history) == "the architecture of generation 2 was found again"


def test_generations_end_when_their_scores_agree():
    plus = DNAPlus(SPACE, generations=9, saturation=0.9)
    a, b = architectures(2)
    first = tables(0, noise=1.0)
    for noise, stops in ((0.02, True), (1.0, False)):
        second = tables(1, first, noise)
        drawn = architectures(1000)
        totals = [
            [sum(t[i][x.cell].scores[x.path] for i, x in enumerate(net)) for net in drawn] for t in (first, second)
        ]
        tau = stats.kendalltau(*totals).statistic
        assert plus.correlation(first, second) == pytest.approx(tau)
        assert (tau >= 0.9) == stops
        why = plus.why_stop([Generation(a, first), Generation(b, second)])
        assert (why is not None and f"tau {tau:.3f}" in why) if stops else why is None


def test_generations_end_at_the_most():
    plus = DNAPlus(SPACE, generations=2)
    a, b = architectures(2)
    history = [Generation(a, tables(0, noise=1.0)), Generation(b, tables(1, noise=1.0))]
    assert plus.why_stop(history[:1]) is None
    assert plus.why_stop(history) == "2 generations"


def test_a_generation_is_a_dna_under_the_scaled_teacher():
    plus = DNAPlus(SPACE, phi=1.5, dna={"loss_weights": [1, 2, 3, 4], "decay": 0.5})
    (found,) = architectures(1)
    teacher = plus.next_teacher(found, 10)
    assert teacher.metadata == {"space": "mbconv-mini", "architecture": str(found), "phi": 1.5, "num_classes": 10}
    method = plus.begin(supernet(SPACE, 10), teacher, image_shape=(3, 32, 32))
    assert plus.dna is method and isinstance(method, DNA)
    assert method.teacher is teacher and method.loss_weights == [1, 2, 3, 4] and method.decay == 0.5
    assert isinstance(teacher, teachers.Teacher)


def test_numbers_out_of_range_are_named():
    with pytest.raises(InputError, match="generations to be greater than or equal to 1, got 0"):
        DNAPlus(SPACE, generations=0)
    with pytest.raises(InputError, match="phi of at least 0, or b0 to b7, got -1"):
        DNAPlus(SPACE, phi=-1)
    with pytest.raises(InputError, match="a space of kind mbconv, got own"):
        DNAPlus(spaces.Space.from_counts("own", [[[2]]]))
    DNAPlus(spaces.Space.from_counts("own", [[[2]]]), generations=1)
