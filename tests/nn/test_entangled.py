"""Entangled layers against a reference that picks every weight by its index."""

import copy

import pytest
import torch
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.entangled import EntangledHead, EntangledPatches, EntangledTransformer, accumulate
from pynas.nn.relative import RelativeAttention, RelativePosition
from pynas.nn.transformer import PatchEmbedding, PooledHead, TransformerLayer
from pynas.rating import Settings, rate

HEAD_DIM = 4


def embeddings(position, tokens):
    """e(i, j) pair by pair, `[N, N, D]`, as AutoFormer describes it."""
    side = int((tokens - 1) ** 0.5)
    result = torch.empty(tokens, tokens, position.vertical.shape[1])
    for i in range(tokens):
        for j in range(tokens):
            row = column = 0
            if i and j:
                down, across = (j - 1) // side - (i - 1) // side, (j - 1) % side - (i - 1) % side
                limit = position.max_distance
                row, column = (min(max(d, -limit), limit) + limit + 1 for d in (down, across))
            result[i, j] = position.vertical[row] + position.horizontal[column]
    return result


def naive_layer(weights, x, heads, hidden):
    """A subnet's layer, head by head, every weight picked by its index."""
    width, attention, mlp = x.shape[-1], weights.attention, weights.mlp
    keys, values = (embeddings(p, x.shape[1]) for p in (attention.position_key, attention.position_value))
    y = F.layer_norm(x, (width,), weights.norm_attention.weight[:width], weights.norm_attention.bias[:width])
    total = x + attention.project.bias[:width]
    for head in range(heads):
        channels = range(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        q, k, v = (
            y @ attention.qkv.weight[[3 * c + part for c in channels], :width].T
            + attention.qkv.bias[[3 * c + part for c in channels]]
            for part in range(3)
        )
        logits = (q @ k.transpose(1, 2) + torch.einsum("bid,ijd->bij", q, keys)) / HEAD_DIM**0.5
        share = logits.softmax(-1)
        out = share @ v + torch.einsum("bij,ijd->bid", share, values)
        total = total + out @ attention.project.weight[:width, list(channels)].T
    y = F.layer_norm(total, (width,), weights.norm_mlp.weight[:width], weights.norm_mlp.bias[:width])
    grown = F.gelu(y @ mlp.fc1.weight[:hidden, :width].T + mlp.fc1.bias[:hidden])
    return total + grown @ mlp.fc2.weight[:width, :hidden].T + mlp.fc2.bias[:width]


@pytest.fixture
def weights():
    torch.manual_seed(0)
    layer = TransformerLayer(10, 3, HEAD_DIM, 20, max_distance=2).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize(("side", "max_distance"), [(1, 2), (3, 2), (4, 2), (3, 5)])
def test_relative_positions_pair_by_pair(side, max_distance):
    torch.manual_seed(0)
    position, tokens = RelativePosition(max_distance, HEAD_DIM), side * side + 1
    torch.nn.init.normal_(position.vertical)
    torch.nn.init.normal_(position.horizontal)
    expected = embeddings(position, tokens)
    query, attention = torch.randn(2, 3, tokens, HEAD_DIM), torch.rand(2, 3, tokens, tokens)
    torch.testing.assert_close(position.dot(query), torch.einsum("bhid,ijd->bhij", query, expected))
    torch.testing.assert_close(position.mix(attention), torch.einsum("bhij,ijd->bhid", attention, expected))


@pytest.mark.parametrize(("width", "heads", "ratio"), [(10, 3, 2.0), (10, 1, 1.5), (7, 2, 1.5), (4, 3, 2.0)])
def test_a_candidate_is_its_slices(weights, width, heads, ratio):
    candidate, x = EntangledTransformer(weights, heads, ratio), torch.randn(2, 10, width)
    expected = naive_layer(weights, x, heads, int(width * ratio))
    torch.testing.assert_close(candidate(x), expected, rtol=1e-4, atol=1e-5)
    plain = candidate.extract((10, width))
    torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-5)
    shared = {p.data_ptr() for p in weights.parameters()}
    assert not shared & {p.data_ptr() for p in plain.parameters()}


