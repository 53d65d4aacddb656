"""`pynas run --method bossnas` on a few small images; on nats-size with `-m slow`."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pynas import spaces, tabular, teachers
from pynas.cli import main
from pynas.rating.scores import load_block
from pynas.spaces import Architecture, Cell, Space
from tests.report.test_page import SCRIPT

pytestmark = pytest.mark.integration
COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'pynas'; from pynas.cli import main; main()"]


def words(images, folder, *more):
    options = ("hidden=16", "dim=8", "views=shared", "head_epochs=1")
    listed = [word for option in options for word in ("--option", option)]
    return ["--method", "bossnas", "--data", images, "--image-size", 8, "--limit-images", 40,
            "--val-fraction", 0.25, "--epochs", 1, "--batch-size", 10, "--run", folder, *listed, *more]  # fmt: skip


@pytest.fixture(scope="module")
def finished(half_images, tmp_path_factory, pynas):
    """A finished run on mbconv-mini, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "boss"
    return folder, pynas("run", *words(half_images, folder), "--json")


@pytest.fixture(scope="module")
def ranked(half_images, tmp_path_factory, pynas):
    """The same on nats-size, rated after each epoch."""
    folder = tmp_path_factory.mktemp("runs") / "nats"
    more = ("--space", "nats-size", "--option", "rate_every=1", "--epochs", 2)
    return folder, pynas("run", *words(half_images, folder, *more), "--json")


