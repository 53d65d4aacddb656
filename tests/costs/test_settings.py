"""Layers of other people's supernets: costs and networks of one choice are those of its extracted module, or refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas import costs, export
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable, configured, elastic_depth, encoded, set_attributes
from pynas.spaces import Space


class ElasticKernel(nn.Module):
    """A depth-wise convolution whose kernel of 3 is the middle of that of 5, times a matrix."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), nn.BatchNorm2d(4)
        self.matrix, self.active_kernel_size = nn.Parameter(torch.randn(9, 9)), 5

    def weight(self):
        if self.active_kernel_size == 5:
            return self.conv.weight
        middle = self.conv.weight[:, :, 1:4, 1:4].reshape(4, 1, 9)
        return F.linear(middle, self.matrix).view(4, 1, 3, 3)

    def forward(self, x):
        return self.norm(F.conv2d(x, self.weight(), padding=self.active_kernel_size // 2, groups=4))


def plain_kernel(layer, config, shape):
    size = layer.active_kernel_size
    conv = nn.Conv2d(4, 4, size, padding=size // 2, groups=4, bias=False)
    conv.weight.copy_(layer.weight())
    return nn.Sequential(conv, layer.norm)


class ElasticWidth(nn.Module):
    """An inverted bottleneck that runs its first channels, with a norm on slices."""

    def __init__(self):
        super().__init__()
        self.expand, self.norm = nn.Conv2d(4, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.shrink, self.width = nn.Conv2d(16, 4, 1), 16

    def forward(self, x):
        y = F.conv2d(x, self.expand.weight[: self.width])
        slices = (
            t[: self.width] for t in (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
        )
        y = F.relu(F.batch_norm(y, *slices, self.training, 0.1, self.norm.eps))
        return x + F.conv2d(y, self.shrink.weight[:, : self.width], self.shrink.bias)


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


def plain_width(layer, config, shape):
    n = layer.width
    plain = nn.Sequential(nn.Conv2d(4, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 4, 1))
    plain[0].weight.copy_(layer.expand.weight[:n])
    for name, tensor in plain[1].state_dict().items():
        tensor.copy_(layer.norm.state_dict()[name][:n] if tensor.ndim else layer.norm.num_batches_tracked)
    plain[3].weight.copy_(layer.shrink.weight[:, :n])
    plain[3].bias.copy_(layer.shrink.bias)
    return Residual(*plain)


class MaskedWidth(nn.Module):
    """Computes every channel, and masks those after the width."""

    def __init__(self):
        super().__init__()
        self.expand, self.shrink = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x, width):
        mask = (torch.arange(16, device=x.device) < width).to(x).view(1, -1, 1, 1)
        return self.shrink(self.expand(x).relu() * mask)


def plain_masked(layer, width, shape):
    first, second = nn.Conv2d(4, width, 1), nn.Conv2d(width, 4, 1)
    first.weight, first.bias = (nn.Parameter(t[:width]) for t in (layer.expand.weight, layer.expand.bias))
    second.weight, second.bias = nn.Parameter(layer.shrink.weight[:, :width]), layer.shrink.bias
    return nn.Sequential(first, nn.ReLU(), second)


class Attention(nn.Module):
    """A block that takes a dictionary of its sizes, keeps slices, and puts out a tuple."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj, self.sampled = nn.Linear(4, 24), nn.Linear(8, 4), None

    def set_sample_config(self, config):
        size = 4 * config["heads"]
        rows = torch.cat([torch.arange(part * 8, part * 8 + size) for part in range(3)])
        self.sampled = self.qkv.weight[rows], self.qkv.bias[rows], self.proj.weight[:, :size]
        self.heads = config["heads"]

    def forward(self, x):
        weight, bias, proj = self.sampled
        q, k, v = F.linear(x.flatten(2).mT, weight, bias).unflatten(2, (3, self.heads, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(y, proj, self.proj.bias).mT.unflatten(2, x.shape[2:]), None


def plain_attention(layer, config, shape):
    weight, bias, proj = layer.sampled
    layer.qkv.weight, layer.qkv.bias, layer.proj.weight = map(nn.Parameter, (weight, bias, proj))
    return Sampled(layer.qkv, layer.proj, layer.heads)


class Sampled(nn.Module):
    def __init__(self, qkv, proj, heads):
        super().__init__()
        self.qkv, self.proj, self.heads = qkv, proj, heads

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2).mT).unflatten(2, (3, self.heads, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(y).mT.unflatten(2, x.shape[2:]), None


class Choices(nn.Module):
    """`forward(x, code)`: an operation per layer, as whole networks take it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3)) for _ in "ab")

    def forward(self, x, code):
        for layer, choice in zip(self.layers, code):
            x = layer[choice](x)
        return x


def plain_choices(net, code, shape):
    return nn.Sequential(*(layer[choice] for layer, choice in zip(net.layers, code)))


CODES = list(itertools.product(range(2), repeat=2))
FAMILIES = {
    "elastic kernel": lambda extract: configured(
        ElasticKernel(), [{"active_kernel_size": k} for k in (3, 5)], set_attributes,
        extract=plain_kernel if extract else None),
    "elastic width": lambda extract: configured(
        ElasticWidth(), [8, 16], lambda layer, width: setattr(layer, "width", width),
        extract=plain_width if extract else None),
    "masked width": lambda extract: encoded(MaskedWidth(), [4, 8, 16], extract=plain_masked if extract else None),
    "configuration": lambda extract: configured(
        Attention(), [{"heads": 1}, {"heads": 2}], pick=0, extract=plain_attention if extract else None),
    "code": lambda extract: encoded(Choices(), CODES, extract=plain_choices if extract else None),
}  # fmt: skip
EXPECTED = {  # parameters and MAdds per candidate on 4 x 6 x 6, by hand
    "elastic kernel": ([4 * 9 + 8, 4 * 25 + 8], [36 * 4 * 9, 36 * 4 * 25]),
    "elastic width": ([n * 4 + 2 * n + n * 4 + 4 for n in (8, 16)], [36 * 8 * n for n in (8, 16)]),
    "masked width": ([n * 9 + 4 for n in (4, 8, 16)], [36 * 8 * n for n in (4, 8, 16)]),
    "configuration": (
        [12 * 5 + 20, 24 * 5 + 36],
        [36 * (12 * 4 + 16) + 36 * 36 * 8, 36 * (24 * 4 + 32) + 36 * 36 * 16],
    ),
    "code": ([20 * 2, 20 + 148, 148 + 20, 148 * 2], [36 * 16 * n for n in (2, 10, 10, 18)]),
}
SHAPE = (4, 6, 6)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def supernet(layer):
    return pynas.Supernet([[[layer]]], stem=nn.Conv2d(3, 4, 1), head=nn.Flatten())


@pytest.mark.parametrize("family", FAMILIES)
def test_costs_and_networks_are_those_of_the_extracted_module(family):
    net = supernet(FAMILIES[family](True)).eval()
    before, drawn = [t.clone() for t in net.state_dict().values()], torch.get_rng_state()
    table = costs.count(net, (3, 6, 6))
    for name, expected in zip(("params", "madds"), EXPECTED[family]):
        assert table[name][0][0].tolist() == expected
    images, memory = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), set()
    kept = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    for architecture in net.space.architectures():
        plain = export.subnet(net, architecture, (3, 6, 6))
        assert costs.count_module(plain, (3, 6, 6))[0] == table.of(architecture)
        assert sum(p.untyped_storage().nbytes() for p in plain.parameters()) == 4 * table.of(architecture)["params"]
        memory |= {t.untyped_storage().data_ptr() for t in plain.state_dict().values()}
        with torch.no_grad():
            torch.testing.assert_close(plain(images), net(images, architecture))
    assert not memory & kept and all(map(torch.equal, before, net.state_dict().values()))
    assert torch.equal(drawn, torch.get_rng_state())


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_of_one_layer_need_extract(family):
    net = supernet(FAMILIES[family](False))
    for where, call in (
        ("costs", lambda: costs.count(net, (3, 6, 6))),
        ("latency", lambda: costs.latency(net, (3, 6, 6))),
        ("extract", lambda: export.subnet(net, "0", (3, 6, 6))),
    ):
        expected = rf"^\[{where}\] expected settings of a shared \w+ .*, got .* without extract=; pass extract=.* \(in "
        with pytest.raises(InputError, match=expected + r"candidate 0 of layer 0 of cell 0 of block 0\)$"):
            call()


