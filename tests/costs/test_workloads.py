"""Costs of several workloads under names of their own, limited together."""

import numpy as np
import pytest

import pynas
from pynas.costs import Costs, LayerCosts, LayerTable, cost_heading, cost_range
from pynas.costs.table import Tied
from pynas.errors import InputError
from pynas.quantities import show_cost
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Space

SPACE = Space.from_counts("own", [[(3, 2)], [(2,), (3,)]])


def measured(seed, **metadata):
    rng = np.random.default_rng(seed)
    tables = [[rng.uniform(1, 9, cell.counts) for cell in cells] for cells in SPACE.blocks]
    return Costs({"latency": tables}, {"latency": 0.5}, {"space": "own", **metadata}, space=SPACE)


def test_several_latencies_are_limited_together(tmp_path):
    """The best within both limits, by enumeration; either limit alone has another best."""
    rng = np.random.default_rng(9)
    scores = Scores(SPACE, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in SPACE.blocks])
    batch_1, batch_32 = measured(1), measured(2).renamed({"latency": "latency@32"})
    batch_32.save(tmp_path / "32.npz")
    costs = batch_1 | pynas.costs.load(tmp_path / "32.npz")
    limits = {name: 0.65 * cost_range(SPACE, costs, name)[1] for name in ("latency", "latency@32")}

    def best(names):
        kept = [each for each in SPACE.architectures() if all(costs.of(each)[name] <= limits[name] for name in names)]
        return min(kept, key=scores.of)

    texts = {"latency": "65%", "latency@32": f"{limits['latency@32'] / 1000}s"}
    found = pynas.search.best(scores, costs, texts)[0]
    assert found.architecture == best(limits)
    assert len({best(["latency"]), best(["latency@32"]), found.architecture}) == 3
    assert found.costs["latency@32"] == pytest.approx(measured(2).of(found.architecture)["latency"])


def test_what_is_known_of_a_table_stays_with_it():
    batch_1 = measured(1, device="cpu", reference={"latency": 4.0})
    phone = measured(2, device="phone", batch_size=8, reference={"latency": 9.0})
    both = batch_1 | phone.renamed({"latency": "latency@phone"})
    assert both.metadata["device"] == "cpu" and "batch_size" not in both.metadata
    assert both.metadata["reference"] == {"latency": 4.0, "latency@phone": 9.0}
    assert both.metadata["of"] == {"latency@phone": {"device": "phone", "batch_size": 8}}
    again = both.renamed({"latency@phone": "latency@edge"}).metadata
    assert again["of"]["latency@edge"] == {"device": "phone", "batch_size": 8}
    assert again["of"]["latency"] == {"device": "cpu"} and again["reference"]["latency@edge"] == 9.0


def test_shared_parameters_stay_shared():
    uses = {0: [np.ones((3, 2), bool)], 1: [np.ones(2, bool), np.ones(3, bool)]}
    tables = [[np.ones(cell.counts, np.int64) for cell in cells] for cells in SPACE.blocks]
    costs = Costs({"params": tables}, {"params": 0}, tied=[Tied({"params": 1}, uses)]).renamed({"params": "weights"})
    assert costs.additive == () and costs.of(next(SPACE.architectures())) == {"weights": 1}


def test_costs_by_layer():
    table = LayerTable([1.0], [np.array([[1.0, 2.0]])])
    both = LayerCosts({"latency": table}) | LayerCosts({"latency": table}).renamed({"latency": "latency@32"})
    assert both.names == ("latency", "latency@32") and both["latency@32"] is table
    with pytest.raises(InputError, match="other names than latency, got latency; rename"):
        LayerCosts({"latency": table}) | LayerCosts({"latency": table})


@pytest.mark.parametrize("names", [{"madds": "x"}, {"latency": "a/b"}, {"latency": ""}, {"latency": "a=b"}])
def test_other_names_are_refused(names):
    with pytest.raises(InputError, match=r"\[costs\] expected"):
        measured(1).renamed(names)
    with pytest.raises(InputError, match="different names"):
        (measured(1) | measured(2).renamed({"latency": "b"})).renamed({"b": "latency"})


def test_a_workload_has_the_unit_of_its_cost():
    assert cost_heading("latency@phone") == "latency (ms), phone" and cost_heading("own") == "own"
    assert show_cost("latency@phone", 5000.0) == "5000.000 ms" and show_cost("phone", 5000.0) == "5.00k"
