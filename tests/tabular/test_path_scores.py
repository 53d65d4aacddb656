"""BossNAS's published path scores, and reading scores of one's own."""

import numpy as np
import pytest

from pynas import Scores, ScoreTable, search, spaces
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.tabular import load, load_path_scores, published_scores, read_scores, total_scores


def test_exact_search_over_nats_size_finds_the_published_best():
    bench, tables = load("nats-size"), load_path_scores("nats-size")
    assert [cells[0].shape for cells in tables] == [(8, 8), (8, 8), (8,)]
    found = search.best(tables, Costs({}, {}), top_k=3)
    row = bench.index(found[0].architecture, spaces.get("nats-size"))
    assert bench.architectures[row] == "64:40:48:64:56" and round(float(bench.accuracy[row]), 4) == 93.29
    # All 32,768 by hand.
    totals = published_scores(bench)
    assert totals.shape == (32768,) and totals.argmin() == row
    np.testing.assert_allclose([entry.score for entry in found], np.sort(totals)[:3], rtol=1e-12)


def test_mbconv_path_scores_add_up_to_the_printed_totals():
    bench, tables = load("mbconv-23"), load_path_scores("mbconv-23")
    assert [len(cells[0]) for cells in tables] == [16, 256, 256, 256, 256]
    assert tables[0][0][0, 0] == -3.1707399463653565 + 4
    totals = [
        sum(tables[b][0][tuple(map(int, path))] for b, path in enumerate(name.split("|")))
        for name in bench.architectures
    ]
    np.testing.assert_allclose(total_scores(tables, bench), totals, rtol=1e-14)
    np.testing.assert_allclose(published_scores(bench), totals, atol=0.5e-4)


def test_nothing_is_published_for_nasbench201():
    assert published_scores(load("nasbench201")) is None
    with pytest.raises(InputError, match=r"\[path scores\] expected mbconv-23 or nats-size, got 'nasbench201'"):
        load_path_scores("nasbench201")


def test_paths_without_a_score_leave_their_architectures_out():
    bench, tables = load("nats-size"), load_path_scores("nats-size")
    tables[2][0].scores[3] = np.nan
    assert (np.isnan(total_scores(tables, bench)) == (bench.choices[:, 4] == 3)).all()


@pytest.mark.parametrize("shapes", [[(8, 8), (8, 8)], [(8, 8), (8, 4), (8,)]])
def test_tables_of_another_space(shapes):
    tables = Scores.product([[ScoreTable(np.zeros(shape))] for shape in shapes])
    with pytest.raises(InputError, match="one cell per block with 5 layers of 8 candidates in all, got"):
        total_scores(tables, load("nats-size"))


def test_totals_of_a_space_with_widths_go_by_its_notation():
    bench, space, rng = load("nats-size"), spaces.get("nats-size"), np.random.default_rng(0)
    scores = Scores(space, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks])
    totals = total_scores(scores, bench)
    for row in (0, 1234, 32767):
        assert totals[row] == scores.of(space.parse(bench.architectures[row]))


def test_scores_of_a_file(tmp_path):
    bench, path = load("mbconv-23"), tmp_path / "scores.csv"
    path.write_text("score,architecture\n0.5,22|2202|2323|2002|0022\n-1,11|1111|1101|1011|1101\n")
    scores = read_scores(path, bench)
    assert scores[22] == 0.5 and scores[0] == -1 and np.isnan(scores[1:22]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,score\na,1\n", "expected the columns architecture and score, got name, score in line 1"),
        ("", "expected the columns architecture and score, got nothing in line 1"),
        ("architecture,score\n", r"\[scores\] expected rows below the header, got none"),
        ("architecture,score\n11|1111|1101|1011|1101\n", "expected 2 cells as in the header, got 1 in line 2"),
        ("architecture,score\n11|11,1\n", r"\[mbconv-23\] expected one of its 23 architectures.* line 2"),
        ("architecture,score\n11|1111|1101|1011|1101,x\n", "expected a finite number as score, got 'x' in line 2"),
        ("architecture,score\n11|1111|1101|1011|1101,nan\n", "expected a finite number as score, got 'nan' in line 2"),
        ("architecture,score\n" + 2 * "11|1111|1101|1011|1101,1\n", "expected each architecture once, got .* line 3"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores(path, load("mbconv-23"))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"\[scores\] expected a CSV file, got nothing at"):
        read_scores(tmp_path / "none.csv", load("mbconv-23"))
