"""`pynas correlate --proxy`: zero-cost proxies of a benchmark's networks."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from typer.testing import CliRunner

from pynas import tabular
from pynas.cli import app
from pynas.errors import InputError
from pynas.export import standalone
from pynas.runs import proxies
from pynas.spaces import get
from pynas.zero_cost import kaiming, score

pytestmark = pytest.mark.integration


@pytest.fixture
def npz(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2, 60, 16, 16, 3), np.uint8), np.arange(60) % 12
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images[0], y_train=labels, x_test=images[1], y_test=labels)
    return path


def invoke(*words):
    result = CliRunner().invoke(app, ["correlate", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sampled_networks_over_seeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--bench", "nats-size", "--proxy", "expressivity", "--sample", 4, "--images", 2, "--image-size", 16,
               "--seeds", 2, "--resamples", 5, "--save-scores", "scores.csv"]  # fmt: skip
    content = json.loads(invoke(*options, "--json"))
    assert content["count"] == 4 and content["lower_is_better"] is False
    assert content["scores"] == "expressivity on 2 images of noise, mean of 2 seeds"
    bench = proxies.sample_rows(tabular.load("nats-size"), 4)
    values = []
    for seed in range(2):
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        model = standalone(get("nats-size"), bench.architectures[1], 10)
        kaiming(model)
        values.append(score("expressivity", model, images, seed=seed))
    written = tabular.read_scores("scores.csv", bench)
    assert written[1] == pytest.approx(np.mean(values), rel=1e-5)
    assert content["everything"]["scores"]["tau"] == pytest.approx(kendalltau(written, bench.accuracy).statistic)
    assert len(content["tau_of_seeds"]) == 2
    assert {path.name for path in tmp_path.glob("proxy-*")} == {
        f"proxy-nats-size-expressivity-seed{s}.csv" for s in (0, 1)
    }
    # The written scores read as scores, and a larger sample holds the smaller.
    again = json.loads(
        invoke("--bench", "nats-size", "--scores", "scores.csv", "--higher-is-better", "--resamples", 5, "--json")
    )
    assert again["everything"]["scores"]["tau"] == content["everything"]["scores"]["tau"]
    larger = proxies.sample_rows(tabular.load("nats-size"), 5)
    assert set(bench.architectures) < set(larger.architectures)
    assert "each seed:" in invoke(*options)


def test_images_with_labels_and_every_benchmark(npz, tmp_path):
    batch = proxies.Batch(images=4, data=str(npz), side=32)
    bench = proxies.sample_rows(tabular.load("mbconv-23"), 3)
    values = proxies.score_rows(bench, "zico", batch)
    assert values.shape == (1, 3) and np.isfinite(values).all() and len(np.unique(values)) == 3
    cells = tabular.load("nasbench201", "imagenet16-120")
    cells = proxies.sample_rows(cells.without("none", "nor_conv_3x3", "nor_conv_1x1"), 3)
    assert proxies.score_rows(cells, "madds", proxies.Batch(images=1)).shape == (1, 3)


def test_other_requests_are_refused(npz):
    def refused(*words):
        with pytest.raises(InputError) as caught:
            CliRunner().invoke(app, ["correlate", "--bench", "nats-size", *map(str, words)], catch_exceptions=False)
        return str(caught.value)

    assert "got published and zico" in refused("--proxy", "zico", "--scores", "published")
    assert "expected --proxy NAME beside" in refused("--images", 8)
    assert "az_nas, vkdnw_agg, got 'best'" in refused("--proxy", "best", "--sample", 3)
    assert "at least 3 architectures, got 2" in refused("--proxy", "zico", "--sample", 2)
    assert "at least one seed and one image, got 0 and 64" in refused("--proxy", "zico", "--seeds", 0)
    images = ["--proxy", "zico", "--sample", 3, "--data-images", npz]
    assert "at most 10 classes" in refused(*images, "--images", 40)
    assert "at least 100 training images, got 48" in refused(*images, "--images", 100)
