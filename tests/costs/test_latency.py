"""Latency tables: every candidate in its place, and whole networks against them."""

import time

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import costs
from pynas.costs.latency import time_calls
from pynas.errors import InputError
from pynas.spaces import Architecture


class Sleep(nn.Module):
    """Takes a known time."""

    def __init__(self, ms):
        super().__init__()
        self.ms, self.weight = ms, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        time.sleep(self.ms / 1e3)
        return x


def test_tables_add_up_the_candidates_times():
    times = [[[10, 40], [5, 20]], [[3]]]
    blocks = [[[[Sleep(ms) for ms in layer] for layer in cell]] for cell in times]
    net = pynas.Supernet(blocks, stem=Sleep(5), head=Sleep(2)).train()
    table = costs.latency(net, (3, 4, 4), repeats=5)
    assert net.training and table["latency"][0][0].shape == (2, 2)
    expected = np.add.outer([10, 40], [5, 20])
    # Sleeping takes at least its time, and on a busy machine somewhat more.
    assert (table["latency"][0][0] >= expected).all()
    assert (np.diff(table["latency"][0][0].ravel()[[0, 1, 2, 3]]) > 0).all()
    assert table.fixed["latency"] >= 7
    assert table.metadata["batch_size"] == 1 and table.metadata["largest_spread"] >= 0
    check = costs.check_latency(net, table, [Architecture.parse("00|0"), Architecture.parse("11|0")], repeats=5)
    assert (check.measured >= [25, 70]).all() and check.scaled_error < 0.5 and check.layers.tolist() == [3, 3]
    rows = {tuple(row["place"]): row for row in table.metadata["candidates"]}
    assert rows[0, 0, 1, 1]["ms"] >= 20 and rows["stem",]["ms"] >= 5 and rows[0, 0, 0, 0]["input"] == [3, 4, 4]
    assert rows[1, 0, 0, 0]["params"] == 1 and rows[1, 0, 0, 0]["madds"] == 0 and len(rows) == 7


def test_candidates_of_one_description_are_measured_once():
    net = pynas.supernet("mbconv-boss", 10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    table = costs.latency(net, (3, 64, 64), repeats=1, warm_up=0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    # Layers 2 to 4 of a block are alike, so a path costs the same whichever of them runs its candidate.
    block = table["latency"][1][0]
    assert block.shape == (4, 4, 4, 4)
    assert block[0, 0, 1, 2] == pytest.approx(block[0, 2, 0, 1], rel=1e-12)


def test_calls_are_interleaved():
    order = []
    calls = [lambda n=n: order.append(n) for n in range(3)]
    timings = time_calls(calls, torch.device("cpu"), repeats=4, warm_up=2)
    assert order == [0, 1, 2] * 6 and len(timings) == 3


def test_devices_that_work_asynchronously_are_waited_for(monkeypatch):
    """A device other than the CPU returns at once; the time is that of its work, and none of the call before."""
    queue = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: [time.sleep(queue.pop()) for _ in list(queue)])
    calls = [lambda: queue.append(0.02), lambda: queue.append(0.0)]
    slow, fast = time_calls(calls, torch.device("xpu"), repeats=3, warm_up=0)
    assert slow.median >= 20 and fast.median < 10 and not queue


def test_memory_is_weights_and_outputs():
    net = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 2))
    counted, shape = costs.count_module(net, (3, 4, 4))
    assert shape == (2,)
    assert counted["memory"] == 4 * (15 + 5 * 16 * 2 + 2 + 3 * (5 * 16) + 2)


def table_file(tmp_path, lines):
    path = tmp_path / "energy.csv"
    path.write_text("\n".join(["block,cell,layer,candidate,energy", *lines]) + "\n")
    return path


SPACE = pynas.spaces.Space.from_counts("two", [[[2, 1]], [[1], [2]]])
ROWS = ["0,0,0,0,1.5", "0,0,0,1,2", "0,0,1,0,3", "1,0,0,0,4", "1,1,0,0,5", "1,1,0,1,6"]


def test_user_tables(tmp_path):
    table = costs.read_csv(table_file(tmp_path, [*ROWS, "fixed,,,,10"]), SPACE)
    assert table.of(Architecture.parse("10|1:1")) == {"energy": 2 + 3 + 6 + 10}
    assert table.of(Architecture.parse("00|0")) == {"energy": 1.5 + 3 + 4 + 10}
    other = costs.Costs({"other": [[np.zeros((2, 1))], [np.zeros(1), np.ones(2)]]}, {"other": 0})
    assert (table | other).of(Architecture.parse("10|1:1")) == {"energy": 21, "other": 1}
    with pytest.raises(InputError, match="other names"):
        table | table


@pytest.mark.parametrize("lines, message", [
    (ROWS[:-1], "block 1, cell 1, layer 0, candidate 1"), ([*ROWS, ROWS[0]], "a second one in line 8"),
    ([*ROWS, "2,0,0,0,1"], "outside the space"), ([*ROWS[:-1], "1,1,0,1,-6"], "'-6' in line 7"),
    ([*ROWS[:-1], "1,1,0,1,nan"], "'nan'"), ([*ROWS[:-1], "1,1,0,x,6"], "whole numbers"), ([], "every candidate"),
])  # fmt: skip
def test_bad_user_tables(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        costs.read_csv(table_file(tmp_path, lines), SPACE)


def test_a_table_without_costs(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("block,cell\n0,0\n")
    with pytest.raises(InputError, match="expected the columns"):
        costs.read_csv(path, SPACE)
