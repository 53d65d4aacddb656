"""From a model to a smaller one: limits, report, distillation, files, and the command."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import nn
from typer.testing import CliRunner

import pynas
from pynas.cli import app
from pynas.costs.operators import counting
from pynas.errors import InfeasibleError, InputError
from pynas.spaces import Architecture
from pynas.train import loop


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=5, zero_init_last=False).eval()


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(3)]


@pytest.fixture(scope="module")
def compression(model, batches):
    return pynas.compress.Compression(model, batches, widths=(1, 0.5))


def madds(model):
    with torch.no_grad(), counting() as counter:
        model(torch.zeros(1, 3, 32, 32))
    return counter.madds


def test_the_network_keeps_the_limit_and_the_report_tells_the_truth(model, batches, compression):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, report = compression.at({"madds": "60%"})
    assert madds(small) == report.costs["madds"] <= 0.6 * report.reference["madds"]
    assert report.reference["madds"] == madds(model)
    assert sum(p.numel() for p in small.parameters()) == report.costs["params"]
    assert report.actual == pytest.approx(compression.measure(small))
    assert report.loss == "kl" and set(report.units.values()) > {"as it is"}
    assert type(small) is type(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert compression.at({"madds": "100%"})[1].predicted == pytest.approx(0, abs=1e-6)


def test_no_better_choice_keeps_the_limit(compression):
    # All architectures of the blocks, one by one.
    space, scores, costs = compression.net.space, compression.scores, compression.costs
    limit = 0.6 * costs.metadata["reference"]["madds"]
    every = list(space.architectures())
    least = min(scores.total([a])[0] for a in every if costs.of(a)["madds"] <= limit)
    assert compression.find({"madds": "60%"})[0].score == pytest.approx(least)


def test_the_whole_in_one_call(model, batches):
    small, report = pynas.compress(model, batches, {"params": "90%"}, widths=(1, 0.5), drop=False)
    assert report.costs["params"] <= 0.9 * report.reference["params"]
    assert "left out" not in report.units.values()
    assert small(batches[0]).shape == (4, 5)


def test_latency_is_a_limit(model, batches):
    compression = pynas.compress.Compression(model, batches[:1], latency=True, widths=(1, 0.5))
    reference = compression.costs.metadata["reference"]["latency"]
    found = compression.find({"latency": f"{0.8 * reference}ms"})[0]
    assert 0 < found.costs["latency"] <= 0.8 * reference


def test_limits_out_of_reach_name_the_least(compression):
    with pytest.raises(InfeasibleError, match="madds"):
        compression.at({"madds": "1%"})
    with pytest.raises(InputError, match="energy"):
        compression.at({"energy": 3})


def test_distillation_lowers_the_loss_and_leaves_both_networks_as_they_are(model, batches, compression):
    net = compression.plan.supernet(widths=(1, 0.5), drop=False)
    small = net.extract(Architecture.of((0, [1] * len(block)) for block in net.blocks))  # slices, all of half the width
    before = [tensor.clone() for tensor in (*small.state_dict().values(), *model.state_dict().values())]
    trained = pynas.compress.distil(small, model, batches, 60, "kl", learning_rate=1e-3, ema=0.8)
    after = [*small.state_dict().values(), *model.state_dict().values()]
    assert all(map(torch.equal, before, after))
    assert compression.measure(trained) < 0.5 * compression.measure(small)


def test_a_distillation_goes_on_where_it_stopped(tmp_path, model, batches, monkeypatch):
    class Stop(Exception):
        pass

    def stop(step):
        if step.step == 3:
            raise Stop

    options = {"learning_rate": 1e-3, "seed": 3}
    small = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    straight = pynas.compress.distil(small, model, batches, 6, **options)
    # A checkpoint is written at the latest every minute: here after every step.
    with pytest.raises(Stop), monkeypatch.context() as patched:
        patched.setattr(loop.time, "monotonic", iter(range(0, 10**6, 1000)).__next__)
        pynas.compress.distil(small, model, batches, 6, run=tmp_path, on_step=stop, **options)
    again = pynas.compress.distil(small, model, batches, 6, run=tmp_path, **options)
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), again.state_dict().values()))


def test_an_early_stop_holds_the_last_batches_out(model, batches, compression):
    options = {"patience": 6, "check_every": 1, "learning_rate": 1e-3, "ema": 0.1}
    small, _ = compression.at({"madds": "40%"})
    trained, report = compression.at({"madds": "40%"}, 6, **options)
    want = pynas.compress.distil(small, model, batches[:2], 6, "kl", validation=batches[2:], **options)
    assert all(map(torch.equal, trained.state_dict().values(), want.state_dict().values()))
    assert report.distilled == pytest.approx(compression.measure(want))
    again, _ = compression.at({"madds": "40%"}, 6, validation=batches[:1], **options)
    for other in (small, again):  # the training did something, and batches that are given are not replaced
        assert not all(map(torch.equal, trained.state_dict().values(), other.state_dict().values()))


def test_unknown_losses_and_no_batches(model, batches):
    with pytest.raises(InputError, match="kl, cosine, mse"):
        pynas.compress.distil(model, model, batches, 1, "l3")
    with pytest.raises(InputError, match="at least one batch"):
        pynas.compress.distil(model, model, [], 1)
    with pytest.raises(InputError, match="list of batches"):
        pynas.compress(model, [], {"madds": "60%"})


def test_a_saved_network_comes_back(tmp_path, model, batches, compression):
    small, report = compression.at({"madds": "50%"})
    pynas.compress.save(tmp_path, small, compression.net, report.architecture, report)
    fresh = timm.create_model("resnet18", num_classes=5).eval()
    again = pynas.compress.load(fresh, tmp_path)
    assert type(again) is type(fresh)
    with torch.no_grad():
        assert torch.equal(again(batches[0]), small(batches[0]))
    content = json.loads((tmp_path / "compress.json").read_text())
    assert content["report"]["costs"]["madds"] == report.costs["madds"]


def test_a_folder_of_another_model_is_refused(tmp_path, model, compression):
    small, report = compression.at({"madds": "50%"})
    pynas.compress.save(tmp_path, small, compression.net, report.architecture)
    with pytest.raises(InputError, match="units"):
        pynas.compress.load(timm.create_model("resnet34", num_classes=5), tmp_path)
    with pytest.raises(InputError, match="tensors"):
        pynas.compress.load(timm.create_model("resnet18", num_classes=7), tmp_path)
    (tmp_path / "example.pt").unlink()
    with pytest.raises(InputError, match="example"):
        pynas.compress.load(timm.create_model("resnet18", num_classes=5), tmp_path)


BUILDER = """
import torch
import timm