def refused(monkeypatch, capsys, *line):
    monkeypatch.setattr(sys, "argv", ["pynas", *map(str, line)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    assert caught.value.code == 2 and "Traceback" not in captured.err
    return captured.err


def test_a_teacher_has_features_for_blocks_that_end_at_several_scales(half_images, tmp_path, pynas):
    folder = tmp_path / "run"
    more = ("--space", "hytra-mini", "--image-size", 32, "--option", "target=distillation")
    report = pynas("run", *words(half_images, folder, *more), "--json")
    teacher = teachers.load_small(folder / "teacher.safetensors")
    assert teacher.feature_shapes((3, 32, 32)) == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    assert report["exported"]["architecture"] == report["search"]["found"][0]["architecture"]


def test_a_space_that_dna_cannot_train_is_refused_before_a_teacher_is_trained(
    half_images, tmp_path, monkeypatch, capsys
):
    line = ("run", "--space", "hytra-mini", "--data", half_images, "--run", tmp_path / "run")
    assert "to end with maps of one size" in refused(monkeypatch, capsys, *line)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_ranks_all_architectures(ranked):
    folder, report = ranked
    with (folder / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["architecture"] for row in rows}) == 32768
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    tables = [load_block(folder / "scores" / f"block_{b}.npz")[0] for b in (1, 2, 3)]
    widths = list(range(8, 65, 8))
    for row in rows[::4999]:
        a, b, c, d, e = (widths.index(int(width)) for width in row["architecture"].split(":"))
        assert float(row["score"]) == pytest.approx(tables[0][0][a, b] + tables[1][b][c, d] + tables[2][d][e,])
        # Whatever a block starts from, its widths rate as they did from the best path before it.
        assert tables[1][b][c, d] == tables[1][0][c, d]
    assert report["search"]["ranking"]["architectures"] == 32768
    found = report["search"]["found"][0]
    assert report["search"]["limits"] == {} and found["architecture"] == rows[0]["architecture"]
    assert found["score"] == pytest.approx(next(float(row["score"]) for row in rows
                                                if row["architecture"] == found["architecture"]))  # fmt: skip


@pytest.mark.slow
def test_correlations_stand_beside_the_baselines_and_over_the_epochs(ranked, pynas):
    folder, report = ranked
    said = report["search"]["correlation"]
    assert set(said["epochs"]) == {"1", "2"}
    for picture in ("ranking.png", "ranking.svg", "convergence.png", "convergence.svg"):
        assert picture in said["pictures"] and (folder / picture).stat().st_size > 1000
    assert said["epochs"]["2"]["tau"] == said["everything"]["scores"]["tau"]
    assert said["everything"]["log_width"]["tau"] == pytest.approx(0.813, abs=1e-3)
    assert said["epochs"]["2"]["minus_largest"] == said["regret"]["scores"]["minus_largest"]
    assert set(said["ndcg"]) == set(said["regret"]) == set(said["everything"])
    again = pynas("correlate", "--bench", "nats-size", "--scores", folder / "ranking.csv", "--resamples", 1,
                  "--picture", folder / "again", "--json")  # fmt: skip
    pynas("report", folder, "--output", folder / "page.html")
    assert "log widths" in (folder / "page.html").read_text()
    assert again["everything"]["scores"]["tau"] == pytest.approx(said["everything"]["scores"]["tau"])


def test_a_run_leaves_every_stage_and_the_other_commands_read_it(finished, pynas, tmp_path):
    folder, report = finished
    names = ["config.yaml", "data.json", "costs.npz", "search.json", "spent.json", "status.json", "subnet.safetensors"]
    names += [name for b in range(1, 5) for name in (
        f"checkpoints/block_{b}.safetensors", f"scores/block_{b}.npz", f"training/block_{b}/metrics.jsonl")]  # fmt: skip
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == set(names)
    assert report["exported"]["architecture"] == report["search"]["found"][0]["architecture"]
    other = pynas("search", folder, "--max-params", "230k", "--json")["found"][0]
    assert other["params"] <= 230e3 < report["exported"]["params"]
    assert pynas("export", "--run", folder, "--json")["architecture"] == other["architecture"]
    page = pynas("report", folder, "--output", tmp_path / "page.html", "--json")
    shown = SCRIPT.sub("", (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "Not there yet" not in shown and "block 3" in shown and "block 4" not in shown
    assert page["sections"][:4] == [
        "The architecture",
        "What was found, and what it costs",
        "Scores and costs",
        "Filter",
    ]
    blocks = pynas("rate", "--run", folder, "--json")["blocks"]
    assert [block["paths"] for block in blocks] == [20, 96, 144, 16]


@pytest.mark.slow
def test_killed_runs_end_alike(finished, half_images, tmp_path, pynas):
    """kill -9 in the middle; `pynas train` goes on and its blocks rate the same."""
    folder = tmp_path / "killed"
    line = [*COMMAND, "train", *map(str, words(half_images, folder))]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (folder / "training" / "block_2").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / "checkpoints" / "block_1.safetensors").exists()
    assert not (folder / "checkpoints" / "block_4.safetensors").exists()
    pynas("train", *words(half_images, folder))
    for block in (1, 2, 3, 4):
        for one, other in zip(*(load_block(run / "scores" / f"block_{block}.npz")[0] for run in (folder, finished[0]))):
            np.testing.assert_array_equal(one.scores, other.scores)


def test_bad_input(finished, half_images, tmp_path, monkeypatch, capsys):
    folder = finished[0]
    assert "expected a norm of recalibrate" in refused(monkeypatch, capsys, "rate", "--run", folder, "--norm", "batch")
    for option, message in (
        ("paths=5", "at most 4 paths per step under fair sampling"),
        ("population=1", "expected population to be greater than or equal to 2, got 1"),
        ("nothing=1", "expected options of"),
    ):
        line = ("train", *words(half_images, tmp_path / option, "--option", option))
        assert message in refused(monkeypatch, capsys, *line)
    line = ("train", *words(half_images, tmp_path / "one"), "--batch-size", 1)
    assert "batches of at least two images" in refused(monkeypatch, capsys, *line)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((folder / "config.yaml").read_text())
    assert "finished training, got none of block 1" in refused(monkeypatch, capsys, "search", unfinished)


def test_all_architectures_of_a_space_with_states_and_without():
    space = Space("small", (
        (Cell(((0, 1, 2),), allowed=lambda path: path[0] < 2, leaves=lambda path: path[0]),),
        (Cell(((0, 1),), start=0, leaves=lambda path: 0), Cell(((0, 1, 2),), start=1, leaves=lambda path: 0)),
    ))  # fmt: skip
    found = [str(architecture) for architecture in space.architectures()]
    assert found == ["0|0", "0|1", "1|1:0", "1|1:1", "1|1:2"] and len(found) == space.size
    nats = spaces.get("nats-size")
    listed = list(nats.architectures())
    assert [nats.format(architecture) for architecture in listed] == list(tabular.load("nats-size").architectures)
    product = Space.from_counts("product", [[[2], [2, 2]], [[3]]])
    assert set(map(str, product.architectures())) == {str(Architecture.of(pair)) for pair in (
        ((c, path), (0, (last,))) for c, paths in ((0, [(0,), (1,)]), (1, np.ndindex(2, 2))) for path in paths
        for last in range(3))}  # fmt: skip
