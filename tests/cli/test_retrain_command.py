"""`pynas retrain` from files to files."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from pynas import data, export
from pynas.errors import InputError
from pynas.runs import create, load

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


def test_measured_at_another_size_without_training_there(run_copy, half_images, pynas):
    words = [
        "retrain",
        "--run",
        run_copy,
        "--from",
        "inherited",
        "--recipe",
        "small",
        "--epochs",
        1,
        "--batch-size",
        32,
    ]
    first = pynas(*words, "--json")
    content = pynas(*words, "--test-size", 24, "--json")
    assert content["test_size"] == 24 and {**first, **content} == content and "test_size" not in first
    model, metadata = export.load_subnet(run_copy / "retraining" / "small-inherited" / "subnet.safetensors")
    assert metadata["image_shape"] == [3, 32, 32]
    run = load(run_copy)
    at_size = export.evaluate(model, replace(data.load(half_images, 24), mean=run.data.mean, std=run.data.std))
    assert content["top1_at_test_size"] == pytest.approx(at_size["top1"], abs=1 / 32)
    assert "% at 24 pixels)" in pynas(*words, "--test-size", 24)


def test_a_size_that_the_patches_do_not_divide_is_refused_before_training(half_images, tmp_path, pynas):
    run = create(tmp_path / "run", method="prenas", data=str(half_images))
    name = run.space.format(next(iter(run.space.architectures())))
    words = [
        "retrain",
        "--run",
        tmp_path / "run",
        "--architecture",
        name,
        "--recipe",
        "small",
        "--epochs",
        1,
        "--batch-size",
        32,
    ]
    for option in ("--test-size", "--image-size"):
        with pytest.raises(InputError, match="expected an image size that is a multiple of 4, got 30"):
            pynas(*words, option, 30)
    assert not list((tmp_path / "run").rglob("last.safetensors"))


def test_a_scaled_network_is_trained_and_comes_back(run_copy, pynas):
    scaled = pynas("scale", run_copy, "--phi", 1, "--phi", "b2", "--json")
    before, _ = export.load_subnet(run_copy / "subnet.safetensors")
    sizes = [each["params"] for each in scaled["networks"]]
    assert sum(p.numel() for p in before.parameters()) < sizes[0] and [each["phi"] for each in scaled["networks"]] == [
        "1",
        "b2",
    ]
    for each in scaled["networks"]:
        model, metadata = export.load_subnet(each["file"])
        assert sum(p.numel() for p in model.parameters()) == each["params"]
        assert metadata["image_shape"][1] == each["image_size"] == round(32 * {"1": 1.15, "b2": 260 / 224}[each["phi"]])
    words = ["retrain", "--run", run_copy, "--recipe", "small", "--phi", 1, "--epochs", 1, "--batch-size", 32, "--json"]
    content = pynas(*words)
    assert content["phi"] == "1" and content["file"].endswith("small-scratch-phi_1/subnet.safetensors")
    model, metadata = export.load_subnet(content["file"])
    assert sum(p.numel() for p in model.parameters()) == sizes[0] and metadata["image_shape"] == [3, 37, 37]
    assert "1.10" in pynas("scale", run_copy, "--phi", 1)
    for words, message in (
        (["scale", run_copy, "--phi", "b9"], "phi of at least 0, or b0 to b7, got 'b9'"),
        (["retrain", "--run", run_copy, "--phi", "x"], "phi of at least 0, or b0 to b7, got 'x'"),
        (["retrain", "--run", run_copy, "--phi", "1", "--from", "inherited"], "a scaled network to start from scratch"),
    ):
        with pytest.raises(InputError, match=message):
            pynas(*words)


def test_numbers_of_the_recipe_by_name(run_copy, pynas):
    words = ["retrain", "--run", run_copy, "--recipe", "small", "--epochs", 1, "--batch-size", 32]
    pynas(*words, "--option", "label_smoothing=0", "--option", "augmentation=none")
    recipe = json.loads((run_copy / "retraining" / "small-scratch" / "config.json").read_text())["options"]
    assert recipe == {"label_smoothing": 0, "augmentation": "none"}
    kept = export.load_subnet(run_copy / "retraining" / "small-scratch" / "subnet.safetensors")[1]["retraining"][
        "numbers"
    ]
    assert kept["label_smoothing"] == 0 and kept["augmentation"] == "none"
    with pytest.raises(InputError, match="expected options = "):
        pynas(*words)
    with pytest.raises(InputError, match="expected numbers of a recipe of .*, got 'smoothing'"):
        pynas(*words, "--option", "smoothing=0")


def test_a_folder_from_before_these_options_goes_on(run_copy, pynas):
    words = ["retrain", "--run", run_copy, "--recipe", "small", "--epochs", 1, "--batch-size", 32, "--json"]
    content, path = pynas(*words), run_copy / "retraining" / "small-scratch" / "config.json"
    kept = json.loads(path.read_text())
    for name in ("options", "phi"):
        del kept[name]
    path.write_text(json.dumps(kept))
    assert pynas(*words) == content


def test_fine_tuning_on_another_data_set(run_copy, tmp_path, pynas):
    """Three classes in place of two: all weights but the classifier's start as they were, and all are trained."""
    rng = np.random.default_rng(1)
    labels = np.arange(90) % 3
    pictures = (rng.integers(0, 90, (90, 16, 16)) + 60 * labels[:, None, None]).astype(np.uint8)
    other = tmp_path / "thirds.npz"
    np.savez(other, x_train=pictures[:60], y_train=labels[:60], x_test=pictures[60:], y_test=labels[60:])
    words = ["finetune", run_copy, "--data", other, "--batch-size", 20, "--epochs", 2]
    content = pynas(*words, "--option", "learning_rate=1e-9", "--json")
    assert content["recipe"] == "transfer-cnn" and content["from"] == str(run_copy / "subnet.safetensors")
    (folder,) = (run_copy / "finetuning").iterdir()
    assert folder.name.endswith("_thirds.npz-transfer-cnn")
    model, metadata = export.load_subnet(folder / "subnet.safetensors")
    before, old = export.load_subnet(run_copy / "subnet.safetensors")
    assert metadata["num_classes"] == 3 and metadata["architecture"] == old["architecture"] and old["num_classes"] == 2
    weights = dict(before.named_parameters())
    different = [name for name, value in model.named_parameters() if value.shape != weights[name].shape]
    assert different == ["head.classifier.weight", "head.classifier.bias"]
    for name, value in model.named_parameters():
        if name not in different:
            torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=0)
    # Normalised as before, not by its own statistics.
    images = replace(data.load(other, 32), mean=load(run_copy).data.mean, std=load(run_copy).data.std)
    assert content["top1"] == pytest.approx(export.evaluate(model, images)["top1"], abs=1 / 30)
    assert pynas(*words, "--option", "learning_rate=1e-9", "--json") == content
    with pytest.raises(InputError, match="expected options = "):
        pynas(*words)
    shutil.rmtree(folder)
    words[-1] = 15
    learned = pynas(*words, "--option", "learning_rate=0.5", "--option", "augmentation=none", "--json")
    assert learned["top1"] > 0.9


