"""The loss of DNA++ and its gradients against equations 10 and 11, term by term and sample by sample."""

import math

import pytest
import torch

from pynas.errors import InputError
from pynas.methods.dna.self_supervised_loss import SelfSupervisedLoss
from pynas.rating import rate


def naive(z, y, lambdas=(25.0, 1.0, 25.0), gamma=1.0, eps=1e-4, both=True):
    """z: the student's, y: the teacher's, `[M, C]`; loops in double."""
    samples, channels = z.shape
    total = z.new_zeros(())
    for j in range(samples):
        total = total + lambdas[0] / channels / samples * torch.linalg.vector_norm(z[j] - y[j]) ** 2
    for x in (z, y):
        mean = sum(x[j] for j in range(samples)) / samples
        covariance = sum(torch.outer(x[j] - mean, x[j] - mean) for j in range(samples)) / (samples - 1)
        for a in range(channels):
            for b in range(channels):
                if a != b:
                    total = total + lambdas[1] / channels * covariance[a, b] ** 2
    for x, share in ((y, 0.5 if both else 1.0), (z, 0.5 if both else 0.0)):
        for c in range(channels):
            variance = sum((value - x[:, c].mean()) ** 2 for value in x[:, c]) / (samples - 1)
            deviation = torch.sqrt(variance + eps)
            if deviation < gamma:
                total = total + share * lambdas[2] / channels * (gamma - deviation)
    return total


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_loss_and_gradients_are_the_equations(scale, both):
    torch.manual_seed(1)
    # Some deviations lie above gamma and some below.
    widths = torch.linspace(0.2, 2.0, 5)
    z = (scale * widths * torch.randn(7, 5)).double().requires_grad_()
    y = (scale * widths * torch.randn(7, 5)).double().requires_grad_()
    ours = SelfSupervisedLoss(both=both)(z, y)
    theirs = naive(z, y, both=both)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=0)
    for a, b in zip(torch.autograd.grad(ours, (z, y)), torch.autograd.grad(theirs, (z, y))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_weight_counts():
    torch.manual_seed(0)
    z, y = torch.randn(6, 4), 0.5 * torch.randn(6, 4)
    for weights in ((3.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 5.0)):
        distance, covariance, deviation = weights
        loss = SelfSupervisedLoss(distance=distance, covariance=covariance, deviation=deviation, gamma=0.8, eps=1e-2)
        assert loss(z, y).item() == pytest.approx(naive(z, y, weights, 0.8, 1e-2).item(), rel=1e-5)


def test_constant_projections_pay_the_hinge_alone():
    y = torch.ones(8, 3, requires_grad=True)
    loss = SelfSupervisedLoss()(torch.ones(8, 3), y)
    assert loss.item() == pytest.approx(25 * (1 - math.sqrt(1e-4)))
    loss.backward()
    assert y.grad.isfinite().all()


def test_stacked_paths_score_as_each_alone():
    torch.manual_seed(0)
    loss, target, outputs = SelfSupervisedLoss(), torch.randn(9, 4), torch.randn(3 * 9, 4)
    together = loss.per_path(outputs, target, 3)
    alone = torch.stack([loss(part, target) for part in outputs.chunk(3)])
    torch.testing.assert_close(together, alone)
    layers = [[torch.nn.Linear(4, 4) for _ in range(3)] for _ in range(2)]
    x = torch.randn(9, 4)
    table = rate(layers, [(x, target)], loss, "running")
    for path in [(0, 2), (2, 1)]:
        y = layers[1][path[1]](layers[0][path[0]](x))
        assert table[path] == pytest.approx(naive(y, target).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (1, 3), (4, 2)])
def test_other_shapes_are_named(shape):
    with pytest.raises(InputError, match="expected projections"):
        SelfSupervisedLoss()(torch.randn(shape), torch.randn(4, 3) if shape[0] > 1 else torch.randn(1, 3))
