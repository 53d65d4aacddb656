"""Saliency of every subnet against sums over parameters that are sliced one by one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.spaces import Architecture, autoformer
from pynas.zero_cost import random_images, saliency
from pynas.zero_cost.saliency import largest


@pytest.fixture
def net():
    torch.manual_seed(0)
    space = autoformer("own", (8, 12), (1, 3), (1, 2, 3), (1.5, 2), qkv_dim=12, patch=4, image_size=8, max_distance=2)
    return pynas.supernet(space, 5)


@pytest.fixture
def images():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def products(net, loss):
    """|g * w| of the largest subnet by the parameter's name."""
    names, parameters = zip(*net.named_parameters())
    return {
        name: (w * g).abs().detach() for name, w, g in zip(names, parameters, torch.autograd.grad(loss, parameters))
    }


def rows_of(heads, head_dim):
    """Rows of q, k and v of the first heads in the shared weight."""
    return [3 * channel + part for part in range(3) for channel in range(heads * head_dim)]


def naive_layer(product, spec, number):
    """Sum over the parameters of one layer's subnet, each cut to its size."""
    name = f"transformer.{number}."
    of = {key.removeprefix(name): value for key, value in product.items() if key.startswith(name)}
    d, inner, rows = spec.dim, spec.heads * spec.head_dim, rows_of(spec.heads, spec.head_dim)
    parts = [of["norm_attention.weight"][:d], of["norm_attention.bias"][:d], of["norm_mlp.weight"][:d],
             of["norm_mlp.bias"][:d], of["attention.qkv.weight"][rows][:, :d], of["attention.qkv.bias"][rows],
             of["attention.project.weight"][:d, :inner], of["attention.project.bias"][:d],
             of["mlp.fc1.weight"][: spec.hidden, :d], of["mlp.fc1.bias"][: spec.hidden],
             of["mlp.fc2.weight"][:d, : spec.hidden], of["mlp.fc2.bias"][:d]]  # fmt: skip
    parts += [value for key, value in of.items() if "position" in key]
    return sum(part.sum().item() for part in parts)


def specs_of(net, architecture):
    cell = net.space.blocks[0][architecture[0].cell]
    return [layer[c] for layer, c in zip(cell.layers, architecture[0].path)]


@pytest.mark.parametrize("with_labels", [False, True])
def test_snip_and_its_normalised_form_of_many_subnets(net, images, with_labels):
    labels = torch.arange(6) % 5 if with_labels else None
    found = saliency(net, images, labels, chunk=4)
    outputs = net.eval()(images, Architecture.parse("3:555"))
    product = products(net, F.cross_entropy(outputs, labels, reduction="sum") if with_labels else outputs.sum())
    wholes = [naive_layer(product, net.space.blocks[0][3].layers[0][5], number) for number in range(3)]
    rng = np.random.default_rng(0)
    for architecture in [net.space.sample(rng) for _ in range(12)] + [largest(net)]:
        specs = specs_of(net, architecture)
        layers, d = [naive_layer(product, spec, number) for number, spec in enumerate(specs)], specs[0].dim
        ends = [product["stem.weights.conv.weight"][:d], product["head.weights.classifier.weight"][:, :d]]
        ends += [product[f"stem.weights.{name}"][..., :d] for name in ("conv.bias", "class_token", "position")]
        ends += [product[f"head.weights.norm.{name}"][:d] for name in ("weight", "bias")]
        ends.append(product["head.weights.classifier.bias"])
        whole = sum(layers) + sum(part.sum().item() for part in ends)
        assert found.snip.of(architecture) == pytest.approx(whole, rel=1e-4)
        normalised = sum(layer / whole for layer, whole in zip(layers, wholes))
        assert found.layer.of(architecture) == pytest.approx(normalised, rel=1e-4)
    assert found.layer.of(largest(net)) == pytest.approx(3)
    assert found.snip.of(largest(net)) == pytest.approx(sum(value.sum().item() for value in product.values()), rel=1e-4)


def test_the_balanced_variant(net, images):
    found = saliency(net, images)
    names, parameters = zip(*net.named_parameters())
    gradients = dict(zip(names, torch.autograd.grad(net.eval()(images, largest(net)).sum(), parameters)))
    weights = dict(zip(names, parameters))
    for architecture in (Architecture.parse("1:025"), Architecture.parse("2:4")):
        total = 0.0
        for number, spec in enumerate(specs_of(net, architecture)):
            hidden = int(12 * spec.ratio)
            for name, rows, columns in (
                ("attention.qkv", rows_of(spec.heads, 4), slice(None)),
                ("mlp.fc1", range(hidden), slice(None)),
                ("mlp.fc2", range(12), slice(hidden)),
            ):
                w, g = (some[f"transformer.{number}.{name}.weight"].detach() for some in (weights, gradients))
                total += ((w * g).abs()[list(rows), columns].sum() / w.abs().sum() / g.abs().sum()).item()
        assert found.balance.of(architecture) == pytest.approx(total, rel=1e-4)
    assert found.normalised("balance") is found.balance
    with pytest.raises(InputError, match="normaliser of layer, balance, snip, got 'none'"):
        found.normalised("none")


def test_the_net_stays_as_it_was(net, images):
    net.train()
    before = [parameter.clone() for parameter in net.parameters()]
    saliency(net, images)
    assert net.training and all(parameter.grad is None for parameter in net.parameters())
    assert all((a == b).all() for a, b in zip(before, net.parameters()))


def test_random_images_are_the_same_for_a_seed():
    some = random_images(400, 4, seed=1)
    assert (some == random_images(400, 4, seed=1)).all() and (some != random_images(400, 4, seed=2)).any()
    for channel, (mean, deviation) in enumerate(itertools.zip_longest((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        assert some[:, channel].mean().item() == pytest.approx(mean, abs=0.02)
        assert some[:, channel].std().item() == pytest.approx(deviation, rel=0.05)


def test_useless_weights_are_named(net, images):
    with torch.no_grad():
        net.transformer[1].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="finite gradients"):
        saliency(net, images)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(InputError, match="above 0 in every layer, got 0.0 in layer 0; are all its weights zero"):
        saliency(net, images)


@pytest.mark.parametrize("name", ["snip", "layer", "balance"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_named_before_anything_is_selected(net, images, name, value):
    found = saliency(net, images)
    table = getattr(found, name)
    spoilt = [layers.copy() for layers in table.layers]
    spoilt[1][0, 1] = value
    with pytest.raises(InputError, match=f"finite scores, got NaN or infinity among those of '{name}'"):
        replace(found, **{name: replace(table, layers=spoilt)})
    fixed = [*table.fixed[:-1], value]
    with pytest.raises(InputError, match=f"finite scores, got NaN or infinity among those of '{name}'"):
        replace(found, **{name: replace(table, fixed=fixed)})
