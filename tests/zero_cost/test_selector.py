"""The two-step selector against the enumeration of whole spaces."""

import numpy as np
import pytest
import torch

import pynas
from pynas.costs import LayerCosts, LayerTable, count, latency
from pynas.errors import InputError
from pynas.spaces import Architecture, autoformer
from pynas.zero_cost import load_preferred, random_images, saliency, save_preferred, select


@pytest.fixture(scope="module")
def chosen():
    torch.manual_seed(0)
    space = autoformer("own", (8, 12), (2, 3), (1, 2, 3), (1.5, 2), qkv_dim=12, patch=4, image_size=8, max_distance=2)
    net = pynas.supernet(space, 5)
    return space, saliency(net, random_images(4, 8)), count(net, (3, 8, 8)), net


def by_enumeration(space, scores, table, normaliser, interval, top):
    """Every architecture: the best by normalised score of each group, then the best by SNIP of each interval."""
    groups = {}
    for c, cell in enumerate(space.blocks[0]):
        for path in cell.paths():
            specs = [layer[k] for layer, k in zip(cell.layers, path)]
            key = c, sum(spec.heads for spec in specs), sum(spec.hidden for spec in specs)
            groups.setdefault(key, []).append(Architecture.of([(c, path)]))
    representatives = [max(group, key=scores.normalised(normaliser).of) for group in groups.values()]
    by_interval = {}
    for architecture in representatives:
        by_interval.setdefault(int(table.of(architecture) // interval), []).append(architecture)
    chosen = [sorted(some, key=lambda a: -scores.snip.of(a))[:top] for some in by_interval.values()]
    return {str(architecture) for some in chosen for architecture in some}, groups


@pytest.mark.parametrize(("cost", "interval"), [("params", 500), ("madds", 8000)])
@pytest.mark.parametrize("normaliser", ["layer", "balance", "snip"])
@pytest.mark.parametrize("top", [1, 3])
def test_whole_spaces(chosen, cost, interval, normaliser, top):
    space, scores, costs, _ = chosen
    found = select(space, scores, costs, cost=cost, interval=interval, top=top, normaliser=normaliser)
    expected, groups = by_enumeration(space, scores, costs[cost], normaliser, interval, top)
    assert {str(one.architecture) for one in found.members} == expected and len(found) == len(expected)
    for group in groups.values():
        assert len({costs.of(architecture)[cost] for architecture in group}) == 1
    for one in found.members:
        low, high = one.interval
        assert low <= one.costs[cost] < high and one.costs == costs.of(one.architecture)
        assert one.snip == pytest.approx(scores.snip.of(one.architecture))
        assert one.normalised == scores.normalised(normaliser).of(one.architecture)
    assert [one.costs[cost] for one in found.members] == sorted(one.costs[cost] for one in found.members)


def test_greedy_is_never_better_than_exact(chosen):
    space, scores, costs, _ = chosen
    exact, greedy = (
        select(space, scores, costs, interval=500, top=99, allocation=name) for name in ("exact", "greedy")
    )
    assert len(exact) == len(greedy)

    def by_group(found):
        return {(one.architecture[0].cell, one.costs["params"]): one.normalised for one in found.members}

    for key, value in by_group(greedy).items():
        assert value <= by_group(exact)[key] + 1e-12


def test_latency_is_a_cost_too(chosen):
    space, scores, costs, net = chosen
    table = costs | latency(net, (3, 8, 8), repeats=2, warm_up=0)
    low, high = table["latency"].bounds()
    found = select(space, scores, table, cost="latency", interval=(high - low) / 2)
    assert len(found) in (2, 3) and all(one.costs["latency"] < one.interval[1] for one in found.members)


def test_start_and_stop(chosen):
    space, scores, costs, _ = chosen
    every = select(space, scores, costs, interval=1000)
    low, high = every.members[1].interval
    some = select(space, scores, costs, interval=1000, start=low, stop=high)
    assert some.members == tuple(one for one in every.members if one.interval == (low, high))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": 7}, "architecture in every interval of params, got none in"),
        ({"start": 10_000_000}, r"got none in \[1e\+07, 1.0001e\+07\)"),
        ({"start": 2000, "stop": 2000}, "none of 1000 between 2000 and 2000"),
        ({"stop": 1000, "start": 0}, r"got none in \[0, 1000\)"),
        ({"interval": 0}, "interval above 0"),
        ({"top": 0}, "top of at least 1"),
        ({"cost": "watts"}, "expected one of params, madds, memory, got 'watts'"),
        ({"allocation": "random"}, "allocation of exact, greedy, got 'random'"),
        ({"normaliser": "none"}, "normaliser of layer, balance, snip"),
    ],
)
def test_bad_input_is_named(chosen, changes, message):
    space, scores, costs, _ = chosen
    with pytest.raises(InputError, match=message):
        select(space, scores, costs, **{"interval": 1000, **changes})


def test_preferred_spaces_are_kept(chosen, tmp_path):
    space, scores, costs, _ = chosen
    found = select(space, scores, costs, interval=1000, top=2)
    save_preferred(tmp_path / "preferred.json", found)
    assert load_preferred(tmp_path / "preferred.json", space) == found
    with pytest.raises(InputError, match="architectures of autoformer-mini, got those of own"):
        load_preferred(tmp_path / "preferred.json", pynas.spaces.get("autoformer-mini"))


def test_published_intervals_of_the_tiny_space():
    """With any scores, the groups of the whole space reach what was published for each million of parameters."""
    space = pynas.spaces.get("autoformer-tiny")
    costs = count(pynas.supernet(space), (3, 224, 224))
    params = costs["params"]
    size = LayerTable(params.fixed, params.layers)
    found = select(space, _Scores(size), LayerCosts({"params": params}), interval=1e6)
    assert [one.interval[1] / 1e6 for one in found.members] == [6, 7, 8, 9, 10, 11]
    published = np.array([5.99476, 6.997192, 7.996552, 8.967016, 9.978232, 10.517272]) * 1e6
    assert (np.array([one.costs["params"] for one in found.members]) >= published).all()


class _Scores:
    """More parameters, higher score."""

    def __init__(self, table):
        self.snip = table

    def normalised(self, name):
        return self.snip
