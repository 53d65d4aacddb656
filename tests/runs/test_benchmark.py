"""`pynas benchmark`: rows of networks, their memory against one reckoned by hand, and what is refused."""

import itertools
import json
import shutil
import time

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pynas import costs, export, runs, spaces
from pynas.cli import app, main
from pynas.errors import InputError
from pynas.evaluation import speed
from pynas.evaluation.speed import measure
from pynas.runs.benchmark import _whole_batches, benchmark
from pynas.runtimes import RUNTIMES, Program, Runtime, programs

CPU = torch.device("cpu")
FEW = {"batch_size": 4, "repeats": 2, "runtimes": ["torch"]}


def torch_format(model, batch):
    return model


@pytest.fixture(scope="module")
def written(images, tmp_path_factory):
    """The folder of a run with an exported and two retrained networks, untrained, and their architectures."""
    folder = tmp_path_factory.mktemp("benchmark") / "run"
    run = runs.create(folder, data=images)
    names = list(itertools.islice(run.space.architectures(), 3))
    for path, architecture, accuracy in zip((".", "retraining/a", "retraining/b"), names, (0.5, 0.75, 1.0)):
        (folder / path).mkdir(parents=True, exist_ok=True)
        model = export.fresh_network(run.space, architecture, 2, (3, 32, 32))
        export.save_subnet(folder / path / "subnet.safetensors", model, run.space, architecture, 2, test_accuracy=accuracy,
                           image_shape=[3, 32, 32])  # fmt: skip
    return folder, [run.space.format(name) for name in names]


