"""Detectors on a found network: scenes that fit, the metric by hand, a few steps of every model, and bad input."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, masks_to_boxes

from pynas import data, export
from pynas.spaces import get

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY = ["--side", "64", "--batch-size", "2", "--test-scenes", "2", "--channels", "8", "--pretrain-epochs", "0"]


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("detection")


@pytest.fixture
def digit_scenes(example):
    return example.digit_scenes


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def found(scores, labels, *rows):
    return {"boxes": boxes(*rows), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def truth(labels, *rows):
    return {"boxes": boxes(*rows), "labels": torch.tensor(labels)}


def precision(example, detections, truths):
    return example.mean_average_precision(detections, truths, lambda a, b: box_iou(a["boxes"], b["boxes"]))


def naive_average_precision(scores, hits, count):
    """Integral of the interpolated precision over recall, threshold by threshold."""
    ordered = [hit for _, hit in sorted(zip(scores, hits), key=lambda pair: -pair[0])]
    points = [(sum(ordered[: n + 1]) / count, sum(ordered[: n + 1]) / (n + 1)) for n in range(len(ordered))]
    grid = [k / count for k in range(1, count + 1)]
    return sum(max((p for r, p in points if r >= recall - 1e-9), default=0.0) for recall in grid) / count


def test_average_precision_by_hand_and_naively(example):
    # Right, wrong, right of 2 objects: precisions 1 and 2/3 at the recalls 1/2 and 1.
    assert example.average_precision([0.9, 0.8, 0.7], [True, False, True], 2) == pytest.approx((1 + 2 / 3) / 2)
    assert example.average_precision([0.7, 0.9, 0.8], [True, True, False], 2) == pytest.approx((1 + 2 / 3) / 2)
    assert example.average_precision([], [], 3) == 0.0
    rng = np.random.default_rng(0)
    for _ in range(50):
        count, size = int(rng.integers(1, 8)), int(rng.integers(0, 12))
        hits = rng.permutation([n < min(count, size // 2) for n in range(size)])
        scores = rng.permutation(size) / 20
        assert example.average_precision(scores, hits, count) == pytest.approx(
            naive_average_precision(scores, hits, count)
        )


def test_mean_average_precision_by_hand(example):
    square, far = (0, 0, 10, 10), (50, 50, 60, 60)
    assert precision(example, [found([0.9], [1], square)], [truth([1], square)]) == 1.0
    # Of another class, or with an IoU of 1/3 or below.
    assert precision(example, [found([0.9], [2], square)], [truth([1], square)]) == 0.0
    assert precision(example, [found([0.9], [1], (5, 0, 15, 10))], [truth([1], square)]) == 0.0
    assert precision(example, [found([0.9], [1], (0, 0, 10, 5))], [truth([1], square)]) == 1.0
    # The second detection of one object is wrong, and behind it the object of another image is found: (1 + 2/3) / 2.
    twice = found([0.9, 0.8], [1, 1], square, (0, 0, 10, 9))
    images = [twice, found([0.7], [1], far)]
    assert precision(example, images, [truth([1], square), truth([1], far)]) == pytest.approx(5 / 6)
    # The mean over the two classes of the truth; a class that is only predicted does not count.
    mixed = found([0.9, 0.9], [1, 3], square, far)
    assert precision(example, [mixed], [truth([1, 2], square, far)]) == 0.5
    assert precision(example, [found([], [])], [truth([1], square)]) == 0.0


def test_mask_iou_by_hand(example):
    first, second = torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    first[0, :2], second[0, 1:3] = True, True
    assert example.mask_iou(first, second).tolist() == [[pytest.approx(4 / 12)], [0.0]]
    assert example.mask_iou(second, second).item() == 1.0 and example.mask_iou(first[1:], first[1:]).item() == 0.0


def test_scenes_boxes_fit_masks_and_digits_of_the_parts(digit_scenes):
    digits = data.load("digits", 32, val_fraction=0.0)
    scenes = digit_scenes.Scenes(digits.test, 96, seed=3)
    counts = set()
    for number in range(30):
        image, target = scenes.scene(number)
        again, same = scenes.scene(number)
        assert torch.equal(image, again) and all(torch.equal(target[name], same[name]) for name in target)
        assert image.shape == (3, 96, 96) and image.min() >= 0 and image.max() <= 1
        # torchvision's right and lower edges are the last pixels.
        assert torch.equal(target["boxes"] - torch.tensor([0.0, 0, 1, 1]), masks_to_boxes(target["masks"].bool()))
        assert (box_iou(target["boxes"], target["boxes"]) > 0).sum() == len(target["boxes"])
        assert target["labels"].min() >= 1 and target["labels"].max() <= 10
        for mask, box in zip(target["masks"].bool(), target["boxes"].int().tolist()):
            inside = torch.zeros_like(mask)
            inside[box[1] : box[3], box[0] : box[2]] = True
            assert image[0][mask].mean() > image[0][inside & ~mask].mean()
        counts.add(len(target["labels"]))
    assert counts >= {1, 2, 3, 4}  # a fifth rarely has room
    assert not torch.equal(digit_scenes.Scenes(digits.test, 96, seed=4).scene(0)[0], scenes.scene(0)[0])


@pytest.mark.parametrize("kind", ["faster-rcnn", "faster-rcnn-c4", "retinanet", "mask-rcnn"])
def test_a_few_steps_of_every_model(example, kind, tmp_path, capsys):
    words = ["--model", kind, "--steps", "6", "--learning-rate", "0.003", "--out", str(tmp_path / "out.json")]
    example.main([*TINY, *words, "--draw", str(tmp_path / "scene.png")])
    results, output = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert len(results["losses"]) == 6 and np.mean(results["losses"][-2:]) < results["losses"][0]
    metrics = {"box_map50"} | ({"mask_map50"} if kind == "mask-rcnn" else set())
    assert set(results["before"]) == set(results["after"]) == metrics and all(f"{name}: " in output for name in metrics)
    assert "fresh weights" in output and (tmp_path / "scene.png").stat().st_size > 100


def test_the_head_of_c4_is_the_rest_of_the_network(example, digit_scenes):
    space = get("mbconv-mini")
    model = export.standalone(space, "0|00|00|00", 10).eval()
    network = digit_scenes.Network(model, (3, 32, 32), [0.0] * 3, [1.0] * 3, "a network")
    images = torch.randn(2, 3, 32, 32)
    detector = example.detector("faster-rcnn-c4", network, 64, 8).eval()
    c4, head = detector.backbone, detector.roi_heads.box_head
    assert c4.reduction == 4 and c4(images).shape == (2, c4.out_channels, 8, 8)
    last = export.features(model, (3, 32, 32))(images)[-1]
    torch.testing.assert_close(head(c4(images)), last.mean((2, 3)))
    assert detector.roi_heads.box_predictor.cls_score.in_features == last.shape[1]


def save(path, name, **metadata):
    space = get(name)
    choice = space.sample(np.random.default_rng(0))
    export.save_subnet(path, export.standalone(space, choice, 10), space, choice, 10, **metadata)
    return path


def test_a_network_of_a_file_has_the_normalisation_of_its_training(example, digit_scenes, tmp_path):
    told = save(tmp_path / "subnet.safetensors", "bignas-mini", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    for path in (told, tmp_path):
        options = digit_scenes.parser("").parse_args(["--network", str(path)])
        network = digit_scenes.network(options, None)
        model = example.detector("faster-rcnn", network, 64, 8)
        assert (model.transform.image_mean, model.transform.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
        assert network.description.endswith("of bignas-mini") and model.backbone.reductions == [2, 4, 8]


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (None, [], r"\[.*missing.safetensors"),
        (lambda path: path.write_bytes(b"junk"), [], "missing.safetensors"),
        (lambda path: save(path, "mbconv-mini"), [], "the mean and the deviation of the images"),
        (lambda path: save(path, "autoformer-mini"), ["--mean", "0", "0", "0", "--std", "1", "1", "1"],
         "several resolutions for a feature pyramid, got .* of autoformer-mini with stride 4 alone"),
        (lambda path: save(path, "autoformer-mini", mean=[0.0] * 3, std=[1.0] * 3), ["--model", "faster-rcnn-c4"],
         "a map before the last for C4, got .* of autoformer-mini with stride 4 alone"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_code_2(example, make, words, message, tmp_path, capsys):
    path = tmp_path / "missing.safetensors"
    if make is not None:
        make(path)
    with pytest.raises(SystemExit) as stopped:
        example.main([*TINY, "--network", str(path), *words])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and error.startswith("detection: [")
    assert re.search(message, error)
