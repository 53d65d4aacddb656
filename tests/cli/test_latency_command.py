"""`pynas latency`: tables by name, their limits in a search, the report, and what is refused."""

import importlib

import numpy as np
import pytest

from pynas import runs, spaces
from pynas.cli import main
from pynas.costs import load
from pynas.errors import InputError
from pynas.runs.commands import search_command
from pynas.runs.latency import measure_latency
from pynas.runtimes import RUNTIMES, Program, Runtime, Workload

QUICK = ("--repeats", 1, "--networks", 4, "--device", "cpu")


def of(folder, cost, entry):
    (path,) = [path for path in (folder / "latency").glob("*.npz") if cost in load(path).names]
    return load(path).of(spaces.get("mbconv-mini").parse(entry["architecture"]))[cost]


def test_two_workloads_have_a_limit_each(run_copy, pynas):
    folder = run_copy
    tables = {}
    for name, batch in (("one", 1), ("many", 8)):
        tables[name] = pynas("latency", folder, "--name", name, "--batch-size", batch, *QUICK, "--json")
        assert tables[name]["cost"] == f"latency@{name}" and tables[name]["batch_size"] == batch
        assert len(tables[name]["networks"]) == 4 and tables[name]["candidates"][1]["name"] == "MB6 k3"
    limits = {name: sorted(row["corrected"] for row in table["networks"])[2] for name, table in tables.items()}
    content = pynas("search", folder, *(word for name, ms in limits.items() for word in
                                        ("--limit", f"latency@{name}={ms}ms")), "--json")  # fmt: skip
    assert content["limits"] == pytest.approx({f"latency@{name}": ms for name, ms in limits.items()})
    for entry in content["found"]:
        for name, ms in limits.items():
            assert entry[f"latency@{name}"] == pytest.approx(of(folder, f"latency@{name}", entry)) and of(
                folder, f"latency@{name}", entry) <= ms  # fmt: skip
    assert content["latency_tables"]["latency@many"]["batch_size"] == 8
    text = pynas("search", folder, "--limit", f"latency@one={limits['one']}ms")
    assert "latency@one <= " in text and "Latency@one: torch on" in text
    pynas("report", folder)
    page = (folder / "report.html").read_text()
    assert "Latency, measured" in page and 'id="latency-many-' in page and 'id="latency-one-' in page


def test_the_table_and_its_networks_are_measured_as_told(run_copy, monkeypatch):
    """A runtime in which every module takes a known time: the sum of whole networks is the sum of their parts, less 40%."""

    def build(model, batch, threads, calibration):
        return Program(model, lambda: 0)

    monkeypatch.setitem(RUNTIMES, "known", Runtime("known", build, ("json",)))
    run = runs.load(run_copy, "cpu")
    parts = [
        row["madds"] for row in measure_latency(run, Workload(), "torch", 0, 1).metadata["latency@torch"]["candidates"]
    ]

    def timed(calls, device, repeats, warm_up, woken=False):
        from pynas.costs.latency import Timing

        assert woken  # its threads are not torch's
        whole = len(calls) == 5
        counted = [run.costs.of(a)["madds"] for a in asked[-5:]] if whole else parts
        return [Timing((0.6 if whole else 1.0) * madds / 1e6, 0.1) for madds in counted]

    asked = []
    extract = run.net.extract
    monkeypatch.setattr(run.net, "extract", lambda *given: asked.append(given[0]) or extract(*given))
    monkeypatch.setattr(importlib.import_module("pynas.costs.latency"), "time_calls", timed)  # a function has its name
    table = measure_latency(run, Workload("known"), None, networks=5)
    about = table.metadata["latency"]
    assert about["correction"]["scale"] == pytest.approx(0.6) and about["correction"]["error"] == pytest.approx(
        0, abs=1e-6
    )
    assert about["sum_error"] == pytest.approx(1 / 0.6 - 1) and about["tau_madds"] == about["tau_sum"] == pytest.approx(
        1
    )
    for architecture in [*asked, run.space.sample(np.random.default_rng(7))]:
        assert table.of(architecture)["latency"] == pytest.approx(0.6 * run.costs.of(architecture)["madds"] / 1e6)
    uncorrected = measure_latency(run, Workload("known"), "raw", networks=5, correct=False)
    assert uncorrected.of(asked[0])["latency@raw"] == pytest.approx(run.costs.of(asked[0])["madds"] / 1e6)


@pytest.mark.slow
def test_a_limit_in_onnx_runtime(run_copy, pynas):
    pytest.importorskip("onnxruntime")
    folder = run_copy
    text = pynas("latency", folder, "--runtime", "onnxruntime", "--threads", 1, *QUICK)
    assert "Whole networks (ms)" in text and "ONNX Runtime on" in text and "MB6 k3" in text
    (path,) = (folder / "latency").glob("onnxruntime-cpu-batch1-threads1.npz")
    before = path.read_bytes()
    content = pynas("search", folder, "--max-latency", "1s", "--runtime", "onnxruntime", "--threads", 1, "--json")
    # What is read from the search later is of the same runtime: nothing is measured anew, and the page repeats it.
    assert [content[name] for name in ("runtime", "batch_size", "threads")] == ["onnxruntime", 1, 1]
    files = sorted((folder / "latency").iterdir())
    said = pynas("explain", folder, content["found"][0]["architecture"], "--json")
    assert said["latency"] == content["found"][0]["latency"] and sorted((folder / "latency").iterdir()) == files
    assert "--runtime onnxruntime --batch-size 1 --threads 1" in search_command(content, "again")
    assert path.read_bytes() == before and content["latency_tables"]["latency"]["runtime"] == "onnxruntime"


def test_bad_input_is_one_line(whole_run, monkeypatch, capsys):
    for words, message in (
        (["latency", whole_run, "--runtime", "tflite"], "expected a runtime of torch, compile, export, onnxruntime, "),
        (["latency", whole_run, "--name", "a/b"], "expected a name of letters, digits and _ . -, got 'a/b'"),
        (["latency", whole_run, "--networks", -1], "expected 0 or more whole networks, got -1"),
        (["latency", whole_run, "--threads", 0], "expected a batch size and threads of 1 or more, got 1 and 0"),
        (["search", whole_run, "--limit", "latency@phone=5ms"], "expected a latency table of "),
        (["search", whole_run, "--limit", "latency@phone=5x"], "a time like 12ms"),
        (
            ["search", whole_run, "--max-latency", "5ms", "--runtime", "tensorrt"],
            "expected torch_tensorrt for tensorrt",
        ),
    ):
        monkeypatch.setattr("sys.argv", ["pynas", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pynas: ")]
        assert end.value.code == 2 and len(lines) == 1 and message in lines[0], (words, lines)
    assert not (whole_run / "latency" / "phone.npz").exists()


def test_a_candidate_that_the_runtime_refuses_is_named(run_copy, monkeypatch):
    def refuse(model, batch, threads, calibration):
        if batch.shape[1] == 24:
            raise ValueError("Could not find an implementation for Frobnicate(13)")
        return Program(model, lambda: 0)

    monkeypatch.setitem(RUNTIMES, "picky", Runtime("picky", refuse, ("json",)))
    with pytest.raises(
        InputError, match=r"picky takes, got .*Frobnicate\(13\), for candidate 0 of layer 1 of cell 1 of block 0"
    ):
        measure_latency(runs.load(run_copy, "cpu"), Workload("picky"))
    assert not (run_copy / "latency").exists()
