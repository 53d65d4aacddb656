"""The cell network: costs of the published table, one architecture by hand, extraction."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

import pynas
from pynas import costs, export, spaces, tabular
from pynas.nn.cell import ReLUConvBN


@pytest.fixture
def net():
    torch.manual_seed(0)
    return pynas.supernet(spaces.nasbench201(n=1, channels=(4, 6), image_size=8), 3)


def test_parameters_and_madds_of_the_published_space():
    """`pynas.tabular` counts them from the benchmark's layout alone."""
    bench = tabular.load("nasbench201")
    with torch.device("meta"):
        net = pynas.supernet("nasbench201", 10)
    counted, published = costs.count(net, (3, 32, 32)), tabular.costs(bench)
    for name in ("params", "madds"):
        ours = counted[name][0][0].reshape(-1) + counted.fixed[name]
        rows = np.ravel_multi_index(tuple(bench.choices.T.astype(int)), (5,) * 6)
        np.testing.assert_array_equal(ours[rows], published[name])


def naive(net, images, architecture):
    """The network node by node, from the strings of the benchmark."""

    def convolve(x, part):
        x = functional.conv2d(functional.relu(x), part.conv.weight, stride=part.conv.stride, padding=part.conv.padding)
        return functional.batch_norm(x, None, None, part.bn.weight, part.bn.bias, training=True)

    x = functional.conv2d(images, net.stem[0].weight, padding=1)
    x = functional.batch_norm(x, None, None, net.stem[1].weight, net.stem[1].bias, training=True)
    for part in net.body:
        if not hasattr(part, "edges"):
            y = convolve(convolve(x, part.conv_a), part.conv_b)
            x = y + functional.conv2d(functional.avg_pool2d(x, 2), part.shortcut[1].weight)
            continue
        nodes, number = [x], 0
        for node in net.space.format(architecture).split("+"):
            total = torch.zeros_like(x)
            for edge in node.strip("|").split("|"):
                op, source = edge.split("~")
                value, module = nodes[int(source)], part.edges[number][architecture[0].path[number]]
                if op.startswith("nor_conv"):
                    assert module.conv.kernel_size[0] == int(op[-1])
                    total = total + convolve(value, module)
                elif op == "avg_pool_3x3":
                    ones = functional.avg_pool2d(torch.ones_like(value), 3, 1, 1)
                    total = total + functional.avg_pool2d(value, 3, 1, 1) / ones
                elif op == "skip_connect":
                    total = total + value
                number += 1
            nodes.append(total)
        x = nodes[-1]
    x = functional.batch_norm(x, None, None, net.head[0].weight, net.head[0].bias, training=True)
    return functional.linear(functional.relu(x).mean((2, 3)), net.classifier.weight, net.classifier.bias)


def test_forward_is_the_benchmarks_network(net):
    rng = np.random.default_rng(0)
    net.train()
    for norm in (part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias)
    images = torch.randn(4, 3, 8, 8)
    for architecture in [net.space.sample(rng) for _ in range(20)] + [net.space.parse("0" * 6)]:
        torch.testing.assert_close(net(images, architecture), naive(net, images, architecture))


def test_an_extracted_network_gives_the_same_and_costs_what_the_table_says(net):
    rng = np.random.default_rng(1)
    counted, images = costs.count(net, (3, 8, 8)), torch.randn(4, 3, 8, 8)
    for architecture in [net.space.sample(rng) for _ in range(8)] + [net.space.parse("0" * 6)]:
        model = export.subnet(net, architecture).eval()
        torch.testing.assert_close(model(images), net.eval()(images, architecture))
        assert costs.count_module(model, (3, 8, 8))[0] == counted.of(architecture)
        shared = {id(p) for p in net.parameters()} & {id(p) for p in model.parameters()}
        assert not shared


def test_modules_of_an_architecture_are_those_that_get_gradients(net):
    architecture = net.space.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|"
                                   "nor_conv_3x3~1|nor_conv_1x1~2|")  # fmt: skip
    net(torch.randn(4, 3, 8, 8), architecture).sum().backward()
    used = {id(p) for part in net.modules_of(architecture) for p in part.parameters()}
    assert used == {id(p) for p in net.parameters() if p.grad is not None}
    convolutions = [part for part in net.modules_of(architecture) if isinstance(part, ReLUConvBN)]
    assert len(convolutions) == 5 * 2


def test_standalone_and_file(net, tmp_path):
    architecture = net.space.sample(np.random.default_rng(3))
    model = export.subnet(net, architecture)
    export.save_subnet(tmp_path / "subnet.safetensors", model, net.space, architecture, 3)
    again, _ = export.load_subnet(tmp_path / "subnet.safetensors", net.space)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again(images), copy.deepcopy(model).eval()(images))


def test_latency_is_measured_edge_by_edge(net):
    measured = costs.latency(net.eval(), (3, 8, 8), repeats=1, warm_up=0)
    table = measured["latency"][0][0]
    assert table.shape == (5,) * 6 and measured.fixed["latency"] > 0
    none, conv = table[0, 0, 0, 0, 0, 0], table[3, 0, 0, 0, 0, 0]
    assert none == 0 < conv