def test_what_is_refused_before_the_first_step_is_not_kept(run_copy, pynas):
    words = ["retrain", "--run", run_copy, "--recipe", "deit", "--epochs", 1, "--batch-size"]
    with pytest.raises(InputError, match="an even batch size for mixup, got 33"):
        pynas(*words, 33)
    assert pynas(*words, 32, "--json")["epochs"] == 1


def test_two_networks_by_one_recipe_have_folders_of_their_own(run_copy, pynas):
    words = ["retrain", "--run", run_copy, "--recipe", "small", "--epochs", 1, "--batch-size", 32, "--json"]
    one = pynas(*words)
    with pytest.raises(InputError, match="name another folder by --name, or move that one away"):
        pynas(*words, "--architecture", "0|00|00|00")
    two = pynas(*words, "--architecture", "0|00|00|00", "--name", "second")
    assert two["file"] == str(run_copy / "retraining" / "second" / "subnet.safetensors") != one["file"]
    assert pynas(*words, "--architecture", "0|00|00|00", "--name", "second") == two
    with pytest.raises(InputError, match="a name of letters, digits, dots and dashes, got '../x'"):
        pynas(*words, "--name", "../x")


def test_a_scaled_file_can_be_exported(run_copy, tmp_path, pynas):
    (scaled,) = pynas("scale", run_copy, "--phi", 1, "--json")["networks"]
    content = pynas("export", "--run", run_copy, "--subnet", scaled["file"], "--python", tmp_path / "found", "--json")
    assert "test_accuracy" not in content and (tmp_path / "found" / "model.py").exists()


def test_fine_tuning_of_a_distilled_transformer_has_one_classifier(half_images, tmp_path, pynas):
    run = create(tmp_path / "run", method="dna-pp", data=str(half_images))
    space, shape = run.space, run.data.image_shape
    model = export.fresh_network(space, next(iter(space.architectures())), 2, shape, distilled=True)
    path = tmp_path / "run" / "subnet.safetensors"
    export.save_subnet(path, model, space, next(iter(space.architectures())), 2, image_shape=list(shape))
    content = pynas("finetune", tmp_path / "run", "--data", half_images, "--epochs", 1, "--batch-size", 32, "--json")
    assert content["recipe"] == "transfer-vit" and content["from"].endswith("subnet.safetensors")
    tuned, metadata = export.load_subnet(content["file"])
    assert "distilled" not in metadata and not any("distillation" in name for name, _ in tuned.named_parameters())
    kept = json.loads(next((tmp_path / "run" / "finetuning").glob("*/config.json")).read_text())
    assert kept["subnet"] == "subnet.safetensors"  # from any directory


def test_fine_tuning_takes_the_retrained_network_and_asks_which(run_copy, half_images, pynas):
    for epochs, recipe in ((1, "small"), (1, "efficientnet")):
        pynas("retrain", "--run", run_copy, "--recipe", recipe, "--epochs", epochs, "--batch-size", 32)
        words = ["finetune", run_copy, "--data", half_images, "--epochs", 1, "--batch-size", 32]
        if recipe == "small":
            assert pynas(*words, "--json")["from"] == str(
                run_copy / "retraining" / "small-scratch" / "subnet.safetensors"
            )
    with pytest.raises(InputError, match="expected one retrained network, got .*; name one by --subnet"):
        pynas(*words)
    with pytest.raises(InputError, match="a recipe of transfer-cnn, transfer-vit, got 'deit'"):
        pynas(*words, "--recipe", "deit")


def test_other_architectures_start_from_scratch_alone(run_copy, pynas):
    with pytest.raises(InputError, match="pynas export --run"):
        pynas("retrain", "--run", run_copy, "--architecture", "0|00|00|00", "--from", "inherited")
    with pytest.raises(InputError, match="small, deit, efficientnet"):
        pynas("retrain", "--run", run_copy, "--recipe", "none")
