"""The ViT spaces: exact sizes, slices against a naive vision transformer, ratings, costs and export of single paths."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import pynas
from pynas.costs.count import count_module
from pynas.errors import InputError
from pynas.nn.slim_vit import SlimViT
from pynas.rating import rate
from pynas.spaces import Architecture, get, vit
from pynas.supernets.vit_dna import vit_net


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = pynas.supernet("vit-mini", 10).eval()
    with torch.no_grad():  # fresh layer norms and biases would hide a wrong slice
        for parameter in net.parameters():
            parameter.normal_(std=0.2)
    return net


def naive(block, spec, x):
    """One candidate from the whole weights, head by head."""
    weights, d, hidden = block.weights, spec.dim, round(spec.dim * spec.mlp_ratio)
    patch = spec.in_side // spec.side
    patches = F.unfold(x, patch, stride=patch).mT
    y = (
        patches @ weights.entry.merge.weight.flatten(1)[:d].T
        + weights.entry.merge.bias[:d]
        + weights.entry.position[:, :d]
    )
    for layer in list(weights.layers)[: spec.depth]:
        z = F.layer_norm(y, (d,), layer.norm1.weight[:d], layer.norm1.bias[:d])
        q, k, v = (z @ layer.qkv_weight[i, :d, :d].T + layer.qkv_bias[i, :d] for i in range(3))
        heads = []
        for h in range(d // spec.head_dim):
            part = slice(h * spec.head_dim, (h + 1) * spec.head_dim)
            attention = (q[..., part] @ k[..., part].mT / spec.head_dim**0.5).softmax(-1)
            heads.append(attention @ v[..., part])
        y = y + torch.cat(heads, -1) @ layer.proj.weight[:d, :d].T + layer.proj.bias[:d]
        z = F.layer_norm(y, (d,), layer.norm2.weight[:d], layer.norm2.bias[:d])
        units = F.gelu(z @ layer.fc1.weight[:hidden, :d].T + layer.fc1.bias[:hidden])
        y = y + units @ layer.fc2.weight[:d, :hidden].T + layer.fc2.bias[:d]
    end = weights.exit
    y = F.layer_norm(y, (d,), end.norm.weight[:d], end.norm.bias[:d]).mT.reshape(len(x), d, spec.side, spec.side)
    y = F.conv2d(y, end.linear.weight[:, :d], end.linear.bias, end.linear.stride)
    return F.pixel_shuffle(y, spec.out_side // spec.side) if spec.out_side > spec.side else y


@pytest.mark.parametrize(("name", "size", "paths"), [("vit-dna", 64**4, (64,) * 4), ("vit-mini", 12**4, (12,) * 4)])
def test_sizes_are_exact(name, size, paths):
    space = get(name)
    assert space.size == size and space.path_counts == paths
    labels = [spec.label for spec in space.blocks[0][0].layers[0]]
    assert len(set(labels)) == len(labels) and all(
        spec.dim % spec.head_dim == 0 for spec in space.blocks[0][0].layers[0]
    )


def test_architectures_are_written_by_width_ratio_and_depth():
    space = get("vit-dna")
    architecture = Architecture.of([(0, [0]), (0, [63]), (0, [36]), (0, [9])])
    assert space.format(architecture) == "224x2.5d3|448x4d4|352x3.5d3|256x2.5d4"
    assert space.parse(space.format(architecture)) == architecture
    assert str(architecture) == "0|(63)|(36)|9" and space.parse(str(architecture)) == architecture
    with pytest.raises(InputError):
        space.parse("224x2.5d3|448x4d5|352x3.5d3|256x2.5d4")


@pytest.mark.parametrize("block", range(4))
def test_candidates_are_slices_of_the_widest(net, block):
    specs = net.space.blocks[block][0].layers[0]
    x = torch.randn(2, specs[0].in_channels, specs[0].in_side, specs[0].in_side)
    candidates = net.layers(block, 0)[0]
    together = type(candidates[0]).run_together(candidates, x)
    some = type(candidates[0]).run_together(candidates[3:6], x)
    for spec, candidate, y in zip(specs, candidates, together):
        expected = naive(candidate, spec, x)
        assert y.shape == (2, spec.out_channels, spec.out_side, spec.out_side)
        torch.testing.assert_close(candidate(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(candidate.extract(x.shape[1:])(x), expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(some, together[3:6]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_ratings_equal_each_path_alone(net):
    specs = net.space.blocks[1][0].layers[0]
    batches = [(torch.randn(n, 16, 16, 16), torch.randn(n, 64, 8, 8)) for n in (4, 3)]
    for norm in ("batch", "running"):
        table = rate(net.layers(1, 0), batches, "mse", norm)
        for c, spec in enumerate(specs):
            errors = [(naive(net.layers(1, 0)[0][c], spec, x) - y).square().mean().item() for x, y in batches]
            assert table[c,] == pytest.approx((4 * errors[0] + 3 * errors[1]) / 7, rel=1e-5)


def test_exported_networks_equal_their_path_and_their_costs(net, tmp_path):
    costs = pynas.costs.count(net, (3, 32, 32))
    images, rng = torch.randn(2, 3, 32, 32), np.random.default_rng(0)
    for _ in range(3):
        architecture = net.space.sample(rng)
        model = pynas.export.subnet(net, architecture)
        torch.testing.assert_close(model(images), net(images, architecture), rtol=1e-4, atol=1e-4)
        counted, _ = count_module(model, (3, 32, 32))
        assert costs.of(architecture) == counted
    path = tmp_path / "vit.safetensors"
    pynas.export.save_subnet(path, model, net.space, architecture, 10)
    loaded, _ = pynas.export.load_subnet(path)
    torch.testing.assert_close(loaded(images), model(images))


def test_costs_of_the_big_space_are_those_of_a_formula():
    """Matrix products counted by hand for the narrowest and the widest candidates."""
    corners = vit("corners", ((112, 28), (448, 14), (448, 14), (448, 7)), 14, (224, 448), (2.5, 4.0), (3, 4), 32, 224)
    big, first = get("vit-dna").blocks, corners.blocks
    assert all(a[0].layers[0][i] == b[0].layers[0][j] for a, b in zip(big, first) for i, j in ((0, 0), (63, 7)))
    with torch.device("meta"):
        net = vit_net(corners, 1000)
    assert net.block_shapes((3, 224, 224)) == [(112, 28, 28), (448, 14, 14), (448, 14, 14), (448, 7, 7)]
    costs = pynas.costs.count(net, (3, 224, 224))
    tokens = 196
    for index, d, hidden, depth in ((0, 224, 560, 3), (7, 448, 1792, 4)):
        layers = depth * (tokens * (4 * d * d + 2 * d * hidden) + 2 * tokens * tokens * d)
        entry = [tokens * d * inputs for inputs in (3 * 16 * 16, 112 * 4, 448, 448)]
        leave = [tokens * d * 448] * 4
        madds = 4 * layers + sum(entry) + sum(leave) + 448 * 1000
        assert costs.of(Architecture.of([(0, [index])] * 4))["madds"] == madds


def test_sides_must_fit():
    with pytest.raises(InputError, match="got the sides 12 and 8"):
        SlimViT((3, 12), 8, (4, 8), 16, 32, 1, 16)
