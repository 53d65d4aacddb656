"""DNA against the paper's equations, computed naively on the same weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pynas
from pynas import Supernet
from pynas.errors import InputError
from pynas.methods import DNA
from pynas.methods.dna.projection import Projection
from pynas.methods.sampling import uniform_path
from pynas.spaces import Choice

from .nets import small_net, small_teacher


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(12, 3, 8, 8), torch.randint(0, 5, (12,))


@pytest.fixture
def method():
    torch.manual_seed(0)
    return DNA(small_net(), small_teacher(), image_shape=(3, 8, 8))


def test_a_step_is_equation_6(method, batch):
    images, labels = batch
    reference = copy.deepcopy(method).train()
    losses = method.train().training_step(images, labels, np.random.default_rng(5))

    rng = np.random.default_rng(5)
    teacher = reference.teacher.module
    y1 = teacher[1](teacher[0](images)).detach()
    y2 = teacher[2](y1).detach()
    net = reference.net
    paths = [[uniform_path(cell.counts, rng) for cell in cells] for cells in net.space.blocks]
    shallow = ((net.run_path(0, Choice(0, paths[0][0]), net.stem(images)) - y1) ** 2).sum() / y1.numel()
    # The stem's running statistics move with each call: it runs once in a step.
    net.stem.eval()
    reference_stem = copy.deepcopy(net.stem).train()
    deep = ((net.run_path(0, Choice(1, paths[0][1]), reference_stem(images)) - y1) ** 2).sum() / y1.numel()
    second = ((net.run_path(1, Choice(0, paths[1][0]), y1) - y2) ** 2).sum() / y2.numel()
    logits = functional.log_softmax(teacher(images).detach(), 1)
    student = functional.log_softmax(net.head(y2), 1)
    head = (logits.exp() * (logits - student)).sum() / len(images)
    torch.testing.assert_close(losses["block_1"], ((shallow + deep) / 2).detach())
    torch.testing.assert_close(losses["block_2"], second.detach())
    torch.testing.assert_close(losses["head"], head.detach())
    (second + head).backward()
    for name in ("blocks.1", "head"):
        for ours, theirs in zip(method.net.get_submodule(name).parameters(), net.get_submodule(name).parameters()):
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad)


def test_blocks_do_not_share_gradients(method, batch):
    """A block learns from its own loss alone: eq. 6 cuts the chain at the teacher's features."""
    method.train().training_step(*batch, np.random.default_rng(0))
    alone = copy.deepcopy(method)
    gradient = method.net.blocks[0][0][0][1][0].weight.grad
    alone.net.zero_grad()
    with torch.no_grad():
        for parameter in alone.net.blocks[1].parameters():
            parameter.mul_(3)
    alone.training_step(*batch, np.random.default_rng(0))
    again = alone.net.blocks[0][0][0][1][0].weight.grad
    assert (gradient is None) == (again is None)
    if gradient is not None:
        torch.testing.assert_close(gradient, again)


def test_every_candidate_learns_and_the_teacher_does_not(method, batch):
    before = copy.deepcopy(method.teacher.state_dict())
    start = copy.deepcopy(method.net.state_dict())
    pynas.fit(method, [batch] * 30, 1)
    for name, parameter in method.net.named_parameters():
        assert not torch.equal(start[name], parameter), name
    assert all(torch.equal(before[name], value) for name, value in method.teacher.state_dict().items())


def test_training_lowers_the_loss(method, batch):
    losses = []
    pynas.fit(method, [batch] * 40, 2, on_step=lambda step: losses.append(sum(step.losses.values())))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


