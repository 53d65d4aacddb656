"""Batches with side inputs (masks, rotary tables, position ids) score as each path alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.rating import choice_layers, configured, encoded, engine, partial, rate, rate_population, set_attributes
from pynas.rating.graphs import Graphs
from pynas.rating.sides import Sides

from .recorders import Recorder

WIDTH, CLASSES = 16, 5


class Side(nn.Module):
    """A module with a linear layer and this forward; `largest` is the largest number of rows that any ran on."""

    largest = 0

    def __init__(self, forward):
        super().__init__()
        self.linear, self.call = nn.Linear(WIDTH, WIDTH), forward

    def forward(self, x, side):
        Side.largest = max(Side.largest, len(x))
        return self.call(self, x, side)


class Attention(nn.Module):
    """Masked attention with a rotation of queries and keys by tables `[1, S, D]`, where there are some."""

    seen = 0

    def __init__(self, heads):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, side):
        Attention.seen = max(Attention.seen, len(x))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        if "rotary" in side:
            cos, sin = side["rotary"]
            q, k = (part * cos + part.roll(WIDTH // 2, -1) * sin for part in (q, k))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mask = side["padding"].logical_not()[:, None, None, :]
        return x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """torch's own layer, which has a fused operator for evaluation, with a mask of each sample, one of all, or both."""

    def __init__(self, padding, causal):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 24, activation="gelu", batch_first=True)
        self.padding, self.causal = padding, causal

    def forward(self, x, side):
        padding, causal = side["padding"] if self.padding else None, side["causal"][0] if self.causal else None
        return self.layer(x, src_mask=causal, src_key_padding_mask=padding)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x, side):
        kept = side["padding"].logical_not()[..., None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1) + side["scale"])


def transformer(seed=0):
    torch.manual_seed(seed)
    return [[Attention(4), Encoder(True, False), Encoder(False, True), Encoder(True, True)] for _ in range(3)], Head()


def some_batches(sizes=((4, 7), (3, 5), (4, 7), (2, 6)), rotary=False, seed=1):
    """Inputs `[B, S, 16]`, labels, and padding that differs from sample to sample."""
    torch.manual_seed(seed)
    batches = []
    for n, length in sizes:
        lengths = torch.randint(2, length + 1, (n, 1))
        side = {"padding": torch.arange(length) >= lengths, "scale": 0.5, "nested": [(None, "text")]}
        side["causal"] = torch.ones(1, length, length, dtype=torch.bool).triu(1)
        if rotary:
            angles = torch.randn(1, length, WIDTH)
            side["rotary"] = angles.cos(), angles.sin()
        batches.append((torch.randn(n, length, WIDTH), torch.randint(CLASSES, (n,)), side))
    return batches


def naive(layers, batches, loss, tail=None):
    """Every path alone from the input, in a loop over the batches; each module has a side of its own."""
    scores = np.zeros([len(layer) for layer in layers])
    for path in np.ndindex(*scores.shape):
        modules = copy.deepcopy([*(layer[c] for layer, c in zip(layers, path)), *([] if tail is None else [tail])])
        total = 0.0
        with torch.no_grad():
            for x, target, *side in batches:
                y = x.clone()
                for module in modules:
                    y = module.eval()(y, *copy.deepcopy(side))
                total += float(loss(y, target)) * len(x)
        scores[path] = total / sum(len(x) for x, *_ in batches)
    return scores


def features(sizes=(4, 3, 1), seed=1, **more):
    """Inputs and targets `[B, 16]` with a bias `[B, 16]` and a table `[1, 16]`."""
    torch.manual_seed(seed)
    sides = ({"bias": torch.randn(n, WIDTH), "table": torch.randn(1, WIDTH), **more} for n in sizes)
    return [(torch.randn(n, WIDTH), torch.randn(n, WIDTH), side) for n, side in zip(sizes, sides)]


def plain(self, x, side):
    return torch.tanh(self.linear(x) + side["bias"]) * side["table"]