def test_gradients_reach_the_slices_and_nothing_else(weights):
    EntangledTransformer(weights, 2, 1.5)(torch.randn(2, 5, 6)).square().sum().backward()
    gradient = weights.attention.qkv.weight.grad
    assert (gradient[:24, :6] != 0).all() and not gradient[24:].any() and not gradient[:, 6:].any()
    assert not weights.mlp.fc1.weight.grad[9:].any() and (weights.mlp.fc1.weight.grad[:9, :6] != 0).any()


def test_accumulation_is_a_product_per_width():
    start, x, weight = torch.randn(2, 3, 4), torch.randn(2, 3, 9), torch.randn(6, 9)
    for width, found in zip((2, 5, 9), accumulate(start, x, weight, (2, 5, 9))):
        torch.testing.assert_close(found, start + x[..., :width] @ weight[:4, :width].T)


@torch.no_grad()
def test_together_as_alone(weights):
    candidates = [EntangledTransformer(weights, heads, ratio) for heads in (3, 1, 2) for ratio in (2.0, 1.0, 1.5)]
    x = torch.randn(2, 10, 9)
    for some in (candidates, candidates[2:7], candidates[4:5]):
        for together, alone in zip(EntangledTransformer.run_together(some, x), (c(x) for c in some)):
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_rating_engine_runs_them_together(weights, monkeypatch):
    together, calls = EntangledTransformer.run_together, []
    monkeypatch.setattr(
        EntangledTransformer, "run_together", lambda some, x: calls.append(len(some)) or together(some, x)
    )
    layers = [[EntangledTransformer(shared, heads, ratio) for heads in (1, 3) for ratio in (1.0, 2.0)]
              for shared in (weights, copy.deepcopy(weights))]  # fmt: skip
    x, target = torch.randn(3, 5, 10), torch.randn(3, 5, 10)
    table = rate(layers, [(x, target)], "mse", engine=Settings(workers=1))
    assert max(calls) == 4
    for path in ((0, 3), (2, 1)):
        y = x
        for layer, choice in zip(layers, path):
            y = naive_layer(layer[0].weights, y, layer[choice].heads, int(10 * layer[choice].ratio))
        assert table[path] == pytest.approx(float(F.mse_loss(y, target)), rel=1e-4)


def test_patches_and_head_of_every_width():
    torch.manual_seed(0)
    patches, head = EntangledPatches(PatchEmbedding(6, 2, 4)), EntangledHead(PooledHead(6, 3))
    images = torch.randn(2, 3, 4, 4)
    inner = patches.weights
    tokens = [inner.class_token[0, 0, :4].expand(2, 4)]
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        patch = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
        tokens.append(patch @ inner.conv.weight[:4].flatten(1).T + inner.conv.bias[:4])
    expected = torch.stack(tokens, 1) + inner.position[0, :, :4]
    torch.testing.assert_close(patches(images, 4), expected)
    torch.testing.assert_close(patches.extract(4)(images), expected)
    torch.testing.assert_close(head.extract(expected.shape[1:])(expected), head(expected))
    logits = F.layer_norm(expected, (4,))[:, 1:].mean(1) @ head.weights.classifier.weight[:, :4].T
    torch.testing.assert_close(head(expected), logits + head.weights.classifier.bias)


def test_bad_sizes_are_named(weights):
    with pytest.raises(InputError, match="heads that divides the width 10, got 3"):
        RelativeAttention(10, 3)
    with pytest.raises(InputError, match="at most 3 heads, got 4"):
        EntangledTransformer(weights, 4, 2.0)
    with pytest.raises(InputError, match="square grid of patches, got 4 tokens"):
        EntangledTransformer(weights, 2, 2.0)(torch.randn(1, 4, 10))
    with pytest.raises(InputError, match="images of 4x4, got \\[6, 4\\]"):
        PatchEmbedding(6, 2, 4)(torch.zeros(1, 3, 6, 4))
    with pytest.raises(InputError, match="patches that divide"):
        PatchEmbedding(6, 3, 4)
