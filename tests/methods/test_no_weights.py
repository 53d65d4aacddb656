"""Spaces whose paths have no weights (skip, pool, zero in every layer): every method trains, rates and searches them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pynas
from pynas.methods import (
    DNA,
    Bootstrap,
    BossNAS,
    DNAPlus,
    DNAPlusPlus,
    Heads,
    LinearEvaluation,
    PiNAS,
    ProgressiveDNA,
    fairnas,
    fit_blocks,
    spos,
)
from pynas.methods.ema import frozen_copy, update_ema
from pynas.methods.sampling import uniform_path
from pynas.nn.cell import Zero
from pynas.teachers import Teacher
from tests.methods.nets import conv

SHAPE = (3, 8, 8)


class Head(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.classifier = nn.Linear(channels, 5)

    def features(self, x):
        return x.mean((2, 3))

    def forward(self, x):
        return self.classifier(self.features(x))


def candidates(zero):
    return [Zero() if zero else nn.Identity(), nn.AvgPool2d(3, 1, 1)]


def weightless(whole=True, zero=False):
    """Two blocks of candidates without weights; whole: between a stem and a head with weights."""
    torch.manual_seed(0)
    blocks = [[[candidates(zero), candidates(zero)]], [[candidates(zero)], [candidates(zero), candidates(zero)]]]
    return pynas.Supernet(blocks, *((conv(3, 4), Head(4)) if whole else (None, None)))


def teacher():
    """Features of 4 and 6 channels, which projections bring to the width of the blocks."""
    torch.manual_seed(1)
    whole = nn.Sequential(conv(3, 4), conv(4, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return Teacher(whole, ["0", "1"])


def batches(views=0):
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(8, *SHAPE, generator=generator) for _ in range(max(1, views))]
    return [(images if views else images[0], torch.arange(8) % 5)] * 2


def searched(net, scores):
    """Best architecture of all; the scores are finite and the best one has the least sum."""
    costs = pynas.costs.count(net, SHAPE)
    assert all((table == 0).all() for cells in costs["params"] for table in cells)
    every = list(net.space.architectures())
    totals = scores.total(every)
    assert np.isfinite(totals).all()
    best = pynas.search.best(scores, costs, {"params": costs.of(every[0])["params"]})[0]
    assert best.score == pytest.approx(totals.min())
    return best.architecture


def dna(net, **options):
    return DNA(net, teacher(), image_shape=SHAPE, **options)


def progressive(net, strategy):
    return ProgressiveDNA(dna(net), strategy=strategy, keep=2, rating_batches=batches())


METHODS = {
    "dna": (dna, 0),
    "dna-float16": (lambda net: dna(net, amp="float16"), 0),
    "dna-plus": (lambda net: DNAPlus(net.space, generations=1).begin(net, teacher(), image_shape=SHAPE), 0),
    "progressive-a": (lambda net: progressive(net, "progressive-a"), 0),
    "progressive-b": (lambda net: progressive(net, "progressive-b"), 0),
    "dna-pp": (lambda net: DNAPlusPlus(net, teacher(), image_shape=SHAPE, channels=8), 2),
}


@pytest.mark.parametrize("whole", [True, False], ids=["stem-and-head", "blocks-alone"])
@pytest.mark.parametrize("name", METHODS)
def test_block_wise(name, whole):
    build, views = METHODS[name]
    net = weightless(whole)
    method = build(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pynas.fit(method, batches(views), 2, accumulate=2)
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    trained = {"stem.0.weight"} | (set() if name == "dna-pp" else {"head.classifier.weight"})
    assert not whole or trained <= changed
    assert whole or not changed
    searched(net, method.rate(batches(views)))


@pytest.mark.parametrize("target", ["ensemble", "classification", "distillation"])
@pytest.mark.parametrize("feed", ["best", "joint"])
def test_bossnas(feed, target):
    net = weightless()
    bootstrap = Bootstrap(paths=2, feed=feed, target=target)
    method = BossNAS(
        net, teacher(), image_shape=SHAPE, num_classes=5, bootstrap=bootstrap, heads=Heads(hidden=8, dim=4)
    )
    stem = net.stem[0].weight.detach().clone()
    scores = fit_blocks(method, batches(4), batches(2), 2)
    assert not torch.equal(net.stem[0].weight, stem)
    searched(net, scores)


@pytest.mark.parametrize("build", [spos, fairnas])
def test_one_shot(build):
    net = weightless()
    weights = {name: value.clone() for name, value in net.named_parameters()}
    pynas.fit(build(net), batches(), 2)
    assert all(not torch.equal(value, weights[name]) for name, value in net.named_parameters() if "bias" not in name)


def test_pinas():
    net = weightless()
    stem, classifier = net.stem[0].weight.detach().clone(), net.classifier.weight.detach().clone()
    pynas.fit(PiNAS(net, queue_size=16, dim=4, projector_norm=True), batches(4), 2)
    pynas.fit(LinearEvaluation(net), batches(), 1)
    assert not torch.equal(net.stem[0].weight, stem) and not torch.equal(net.classifier.weight, classifier)


def test_paths_that_put_out_zeros_train_and_rate_by_the_formula():
    net = weightless(zero=True)
    method = dna(net)
    pynas.fit(method, batches(), 2)
    scores = method.rate(batches(), loss="relative_l1")
    features = method.targets(batches()[0][0])[0]
    zero = [float(y.abs().mean() / y.std()) for y in features]  # eq. 7 of the output 0
    assert scores[0][0][0, 1] == pytest.approx(zero[0], rel=1e-4)
    assert scores[1][0][(0,)] == pytest.approx(zero[1], rel=1e-4)
    searched(net, scores)


def test_a_frozen_network_takes_no_step():
    net = weightless().requires_grad_(False)
    before = {name: value.clone() for name, value in net.named_parameters()}
    pynas.fit(spos(net), batches(), 1)
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())


def test_an_average_of_no_weights():
    layer = nn.Identity()
    update_ema(frozen_copy(layer), layer, 0.9)


def test_the_loss_of_a_path_of_skips_and_pools_is_equation_6():
    method = dna(weightless())
    images, labels = batches()[0]
    losses = method.training_step(images, labels, np.random.default_rng(0))
    rng, (x, y) = np.random.default_rng(0), method.targets(images)[0]
    uniform_path((2, 2), rng)  # of block 1
    expected = []
    for counts in ((2,), (2, 2)):
        output = x
        for candidate in uniform_path(counts, rng):
            output = functional.avg_pool2d(output, 3, 1, 1) if candidate else output
        expected.append(float((output - y).square().mean()))
    assert float(losses["block_2"]) == pytest.approx(np.mean(expected), rel=1e-5)