def layers_with(*forwards, seed=0):
    """Three layers: one of plain candidates, one with these forwards, and plain ones again, which see what those left."""
    torch.manual_seed(seed)
    return [
        [Side(plain) for _ in "abc"],
        [Side(forward) for forward in (*forwards, plain)],
        [Side(plain) for _ in "ab"],
    ]


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stack", [3, "memory"])
def test_a_transformer_with_masks_scores_as_each_path_alone(rotary, workers, stack, monkeypatch):
    """A warning, of paths that run one at a time, would be an error."""
    layers, tail = transformer()
    batches = some_batches(rotary=rotary)
    expected = naive(layers, batches, F.cross_entropy, tail)
    monkeypatch.setattr(Attention, "seen", 0)
    table = rate(layers, batches, "cross_entropy", "running", tail=tail, workers=workers, stack=stack)
    np.testing.assert_allclose(table.scores, expected, rtol=1e-5)
    assert Attention.seen >= 3 * 4
    without = [(x, target, {**side, "padding": torch.zeros_like(side["padding"])}) for x, target, side in batches]
    assert abs(rate(layers, without, "cross_entropy", "running", tail=tail).scores - expected).max() > 1e-2


def test_a_bare_tensor_lists_and_batches_without_a_side():
    class Either(nn.Linear):
        def forward(self, x, side=None):
            return super().forward(x) if side is None else super().forward(x) * side[0] + side[1]["shift"]

    torch.manual_seed(0)
    layers = [[Either(WIDTH, WIDTH) for _ in "ab"] for _ in "abc"]
    batches = features()
    batches = [(*batches[0][:2], [batches[0][2]["bias"], {"shift": 2}]), batches[1][:2], (*batches[2][:2], None)]
    expected = naive(layers, [*batches[:2], batches[2][:2]], F.mse_loss)
    np.testing.assert_allclose(rate(layers, batches, "mse").scores, expected, rtol=1e-5)


def test_adapters_pass_the_side_and_a_layer_left_out_takes_none():
    class Coded(nn.Linear):
        def forward(self, x, code, side):
            return {"out": super().forward(x) * code + side["bias"]}

    class Configured(nn.Linear):
        factor = 1

        def forward(self, x, side):
            return super().forward(x) * self.factor + side["bias"]

    torch.manual_seed(0)
    coded, other = Coded(WIDTH, WIDTH), Configured(WIDTH, WIDTH)
    tuples = [Side(lambda s, x, side: (plain(s, x, side), 1)) for _ in "ab"]
    layers = [
        encoded(coded, [1, 2], pick="out"),
        configured(other, [{"factor": 1}, {"factor": 3}], set_attributes),
        [*choice_layers([tuples], pick=0)[0], nn.Identity()],
    ]
    by_hand = [
        [Side(lambda s, x, side, code=code: coded(x, code, side)["out"]) for code in (1, 2)],
        [Side(lambda s, x, side, k=k: F.linear(x, other.weight, other.bias) * k + side["bias"]) for k in (1, 3)],
        [
            *(Side(lambda s, x, side, module=module: module(x, side)[0]) for module in tuples),
            Side(lambda s, x, side: x),
        ],
    ]
    expected = naive(by_hand, features(), F.mse_loss)
    np.testing.assert_allclose(rate(layers, features(), "mse").scores, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "got"),
    [
        ({"bias": [torch.zeros(3, 16)]}, r"\(3, 16\)"),
        (torch.zeros(()), r"\(\)"),
        ((1, torch.zeros(2)), r"\(2,\)"),
    ],
)
def test_bad_sides_are_refused(side, got):
    batch = torch.zeros(4, WIDTH), torch.zeros(4, WIDTH)
    expected = rf"^\[rate\] expected side inputs whose first axis is B=4 or 1, got a tensor of the shape {got}$"
    with pytest.raises(InputError, match=expected):
        rate([[Side(plain)]], [(*batch, side)])
    with pytest.raises(InputError, match=expected):
        rate([[nn.BatchNorm1d(WIDTH)]], [batch], norm="recalibrate", calibration=[(batch[0], side)])
    with pytest.raises(InputError, match="target, side"):
        rate([[Side(plain)]], [(*batch, side, None)])


