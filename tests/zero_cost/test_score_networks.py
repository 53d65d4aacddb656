"""Rank aggregates, and scores of many networks that go on where they stopped."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas.errors import InputError
from pynas.zero_cost import AGGREGATES, aggregate, kaiming, lowest_for_none, score, score_networks, write_scores

SPACE = pynas.spaces.get("nats-size")
WIDTHS = ("8:8:8:8:8", "16:8:24:8:16", "24:16:8:16:8")


def build(widths):
    return pynas.export.standalone(SPACE, widths, 4)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])


def test_an_aggregate_adds_logarithms_of_relative_ranks():
    values = {"first": [3.0, 1.0, 2.0, -np.inf], "second": [5, 5, 0, 7]}
    ranks = {"first": [4, 2, 3, 1], "second": [2.5, 2.5, 1, 4]}
    expected = [sum(math.log(ranks[name][i] / 4) for name in ranks) for i in range(4)]
    assert aggregate(values) == pytest.approx(expected)
    assert np.argmax(aggregate(values)) == 0


@pytest.mark.parametrize(("values", "message"), [
    ({}, "at least one proxy.*got none"),
    ({"a": []}, "at least one proxy"),
    ({"a": [1, 2], "b": [1]}, r"as many values.*'b': \[1\]"),
    ({"a": [[1, 2]]}, r"\[1, 2\]"),
    ({"a": [1, 2], "b": [1, np.nan]}, "got nan from b for network 1"),
    ({"a": [np.inf, 2]}, "got inf from a for network 0"),
])  # fmt: skip
def test_an_aggregate_of_other_values_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        aggregate(values)


def test_networks_are_scored_with_fresh_weights_of_a_seed(batch):
    names = ("zico", "expressivity", "parameters", "az_nas")
    found = score_networks(build, WIDTHS, names, *batch, seed=5)
    assert list(found) == list(names) and all(values.shape == (3,) for values in found.values())
    for number, widths in enumerate(WIDTHS):
        torch.manual_seed(5)
        model = build(widths)
        kaiming(model)
        for name in names[:3]:
            assert found[name][number] == pytest.approx(score(name, model, *batch, seed=5), rel=1e-5)
    parts = score_networks(build, WIDTHS, AGGREGATES["az_nas"], *batch, seed=5)
    assert found["az_nas"] == pytest.approx(aggregate(parts))
    # A network's values depend on no other, and torch's generator stays.
    state = torch.get_rng_state()
    alone = score_networks(build, WIDTHS[1:2], ["expressivity"], *batch, seed=5)
    assert alone["expressivity"][0] == found["expressivity"][1] and torch.equal(state, torch.get_rng_state())
    assert score_networks(build, WIDTHS[:1], ["zico"], *batch, seed=6)["zico"][0] != found["zico"][0]


def test_kaiming_draws_the_standard_deviation_of_the_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(50, 200, 3), nn.BatchNorm2d(200), nn.Linear(600, 100))
    kaiming(model)
    for layer, inputs in ((model[0], 450), (model[2], 600)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.02)
        assert not layer.bias.any()


def test_a_stopped_scoring_goes_on(batch, tmp_path):
    file, built = tmp_path / "deep" / "values.csv", []

    def counted(widths):
        built.append(widths)
        return build(widths)

    whole = score_networks(counted, WIDTHS, ["az_nas", "jacov"], *batch, file=file)
    lines = file.read_text().splitlines()
    assert len(lines) == 4 and lines[0] == "architecture,expressivity,progressivity,trainability,madds,jacov,settings"
    file.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])  # stopped in the middle of a row
    built.clear()
    seen = []
    again = score_networks(
        counted, WIDTHS, ["az_nas", "jacov"], *batch, file=file, progress=lambda *at: seen.append(at)
    )
    assert built == [WIDTHS[2]] and seen == [(1, 3), (2, 3), (3, 3)]
    assert all((again[name] == whole[name]).all() for name in whole) and file.read_text().splitlines() == lines
    with pytest.raises(InputError, match="of this batch, seed and initialisation, got those of others in line 2"):
        score_networks(build, WIDTHS, ["az_nas", "jacov"], *batch, seed=1, file=file)
    with pytest.raises(InputError, match="expected the columns"):
        score_networks(build, WIDTHS, ["jacov"], *batch, file=file)
    file.write_text(file.read_text().replace(lines[1].split(",")[1], "much"))
    with pytest.raises(InputError, match="expected numbers.*'much' in line 2"):
        score_networks(build, WIDTHS, ["az_nas", "jacov"], *batch, file=file)


class Dead(nn.Module):
    """Passes nothing of its input on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(0 * x.mean((2, 3)))


def test_a_network_without_a_score_comes_last(batch, tmp_path):
    def mixed(name):
        return Dead() if name == "dead" else build(name)

    found = score_networks(mixed, ["dead", *WIDTHS], ["jacov"], *batch, file=tmp_path / "values.csv")
    again = score_networks(mixed, ["dead", *WIDTHS], ["jacov"], *batch, file=tmp_path / "values.csv")
    assert found["jacov"][0] == again["jacov"][0] == -np.inf and np.isfinite(found["jacov"][1:]).all()
    assert lowest_for_none(found["jacov"])[0] == found["jacov"][1:].min()
    with pytest.raises(InputError, match="a finite score, got none of 1 by jacov"):
        score_networks(mixed, ["dead"], ["jacov"], *batch)


def test_other_requests_are_refused(batch):
    images, labels = batch
    for names, architectures, message in (
        (["best"], WIDTHS, "one of parameters.*az_nas, vkdnw_agg, got 'best'"),
        ([], WIDTHS, "proxies and architectures, got 0 and 3"),
        (["zico"], [], "proxies and architectures, got 1 and 0"),
        (["zico"], WIDTHS[:1] * 2, "each architecture once, got 8:8:8:8:8 again"),
    ):
        with pytest.raises(InputError, match=message):
            score_networks(build, architectures, names, images, labels)
    with pytest.raises(InputError, match="finite images"):
        score_networks(build, WIDTHS, ["zico"], images / 0, labels)


def test_scores_are_written_for_correlate(tmp_path):
    bench = pynas.tabular.load("mbconv-23")
    write_scores(tmp_path / "scores.csv", dict(zip(bench.architectures, bench.accuracy)))
    assert pynas.tabular.read_scores(tmp_path / "scores.csv", bench) == pytest.approx(bench.accuracy)
