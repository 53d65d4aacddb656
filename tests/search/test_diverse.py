"""Diverse best architectures, against the greedy definition over all architectures, one by one."""

import numpy as np
import pytest

from pynas.costs import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import Rules, best, diverse, layer_distance
from pynas.spaces import Architecture, Space
from pynas.spaces.nats_size import nats_size

OWN = Space.from_counts("own", [[(2, 3), (3,), (3,)], [(2, 2)], [(3,), (2, 2, 2)]])
SPACES = {"own": OWN, "widths": nats_size("widths", widths=(8, 16, 24))}


def random_tables(space, seed=0):
    rng = np.random.default_rng(seed)
    scores = Scores(space, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks])
    madds = [[rng.integers(1, 99, cell.counts) for cell in cells] for cells in space.blocks]
    return scores, Costs({"madds": madds}, {"madds": 3}, space=space)


def naive_distance(space, one, other):
    if space.name == "widths":  # a network is its five widths, whichever copies of cells they stand in
        return sum(a != b for a, b in zip(space.format(one).split(":"), space.format(other).split(":")))
    total = 0
    for first, second in zip(one, other):
        if first.cell == second.cell:
            total += sum(a != b for a, b in zip(first.path, second.path))
        else:
            total += max(len(first.path), len(second.path))
    return total


def greedy(scores, kept, top_k, distance):
    chosen = []
    for architecture in sorted(kept, key=scores.of):
        if all(naive_distance(scores.space, architecture, other) >= distance for other in chosen):
            chosen.append(architecture)
    return chosen[:top_k]


def test_the_distance_counts_layers():
    for space, count in ((OWN, 300), (SPACES["widths"], 60)):
        rng = np.random.default_rng(1)
        drawn = [space.sample(rng) for _ in range(count)]
        for one, other in zip(drawn, reversed(drawn)):
            assert (
                layer_distance(space, one, other)
                == naive_distance(space, one, other)
                == layer_distance(space, other, one)
            )
    # Equal candidates in another cell of a space without states are another choice.
    assert layer_distance(OWN, Architecture.parse("1:0|00|0"), Architecture.parse("2:0|00|0")) == 1


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("distance", [1, 2, 3, 5])
@pytest.mark.parametrize("limited", [False, True])
def test_equals_the_greedy_definition(name, distance, limited):
    space = SPACES[name]
    scores, costs = random_tables(space)
    everything = list(space.architectures())
    most = float(np.quantile([costs.of(each)["madds"] for each in everything[:: max(1, len(everything) // 500)]], 0.5))
    kept = [each for each in everything if not limited or costs.of(each)["madds"] <= most]
    wanted = greedy(scores, kept, 6, distance)
    found = diverse(scores, costs, {"madds": most} if limited else None, 6, distance=distance)
    assert [entry.architecture for entry in found] == wanted
    assert found.exhausted == (len(wanted) < 6)
    assert found.verify() > 0 and all(each.certificate.lower_bound == each[0].score for each in found.found)
    between = [[naive_distance(space, one, other) for other in wanted] for one in wanted]
    assert found.distances.tolist() == between
    assert found[0].costs == costs.of(wanted[0]) and [entry.score for entry in found] == sorted(
        entry.score for entry in found
    )


def test_the_first_ones_differ_from_the_plain_top_k():
    scores, costs = random_tables(OWN)
    plain = [entry.architecture for entry in best(scores, costs, top_k=4)]
    assert [entry.architecture for entry in diverse(scores, costs, top_k=4, distance=1)] == plain
    assert [entry.architecture for entry in diverse(scores, costs, top_k=4, distance=3)] != plain


def test_rules_and_products_hold_here_too():
    scores, costs = random_tables(OWN)
    rules = Rules(OWN, forbid=["block 0: cell 0"])
    kept = [each for each in OWN.architectures() if each[0].cell != 0]
    found = diverse(scores, costs, top_k=4, distance=2, allowed=rules)
    assert [entry.architecture for entry in found] == greedy(scores, kept, 4, 2)
    product = diverse(scores, costs, top_k=2, distance=2, join="product")[0]
    assert product.score == pytest.approx(min(np.prod(scores.by_block([each])) for each in OWN.architectures()))


def test_bad_input():
    scores, costs = random_tables(OWN)
    for distance in (0, 8, 1.5):
        with pytest.raises(InputError, match=rf"\[diverse\] expected a distance of 1 to 7, got {distance}"):
            diverse(scores, costs, distance=distance)
    with pytest.raises(InputError, match="a top_k of 1 or more, got 0"):
        diverse(scores, costs, top_k=0, distance=1)
    with pytest.raises(InfeasibleError, match="the least that can be reached"):
        diverse(scores, costs, {"madds": 4}, distance=1)