def test_functions_without_sides_refuse_them():
    batches = features()
    with pytest.raises(InputError, match="only `rate` takes sides"):
        rate_population([[Side(plain)]], batches, norm="running")
    with pytest.raises(InputError, match="only `rate` takes them"):
        pynas.check([[Side(plain)]], batches)


def test_a_partial_rating_with_other_sides_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(partial.Partial.__init__, "__defaults__", (0.0,))
    layers, batches, done = layers_with(plain), features(), []

    def killed(y, target):
        done.append(1)
        if len(done) == 20:  # in the second batch of 12 paths
            raise KeyboardInterrupt
        return F.mse_loss(y, target)

    def resume(batches):
        return rate(layers, batches, killed, resume=tmp_path / "p.npz", workers=1)

    with pytest.raises(KeyboardInterrupt):
        resume(batches)
    other = copy.deepcopy(batches)
    other[1][2]["bias"][2, 3] += 1e-6  # not to be seen in what is printed
    with pytest.raises(InputError, match="loader that repeats itself"):
        resume(other)
    other = [(x, target, {**side, "more": 1}) for x, target, side in batches]
    with pytest.raises(InputError, match="loader that repeats itself"):
        resume(other)
    np.testing.assert_allclose(resume(copy.deepcopy(batches)).scores, naive(layers, batches, F.mse_loss), rtol=1e-5)


def test_floating_sides_have_the_type_of_the_rating():
    seen = set()

    def notes(self, x, side):
        seen.add((x.dtype, side["bias"].dtype, side["ids"].dtype))
        return self.linear(x) + side["bias"]

    batches = features(ids=torch.zeros(1, dtype=torch.int32))
    rate([[Side(notes)]], batches, "mse", dtype=torch.float64)
    assert seen == {(torch.float64, torch.float64, torch.int32)}


def test_sides_are_repeated_once_for_stacks_of_one_size():
    sides, x = Sides(), torch.randn(3, 2)
    side = {"bias": torch.randn(3, 2), "table": torch.randn(1, 2), "other": "text"}
    sides.give([None, side], [x, x])
    (none, four), again, two = sides.stacked(4), sides.stacked(4)[1], sides.stacked(2)[1]
    assert none is None and four is again
    assert torch.equal(four["bias"], side["bias"].repeat(4, 1)) and torch.equal(two["bias"], side["bias"].repeat(2, 1))
    assert two["bias"].data_ptr() == four["bias"].data_ptr()
    assert four["table"] is two["table"] is side["table"] and four["other"] == "text"
    sides.forget()
    assert sides.stacked(1)[1]["bias"] is side["bias"]
    sides.give([None, None], [x, x])
    assert not sides and sides.stacked(4) == []


def test_a_walk_with_sides_is_not_recorded(monkeypatch):
    recorder, layers = Recorder(), layers_with(plain)
    monkeypatch.setattr(engine, "graphs_for", lambda device, enabled, *rest: Graphs(recorder, rest[1], 1 << 24))
    batches = features((4, 4, 4, 4))
    table = rate(layers, batches, "mse", workers=1)
    np.testing.assert_allclose(table.scores, naive(layers, batches, F.mse_loss), rtol=1e-5)
    assert recorder.recorded == 0
    without = [[nn.Linear(WIDTH, WIDTH)]]
    rate(without, [batch[:2] for batch in batches], "mse", workers=1)
    assert recorder.recorded == 1


@pytest.mark.cuda
def test_sides_on_a_gpu():
    layers, tail = transformer()
    batches = some_batches(rotary=True)
    expected = naive(layers, batches, F.cross_entropy, tail)
    layers, tail = [[module.cuda() for module in layer] for layer in layers], tail.cuda()
    table = rate(layers, batches, "cross_entropy", "running", tail=tail)
    np.testing.assert_allclose(table.scores, expected, rtol=1e-4)
