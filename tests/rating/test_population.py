"""The distance to the population's centre, against outputs that are all held."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.rating import Settings, rate_population

from .models import mbconv_layers, norms_of, re_estimate


def views(sizes=(4, 3), inputs=4, side=8):
    torch.manual_seed(3)
    return [tuple(torch.randn(n, inputs, side, side) for _ in range(2)) for n in sizes]


def projector():
    torch.manual_seed(4)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)
    )


def all_outputs(layers, tail, x, norm, calibration):
    """Outputs `[P, B, D]` of every path run alone."""
    layers = copy.deepcopy([*layers, [tail]])
    for module in itertools.chain.from_iterable(layers):
        module.eval()
    for part in norms_of(layers):
        part.train(norm == "batch")
    outputs = []
    with torch.no_grad():
        for path in itertools.product(*(range(len(layer)) for layer in layers)):
            if norm == "recalibrate":
                re_estimate(layers, path, calibration)
            y = x
            for layer, choice in zip(layers, path):
                y = layer[choice](y)
            outputs.append(y.flatten(1))
    return torch.stack(outputs)


def naive(layers, tail, target_layers, target_tail, batches, norm, calibration, normalize, renormalize, both):
    scores, samples = 0.0, 0
    for pair in batches:
        online = [all_outputs(layers, tail, x, norm, calibration) for x in pair]
        target = [all_outputs(target_layers, target_tail, x, norm, calibration) for x in pair]
        if normalize:
            online, target = ([F.normalize(y, dim=2) for y in some] for some in (online, target))
        means = [y.mean(0) for y in target]
        if renormalize:
            means = [F.normalize(mean, dim=1) for mean in means]
        found = (online[0] - means[1]).square().sum(2).mean(1)
        if both:
            found = found + (online[1] - means[0]).square().sum(2).mean(1)
        scores, samples = scores + found * len(pair[0]), samples + len(pair[0])
    return (scores / samples).numpy().reshape([len(layer) for layer in layers])


@pytest.mark.parametrize(
    ("norm", "max_bytes", "ema"),
    [("recalibrate", None, False), ("recalibrate", 1000, True), ("batch", 1000, False), ("batch", None, True)],
)
def test_distance_to_the_mean_of_all_paths(norm, max_bytes, ema):
    layers, tail = mbconv_layers(depth=2), projector()
    other, other_tail = (mbconv_layers(depth=2, seed=9), projector()) if ema else (layers, tail)
    calibration = [torch.randn(6, 4, 8, 8)]
    for normalize, renormalize, both in ((True, False, True), (True, True, True), (False, False, False)):
        table = rate_population(
            layers, views(), norm, calibration=calibration, tail=tail, normalize=normalize, renormalize=renormalize,
            target_layers=other if ema else None, target_tail=other_tail if ema else None, both_views=both,
            engine=Settings(max_bytes=max_bytes),
        )  # fmt: skip
        expected = naive(layers, tail, other, other_tail, views(), norm, calibration, normalize, renormalize, both)
        np.testing.assert_allclose(table.scores, expected, rtol=2e-5)


def test_the_released_score_is_this_minus_four():
    layers, tail = mbconv_layers(depth=2), projector()
    pair = views((4,))[0]
    table = rate_population(layers, [pair], "batch", tail=tail, renormalize=True, both_views=True)
    first, second = (all_outputs(layers, tail, x, "batch", []) for x in pair)
    published = 0
    for y, other in ((first, second), (second, first)):
        target = F.normalize(F.normalize(other, dim=2).mean(0), dim=1)
        published = published - 2 * F.cosine_similarity(y, target[None], dim=2).mean(1)
    np.testing.assert_allclose(table.scores.ravel() - 4, published.numpy(), rtol=1e-4)


def test_memory_is_bounded_by_a_second_walk():
    layers = mbconv_layers(depth=2)
    calls = []
    layers[1][0].register_forward_hook(lambda module, args, y: calls.append(len(args[0])))
    rate_population(layers, views((4,)), "running", engine=Settings(max_bytes=1 << 20))
    once = len(calls)
    rate_population(layers, views((4,)), "running", engine=Settings(max_bytes=1))
    assert len(calls) - once >= 2 * 4 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(batches=[]), "at least one batch"),
        (lambda a: a.update(batches=[(torch.randn(2, 4, 8, 8), torch.randn(3, 4, 8, 8))]), "two views"),
        (lambda a: a.update(calibration=None), "calibration"),
        (lambda a: a["layers"][1].append(nn.Conv2d(6, 5, 1)), r"path \(0, 4\)"),
        (lambda a: a.update(target_layers=mbconv_layers(depth=1)), "target_layers"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"layers": mbconv_layers(depth=2), "batches": views(), "calibration": [views()[0][0]]}
    change(arguments)
    with pytest.raises(InputError, match=message):
        rate_population(**arguments)
