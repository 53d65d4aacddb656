"""`pynas retrain` from files to files."""

import json

import pytest

from pynas import data, export
from pynas.errors import InputError

pytestmark = pytest.mark.integration


def test_retrain_inherited_weights_with_distillation(run_copy, half_images, pynas):
    words = ["retrain", "--run", run_copy, "--recipe", "efficientnet", "--from", "inherited", "--epochs", 1,
             "--batch-size", 16, "--distill", 0.5, "--json"]  # fmt: skip
    content = pynas(*words)
    folder = run_copy / "retraining" / "efficientnet-inherited"
    report = json.loads((folder / "report.json").read_text())
    assert {name: report[name] for name in content} == content and report["metadata"]["distill"] == 0.5
    model, metadata = export.load_subnet(folder / "subnet.safetensors")
    before, old = export.load_subnet(run_copy / "subnet.safetensors")
    assert all(metadata[name] == old[name] for name in ("architecture", "mean", "std"))
    assert any((a != b).any() for a, b in zip(model.parameters(), before.parameters()))
    assert export.evaluate(model, data.load(half_images, 32))["top1"] == pytest.approx(content["top1"], abs=1 / 32)
    steps = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 64 // 16 and set(json.loads(steps[0])["losses"]) == {"classes", "distillation"}
    assert "Retraining" in pynas("report", run_copy, "--json")["sections"]
    page = (run_copy / "report.html").read_text()
    assert f"<td>efficientnet from inherited</td><td>{content['architecture']}</td><td>1</td>" in page
    # Finished: the same again, without a step; other wishes are refused.
    assert pynas(*words) == content and (folder / "metrics.jsonl").read_text().splitlines() == steps
    with pytest.raises(InputError, match="epochs = 1"):
        pynas(*[2 if word == 1 else word for word in words])


def test_retrain_at_another_image_size(run_copy, half_images, pynas):
    words = ["retrain", "--run", run_copy, "--from", "inherited", "--epochs", 1, "--batch-size", 32, "--image-size", 16]
    content = pynas(*words, "--json")
    model, metadata = export.load_subnet(run_copy / "retraining" / "deit-inherited" / "subnet.safetensors")
    assert metadata["image_shape"] == [3, 16, 16]
    assert export.evaluate(model, data.load(half_images, 16))["top1"] == pytest.approx(content["top1"], abs=1 / 32)


def test_other_architectures_start_from_scratch_alone(run_copy, pynas):
    with pytest.raises(InputError, match="pynas export --run"):
        pynas("retrain", "--run", run_copy, "--architecture", "0|00|00|00", "--from", "inherited")
    with pytest.raises(InputError, match="deit, efficientnet"):
        pynas("retrain", "--run", run_copy, "--recipe", "none")