def test_one_setting_alone_is_counted_where_it_reads_everything():
    widest, narrow = (
        supernet([configured(ElasticWidth(), [n], lambda m, n: setattr(m, "width", n))[0]]) for n in (16, 8)
    )
    assert costs.count(widest, (3, 6, 6))["params"][0][0].tolist() == [EXPECTED["elastic width"][0][1]]
    with pytest.raises(InputError, match=r"got Setting, which reads a part of 'layer\.expand\.weight'; pass extract="):
        costs.count(narrow, (3, 6, 6))


def test_a_whole_network_by_code_is_counted_searched_and_exported():
    net = pynas.Supernet([[[FAMILIES["code"](True)]]])
    rated = Scores(net.space, [[ScoreTable(np.array([4.0, 3.0, 2.0, 1.0]))]])
    found = pynas.search.best(rated, costs.count(net, SHAPE), {"params": 200})
    assert str(found[0].architecture) == "2" and found[0].costs["params"] == 168
    assert [conv.kernel_size for conv in export.subnet(net, found[0].architecture, SHAPE).modules()
            if isinstance(conv, nn.Conv2d)] == [(3, 3), (1, 1)]  # fmt: skip


@pytest.mark.parametrize("extract, problem", [
    (lambda layer, code, shape: layer.nothing, "AttributeError from Choices"),
    (lambda layer, code, shape: None, "got NoneType; return the module"),
])  # fmt: skip
def test_a_function_that_does_not_extract_is_named(extract, problem):
    with pytest.raises(
        InputError, match=rf"^\[costs\] expected an? .*[mM]odule from extract\(.*{problem}.* \(in candidate 0 of"
    ):
        costs.count(supernet(encoded(Choices(), CODES, extract=extract)), (3, 6, 6))


