"""HyTra's supernet: published sizes of the named networks, costs, export, rating and exact search over the trellis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pynas
from pynas import costs, export, search, spaces
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.spaces import NETWORKS, Architecture, Space, network
from pynas.train.method import unshared_state

IMAGES = (3, 224, 224)
# BossNAS's published MAdds in G at 224x224, to three places.
PUBLISHED = {"ResNet50-T": 4.104, "ViT-T/32": 2.933, "ViT-T/16": 3.206, "BoT50-T": 3.880, "Random-T": 3.727,
             "DNA-T": 3.912, "UnNAS-T": 3.682, "BossNet-T0": 3.442}  # fmt: skip


def published_squeeze_madds(layers: str) -> int:
    """The published formula counts squeeze-excitation, 2 C^2 / 16, in all layers but those of BossNet-T0."""
    return sum(2 * (256 << scale) ** 2 // 16 * len(digits) for scale, digits in enumerate(layers.split("|")))


def standalone(name: str, space: str):
    with torch.device("meta"):
        return export.standalone(*network(name, space), 1000)


def test_bossnet_t0():
    plain, _ = costs.count_module(standalone("BossNet-T0", "hytra"), IMAGES)
    with_se, _ = costs.count_module(standalone("BossNet-T0", "hytra-se"), IMAGES)
    assert (plain["params"], plain["madds"]) == (37_319_080, 3_441_888_768)
    assert with_se["params"] == 38_415_960


def test_bossnet_t1():
    with_se, _ = costs.count_module(standalone("BossNet-T1", "hytra-se-s1"), IMAGES)
    assert with_se["params"] == 38_415_960
    assert round(with_se["madds"] / 1e9, 3) == 7.944


@pytest.fixture(scope="module")
def whole():
    with torch.device("meta"):
        return pynas.supernet("hytra")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_madds(whole, name):
    counted, shape = costs.count_module(export.subnet(whole, name), IMAGES)
    extra = 0 if name == "BossNet-T0" else published_squeeze_madds(NETWORKS[name].architecture)
    assert round((counted["madds"] + extra) / 1e9, 3) == PUBLISHED[name]
    assert shape == (1000,)


@pytest.fixture(scope="module")
def mini():
    torch.manual_seed(0)
    net = pynas.supernet("hytra-mini", num_classes=7)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
    return net.eval()


SOME = ["1|1|11101|0", "11111111|||", "|||01100101", "|1|0000000|"]


def test_export_and_costs(mini):
    table = costs.count(mini, (3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    for text in SOME:
        architecture = mini.space.parse(text)
        model = export.subnet(mini, architecture)
        torch.testing.assert_close(model(images), mini(images, architecture), rtol=0, atol=0)
        counted, shape = costs.count_module(model, (3, 32, 32))
        assert table.of(architecture) == counted and shape == (7,)
        fresh = export.standalone(mini.space, architecture, 7)
        assert {n: p.shape for n, p in fresh.state_dict().items()} == {
            n: p.shape for n, p in model.state_dict().items()
        }
        assert all(torch.isfinite(tensor).all() for tensor in fresh.state_dict().values())


@pytest.mark.slow
def test_costs_of_the_whole_supernet(whole):
    table = costs.count(whole, IMAGES)
    for name in PUBLISHED:
        assert table.of(network(name, "hytra")[1]) == costs.count_module(standalone(name, "hytra"), IMAGES)[0]


def test_cells_of_a_block_share_their_layers(mini):
    for block in range(1, 4):
        first, *others = (mini.layers(block, cell) for cell in range(4))
        assert all(a is b for other in others for x, y in zip(first, other) for a, b in zip(x, y))
    files = {tensor.data_ptr() for tensor in mini.parameters()}
    assert len(files) == len(list(mini.parameters()))


def test_checkpoints_hold_shared_weights_once(mini):
    state = unshared_state(mini)
    distinct = {id(tensor): tensor for tensor in [*mini.parameters(), *mini.buffers()]}
    assert sum(tensor.numel() for tensor in state.values()) == sum(tensor.numel() for tensor in distinct.values())
    other = pynas.supernet("hytra-mini", num_classes=7).eval()
    other.load_state_dict(state, strict=False)
    images = torch.randn(2, 3, 32, 32)
    for text in SOME:
        architecture = mini.space.parse(text)
        assert torch.equal(other(images, architecture), mini(images, architecture))


def test_a_teachers_features_cannot_stand_for_several_shapes(mini):
    blocks = [torch.nn.Conv2d(3 if b == 0 else 8, 8, 1) for b in range(4)]
    with pytest.raises(InputError, match=r"block 0 of hytra-mini to end with maps of one size, got .*\(256, 2, 2\)"):
        pynas.methods.DNA(mini, torch.nn.Sequential(*blocks), taps=["0", "1", "2", "3"])


def test_file_comes_back(mini, tmp_path):
    architecture = mini.space.parse("1|1|11101|0")
    model = export.subnet(mini, architecture)
    export.save_subnet(tmp_path / "net.safetensors", model, mini.space, architecture, 7)
    again, _ = export.load_subnet(tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("norm", ["running", "batch", "recalibrate"])
def test_rating_equals_each_path_alone(mini, norm):
    # The second block from the scale 1/4: its paths put out two shapes; the loss sees a pooled output.
    cell, layers = mini.space.blocks[1][1], mini.layers(1, 1)
    generator = torch.Generator().manual_seed(1)
    x, other = torch.randn(2, 4, 64, 8, 8, generator=generator)

    def loss(output, target):
        return (output.mean((1, 2, 3)) - target).square().mean()

    target = torch.arange(4.0)
    calibration = [other] if norm == "recalibrate" else None
    table = pynas.rate(layers, [(x, target)], loss=loss, norm=norm, allowed=cell.allowed, calibration=calibration)
    for path in cell.paths():
        alone = path_alone([layer[k] for layer, k in zip(layers, path)], x.shape[1:])
        norms = [part for part in alone.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for part in norms:
            part.momentum = None
            part.train(norm != "running")
        with torch.no_grad():
            if norm == "recalibrate":
                for part in norms:
                    part.reset_running_stats()
                alone(other)
                alone.eval()
            expected = loss(alone(x), target)
        assert table[path] == pytest.approx(float(expected), rel=1e-4)
    assert np.isnan(table.scores).sum() == table.scores.size - cell.size


def path_alone(modules, shape):
    """A plain copy of a path for inputs of a shape, in evaluation mode."""
    parts = []
    for module in modules:
        parts.append(module.extract(tuple(shape)).eval())
        shape = parts[-1](torch.zeros(1, *shape)).shape[1:]
    return torch.nn.Sequential(*parts)


def random_tables(space: Space, seed: int):
    """Scores of the allowed paths and two costs, all random."""
    rng = np.random.default_rng(seed)
    tables, madds, params = [], [], []
    for cells in space.blocks:
        tables.append([])
        for cell in cells:
            scores = np.full(cell.counts, np.nan)
            for path in cell.paths():
                scores[path] = rng.uniform(0, 1)
            tables[-1].append(ScoreTable(scores))
        madds.append([rng.integers(1, 100, cell.counts) for cell in cells])
        params.append([rng.integers(1, 100, cell.counts) for cell in cells])
    return tables, Costs({"madds": madds, "params": params}, {"madds": 0, "params": 0})


def joined(space: Space, tables, table_costs):
    """Every architecture of the space: choices `[N, B]`, scores and costs, by joining block after block on the scale."""
    blocks = []
    for b, cells in enumerate(space.blocks):
        rows = [(c, path, cells[c].layers[-1][path[-1]].scale) for c in range(len(cells)) for path in cells[c].paths()]
        values = [(tables[b][c][path], table_costs["madds"][b][c][path], table_costs["params"][b][c][path])
                  for c, path, _ in rows]  # fmt: skip
        blocks.append(([row[:2] for row in rows], np.array([row[2] for row in rows]), np.array(values, dtype=float)))
    indices, ends, totals = np.arange(len(blocks[0][0]))[:, None], blocks[0][1], blocks[0][2]
    for choices, after, values in blocks[1:]:
        starts = np.array([cell for cell, _ in choices])  # cell number = the scale it starts from
        left, right = np.nonzero(ends[:, None] == starts)
        indices, ends = np.column_stack([indices[left], right]), after[right]
        totals = totals[left] + values[right]
    return [choices for choices, _, _ in blocks], indices, totals


@pytest.mark.parametrize("name", ["hytra-mini", "hytra"])
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_search_equals_brute_force(name, seed):
    space = spaces.get(name)
    tables, table_costs = random_tables(space, seed)
    choices, indices, totals = joined(space, tables, table_costs)
    assert len(indices) == space.size
    limits = {"madds": float(np.quantile(totals[:, 1], 0.1)), "params": float(np.quantile(totals[:, 2], 0.2))}
    for limit in ({}, {"madds": limits["madds"]}, limits):
        kept = np.ones(len(totals), bool)
        for column, cost in enumerate(("madds", "params"), 1):
            kept &= totals[:, column] <= limit.get(cost, np.inf)
        order = np.flatnonzero(kept)[np.argsort(totals[kept, 0])][:5]
        expected = [Architecture.of(choices[b][i] for b, i in enumerate(indices[row])) for row in order]
        found = search.best(Scores(space, tables), table_costs, limit, 5)
        assert [entry.architecture for entry in found] == expected
        np.testing.assert_allclose([entry.score for entry in found], totals[order, 0], rtol=1e-12)
        assert found.certificate.space_size == space.size


def test_cost_range_of_what_was_rated():
    # As BossNAS rates: of each later block only the cell that continues the path chosen before it.
    space = spaces.get("hytra-mini")
    tables, table_costs = random_tables(space, 0)
    for block, start in ((1, 1), (2, 2), (3, 2)):
        for cell in set(range(4)) - {start}:
            tables[block][cell].scores[:] = np.nan
    _, _, totals = joined(space, tables, table_costs)
    kept = totals[~np.isnan(totals[:, 0]), 1]
    rated = [[~np.isnan(table.scores) for table in cells] for cells in tables]
    assert 0 < len(kept) < len(totals)
    assert costs.cost_range(space, table_costs, "madds", rated) == (kept.min(), kept.max())
    assert costs.cost_range(space, table_costs, "madds") == (totals[:, 1].min(), totals[:, 1].max())
    for mask in rated[2]:
        mask[:] = False
    with pytest.raises(InputError, match="rated paths in block 2 that continue those before it"):
        costs.cost_range(space, table_costs, "madds", rated)
