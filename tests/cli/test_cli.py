"""The command line from end to end, on a few small images."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from pynas import costs, runs
from pynas.cli import app, doctor, main
from pynas.costs import cost_range
from pynas.errors import InfeasibleError, InputError
from pynas.quantities import quantity
from pynas.rating import Scores
from pynas.spaces import get
from pynas.teachers import load_small
from pynas.tensor_files import read_tensors
from pynas.train.checkpoint import CHECKPOINT, LAST
from tests.processes import torchrun

pytestmark = pytest.mark.integration
COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'pynas'; from pynas.cli import main; main()"]


@pytest.fixture(scope="module")
def images(half_images):
    return half_images


def arguments(images, folder, *more):
    return ["--data", str(images), "--epochs", "2", "--batch-size", "16", "--run", str(folder), *more]


def invoke(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_run_leaves_every_stage_in_its_folder(finished):
    folder, report = finished
    for name in ("config.yaml", "teacher.safetensors", "checkpoints/last.safetensors", "metrics.jsonl", "costs.npz",
                 "search.json", "subnet.safetensors", *(f"scores/block_{b}.npz" for b in range(1, 5))):  # fmt: skip
        assert (folder / name).is_file(), name
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert len(report["search"]["found"]) == 5
    scores = [entry["score"] for entry in report["search"]["found"]]
    assert scores == sorted(scores)
    assert report["search"]["limits"] == report["search"]["at_least"] == {} and "shares" not in report["search"]
    tables = Scores.load(folder / "scores")
    assert scores[0] == sum(min(np.nanmin(table.scores) for table in cells) for cells in tables)  # no limit of its own
    assert report["exported"]["architecture"] == report["search"]["found"][0]["architecture"]


def test_the_exported_network_loads_and_has_the_accuracy_said(finished, images):
    from pynas import data, export, teachers

    folder, report = finished
    model, metadata = export.load_subnet(folder / "subnet.safetensors")
    loaded = data.load(images, 32)
    accuracy = teachers.accuracy(model, loaded)
    assert metadata["mean"] == list(loaded.mean) and metadata["std"] == list(loaded.std)
    assert accuracy == metadata["test_accuracy"] == report["exported"]["test_accuracy"]
    assert sum(p.numel() for p in model.parameters()) == report["exported"]["params"]


def test_one_seed_gives_the_same_result_stage_by_stage(finished, images, tmp_path):
    first, _ = finished
    folder = tmp_path / "second"
    invoke("train", *arguments(images, folder))
    invoke("rate", "--run", folder)
    invoke("search", folder)
    invoke("export", "--run", folder)
    for name in ("search.json", "metrics.jsonl", "subnet.safetensors", "checkpoints/last.safetensors"):
        assert (folder / name).read_bytes() == (first / name).read_bytes(), name


def test_another_seed_gives_another(finished, images, tmp_path):
    folder = tmp_path / "other"
    invoke("train", *arguments(images, folder, "--seed", "1"))
    assert (folder / "metrics.jsonl").read_bytes() != (finished[0] / "metrics.jsonl").read_bytes()


def test_killed_in_training_it_ends_the_same(finished, images, tmp_path):
    folder = tmp_path / "killed"
    words = ["run", *arguments(images, folder)]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints/last.safetensors").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "search.json").exists()
    invoke("run", "--run", folder)
    for name in ("search.json", "metrics.jsonl", "subnet.safetensors"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_search_limits_hold(finished, run_copy):
    folder, report = run_copy, finished[1]
    madds = sorted(entry["madds"] for entry in report["search"]["found"])[0]
    content = json.loads(invoke("search", folder, "--max-madds", madds, "--max-params", "400k", "--top-k", 3, "--json"))
    assert content["limits"] == {"madds": madds, "params": 400_000}
    assert len(content["found"]) == 3
    assert all(entry["madds"] <= madds and entry["params"] <= 400_000 for entry in content["found"])
    assert "no limits" in " ".join(invoke("search", folder).split())


def test_limits_as_shares_and_none(run_copy):
    folder = run_copy
    most = cost_range(get("mbconv-mini"), costs.load(folder / "costs.npz"), "madds")[1]
    content = json.loads(invoke("search", folder, "--max-madds", "60 %", "--at-least", "params=20%", "--json"))
    assert content["limits"] == {"madds": pytest.approx(0.6 * most, rel=1e-15)} and set(content["at_least"]) == {
        "params"
    }
    assert content["shares"]["limits"] == {"madds": {"percent": 60, "of": "the largest network", "whole": most}}
    assert 0.5 * most < max(entry["madds"] for entry in content["found"]) <= 0.6 * most
    printed = " ".join(invoke("search", folder, "--max-madds", "60%").split())
    assert "60% of the largest network's" in printed
    content = json.loads(invoke("search", folder, "--max-params", "200% of teacher", "--max-memory", "none", "--json"))
    teacher = load_small(folder / "teacher.safetensors").module
    assert content["limits"] == {"params": 2 * sum(p.numel() for p in teacher.parameters())}
    unlimited = json.loads(invoke("search", folder, "--json"))
    for text in ("inf", ".inf", "100%", "150%"):
        content = json.loads(invoke("search", folder, "--max-madds", text, "--json"))
        assert content["limits"] == {} and content["found"] == unlimited["found"]
    with pytest.raises(InfeasibleError, match=r"madds <= 0\.6: the least that can be reached"):
        invoke("search", folder, "--max-madds", "0.6")
    with pytest.raises(InputError, match="one value for madds"):
        invoke("search", folder, "--max-madds", "1M", "--limit", "madds=2M")
    with pytest.raises(InputError, match=r"share of the teacher's params, madds, memory, got one of its latency"):
        invoke("search", folder, "--max-latency", "50% of teacher")


def test_every_option_of_the_search(run_copy, tmp_path):
    folder = run_copy
    rows = ["block,cell,layer,candidate,energy"]
    for b, cells in enumerate(get("mbconv-mini").blocks):
        for c, cell in enumerate(cells):
            rows += [f"{b},{c},{n},{k},{k + 1}" for n, count in enumerate(cell.counts) for k in range(count)]
    (tmp_path / "energy.csv").write_text("\n".join(rows))
    content = json.loads(invoke(
        "search", folder, "--max-latency", "10s", "--max-memory", "20M", "--costs", tmp_path / "energy.csv", "--limit",
        "energy=12", "--at-least", "params=300k", "--weights", "1,2,1,0.5", "--join", "product", "--top-k", 2,
        "--front", "madds", "--json"))  # fmt: skip
    assert content["limits"] == {"memory": 2e7, "energy": 12, "latency": 10_000} and len(content["found"]) == 2
    assert all(entry["energy"] <= 12 and entry["params"] >= 3e5 for entry in content["found"])
    assert all(0 < entry["latency"] < 10_000 for entry in content["found"])
    front = content["front"]["architectures"]
    costs, scores = [[entry[key] for entry in front] for key in ("madds", "score")]
    assert costs == sorted(costs) and scores == sorted(scores, reverse=True) and len(front) > 3
    for name in content["front"]["pictures"]:
        assert (folder / name).stat().st_size > 1000
    (table,) = (folder / "latency").glob("torch-cpu-batch1-threads*.npz")
    measured = table.read_bytes()
    output = invoke("search", folder, "--max-latency", "10s", "--device", "cpu")
    note = content["latency_tables"]["latency"]
    assert note["networks"] == 12 and note["sum_error"] >= 0 and note["runtime"] == "torch"
    assert "latency (ms)" in output and "12 whole networks" in output and table.read_bytes() == measured


@pytest.mark.filterwarnings(r"default:\[teacher\] efficientnet_b0 is untrained")
def test_a_timm_teacher_with_taps(images, tmp_path, monkeypatch, capsys):
    words = [
        "train",
        *arguments(images, tmp_path / "run", "--teacher", "efficientnet_b0", "--no-pretrained"),
        "--image-size",
        "64",
    ]
    six = ",".join(f"blocks.{stage}" for stage in range(1, 7))
    code, _, err = run_main(monkeypatch, capsys, *words, "--taps", six)
    warned, refusal = (line for line in err.splitlines() if line.startswith("pynas"))
    assert warned.startswith("pynas warning: [teacher] efficientnet_b0 is untrained, since pretrained is false")
    assert code == 2 and "expected 4 taps, one per block, got 6: blocks.1" in refusal
    words[words.index(str(tmp_path / "run"))] = tmp_path / "other"
    assert "got 16x16 at the teacher's tap 'blocks.1'" in refused(
        monkeypatch, capsys, *words, "--taps", "blocks.1,blocks.2,blocks.3,blocks.5"
    )
    words[words.index(tmp_path / "other")] = tmp_path / "right"
    invoke(*words)  # no stages fit, but blocks inside them
    opened = runs.load(tmp_path / "right")
    assert opened.settings.taps is None and opened.teacher().taps == ("blocks.0", "blocks.1.0", "blocks.1", "blocks.2")
    invoke("rate", "--run", tmp_path / "right")
    invoke("search", tmp_path / "right", "--max-madds", "100G")
    found = json.loads((tmp_path / "right" / "search.json").read_text())
    assert found["metadata"]["untrained_teacher"] == "efficientnet_b0"
    invoke("report", tmp_path / "right")
    assert "The teacher, efficientnet_b0, was untrained" in (tmp_path / "right" / "report.html").read_text()


TORCHRUN = torchrun("--standalone", "--nproc-per-node", 2)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    words = [
        "train",
        "--data",
        "digits",
        "--epochs",
        "1",
        "--limit-images",
        "256",
        "--batch-size",
        "32",
        "--device",
        "cpu",
    ]
    for name, start in (("one", [sys.executable, "-m", "pynas"]), ("two", TORCHRUN)):
        spread = ["--spread", "blocks"] if name == "two" else []
        subprocess.run([*start, *words, *spread, "--run", tmp_path / name], check=True, timeout=300,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    one, two = (read_tensors(tmp_path / name / LAST, CHECKPOINT).tensors for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():  # threads of another number may sum in another order
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dna-plus", "dna-pp", "bossnas", "pinas", "fairnas", "prenas"])
def test_two_processes_share_the_batches_of_every_method(method, tmp_path):
    words = ["--method", method, "--data", "digits", "--epochs", "1", "--limit-images", "128", "--batch-size", "32"]
    subprocess.run([*TORCHRUN, "train", *words, "--device", "cpu", "--run", tmp_path / "run"], check=True, timeout=500)
    lines = [line for path in (tmp_path / "run").rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    steps = [json.loads(line)["step"] for line in lines]
    assert steps and max(steps) == 3  # 102 images of the training part, three batches of 32
    if method != "bossnas":  # which rates as it trains
        subprocess.run([*TORCHRUN, "rate", "--run", tmp_path / "run"], check=True, timeout=300)


@pytest.mark.slow
def test_two_processes_retrain(finished, tmp_path):
    import shutil

    shutil.copytree(finished[0], tmp_path / "run")
    words = ["retrain", "--run", tmp_path / "run", "--epochs", "1", "--batch-size", "16", "--distill", "0.5", "--json"]
    done = subprocess.run([*TORCHRUN, *words], check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    said = json.loads(done.stdout)  # of the first process alone
    assert json.loads((tmp_path / "run/retraining/deit-scratch/report.json").read_text())["top1"] == said["top1"]
    steps = (tmp_path / "run/retraining/deit-scratch/metrics.jsonl").read_text().splitlines()
    assert len(steps) == 4  # 64 images, 8 of each 16 for each process


def test_several_processes_need_a_folder_and_a_command_that_shares(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "expected a folder for several processes" in refused(monkeypatch, capsys, "train", "--device", "cpu")
    assert "expected one process for `pynas run`, got 2" in refused(
        monkeypatch, capsys, "run", "--run", tmp_path / "run"
    )


@pytest.mark.slow
def test_two_processes_rate_as_one(finished, tmp_path):
    import shutil

    from pynas.rating.scores import load_block

    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "scores")
    subprocess.run([*TORCHRUN, "rate", "--run", folder], check=True, timeout=300)
    for b in range(1, 5):
        (ours, metadata), (alone, before) = (load_block(f / f"scores/block_{b}.npz") for f in (folder, finished[0]))
        assert metadata == before
        for one, other in zip(ours, alone):
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
    assert sorted(path.name for path in (folder / "scores").iterdir()) == [f"block_{b}.npz" for b in range(1, 5)]


def run_main(monkeypatch, capsys, *words):
    """The whole program in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["pynas", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def refused(monkeypatch, capsys, *words):
    """The one line that a refused command ends with."""
    code, _, err = run_main(monkeypatch, capsys, *words)
    assert code == 2 and "Traceback" not in err
    lines = [line for line in err.strip().splitlines() if line.startswith("pynas: ")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line_and_exit_code_2(finished, images, tmp_path, monkeypatch, capsys):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refuse(*words):
        return refused(monkeypatch, capsys, *words)

    assert "mbconv-mini" in refuse("run", "--space", "mbconv-min", "--run", tmp_path / "a")
    assert "least" in refuse("search", folder, "--max-madds", "1k")
    assert "k, M or G" in refuse("search", folder, "--max-madds", "many")
    assert "got 'nowhere.npz'" in refuse("run", "--data", "nowhere.npz", "--run", tmp_path / "b")
    assert "epochs = 2" in refuse("run", "--run", folder, "--epochs", "3")
    assert "config.yaml" in refuse("rate", "--run", tmp_path / "nothing")
    assert "timm" in refuse("run", *arguments(images, tmp_path / "c"), "--teacher", "no_such_model")
    assert "cuda" in refuse("rate", "--run", folder, "--device", "cuda").lower()
    assert "blocks" in refuse("export", "--run", folder, "--architecture", "0|0")
    assert {path: path.read_bytes() for path in before} == before


DAMAGES = {"checkpoints/last.safetensors": "rate", "scores/block_2.npz": "search", "costs.npz": "search",
           "search.json": "export", "teacher.safetensors": "rate"}  # fmt: skip


@pytest.mark.parametrize("name, stage", DAMAGES.items())
def test_damaged_files_are_named_and_kept(finished, tmp_path, monkeypatch, capsys, name, stage):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    damaged = path.read_bytes()
    words = [stage, folder] if stage == "search" else [stage, "--run", folder]
    assert path.name in refused(monkeypatch, capsys, *words)
    assert path.read_bytes() == damaged


def test_a_folder_of_another_version_is_refused(finished, tmp_path, monkeypatch, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"version": 99}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "version 2, got 99" in refused(monkeypatch, capsys, "run", "--run", folder)


def test_empty_data_and_foreign_folders(tmp_path, monkeypatch, capsys):
    empty = np.zeros((0, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "empty.npz", x_train=empty, y_train=empty[:, 0, 0], x_test=empty, y_test=empty[:, 0, 0])
    assert "expected" in refused(
        monkeypatch, capsys, "run", "--data", tmp_path / "empty.npz", "--run", tmp_path / "run"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert "config.yaml" in refused(monkeypatch, capsys, "run", "--run", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_doctor_and_spaces(monkeypatch, capsys):
    report = json.loads(invoke("doctor", "--json"))
    assert report["problems"] == [] and report["facts"]["kernel check"] == "passed"
    assert json.loads(invoke("spaces", "--json"))["mbconv-boss"]["size"] == 4**18
    monkeypatch.setattr("pynas.cli.doctor.REQUIRED", ("no_such_package",))
    assert "no_such_package does not import" in CliRunner().invoke(app, ["doctor"]).output
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_doctors_hints_are_the_commands_that_mend(monkeypatch):
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11 and later")
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, (_, extra) in doctor.OPTIONAL.items():
        assert any(re.match(rf"{name}\b", wanted) for wanted in extras[extra]), name
    monkeypatch.setattr(doctor, "_installed", lambda name: name != "openvino")
    monkeypatch.setattr(doctor, "REQUIRED", ("no_such_package", "numpy"))
    content = json.loads(CliRunner().invoke(app, ["doctor", "--fix-hints", "--json"]).stdout)
    assert content["hints"] == {
        "no_such_package": "pip install --force-reinstall no_such_package", "openvino": 'pip install ".[openvino]"'}  # fmt: skip
    result = CliRunner().invoke(app, ["doctor", "--fix-hints"])
    assert result.exit_code == 1 and 'openvino         pip install ".[openvino]"' in result.output
    assert "pip install" not in CliRunner().invoke(app, ["doctor"]).output


@pytest.mark.parametrize(
    "text, value", [("400M", 4e8), ("5.3m", 5.3e6), ("1.5G", 1.5e9), ("800k", 8e5), ("12", 12), (7, 7)]
)
def test_quantities(text, value):
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "M", "-3M", "4T", "1,5M", "nan", "inf"])
def test_bad_quantities(text):
    with pytest.raises(InputError, match="suffix k, M or G"):
        quantity(text)


@pytest.mark.slow
def test_two_processes_share_the_generations_of_dna_plus(tmp_path):
    folder, alone = tmp_path / "run", [sys.executable, "-m", "pynas"]
    sizes = ("--data", "digits", "--epochs", "1", "--limit-images", "256", "--batch-size", "32")
    options = ("--option", "generations=2", "--option", "teacher_epochs=1", "--option", "teacher_batch_size=32")
    search = ("search", folder, "--max-params", "90% of teacher", "--device", "cpu", "--json")

    def call(start, *words):
        printed = subprocess.run([*start, *words], check=True, timeout=600, stdout=subprocess.PIPE,
                                 env=os.environ | {"OMP_NUM_THREADS": "1"}).stdout  # fmt: skip
        return json.loads(printed) if words[-1] == "--json" else None

    call(alone, "train", "--method", "dna-plus", *sizes, *options, "--run", folder)
    call(alone, "rate", "--run", folder, "--loss", "relative_l1")
    shared = call(TORCHRUN, *search)
    assert [generation["generation"] for generation in shared["generations"]] == [1, 2]
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert {folder / "generation_2" / name for name in ("teacher.safetensors", LAST)} <= set(trained)
    # One process finds everything done: it reads, and prints the same.
    assert call(alone, *search) == shared
    assert trained == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_a_search_that_processes_do_not_share_is_refused(finished, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="expected one process for `pynas search`, got 2"):
        invoke("search", finished[0])