def test_what_extract_does_to_its_layer_or_keeps_of_ours_stays_apart():
    ours = Choices()
    net = pynas.Supernet(
        [[[encoded(ours, CODES, extract=lambda layer, code, shape: plain_choices(ours, code, shape))]]]
    )
    plain = export.subnet(net, "3", SHAPE)
    nn.init.zeros_(next(plain.parameters()))
    assert all(parameter.abs().sum() > 0 for parameter in ours.parameters())


def test_depth_as_identity_keeps_its_rule():
    layers, rule = elastic_depth([[nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3)] for _ in range(3)])
    net = pynas.Supernet([[layers]], allowed=[[rule]])
    paths = {a[0].path for a in net.space.architectures()}
    assert paths == {p for p in itertools.product((0, 1), (0, 1, 2), (0, 1, 2)) if p[1] != 2 or p[2] == 2}
    assert [len(layer) for layer in layers] == [2, 3, 3] and isinstance(layers[2][2], nn.Identity)
    params = costs.count(net, SHAPE)["params"][0][0]
    assert params[0, 2, 2] == 20 and params[1, 0, 2] == 168 and params[0, 2, 0] == 0
    rated = pynas.rate(layers, [(torch.randn(2, *SHAPE), torch.randn(2, *SHAPE))], allowed=rule)
    assert {path for path in np.ndindex(2, 3, 3) if not np.isnan(rated[path])} == paths
    found = pynas.search.best(Scores(net.space, [[rated]]), costs.count(net, SHAPE), {"params": 30})
    assert found[0].architecture[0].path == (0, 2, 2)
    with pytest.raises(InputError, match="from 0 to 3 layers, got 4"):
        elastic_depth(layers, 4)