@pytest.mark.parametrize("loss", ["relative_l1", "mse"])
def test_ratings_equal_running_each_path_alone(method, batch, loss):
    """Equation 7 with batch statistics, path by path from the teacher's features; every path of every cell."""
    images, labels = batch
    loader = [(images[:6], labels[:6]), (images[6:], labels[6:])]
    tables = method.rate(loader, loss=loss)
    for b, cells in enumerate(method.net.space.blocks):
        for c in range(len(cells)):
            for path in np.ndindex(*cells[c].counts):
                scores = []
                for part, _ in loader:
                    features, _ = method.targets(part)
                    x = method.net.eval().stem(part) if b == 0 else features[b - 1]
                    with torch.no_grad():
                        block = copy.deepcopy(method.net.blocks).train()
                        for layer, candidate in zip(block[b][c], path):
                            x = layer[candidate](x)
                    y = features[b]
                    scale = y.std() if loss == "relative_l1" else 1.0
                    error = (x - y).abs() / scale if loss == "relative_l1" else (x - y) ** 2
                    scores.append(error.mean().item())
                assert tables[b][c][path] == pytest.approx(np.mean(scores), rel=1e-5)


def test_learning_rates_are_the_papers(method):
    optimizer = method.optimizer()
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["lr"] for group in optimizer.param_groups] == [0.002, 0.005, 0.005]
    assert [method.rate_factor(p, 20) for p in (0, 0.99, 1.0, 2.5)] == pytest.approx([1, 1, 0.9, 0.81])
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(method.net.parameters()))


@pytest.mark.parametrize("inputs, outputs", [(9, 4), (4, 9), (5, 5)])
def test_projection_keeps_the_most_variance(inputs, outputs):
    torch.manual_seed(0)
    features = torch.randn(20, inputs, 3, 3) * torch.arange(1, inputs + 1)[:, None, None]
    projection = Projection(inputs, outputs)
    projection.fit([features[:10], features[10:]])
    weight = projection.weight
    small = min(inputs, outputs)
    gram = weight @ weight.T if outputs <= inputs else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(small), atol=1e-5, rtol=0)
    projected = projection(features)
    assert projected.shape == (20, outputs, 3, 3)
    flat = features.transpose(0, 1).reshape(inputs, -1)
    best = torch.linalg.svdvals(flat)[:small].square().sum()
    torch.testing.assert_close(projected.square().sum(), best, rtol=1e-4, atol=0)


def test_wider_teachers_are_projected(batch):
    method = DNA(small_net(), small_teacher((16, 20)), image_shape=(3, 8, 8))
    pynas.fit(method, [batch], 1)
    features, _ = method.targets(batch[0])
    assert [f.shape[1] for f in features] == [6, 8]
    assert not torch.equal(method.projections[0].weight, torch.eye(6, 16))


def test_taps_must_match_the_blocks():
    module = small_teacher().module
    with pytest.raises(InputError, match="expected 2 taps, one per block, got 1"):
        DNA(small_net(), module, taps=["1"], image_shape=(3, 8, 8))
    with pytest.raises(InputError, match="size 4x4 after block 1, got 8x8 at the teacher's tap '0'"):
        DNA(small_net(), module, taps=["0", "2"], image_shape=(3, 8, 8))
    with pytest.raises(InputError, match="got 'nope'"):
        DNA(small_net(), module, taps=["1", "nope"], image_shape=(3, 8, 8))
    with pytest.raises(InputError, match="expected taps"):
        DNA(small_net(), module, image_shape=(3, 8, 8))


def test_candidates_that_begin_in_place_train_and_rate_as_others(batch):
    """Cells of a block, and the loss of the block before, read the same features."""

    def trained(inplace):
        torch.manual_seed(0)
        layers = [
            [nn.Sequential(nn.ReLU(inplace=inplace), nn.Conv2d(6, 6, k, padding=k // 2)) for k in (3, 5)] for _ in "12"
        ]
        net = Supernet([[[layers[0]], [layers[1]]] for _ in "12"], nn.Conv2d(3, 6, 3), None)
        teacher = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Flatten())
        method = DNA(net, teacher, taps=["0", "1"], image_shape=tuple(batch[0].shape[1:]))
        losses = method.training_step(*batch, np.random.default_rng(0))
        return [float(loss) for loss in losses.values()], [p.grad for p in net.parameters() if p.grad is not None]

    losses, gradients = trained(False)
    again, others = trained(True)
    assert losses == again and len(gradients) == len(others) > 4
    assert all(torch.equal(a, b) for a, b in zip(gradients, others))
