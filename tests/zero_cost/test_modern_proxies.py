"""ZiCo, AZ-NAS's measures and VKDNW against their formulas, on a convolutional network and on a vision transformer."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

import pynas
from pynas.zero_cost import block_features, fisher_factor, score


class Residual(nn.Module):
    """Convolution beside an identity, after an activation in place."""

    def __init__(self, channels):
        super().__init__()
        self.act, self.conv = nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.norm(self.conv(self.act(x.clone())))


def convolutional():
    torch.manual_seed(0)
    down = nn.Sequential(nn.Conv2d(8, 12, 3, 2, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
    head = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    return nn.Sequential(stem, Residual(8), down, Residual(12), head)


def transformer():
    torch.manual_seed(0)
    return pynas.export.standalone(pynas.spaces.get("autoformer-mini"), "0:0110", 5, (3, 16, 16))


NETWORKS = {"convolutional": (convolutional, 8), "transformer": (transformer, 16)}


@pytest.fixture(params=NETWORKS)
def case(request):
    build, side = NETWORKS[request.param]
    generator = torch.Generator().manual_seed(1)
    return build(), torch.randn(6, 3, side, side, generator=generator), torch.arange(6) % 5


def training_norms(model):
    """Batch norms as in training, all else as in evaluation."""
    model.eval()
    for part in model.modules():
        part.training = isinstance(part, nn.BatchNorm2d)
    return model


def test_zico_from_the_gradients_of_two_batches(case):
    model, images, labels = case
    value = score("zico", model, images, labels)
    training_norms(model)
    weights = [part.weight for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    first, second = (
        torch.autograd.grad(F.cross_entropy(model(images[at : at + 3]), labels[at : at + 3]), weights) for at in (0, 3)
    )
    expected = 0.0
    for one, other in zip(first, second):
        total = 0.0
        for a, b in zip(one.flatten().tolist(), other.flatten().tolist()):
            deviation = math.sqrt(((a - (a + b) / 2) ** 2 + (b - (a + b) / 2) ** 2) / 2)
            total += (abs(a) + abs(b)) / 2 / deviation if deviation else 0
        expected += math.log(total)
    assert value == pytest.approx(expected, rel=1e-3)


def naive_features(model, images):
    """Outputs of the parts that keep positions, one after the other; a transformer's with the input of its first layer."""
    features, x = [], images
    layers = [block for part in model for block in (part if isinstance(part[0] if isinstance(part, nn.Sequential) else part,
              pynas.nn.transformer.TransformerLayer) else [part])]  # fmt: skip
    for layer in layers:
        x = layer(x)
        if x.dim() > 2:
            features.append(x.clone())
            x = features[-1].clone()
    return features


def test_features_are_the_outputs_of_the_blocks(case):
    model, images, _ = case
    model.eval()
    found, expected = block_features(model, images), naive_features(model, images)
    assert [list(feature.shape) for feature in found] == [list(feature.shape) for feature in expected]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected))


def test_az_nas_by_the_formulas(case):
    model, images, _ = case
    names = ("expressivity", "progressivity", "trainability")
    values = [score(name, model, images, seed=3) for name in names]
    training_norms(model)
    torch.manual_seed(3)
    features = naive_features(model, torch.randn_like(images).requires_grad_())
    signs_of = [torch.randint(0, 2, feature.shape).float() * 2 - 1 for feature in features[1:]]
    entropies = []
    for feature in features:
        rows = feature.detach().double()
        rows = rows.flatten(0, 1) if rows.dim() == 3 else rows.permute(0, 2, 3, 1).flatten(0, 2)
        shares = torch.linalg.svdvals(rows - rows.mean(0)) ** 2
        shares = shares / shares.sum()
        entropies.append(-(shares * (shares + 1e-8).log()).sum().item())
    assert values[0] == pytest.approx(sum(entropies), rel=1e-3)
    assert values[1] == pytest.approx(min(b - a for a, b in pairwise(entropies)), abs=1e-3)
    scores = []
    for (before, after), signs in zip(pairwise(features), signs_of):
        (passed,) = torch.autograd.grad(after, before, signs, retain_graph=True)
        if after.dim() == 4:
            if after.shape[2] != before.shape[2]:
                passed = F.pixel_unshuffle(passed, 2)
            passed, signs = passed.permute(0, 2, 3, 1).flatten(0, 2), signs.permute(0, 2, 3, 1).flatten(0, 2)
        else:
            passed, signs = passed.flatten(0, 1), signs.flatten(0, 1)
        matrix = sum(torch.outer(p, s) for p, s in zip(passed, signs)) / len(signs)
        norm = torch.linalg.svdvals(matrix)[0].item()
        scores.append(2 - norm - 1 / (norm + 1e-6))
    assert values[2] == pytest.approx(sum(scores) / len(scores), rel=1e-3)


