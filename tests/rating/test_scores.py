"""Scores: sums over blocks, files, and the checks of shapes and spaces."""

import numpy as np
import pytest

from pynas import spaces
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Architecture


@pytest.fixture
def scores():
    space, rng = spaces.get("bignas-mini"), np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks]
    return Scores(space, tables, {"loss": "mse", "epochs": 3})


def test_totals_add_block_after_block(scores):
    rng = np.random.default_rng(1)
    drawn = [scores.space.sample(rng) for _ in range(50)]
    rows = [[scores.tables[b][c.cell].scores[c.path] for b, c in enumerate(architecture)] for architecture in drawn]
    np.testing.assert_array_equal(scores.by_block(drawn), rows)
    assert scores.total(iter(drawn)).tolist() == [sum(row) for row in rows] == [scores.of(each) for each in drawn]
    assert scores.total([]).shape == (0,) and scores.by_block([]).shape == (0, len(scores.space))
    choice = drawn[0][2]
    scores[2][choice.cell].scores[choice.path] = np.nan
    assert np.isnan(scores.of(drawn[0])) and np.isnan(scores.total(drawn)[0])


def test_files_keep_the_space_and_the_metadata(scores, tmp_path):
    assert not Scores.complete(tmp_path, scores.space)
    scores.save(tmp_path)
    assert Scores.complete(tmp_path, scores.space)
    loaded = Scores.load(tmp_path)
    assert loaded.space.name == "bignas-mini" and loaded.metadata == scores.metadata
    for cells, again in zip(scores, loaded, strict=True):
        for table, other in zip(cells, again, strict=True):
            np.testing.assert_array_equal(table.scores, other.scores)
    with pytest.raises(InputError, match="tables of the shapes"):
        Scores.load(tmp_path, spaces.get("hytra-mini"))
    own = Scores.product([[ScoreTable(np.zeros(3))]])
    own.save(tmp_path / "own")
    assert Scores.load(tmp_path / "own", own.space).of(Architecture.of([(0, (1,))])) == 0
    with pytest.raises(InputError, match="got 'own'"):
        Scores.load(tmp_path / "own")


def test_bad_tables_and_architectures(scores):
    with pytest.raises(InputError, match=r"\[scores\] expected tables of the shapes .* bignas-mini have"):
        Scores(scores.space, scores.tables[:-1])
    with pytest.raises(InputError, match="expected an architecture of 6 blocks"):
        scores.of(Architecture.of([(0, (0,))]))
    with pytest.raises(InputError, match=r"expected Scores, got list; write Scores\(space, tables\)"):
        Scores.check("best", list(scores))


def test_forbidden_paths_leave_no_state():
    space = spaces.get("hytra-mini")
    scores = Scores(space, [[ScoreTable(np.zeros(cell.counts)) for cell in cells] for cells in space.blocks])
    starts, ends = scores.space.boundary_states
    for b, cells in enumerate(space.blocks):
        for c, cell in enumerate(cells):
            assert len(np.unique(starts[b][c])) == 1
            assert {tuple(path) for path in np.argwhere(ends[b][c] >= 0).tolist()} == set(cell.paths())
    follow = {
        (start.flat[0], cell.start) for cells, row in zip(space.blocks, starts) for cell, start in zip(cells, row)
    }
    assert len({number for number, _ in follow}) == len({state for _, state in follow}) == len(follow)
