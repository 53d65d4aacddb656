"""Latencies of units in the runtime that serves the smaller network: ONNX Runtime for real."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pynas.cli import app
from pynas.compress import plan
from pynas.errors import InputError
from pynas.runs.compress import Request
from pynas.runtimes import Workload

from .families import FAMILIES, built

pytest.importorskip("onnxruntime")

MODEL = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))

    def forward(self, x):
        return x + self.branch(x)

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
"""


def test_the_command_limits_the_latency_in_a_runtime_and_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    torch.save(torch.randn(8, 3, 12, 12), tmp_path / "example.pt")
    words = "compress net.py:build --example example.pt --max-latency 99% --out small --runtime onnxruntime --threads 1"
    done = CliRunner().invoke(app, [*words.split(), "--latency-batch", "3", "--device", "cpu", "--json"])
    content = json.loads(done.stdout)
    workload = content["workload"]
    assert (workload["runtime"], workload["batch_size"]) == ("onnxruntime", 3)
    found, reference = content["costs"]["latency"], content["reference"]["latency"]
    assert 0 <= found <= 0.99 * reference and reference > 0
    # On a busy machine the unit alone can seem slower than the whole network, of which nothing then stays without it.
    assert found > 0 or content["units"] == {"1": "left out"}
    assert json.loads((tmp_path / "small/compress.json").read_text())["report"]["workload"] == workload
    assert f"Latencies on {workload['device']}:" in (tmp_path / "small/report.html").read_text()
    assert workload["device"].endswith("CPU, 1 thread, in ONNX Runtime")


def test_units_with_several_arguments_are_timed_in_onnx_runtime():
    """The rotary embeddings of a Llama's layers are constants of the file."""
    model, call = built(FAMILIES["Llama"])
    planned = plan(model, call)
    net = planned.supernet(widths=(1.0,), heads=(1.0,))
    costs = planned.costs(net, latency=Workload("onnxruntime", threads=1), repeats=2)
    assert 0 < costs.metadata["reference"]["latency"] < 1000
    units = [cells[0] for cells in costs["latency"]]
    assert all(table.flat[0] > 0 and table.min() == 0 for table in units)  # left out, it takes no time


class Bessel(nn.Module):
    """A residual unit with an operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.last(torch.special.bessel_j0(self.first(x)))


def test_a_unit_that_the_runtime_lacks_an_operator_for_is_named():
    planned = plan(nn.Sequential(nn.Linear(3, 8), Bessel()), torch.randn(4, 3))
    net = planned.supernet(widths=(1.0, 0.5))
    with pytest.raises(InputError) as refused:
        planned.costs(net, latency=Workload("onnxruntime"))
    text = str(refused.value)
    assert "a network that ONNX Runtime takes, got " in text and "bessel_j0, which ONNX does not have" in text
    assert "for the unit 1, as it is;" in text and "\n" not in text


def test_a_workload_without_a_latency_is_refused():
    with pytest.raises(InputError, match=r"--runtime, --threads and --latency-batch, got none; give --max-latency"):
        Request("timm:resnet18", {"madds": "60%"}, runtime="onnxruntime")