def test_rules_are_checked_where_the_space_is_made():
    candidates = [[[nn.Identity(), nn.Identity()]] * 2]
    for rule, problem in (
        (lambda prefix: len(prefix) < 2, "that allows a path in cell 0 of block 0, got none"),
        (
            lambda prefix: prefix[1] == 0,
            "takes every prefix of a path in cell 0 of block 0, got IndexError: tuple index",
        ),
    ):
        with pytest.raises(InputError, match=problem):
            pynas.Supernet([candidates], allowed=[[rule]])
    for rules, got in (([[None, None]], r"\[2\]"), ([None], "list without a list per block"), (7, "int without")):
        with pytest.raises(
            InputError, match=rf"for every cell, \[1\] by block, got {got}.*; pass allowed\[block\]\[cell\]"
        ):
            pynas.Supernet([candidates], allowed=rules)
    with pytest.raises(InputError, match="expected a space or rules, got both"):
        pynas.Supernet([candidates], space=Space.from_counts("x", [[(2, 2)]]), allowed=[[None]])


def test_one_cell_takes_the_rule_itself():
    candidates = [[nn.Identity(), nn.Identity()]] * 2
    rule = lambda prefix: prefix != (0, 1)  # noqa: E731
    net = pynas.Supernet([[candidates]], allowed=rule)
    assert [str(a) for a in net.space.architectures()] == ["00", "10", "11"]
    for blocks in ([[candidates, candidates]], [[candidates], [candidates]]):
        with pytest.raises(
            InputError, match=r"got one rule; pass allowed\[block\]\[cell\], for a single cell also the rule"
        ):
            pynas.Supernet(blocks, allowed=rule)
    with pytest.raises(InputError, match="got list without a list per block"):
        pynas.Supernet([[candidates]], allowed=[rule])


def test_an_export_without_the_shape_of_the_input_asks_for_it():
    def extract(layer, code, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 2)).requires_grad_(code > 0)

    shared = nn.Linear(12, 2)
    layer = encoded(shared, [0, 1], lambda layer, x, code: layer(x.flatten(1)), extract=extract)
    net = pynas.Supernet([[[[nn.Conv2d(4, 3, 1)], layer]]])
    with pytest.raises(InputError, match=r"had the shape \(3, 224, 224\), as no .* another one, pass image_shape="):
        export.subnet(net, "01")
    assert export.subnet(net, "01", (4, 2, 2))(torch.randn(2, 4, 2, 2)).shape == (2, 2)


def test_tables_beyond_memory_are_refused_before_anything_runs():
    net = pynas.Supernet([[[[nn.Identity() for _ in range(4)] for _ in range(20)]]])
    for call in (lambda: costs.count(net, SHAPE), lambda: costs.latency(net, SHAPE)):
        with pytest.raises(InputError, match=r"got 1,099,511,627,776 paths in cell 0 of block 0; split its layers"):
            call()


def test_errors_name_the_place():
    linear = nn.Linear(6, 6)
    blocks = [[[[linear]]], [[[linear], [linear, nn.Linear(5, 6)]]]]
    for call in (costs.count, costs.latency):
        with pytest.raises(
            InputError, match=r"got RuntimeError from Linear.*\(in candidate 1 of layer 1 of cell 0 of block 1\)$"
        ):
            call(pynas.Supernet(blocks), (6,))
        for name in ("stem", "head"):
            with pytest.raises(InputError, match=rf"RuntimeError from Linear.*\(in the {name}\)$"):
                call(pynas.Supernet(blocks[:1], **{name: nn.Linear(5, 6)}), (6,))


def test_costs_of_many_paths_print_short():
    net = pynas.Supernet([[[[nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3)]] * 6]])
    counted = costs.count(net, SHAPE)
    assert repr(counted).startswith("Costs(fixed={'params': 0") and len(repr(counted)) < 300
