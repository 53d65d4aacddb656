"""Runs compared, against pairs counted one by one and enumeration."""

import itertools

import numpy as np
import pytest

from pynas.costs import Costs
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.report.figures import save_figure
from pynas.report.robustness import robustness_figure
from pynas.spaces import Architecture, Space
from pynas.tabular.robustness import compare_runs

SPACE = Space.from_counts("own", [[[2, 3], [4]], [[3]]])


def tables(seed):
    rng = np.random.default_rng(seed)
    return Scores(SPACE, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in SPACE.blocks])


def cost_table():
    rng = np.random.default_rng(9)
    madds = [[rng.integers(1, 50, cell.counts) for cell in cells] for cells in SPACE.blocks]
    return Costs({"madds": madds}, {"madds": 0})


def total(scores, choices):
    return sum(scores[b][choice.cell].scores[choice.path] for b, choice in enumerate(choices))


def tau(one, other):
    pairs = list(itertools.combinations(range(len(one)), 2))
    signs = [np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in pairs]
    untied = [sum(1 for i, j in pairs if x[i] != x[j]) for x in (one, other)]
    return sum(signs) / np.sqrt(untied[0] * untied[1])


def test_each_number():
    runs, costs = {"seed_0": tables(0), "seed_1": tables(1), "fraction_0.5": tables(2)}, cost_table()
    truth = {Architecture(path): float(n % 5) for n, path in
             enumerate(itertools.islice(itertools.product(*(SPACE.paths(b) for b in range(2))), 0, 30, 3))}  # fmt: skip
    compared = compare_runs(runs, costs, {"madds": 60}, 40, truth)
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(40)]
    totals = [[total(scores, architecture) for architecture in drawn] for scores in runs.values()]
    np.testing.assert_allclose(compared.totals, totals)
    for i, j in itertools.product(range(3), repeat=2):
        assert compared.tau[i][j] == pytest.approx(tau(totals[i], totals[j]))
    everything = [Architecture(path) for path in itertools.product(*(SPACE.paths(b) for b in range(2)))]
    allowed = [net for net in everything if costs.of(net)["madds"] <= 60]
    best = [min(allowed, key=lambda net: total(scores, net)) for scores in runs.values()]
    for i, (name, scores) in enumerate(runs.items()):
        each = compared.runs[i]
        assert (each.name, each.found, each.tau) == (name, str(best[i]), compared.tau[0][i])
        assert each.same_choices == sum(best[0][b] == best[i][b] for b in range(2))
        assert each.better_share == np.mean([value < total(scores, best[0]) for value in totals[i]])
        assert each.accuracy_tau == pytest.approx(tau([-total(scores, net) for net in truth], list(truth.values())))
        for b in range(2):
            flat = [np.concatenate([cell.scores.ravel() for cell in run[b]]) for run in (runs["seed_0"], scores)]
            assert each.block_tau[b] == pytest.approx(tau(*flat))
    assert compared.runs[0].tau == pytest.approx(1) and compared.runs[0].same_choices == 2


def test_nothing_to_compare():
    with pytest.raises(InputError, match="expected runs, and a sample of at least 2, got 0 and 40"):
        compare_runs({}, cost_table(), {}, 40)


def test_scores_of_two_spaces_are_refused():
    with pytest.raises(InputError, match="expected scores of one space, got other, own"):
        compare_runs({"a": tables(0), "b": Scores.product(tables(0).tables, "other")}, cost_table(), {}, 40)
    with pytest.raises(InputError, match="expected Scores, got list"):
        compare_runs({"a": tables(0).tables}, cost_table(), {}, 40)


def test_the_figure_shows_every_run(tmp_path):
    totals = np.random.default_rng(0).random((3, 80))
    names = ["seed_0", "seed_1", "fraction_0.5"]
    figure = robustness_figure(names, totals, np.corrcoef(totals))
    left, right = figure.axes[:2]
    assert [line.get_label() for line in left.lines] == names and len(left.lines[0].get_xdata()) == 60
    assert sorted(left.lines[0].get_ydata()) == list(left.lines[0].get_ydata())  # the reference, by its own rank
    assert [text.get_text() for text in right.texts][:2] == ["1.00", f"{np.corrcoef(totals)[0, 1]:.2f}"]
    assert all(path.stat().st_size > 5000 for path in save_figure(figure, tmp_path / "robustness"))
