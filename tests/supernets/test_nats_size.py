"""The supernet of nats-size against NATS-Bench's networks, written out as the benchmark builds them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas import export, search
from pynas.costs import Costs, count, count_module
from pynas.rating import Scores, ScoreTable
from pynas.spaces import nats_size
from pynas.train.method import unshared_state


class ReLUConvBN(nn.Module):
    def __init__(self, inputs, outputs, kernel=3, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(F.relu(x)))


class Skip(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x))


class InferCell(nn.Module):
    """Built from the architecture string: for each node the operations with the node they come from."""

    GENOTYPE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers, self.nodes = nn.ModuleDict(), []
        for to, node in enumerate(self.GENOTYPE.split("+"), 1):
            self.nodes.append([])
            for text in filter(None, node.split("|")):
                op, source = text.split("~")
                width = inputs if source == "0" else outputs
                same = nn.Identity() if width == outputs else Skip(width, outputs)
                self.layers[f"{source}{to}"] = same if op == "skip_connect" else ReLUConvBN(width, outputs)
                self.nodes[-1].append(int(source))

    def forward(self, x):
        nodes = [x]
        for to, sources in enumerate(self.nodes, 1):
            nodes.append(sum(self.layers[f"{source}{to}"](nodes[source]) for source in sources))
        return nodes[-1]


class ResNetBasicblock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv_a, self.conv_b = ReLUConvBN(inputs, outputs, 3, 2), ReLUConvBN(outputs, outputs)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2, 0), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x):
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class DynamicShapeTinyNet(nn.Module):
    """The benchmark's network of given widths."""

    def __init__(self, channels, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]))
        self.cells, before = nn.ModuleList(), channels[0]
        for width, reduction in zip(channels, (False, True, False, True, False)):
            self.cells.append((ResNetBasicblock if reduction else InferCell)(before, width))
            before = width
        self.lastact = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self.classifier = nn.Linear(before, classes)

    def forward(self, x):
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        return self.classifier(F.adaptive_avg_pool2d(self.lastact(x), 1).flatten(1))


def copy_conv(conv, shared):
    conv.weight.data.copy_(shared.weight[: conv.out_channels, : conv.in_channels])


def copy_norm(norm, switchable):
    norm.load_state_dict(switchable.of_width[str(norm.num_features)].state_dict())


def copy_operation(op, shared):
    copy_conv(op.conv, shared.conv)
    copy_norm(op.bn, shared.norm)


def benchmark_network(net, text, classes):
    """The benchmark's network with the supernet's slices."""
    plain = DynamicShapeTinyNet([int(width) for width in text.split(":")], classes)
    layers = [cells[0][n][0].layer for cells in net.blocks for n in range(len(cells[0]))]
    copy_conv(plain.stem[0], layers[0].stem.conv)
    copy_norm(plain.stem[1], layers[0].stem.norm)
    layers[0] = layers[0].cell
    for cell, shared in zip(plain.cells, layers):
        if isinstance(cell, InferCell):
            for edge, op in cell.layers.items():
                if not isinstance(op, nn.Identity):
                    copy_operation(op, shared.edges[edge])
        else:
            copy_operation(cell.conv_a, shared.first)
            copy_operation(cell.conv_b, shared.second)
            copy_conv(cell.downsample[1], shared.shortcut)
    copy_norm(plain.lastact[0], net.head.norm)
    plain.classifier.weight.data.copy_(net.head.classifier.weight[:, : plain.classifier.in_features])
    plain.classifier.bias.data.copy_(net.head.classifier.bias)
    return plain


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = pynas.supernet("nats-size", num_classes=10)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return net.eval()


NETWORKS = ("64:40:48:64:56", "8:8:8:8:8", "64:64:64:64:64", "8:64:8:64:8", "24:16:16:32:32")


@pytest.mark.parametrize("text", NETWORKS)
def test_supernet_export_and_benchmark_agree(net, text):
    architecture = net.space.parse(text)
    images = torch.randn(2, 3, 16, 16)
    expected = benchmark_network(net, text, 10).eval()(images)
    y = net(images, architecture)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    plain = export.subnet(net, text)
    torch.testing.assert_close(plain(images), y, rtol=1e-5, atol=1e-6)
    assert not any("limmable" in type(part).__name__ for part in plain.modules())


@pytest.mark.parametrize("blocks", [(2, 2, 1), (2, 1, 2)])
def test_costs_are_those_of_the_benchmarks_networks(blocks):
    space = nats_size("small", blocks, (4, 8, 12))
    net = pynas.supernet(space, num_classes=10)
    costs = count(net, (3, 32, 32))
    for text in ("12:8:8:12:4", "4:4:4:4:4", "12:12:12:12:12", "4:12:4:12:4"):
        architecture = space.parse(text)
        expected, _ = count_module(DynamicShapeTinyNet([int(width) for width in text.split(":")], 10), (3, 32, 32))
        exported, _ = count_module(export.subnet(net, architecture), (3, 32, 32))
        for cost in ("params", "madds"):
            assert costs.of(architecture)[cost] == expected[cost] == exported[cost]


def test_weights_exist_once(net):
    largest = DynamicShapeTinyNet([64] * 5, 10)
    convolutions = sum(p.numel() for p in largest.parameters() if p.ndim > 1)
    skips = 2 * 64 * 64
    assert sum(p.numel() for p in net.parameters() if p.ndim > 1) == convolutions + skips
    assert sum(value.numel() for name, value in unshared_state(net).items() if value.ndim > 1) == convolutions + skips


def test_a_step_trains_the_chosen_slices():
    torch.manual_seed(0)
    net = pynas.supernet("nats-size", num_classes=10)
    net(torch.randn(2, 3, 8, 8), net.space.parse("16:8:8:16:24")).sum().backward()
    weight = net.blocks[0][0][1][0].layer.first.conv.weight
    assert weight.grad[:8, :16].any() and not weight.grad[8:].any() and not weight.grad[:, 16:].any()
    assert net.head.classifier.weight.grad[:, :24].any() and not net.head.classifier.weight.grad[:, 24:].any()


def test_standalone_network():
    space = nats_size("small", widths=(4, 8))
    model = export.standalone(space, "8:4:4:8:8", 5)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    expected, _ = count_module(DynamicShapeTinyNet([8, 4, 4, 8, 8], 5), (3, 32, 32))
    assert count_module(model, (3, 32, 32))[0]["params"] == expected["params"]


def test_search_hands_the_width_over():
    space = nats_size("small", widths=(4, 8))
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks]
    costs = Costs({"none": [[np.zeros(cell.counts) for cell in cells] for cells in space.blocks]}, {"none": 0})
    found = search.best(Scores(space, tables), costs, top_k=40)
    scores = {}
    for text in np.ndindex(*[2] * 5):
        architecture = space.parse(":".join(str((4, 8)[k]) for k in text))
        scores[architecture] = sum(tables[b][choice.cell].scores[choice.path] for b, choice in enumerate(architecture))
    expected = sorted(scores, key=scores.get)
    assert [entry.architecture for entry in found] == expected