def naive_fisher(model, images):
    """Mean over the images of J^T (diag(p) - p p^T) J, from the whole Jacobian of one image after the other."""
    model.eval()
    values = {name: value.detach() for name, value in model.named_parameters()}
    fisher = 0
    for image in images:
        jacobian = jacrev(lambda given: functional_call(model, given, (image[None],))[0])(values)  # noqa: B023
        columns = torch.stack([value.flatten(1)[:, 0] for value in jacobian.values()], 1)
        p = model(image[None])[0].softmax(0) * 0.95 + 0.05 / 5
        fisher = fisher + columns.T @ (torch.diag(p) - torch.outer(p, p)) @ columns / len(images)
    return fisher.detach()


def test_fisher_information_by_explicit_jacobians(case, monkeypatch):
    monkeypatch.setattr("pynas.zero_cost.vkdnw.TENSORS", 128)
    model, images, _ = case
    model, images = model.double(), images.double()[:3]
    model.eval()
    factor = fisher_factor(model, images)
    expected = naive_fisher(model, images)
    assert torch.allclose(factor.T @ factor, expected, rtol=1e-6, atol=1e-12 * float(expected.abs().max()))
    # Fewer tensors than rows, so that all of the eigenvalues are above 0.
    monkeypatch.setattr("pynas.zero_cost.vkdnw.TENSORS", 10)
    value, size = score("vkdnw", model, images), len(list(model.parameters()))
    kept = [round(at) for at in torch.linspace(0, size - 1, 10).tolist()]
    eigenvalues = torch.linalg.svdvals(expected[kept][:, kept])
    deciles = torch.tensor([torch.quantile(eigenvalues, k / 10) for k in range(1, 10)])
    shares = (deciles / deciles.sum()).tolist()
    entropy = -sum(share * math.log(share) for share in shares if share > 1e-15)
    assert entropy > 0.01 and value - size == pytest.approx(entropy, rel=1e-4)


def test_many_tensors_and_classes_are_sampled(monkeypatch):
    model, images = convolutional().double().eval(), torch.randn(40, 3, 8, 8, dtype=torch.float64)
    whole = fisher_factor(model, images[:2])
    monkeypatch.setattr("pynas.zero_cost.vkdnw.TENSORS", 4)
    some = fisher_factor(model, images[:2])
    kept = [round(at) for at in torch.linspace(0, whole.shape[1] - 1, 4).tolist()]
    assert torch.allclose(some, whole[:, kept])
    monkeypatch.setattr("pynas.zero_cost.vkdnw.CLASSES", 4)
    torch.manual_seed(0)
    estimate = fisher_factor(model, images.repeat(20, 1, 1, 1))
    exact = naive_fisher(model, images)[kept][:, kept]
    assert estimate.shape == (40 * 20 * 4, 4)
    assert torch.allclose(estimate.T @ estimate, exact, atol=0.05 * float(exact.abs().max()))


def test_jacov_by_numpy_like_correlations(case):
    model, images, _ = case
    value = score("jacov", model, images)
    training_norms(model)
    images = images.clone().requires_grad_()
    model(images).sum().backward()
    rows = images.grad.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in torch.linalg.eigvalsh(rows @ rows.T).tolist())
    assert value == pytest.approx(expected, rel=1e-3)
