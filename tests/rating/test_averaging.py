"""Averages of several ratings and their reliability, beside sums over all networks of small spaces."""

import functools
import operator

import numpy as np
import pytest

from pynas import spaces
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable, average, reliability, standardised
from pynas.rating.averaging import covariance
from pynas.spaces import Cell, Choice, Space

# A product space, one with boundary states, and one where a rule forbids paths.
RULED = Space("ruled", ((Cell((tuple("abc"), tuple("abc")), allowed=lambda p: p != (0, 1)),), (Cell((tuple("ab"),)),)))
SPACES = [
    Space.from_counts("free", [[(3, 2), (2,)], [(4,)], [(2, 2)]]),
    spaces.get("nats-size"),
    RULED,
]
each_space = pytest.mark.parametrize("space", SPACES, ids=str)


def drawn(space: Space, count: int, noise: float = 0.5) -> list[Scores]:
    """Ratings of a space that have something in common, each with an offset and a scale of its own."""
    rng = np.random.default_rng(0)
    truth = [[rng.random(cell.counts) for cell in cells] for cells in space.blocks]
    return [
        Scores(
            space,
            [[ScoreTable(5 + b + 10.0**m * (t + noise * rng.random(t.shape))) for t in cells] for b, cells in enumerate(truth)],
            {"loss": "mse", "checkpoint": str(m)},
        )
        for m in range(count)
    ]  # fmt: skip


@each_space
def test_standardised_scores_have_no_block_means_and_a_spread_of_one(space):
    (scores,) = drawn(space, 1)
    ours = standardised(scores)
    everything = list(space.architectures())
    for b in range(len(space)):
        values = [ours[b][choice.cell][choice.path] for choice in space.paths(b)]
        assert np.mean(values) == pytest.approx(0, abs=1e-12)
    assert ours.total(everything).std() == pytest.approx(1, rel=1e-9)
    # Order and gaps are those of the scores themselves.
    before, after = scores.total(everything), ours.total(everything)
    np.testing.assert_allclose((before - before.mean()) / before.std(), after - after.mean(), atol=1e-9)
    assert ours.metadata == scores.metadata


@each_space
def test_the_average_is_the_mean_of_standardised_members(space):
    members = drawn(space, 3)
    ours = average(members)
    each = [standardised(member) for member in members]
    for b, cells in enumerate(space.blocks):
        for c, cell in enumerate(cells):
            for path in np.ndindex(*cell.counts):
                naive = functools.reduce(operator.add, (member[b][c][path] for member in each)) / 3
                assert ours[b][c][path] == naive if cell.allows(path) else np.isnan(ours[b][c][path])
    assert ours.metadata == {"loss": "mse", "members": 3}


@each_space
def test_reliability_is_the_mean_correlation_over_all_networks(space):
    members, everything = drawn(space, 3), list(space.architectures())
    totals = np.array([member.total(everything) for member in members])
    np.testing.assert_allclose(covariance(members), np.cov(totals, bias=True), rtol=1e-9)
    assert reliability(members) == pytest.approx(np.corrcoef(totals)[np.triu_indices(3, 1)].mean(), rel=1e-9)
    assert 0.5 < reliability(members) < 1


def test_paths_that_a_member_did_not_rate_have_no_average():
    one, other = drawn(SPACES[0], 2)
    other[0][0].scores[1, 1] = np.nan
    ours = average([one, other])
    assert (
        np.isnan(ours[0][0][1, 1])
        and ours[0][0][1, 0] == (standardised(one)[0][0][1, 0] + standardised(other)[0][0][1, 0]) / 2
    )
    shared = [a for a in SPACES[0].architectures() if a[0] != Choice(0, (1, 1))]
    assert reliability([one, other]) == pytest.approx(np.corrcoef(one.total(shared), other.total(shared))[0, 1])


def test_lists_of_rated_paths_average_as_tables_do():
    counts, rng = (4,) * 14, np.random.default_rng(1)
    paths = np.unique(rng.integers(4, size=(50, 14)), axis=0)
    tables = [[ScoreTable.of_paths(counts, paths[m:], rng.random(len(paths) - m))] for m in range(2)]
    members = [Scores.product([cells]) for cells in tables]
    ours = average(members)
    assert len(ours[0][0]) == len(paths) - 1
    naive = [(t.at(paths[1:]) - t.rated()[1].mean()) / t.rated()[1].std() for (t,) in tables]
    np.testing.assert_allclose(ours[0][0].at(paths[1:]), np.mean(naive, axis=0), rtol=1e-12)


def test_scores_that_do_not_differ_are_no_noise():
    flat = Scores.product([[ScoreTable(np.full(7, 0.1))], [ScoreTable(np.full(3, 0.7))]])
    assert standardised(flat).total(flat.space.architectures()).tolist() == [0] * 21
    assert np.isnan(reliability([flat, flat]))


def test_bad_members():
    one, other = drawn(SPACES[0], 2)
    with pytest.raises(InputError, match="at least one member, got none"):
        average([])
    with pytest.raises(InputError, match="at least two members to compare, got 1"):
        reliability([one])
    with pytest.raises(InputError, match="members of one space, got free and ruled"):
        average([one, *drawn(RULED, 1)])
    other[1][0].scores[2] = np.inf
    with pytest.raises(InputError, match="expected finite scores, got inf in block 1"):
        average([one, other])
    other[1][0].scores[:] = np.nan
    with pytest.raises(InputError, match="paths that every member rated in block 1, got none"):
        reliability([one, other])


def test_members_without_a_common_network():
    space = spaces.get("nats-size")
    scores = drawn(space, 1)[0]
    for cells, block in zip(scores, space.blocks):
        for table, cell in zip(cells, block):
            # Of the paths between two widths only those that end where no rated path of the next block starts.
            for path in cell.paths():
                if cell.start not in (None, space.blocks[1][0].start) or cell.end(path) == space.blocks[1][0].start:
                    table.scores[path] = np.nan
    with pytest.raises(InputError, match="got none that pass block 1"):
        standardised(scores)
