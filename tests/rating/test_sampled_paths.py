"""Ratings of sampled paths in cells whose paths cannot be listed: the tables, their files, joins and searches."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import search
from pynas.costs import LayerCosts, LayerTable
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable, rate, rate_population
from pynas.rating.listed import Listed
from pynas.spaces import Architecture, Cell, Space

DEEP = (4,) * 20  # a dense table of it takes 8 TiB


def deep_layers():
    torch.manual_seed(0)
    return [[nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(count)] for count in DEEP]


def drawn(count, counts=DEEP, seed=0):
    rng = np.random.default_rng(seed)
    return np.unique(rng.integers(0, counts, (count, len(counts))), axis=0)


def batches(seed=0):
    torch.manual_seed(seed)
    return [(torch.randn(6, 5), torch.randn(6, 5)) for _ in range(2)]


def naive(layers, pairs, path):
    losses = []
    for x, target in pairs:
        for layer, choice in zip(layers, path):
            x = layer[choice](x)
        losses.append(torch.nn.functional.mse_loss(x, target).item())
    return np.mean(losses)


@torch.no_grad()
def test_sampled_paths_of_a_deep_network_equal_each_path_alone(tmp_path):
    layers, pairs, paths = deep_layers(), batches(), drawn(40)
    tracemalloc.start()
    table = rate(layers, pairs, "mse", paths=paths[::-1].tolist() + [paths[0].tolist()], resume=tmp_path / "part.npz")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    expected = [naive(layers, pairs, path) for path in paths]
    np.testing.assert_array_equal(table.rated()[0], paths)
    np.testing.assert_allclose(table.rated()[1], expected, rtol=1e-5)
    assert len(table) == 40 and table.shape == DEEP
    assert table[tuple(paths[7])] == pytest.approx(expected[7], rel=1e-5)
    other = next(path for path in itertools.product(range(4), repeat=20) if list(path) not in paths.tolist())
    assert math.isnan(table[other])
    np.testing.assert_array_equal(table.at([paths[3], other]), [table.rated()[1][3], np.nan])
    order = np.argsort(expected)[:3]
    assert [path for path, _ in table.best(3)] == [tuple(paths[i].tolist()) for i in order]
    assert repr(table).startswith("ScoreTable(40 of 1,099,511,627,776 paths of 20 layers rated, best 1.")
    with pytest.raises(InputError, match=r"got 1,099,511,627,776 paths \(8,192 GiB\) of 20 layers; read the 40 rated"):
        table.scores  # noqa: B018


def test_population_of_a_deep_network():
    layers, paths = deep_layers(), drawn(12)
    views = [(x, y) for x, y in batches()]
    table = rate_population(layers, views, "running", paths=paths)
    assert len(table) == 12 and table.shape == DEEP
    with torch.no_grad():
        outputs = [[_run(layers, path, x) for path in paths] for pair in views for x in pair]
    outputs = [torch.nn.functional.normalize(torch.stack(each), dim=2) for each in outputs]
    expected = sum((one - other.mean(0)).square().sum(2).mean(1) for one, other in zip(outputs[::2], outputs[1::2])) / 2
    np.testing.assert_allclose(table.rated()[1], expected, rtol=1e-5)


def _run(layers, path, x):
    for layer, choice in zip(layers, path):
        x = layer[choice](x)
    return x


def test_files_hold_the_rated_paths_alone(tmp_path):
    paths = drawn(30)
    table = ScoreTable.of_paths(DEEP, paths, np.arange(len(paths)) / 7, {"loss": "mse"})
    table.save(tmp_path / "table.npz")
    assert (tmp_path / "table.npz").stat().st_size < 20_000
    again = ScoreTable.load(tmp_path / "table.npz")
    scores = Scores.product([[table], [ScoreTable(np.arange(6.0).reshape(2, 3)), ScoreTable(np.zeros(4))]])
    scores.save(tmp_path / "all")
    loaded = Scores.load(tmp_path / "all", scores.space)
    for other in (again, loaded[0][0]):
        assert other.shape == DEEP and other.metadata["loss" if other is again else "space"]
        for one, two in zip(other.rated(), table.rated(), strict=True):
            np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(loaded[1][0].scores, scores[1][0].scores)
    architecture = Architecture.of([(0, paths[5]), (0, (1, 2))])
    unrated = Architecture.of([(0, 3 - paths[5]), (1, (1,))])
    assert loaded.of(architecture) == 5 / 7 + 5
    np.testing.assert_array_equal(loaded.total([architecture, unrated]), [5 / 7 + 5, np.nan])
    np.testing.assert_array_equal(loaded.by_block([unrated, architecture]), [[np.nan, 0], [5 / 7, 5]])


def test_a_dense_table_and_a_list_of_paths_say_the_same():
    rng = np.random.default_rng(0)
    dense = rng.random((2, 3, 4))
    dense[rng.random(dense.shape) < 0.4] = np.nan
    table, listed = ScoreTable(dense), Listed.dense(dense)
    every = np.array(list(np.ndindex(*dense.shape)))
    np.testing.assert_array_equal(listed.at(every), table.at(every))
    np.testing.assert_array_equal(listed.table(), dense)
    shuffled = rng.permutation(len(every))
    again = Listed.of(dense.shape, every[shuffled], dense.reshape(-1)[shuffled])
    np.testing.assert_array_equal(again.paths, table.rated()[0])
    np.testing.assert_array_equal(again.scores, table.rated()[1])
    twice = ScoreTable.of_paths((2, 3), [(0, 1), (1, 2), (0, 1)], [1.0, 2.0, 3.0])
    assert twice[0, 1] == 3 and len(twice) == 2


def test_a_list_of_paths_becomes_dense_where_that_fits():
    paths = drawn(5, (4,) * 12)
    table = ScoreTable.of_paths((4,) * 12, paths, np.arange(5.0))
    assert len(table.arrays()["paths"]) == 5
    table.scores[tuple(paths[2])] = np.nan  # the dense table is the table from now on
    assert len(table) == 4 and table[tuple(paths[3])] == 3 and math.isnan(table[tuple(paths[2])])
    deeper = ScoreTable.of_paths((1,) * 40 + (2,), [(0,) * 41], [1.0])  # more layers than an array has axes
    assert deeper[(0,) * 41] == 1 and len(deeper) == 1
    with pytest.raises(InputError, match="32 layers for a dense table, got 2 paths"):
        deeper.scores  # noqa: B018


def test_all_paths_of_many_layers_are_rated():
    layers = [[nn.Identity()]] * 70 + [[nn.Identity(), nn.Tanh(), nn.Sigmoid()], [nn.Identity(), nn.ReLU()]]
    x = torch.randn(3, 2)
    table = rate(layers, [(x, x)], "mse")
    assert [tuple(path[70:]) for path in table.rated()[0].tolist()] == list(itertools.product(range(3), range(2)))
    assert table[(0,) * 72] == 0 and table[(0,) * 70 + (1, 0)] == pytest.approx((x - x.tanh()).square().mean().item())


def test_tables_of_a_growing_population_join():
    layers, pairs, paths = deep_layers(), batches(), drawn(30)
    whole = rate(layers, pairs, "mse", paths=paths)
    table = rate(layers, pairs, "mse", paths=paths[:10])
    for first in (5, 15):
        table = table | rate(layers, pairs, "mse", paths=paths[first : first + 15])
    np.testing.assert_array_equal(table.rated()[0], paths)
    np.testing.assert_allclose(table.rated()[1], whole.rated()[1], rtol=1e-6)
    assert table.metadata == whole.metadata
    one, two = (ScoreTable.of_paths(DEEP, paths[:1], [score], {"loss": "mse"}) for score in (1.0, 2.0))
    assert (one | two).best() == [(tuple(paths[0].tolist()), 2.0)]
    with pytest.raises(InputError, match="expected scores that were computed alike to join, got loss 'mse' and 'kl'"):
        one | ScoreTable.of_paths(DEEP, paths[1:2], [1.0], {"loss": "kl"})
    with pytest.raises(InputError, match=r"expected a table of \(4, .*\) candidates to join, got \(2,\)"):
        one | ScoreTable(np.zeros(2))


@pytest.mark.parametrize(
    ("path", "got"),
    [
        ((0,) * 19, r"\(0, 0"),
        ((0,) * 19 + (4,), r".*0, 4\)"),
        ((-1,) * 20, r"\(-1"),
        ((0.5,) * 20, r"\(0\.5"),
        (3, "3$"),
    ],
)
def test_paths_that_a_network_does_not_have(path, got):
    table = ScoreTable.of_paths(DEEP, [(0,) * 20], [1.0])
    message = rf"expected paths of one candidate per layer out of \(4, .*\), got {got}"
    with pytest.raises(InputError, match=r"\[rate\] " + message):
        rate(deep_layers(), batches(), paths=[path])
    with pytest.raises(InputError, match=r"\[score table\] " + message):
        table.at([path])


def test_bad_tables_of_paths_and_networks_without_a_choice_of_paths():
    with pytest.raises(InputError, match=r"expected paths= or allowed= .* the 1,099,511,627,776 paths of 20 layers"):
        rate(deep_layers(), batches())
    with pytest.raises(InputError, match="expected at least one path to rate, got none"):
        rate(deep_layers(), batches(), paths=[])
    with pytest.raises(InputError, match=r"expected a score for each of 1 paths, got \[2\]"):
        ScoreTable.of_paths((2, 2), [(0, 0)], [1.0, 2.0])
    with pytest.raises(InputError, match=r"expected at least one candidate per layer, got \(2, 0\)"):
        ScoreTable.of_paths((2, 0), [], [])
    table = rate(deep_layers(), batches(), "mse", allowed=lambda path: sum(path) <= 1)
    assert len(table) == 21


class ByHand:
    """Costs of whole networks."""

    names = ("madds",)

    def of(self, architecture):
        return {"madds": 7 + sum((1 + layer) * choice for layer, choice in enumerate(architecture[0].path))}


def test_searches_look_at_the_rated_paths_of_a_deep_network():
    paths = drawn(60)
    values = np.random.default_rng(1).random(len(paths))
    scores = Scores.product([[ScoreTable.of_paths(DEEP, paths, values)]])
    assert scores.space.size == 4**20 and len(scores.space.sample(np.random.default_rng(0))[0].path) == 20
    by_hand = [ByHand().of(Architecture.of([(0, path)]))["madds"] for path in paths]
    layer_values = np.arange(1, 21)[:, None] * np.arange(4)
    by_layer = LayerCosts({"madds": LayerTable([7], [layer_values])})
    limit = float(np.median(by_hand))
    within = [i for i in np.argsort(values) if by_hand[i] <= limit]
    front = [i for i in np.argsort(by_hand, kind="stable") if not any(
        values[j] <= values[i] and by_hand[j] <= by_hand[i] and (values[j], by_hand[j]) != (values[i], by_hand[i])
        for j in range(len(paths)))]  # fmt: skip
    for costs in (ByHand(), by_layer):
        found = search.best(scores, costs, {"madds": limit}, 4)
        assert [entry.architecture[0].path for entry in found] == [tuple(paths[i].tolist()) for i in within[:4]]
        assert [entry.costs["madds"] for entry in found] == [by_hand[i] for i in within[:4]]
        found.verify()
        shown = search.front(scores, costs, "madds")
        assert [(e.score, e.costs["madds"]) for e in shown] == [(values[i], by_hand[i]) for i in front]
        assert shown.space_size == len(paths)
    two = Scores.product([[ScoreTable(np.zeros(2))], [ScoreTable(np.zeros(2))]])
    with pytest.raises(InputError, match="expected costs with tables for the 2 blocks of own, got ByHand"):
        search.best(two, ByHand())


def test_searches_keep_the_rules_of_a_deep_cell():
    cell = Cell(tuple(tuple(range(4)) for _ in DEEP), allowed=lambda path: path[0] < 2)
    paths = drawn(40)
    values = np.random.default_rng(2).random(len(paths))
    scores = Scores(Space("ruled", ((cell,),)), [[ScoreTable.of_paths(DEEP, paths, values)]])
    (entry,) = search.best(scores, ByHand())
    best = min((i for i in range(len(paths)) if paths[i][0] < 2), key=lambda i: values[i])
    assert entry.architecture[0].path == tuple(paths[best].tolist())


def test_states_of_rated_paths_alone_are_those_of_the_whole_space(monkeypatch):
    space = pynas.spaces.get("hytra-mini")
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks]
    costs = pynas.costs.Costs(
        {"n": [[rng.integers(1, 9, c.counts) for c in cells] for cells in space.blocks]}, {"n": 0}
    )
    dense = search.best(Scores(space, tables), costs, top_k=5)
    monkeypatch.setattr("pynas.spaces.states._SMALL", 0)
    listed = search.best(Scores(space, tables), costs, top_k=5)
    assert [(e.architecture, e.score) for e in listed] == [(e.architecture, e.score) for e in dense]