def build():
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=5, zero_init_last=False)

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path, batches):
    (tmp_path / "mine.py").write_text(BUILDER)
    torch.save(batches, tmp_path / "batches.pt")
    torch.save(batches[0], tmp_path / "example.pt")
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["compress", *map(str, words)])


@pytest.mark.integration
def test_the_command_writes_a_folder_that_loads(folder, batches):
    out = folder / "small"
    done = run(f"{folder}/mine.py:build", "--data", folder / "batches.pt", "--max-madds", "60%", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    model = pynas.compress.load(timm.create_model("resnet18", num_classes=5), out)
    assert madds(model) == content["costs"]["madds"] <= 0.6 * content["reference"]["madds"]


@pytest.mark.integration
def test_the_command_distils_with_an_early_stop(folder, monkeypatch):
    seen, distil = [], pynas.compress.shrink.distil_model
    monkeypatch.setattr(
        "pynas.compress.shrink.distil_model",
        lambda *args, **options: seen.append((args, options)) or distil(*args, **options),
    )
    words = [
        "--data",
        folder / "batches.pt",
        "--max-madds",
        "60%",
        "--distil",
        3,
        "--patience",
        2,
        "--out",
        folder / "small",
    ]
    done = run(f"{folder}/mine.py:build", *words, "--json")
    assert done.exit_code == 0, done.output
    [(args, options)] = seen
    assert args[3] == 3 and options["patience"] == 2 and (len(args[2]), len(options["validation"])) == (2, 1)
    assert json.loads(done.stdout)["distilled"] > 0


@pytest.mark.integration
def test_the_command_makes_a_front(folder):
    out = folder / "front"
    done = run(
        f"{folder}/mine.py:build", "--example", folder / "example.pt", "--front", "params", "--out", out, "--no-drop"
    )
    assert done.exit_code == 0, done.output
    content = json.loads((out / "front.json").read_text())
    networks = content["networks"]
    assert next(iter(networks)) == "params-90" and len(networks) + len(content["infeasible"]) == 7
    losses = [report["predicted"] for report in networks.values()]
    assert losses == sorted(losses)
    assert all((out / name / "model.safetensors").exists() for name in networks)
    assert "params-90" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mine.py:build", "--example", "example.pt"], "expected a limit"),
        (["mine.py:build", "--max-madds", "60%"], "expected --data"),
        (
            ["mine.py:build", "--example", "example.pt", "--max-madds", "60%", "--patience", "2"],
            "--distil with --patience",
        ),
        (
            ["mine.py:build", "--example", "example.pt", "--max-madds", "90%", "--distil", "2", "--patience", "2"],
            "two batches",
        ),
        (["mine.py:none", "--example", "example.pt", "--max-madds", "60%"], "a function none"),
        (["mine.py:number", "--example", "example.pt", "--max-madds", "60%"], "an nn.Module"),
        (["other.py:build", "--example", "example.pt", "--max-madds", "60%"], "check the path"),
        (["timm:resnet19", "--example", "example.pt", "--max-madds", "60%"], "near: resnet18"),
        (["resnet18", "--example", "example.pt", "--max-madds", "60%"], "timm:NAME"),
        (["mine.py:build", "--example", "mine.py", "--max-madds", "60%"], "written by torch.save"),
        (
            ["mine.py:build", "--example", "example.pt", "--max-madds", "half"],
            "which is a number with an optional suffix",
        ),
        (["mine.py:build", "--example", "example.pt", "--front", "size"], "front of madds"),
    ],
)
def test_bad_input_is_one_line(folder, words, says):
    words = [str(folder / word) if word.endswith((".pt", ".py")) or ".py:" in word else word for word in words]
    error = run(*words).exception
    assert isinstance(error, InputError) and says in str(error) and "\n" not in str(error)
