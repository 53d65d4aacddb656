"""Similarity of paths against a loop over images and pairs."""

import numpy as np
import pytest
import torch

import pynas
from pynas import spaces
from pynas.errors import InputError
from pynas.evaluation.consistency import consistency, last_layer_paths, path_similarity
from pynas.report import draw_consistency

SPACE = spaces.nasbench201(n=1, channels=(4, 6), ops=("nor_conv_1x1", "nor_conv_3x3", "skip_connect"), image_size=8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return pynas.supernet(SPACE, 4).double().train()


@pytest.mark.parametrize("centred", [False, True])
def test_it_is_the_mean_cosine_of_every_image(net, centred):
    torch.manual_seed(1)
    batches = [(torch.randn(n, 3, 8, 8, dtype=torch.float64), torch.zeros(n)) for n in (5, 3)]
    paths = last_layer_paths(SPACE, np.random.default_rng(0))
    assert [path[0].path[-1] for path in paths] == [0, 1, 2]
    found = path_similarity(net, batches, paths, centred)
    expected = np.zeros((3, 3))
    for images, _ in batches:
        with torch.no_grad():
            features = [net.features(images, path).numpy() for path in paths]
        if centred:
            features = [f - f.mean(0) for f in features]
        for p, q in np.ndindex(3, 3):
            for a, b in zip(features[p], features[q]):
                expected[p, q] += a @ b / np.linalg.norm(a) / np.linalg.norm(b) / 8
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert consistency(found) == pytest.approx((expected.sum() - np.trace(expected)) / 6)


def test_the_picture_has_every_supernet_and_value(tmp_path):
    rng = np.random.default_rng(0)
    matrices = {name: np.corrcoef(rng.normal(size=(3, 9))) for name in ("Pi-NAS", "SPOS")}
    png, svg = draw_consistency(tmp_path / "paths", matrices, {"Pi-NAS": 0.5, "SPOS": 0.2}, "consistency")
    assert png.stat().st_size > 5000
    text = svg.read_text()
    for label in (*(f"{name} ({consistency(matrix):.2f})" for name, matrix in matrices.items()), "SPOS", "Pi-NAS",
                  "mean similarity of paths", f"{matrices['SPOS'][0, 1]:.2f}".replace("-", "\N{MINUS SIGN}")):  # fmt: skip
        assert f"<!-- {label} -->" in text or f"<!-- {label.replace(chr(8722), '-')} -->" in text, label


def test_bad_use(net, tmp_path):
    with pytest.raises(InputError, match=r"\[consistency\] expected images"):
        path_similarity(net, [], last_layer_paths(SPACE, np.random.default_rng(0)))
    with pytest.raises(InputError, match=r"\[consistency\] expected a tau for each of a, got b"):
        draw_consistency(tmp_path / "x", {"a": np.eye(2)}, {"b": 1.0})
