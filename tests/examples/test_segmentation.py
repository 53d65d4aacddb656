"""DeepLabV3 on a found network: the metrics by hand, a few steps, output strides that are and that cannot be."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pynas import data, export
from pynas.spaces import get

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY = ["--side", "64", "--batch-size", "2", "--test-scenes", "2", "--pretrain-epochs", "0"]


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("segmentation")


def test_confusion_and_mean_iou_by_hand(example):
    truth, predicted = torch.tensor([[0, 0, 1], [1, 1, 2]]), torch.tensor([[0, 1, 1], [1, 0, 1]])
    counts = example.confusion(truth, predicted, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    # Of class 0 one pixel of three, of class 1 two of five, of class 2 none; class 3 is nowhere.
    assert example.mean_iou(counts) == pytest.approx((1 / 3 + 2 / 5 + 0) / 3)
    assert example.mean_iou(example.confusion(truth, truth, 4)) == 1.0


def test_metrics_against_sets_of_pixels(example):
    rng = torch.Generator().manual_seed(0)
    truth, predicted = (torch.randint(0, 5, (40, 50), generator=rng) for _ in range(2))
    ious = []
    for label in range(5):
        mine, theirs = ({tuple(p) for p in (m == label).nonzero().tolist()} for m in (truth, predicted))
        ious.append(len(mine & theirs) / len(mine | theirs))
    assert example.mean_iou(example.confusion(truth, predicted)) == pytest.approx(np.mean(ious))


def test_the_class_map_is_of_the_masks(example):
    scenes = example.digit_scenes.Scenes(data.load("digits", 32, val_fraction=0.0).test, 64, seed=0)
    for number in range(10):
        _, target = scenes.scene(number)
        classes = example.digit_scenes.class_map(target)
        assert (classes > 0).sum() == target["masks"].sum()
        for label, mask in zip(target["labels"], target["masks"].bool()):
            assert (classes[mask] == label).all()


def test_a_few_steps(example, tmp_path, capsys):
    words = ["--steps", "6", "--output-stride", "4", "--out", str(tmp_path / "out.json")]
    example.main([*TINY, *words, "--draw", str(tmp_path / "scene.png")])
    results, output = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert len(results["losses"]) == 6 and np.mean(results["losses"][-2:]) < results["losses"][0]
    assert set(results["before"]) == set(results["after"]) == {"mean_iou", "pixel_accuracy"}
    assert "output stride 4" in output and "fresh weights" in output
    assert all(0 <= value <= 1 for value in results["after"].values()) and (tmp_path / "scene.png").stat().st_size > 100


def test_the_map_has_the_output_stride_and_normalised_images(example):
    space, mean, std = get("splitattention-mini"), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    model = export.standalone(space, space.sample(np.random.default_rng(0)), 10).eval()
    network = example.digit_scenes.Network(model, (3, 32, 32), mean, std, "a network")
    last, images = example.LastMap(network, 2).eval(), torch.rand(1, 3, 64, 64)
    got = last(images)["out"]
    scaled = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = export.features(model, (3, 32, 32), output_stride=2)(scaled)[-1]
    assert got.shape == (1, last.out_channels, 32, 32)
    torch.testing.assert_close(got, expected)
    assert example.segmenter(network, 2, 64).eval()(images)["out"].shape == (1, 11, 64, 64)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("mbconv-mini", "16", "output stride of 1, 2, 4, 8, .* got 16; the network is .* of mbconv-mini"),
        ("autoformer-mini", "8", "of convolutions .* a vision transformer.*; the network is .* of autoformer-mini"),
        ("vit-mini", "8", "of convolutions .* vision transformers do.*; the network is .* of vit-mini"),
        (None, "8", "subnet.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_code_2(example, name, stride, message, tmp_path, capsys):
    path = tmp_path / "subnet.safetensors"
    if name is not None:
        space = get(name)
        choice = space.sample(np.random.default_rng(0))
        model = export.standalone(space, choice, 10)
        export.save_subnet(path, model, space, choice, 10, mean=[0.0] * 3, std=[1.0] * 3)
    with pytest.raises(SystemExit) as stopped:
        example.main([*TINY, "--network", str(path), "--output-stride", stride])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and error.startswith("segmentation: [")
    assert re.search(message, error)
