"""`--log`: each tracker's own store, read back by its own library, against metrics.jsonl and search.json."""

import importlib.util
import json
import struct

import numpy as np
import pytest

from pynas.errors import InputError
from pynas.files import read_json
from pynas.runs.search import SEARCH
from pynas.runs.trackers import TRACKERS
from pynas.runs.tracking import Trackers
from pynas.train import Step

pytestmark = pytest.mark.integration
INSTALLED = [name for name in TRACKERS if importlib.util.find_spec(name)]


@pytest.fixture(scope="module")
def logged(half_images, tmp_path_factory, pynas):
    """The folder of a run that was logged to every tracker that is installed, and retrained with the same."""
    folder = tmp_path_factory.mktemp("logged") / "run"
    words = [word for name in INSTALLED for word in ("--log", name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder.parent / "trackio"))
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        content = pynas(
            "run", "--data", half_images, "--epochs", 2, "--batch-size", 16, "--run", folder, "--json", *words
        )
        assert content["run"] == str(folder)
        pynas("retrain", "--run", folder, "--recipe", "small", "--epochs", 1, "--json", *words)
        yield folder


def steps_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_series(found, folder, name):
    """A loss of all steps, as (step, value)."""
    steps = steps_of(folder)
    assert [step for step, _ in found] == [step["step"] for step in steps]
    np.testing.assert_allclose([value for _, value in found], [step["losses"][name] for step in steps], rtol=1e-6)


def test_tensorboard(logged):
    pytest.importorskip("tensorboard", reason="extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(logged / "tensorboard" / "train_supernet")).Reload()
    for name in steps_of(logged)[0]["losses"]:
        assert_series([(e.step, e.value) for e in log.Scalars(f"train supernet/{name}")], logged, name)
    assert len(log.Scalars("train supernet/learning rate")) == len(steps_of(logged))
    assert all(entry.value > 0 for entry in log.Scalars("train supernet/images per second"))
    results = EventAccumulator(str(logged / "tensorboard" / "results")).Reload()
    text = results.Tensors("networks/text_summary")[0].tensor_proto.string_val[0].decode()
    assert read_json(logged / "search.json", SEARCH)["found"][0]["architecture"].replace("|", r"\|") in text
    assert results.Images("feature_maps")


def test_mlflow(logged):
    mlflow = pytest.importorskip("mlflow", reason="extra mlflow, which is heavy")
    client = mlflow.MlflowClient(f"sqlite:///{logged}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("pynas").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run" and run.data.params["space"] == "mbconv-mini"
    for name in steps_of(logged)[0]["losses"]:
        assert_series([(m.step, m.value) for m in client.get_metric_history(run.info.run_id, f"train supernet/{name}")], logged,
                      name)  # fmt: skip
    found = read_json(logged / "search.json", SEARCH)["found"]
    assert run.data.metrics["best/top1"] <= 1 and run.data.metrics["best/params"] == found[0]["params"]
    assert any(name.startswith("retrain small-scratch/") for name in run.data.metrics)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"feature_maps.png", "networks.json"}


def test_trackio(logged):
    pytest.importorskip("trackio", reason="extra trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("pynas")
    lines = SQLiteStorage.get_logs("pynas", name)
    for loss in steps_of(logged)[0]["losses"]:
        key = f"train supernet/{loss}"
        assert_series([(line["step"], line[key]) for line in lines if key in line], logged, loss)
    tables = [line["networks"]["_value"] for line in lines if "networks" in line]
    assert [row["architecture"] for row in tables[0]] == [
        each["architecture"] for each in read_json(logged / "search.json", SEARCH)["found"]
    ]
    assert any("feature_maps" in line for line in lines)
    assert json.loads((logged / "trackers.json").read_text())["runs"]["trackio"] == name


def records_of(content):
    """Records of a file of wandb: LevelDB's log format after a header of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the end of a block holds no record
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb(logged):
    pytest.importorskip("wandb", reason="extra wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    first, second = sorted(logged.glob("wandb/offline-run-*"))
    assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]  # `wandb sync` joins them
    lines = []
    for data in records_of(next(first.glob("*.wandb")).read_bytes()):
        record = Record.FromString(data)
        items = ((item.key or "/".join(item.nested_key), item.value_json) for item in record.history.item)
        lines.append({key: json.loads(value) for key, value in items})
    for loss in steps_of(logged)[0]["losses"]:
        key = f"train supernet/{loss}"
        assert_series([(line["train supernet/step"], line[key]) for line in lines if key in line], logged, loss)
    assert {"networks", "feature_maps"} <= {key.partition("/")[0] for line in lines for key in line}


class Fake:
    """A tracker that fails at a step."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def start(self, name, settings, known):
        self.seen.append(("start", name, known))
        return known or "new"

    def log(self, training, step, values):
        self.seen.append((training, step, values))
        if step == 3:
            raise RuntimeError("first line\nthe server is gone")

    def close(self, whole):
        self.seen.append(("close", whole))


def test_a_tracker_that_fails_is_left_out_and_a_resumed_run_keeps_its_identity(tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "json", Fake)  # of an installed package's name
    trackers = Trackers(["json", "json"], tmp_path, {"a": 1})
    fake = trackers.trackers["json"]
    log = trackers.log("train")
    for number in (1, 2):
        log(Step(number, 4, 1, {"loss": 0.5}, 0.1, images=8))
    assert fake.seen[0] == ("start", tmp_path.name, None) and fake.seen[1][2] == {"loss": 0.5, "learning rate": 0.1}
    assert fake.seen[2][2]["images per second"] > 0
    with pytest.warns(
        UserWarning, match=r"^\[trackers\] json is left out from here on: RuntimeError: the server is gone$"
    ):
        log(Step(3, 4, 1, {"loss": 0.5}, 0.1))
    log(Step(4, 4, 1, {"loss": 0.5}, 0.1))
    trackers.close(True)
    assert fake.seen[-1][1] == 3
    again = Trackers(["json"], tmp_path, {"a": 1})
    again.log("train")(Step(4, 4, 1, {"loss": 0.5}, 0.1))
    again.close(False)
    assert again.trackers["json"].seen[0] == ("start", tmp_path.name, "new")
    assert again.trackers["json"].seen[-1] == ("close", False)


def test_trackers_that_are_unknown_or_not_installed_are_refused_before_the_training(
    half_images, tmp_path, pynas, monkeypatch
):
    words = ["train", "--data", half_images, "--epochs", 1, "--run", tmp_path / "run"]
    with pytest.raises(InputError, match="expected tensorboard, mlflow, wandb, trackio, got 'tensorbord'"):
        pynas(*words, "--log", "tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'expected the package wandb, got none; pip install "\.\[wandb\]"'):
        pynas(*words, "--log", "wandb")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_store_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="extra mlflow, which is heavy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    with pytest.raises(InputError, match=r"^\[trackers\] expected mlflow to begin a run, got [^\n]*$"):
        Trackers(["mlflow"], tmp_path, {}).log("train")(Step(1, 1, 1, {}, 0.1))