def test_memory_is_that_of_weights_images_and_what_lives_at_once():
    class Steps(nn.Module):
        """Two of the outputs, twice as wide as the input, live at once, never three."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1000, 2000)

        def forward(self, x):
            one = self.linear(x)
            two = one + 1
            del one
            three = two + 1
            del two
            return three

    found = measure(Steps(), (1000,), CPU, torch_format, batch_size=16, repeats=2)
    weights, images, outputs = 2000 * 1000 + 2000, 16 * 1000, 2 * 16 * 2000
    assert found.peak_memory == pytest.approx(4 * (weights + images + outputs), abs=1000)


def test_images_a_second_and_latency_are_of_the_pass_alone():
    def sleeping(model, batch):
        return lambda x: time.sleep(0.02 + 0.01 * (len(x) - 1))

    found = measure(nn.Linear(3, 3), (3,), CPU, sleeping, batch_size=9, repeats=5)
    assert 20 <= found.latency < 40 and 9 / 0.2 < found.images_per_second <= 90
    assert 0 <= found.spread < 1


def test_training_runs_forward_and_backward(written):
    folder, names = written
    forward = benchmark(runs.load(folder), **FEW)["rows"][0]
    row = benchmark(runs.load(folder), training=True, **{**FEW, "runtimes": []})["rows"][0]
    assert row["images_per_second"] == pytest.approx(4000 / row["batch_latency"])
    assert row["format"] == "torch, training" and row["latency"] is None and row["network"] == names[1]
    # Gradients are as large as the weights, and the outputs of all layers live until the backward pass.
    assert row["peak_memory"] > forward["peak_memory"] + 4 * row["params"]
    seen = []
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False).eval()
    passes = speed.training_passes(model, torch.randn(4, 3))
    model.register_forward_hook(lambda *_: seen.append(model.training))
    passes(torch.randn(4, 3))
    assert seen == [True] and all(parameter.grad is not None for parameter in model.parameters())


def test_the_retrained_networks_are_measured_else_the_exported_one(written, tmp_path):
    folder, names = written
    rows = benchmark(runs.load(folder), **FEW)["rows"]
    assert [(row["network"], row["weights"], row["test_accuracy"]) for row in rows] == [
        (names[1], "a", 0.75), (names[2], "b", 1.0)]  # fmt: skip
    for row in rows:
        model, _ = export.load_subnet(folder / "retraining" / row["weights"] / "subnet.safetensors")
        assert row["params"] == sum(parameter.numel() for parameter in model.parameters())
        assert row["madds"] == costs.count_module(model, (3, 32, 32))[0]["madds"] and row["format"] == "torch"
        assert row["peak_memory"] > 4 * row["params"] and row["images_per_second"] > 0 and row["latency"] > 0
    alone = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("retraining"))
    (row,) = benchmark(runs.load(alone), **FEW)["rows"]
    assert (row["network"], row["weights"], row["test_accuracy"]) == (names[0], "exported", 0.5)


def test_named_networks_of_any_space_and_every_format(written, monkeypatch):
    folder, names = written
    space = runs.load(folder).space
    fresh = space.format(next(itertools.islice(space.architectures(), 5, None)))
    monkeypatch.setitem(RUNTIMES, "other", Runtime("other", RUNTIMES["torch"].build))
    few = FEW | {"runtimes": ["torch", "other"]}
    given = [names[1], fresh, "DNA-a"]
    rows = benchmark(runs.load(folder), given, 64, **few)["rows"]
    wanted = [
        (name, weights, form) for name, weights in zip(given, ("a", "fresh", "fresh")) for form in ("torch", "other")
    ]
    assert [(row["network"], row["weights"], row["format"]) for row in rows] == wanted
    # Accuracies were measured at 32 pixels.
    assert {(row["image_size"], row["test_accuracy"]) for row in rows} == {(64, None)}
    exported = benchmark(runs.load(folder), [names[0]], test_images=0, **few)["rows"]
    assert [(row["weights"], row["test_accuracy"]) for row in exported] == [("exported", 0.5), ("exported", None)]
    model = export.standalone(*spaces.network("DNA-a"), num_classes=2, image_shape=(3, 64, 64))
    assert rows[-1]["params"] == sum(parameter.numel() for parameter in model.parameters())


def test_the_command_prints_rows_and_says_what_counted_the_memory(written, wide):
    folder, _ = written
    words = ["benchmark", str(folder), "--batch-size", "4", "--repeats", "2", "--device", "cpu", "--runtime", "torch"]
    content = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert content["batch_size"] == 4 and len(content["rows"]) == 2 and content["memory_source"] == "torch.profiler"
    text = CliRunner().invoke(app, words).stdout
    assert "75.00%" in text and "by torch.profiler, which" in text and "batches of 4" in text


def test_bad_input_is_one_line(written, tmp_path, images, monkeypatch, capsys):
    folder, _ = written
    none = tmp_path / "none"
    runs.create(none, data=images)
    for words, message in (
        ([none], f"expected a network in {none}, got none; run `pynas export --run {none}` first"),
        ([folder, "--architecture", "nothing"], "expected "),
        ([folder, "--batch-size", 0], "expected at least 1 image, got 0"),
        ([folder, "--image-size", 1, "--architecture", "PreNAS-Ti"], "expected "),
        ([folder, "--repeats", 0], "expected at least 1 image and repeat, got 128 and 0"),
        ([folder, "--runtime", "tflite"], "expected a runtime of torch, compile, export, onnxruntime, "),
        ([folder, "--runtime", "tensorrt"], "expected torch_tensorrt for tensorrt, got no such package"),
        ([folder, "--runtime", "torch", "--training"], "expected no --runtime beside --training"),
        ([folder, "--device", "gpu"], "expected auto, cpu or cuda"),
    ):
        monkeypatch.setattr("sys.argv", ["pynas", "benchmark", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("pynas: ")]
        assert end.value.code == 2 and len(lines) == 1 and message in lines[0] and "Traceback" not in error


def test_a_network_that_does_not_run_is_named():
    with pytest.raises(
        InputError, match="runs on 2 images of 4 on cpu, got RuntimeError from Linear: .*smaller --batch-size"
    ):
        measure(nn.Linear(3, 3), (4,), CPU, torch_format, batch_size=2, repeats=1)


def test_a_format_has_its_own_accuracy_size_and_speed(written, monkeypatch):
    """A runtime that answers class 1 whatever the image, and one that takes no network."""
    folder, _ = written

    def ones(model, batch, threads, file):
        return Program(lambda images: torch.eye(2)[torch.ones(len(images), dtype=torch.long)], lambda: 42)

    def refuse(*_):
        raise ValueError("no operator Frobnicate")

    monkeypatch.setitem(RUNTIMES, "ones", Runtime("ones", ones, ("json",)))
    monkeypatch.setitem(RUNTIMES, "none", Runtime("none", refuse, ("json",)))
    run = runs.load(folder)
    labels = torch.cat([labels for _, labels in run.data.loader("test", 4, shuffle=False)])
    rows = benchmark(run, **FEW | {"runtimes": ["torch", "ones", "none"]})["rows"][:3]
    assert [row["format"] for row in rows] == ["torch", "ones", "none"] and rows[0]["test_accuracy"] == 0.75
    assert rows[1]["test_accuracy"] == pytest.approx(labels.double().mean().item()) and rows[1]["size"] == 42
    assert rows[1]["peak_memory"] is None and rows[0]["peak_memory"] > 0 and rows[0]["size"] >= 4 * rows[0]["params"]
    assert (
        rows[2]["refused"].endswith("a network that none takes, got no operator Frobnicate")
        and rows[2]["latency"] is None
    )
    words = ["benchmark", str(folder), "--batch-size", "4", "--repeats", "2", "--device", "cpu", "--runtime", "none"]
    assert f"Not taken: {rows[2]['refused']}\n" in CliRunner().invoke(app, words).stdout
    few = benchmark(run, **FEW | {"runtimes": ["ones"]}, test_images=3)["rows"][0]
    assert few["test_accuracy"] == pytest.approx(labels[:3].double().mean().item())


def test_one_onnx_file_of_a_network_and_shape_serves_all_runtimes(written, monkeypatch):
    """Two stand-ins read the file, two that of 8 bits; each is made once for the batch and once for one image."""
    folder, _ = written
    made = []

    def exported(model, batch):
        made.append(("float32", len(batch)))
        return b"file of %d" % len(batch)

    def quantized(file, batches):
        made.append(("int8", file))
        return b"8 bits of " + file

    def reading(model, batch, threads, file):
        content = file()
        return Program(lambda images: torch.zeros(len(images), 2), lambda: len(content))

    monkeypatch.setattr(programs, "onnx_file", exported)
    monkeypatch.setattr(programs, "quantized", quantized)
    for name in ("one", "other", "one-int8", "other-int8"):
        monkeypatch.setitem(RUNTIMES, name, Runtime(name, reading, ("json",), int8=name.endswith("int8")))
    few = FEW | {"runtimes": ["one-int8", "one", "other", "other-int8"], "test_images": 0}
    rows = benchmark(runs.load(folder), **few)["rows"]
    assert [row["size"] for row in rows] == [len(b"8 bits of file of 4"), len(b"file of 4"), len(b"file of 4"),
                                             len(b"8 bits of file of 4")] * 2  # fmt: skip
    one = [("float32", 4), ("int8", b"file of 4"), ("float32", 1), ("int8", b"file of 1")]
    assert made == one * 2  # for each of the two networks


def test_whole_batches_hold_every_image():
    batches = _whole_batches(torch.arange(7.0)[:, None], 3)
    assert [batch[:, 0].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
