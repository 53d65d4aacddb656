"""The slimmable layers of the size space against NATS-Bench's operations written out with slices of the weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pynas.nn.nats import SlimmableNATSCell, SlimmableNATSHead, SlimmableNATSResidual, SlimmableNATSStem

WIDTHS = (2, 4, 6)


def shuffle_norms(module):
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


def normalised(x, switchable, width):
    norm = getattr(switchable.of_width, str(width))
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def operation(op, x, width, relu=True, stride=1):
    weight = op.conv.weight[:width, : x.shape[1]]
    y = F.conv2d(x.clamp(min=0) if relu else x, weight, stride=stride, padding=weight.shape[-1] // 2)
    return normalised(y, op.norm, width)


def cell(layer, x, width):
    first = operation(layer.edges["01"], x, width)
    second = operation(layer.edges["02"], x, width) + operation(layer.edges["12"], first, width)
    skip = x if x.shape[1] == width else operation(layer.edges["03"], x, width, relu=False)
    return skip + operation(layer.edges["13"], first, width) + operation(layer.edges["23"], second, width)


def residual(layer, x, width):
    y = operation(layer.second, operation(layer.first, x, width, stride=2), width)
    return y + F.conv2d(F.avg_pool2d(x, 2, 2), layer.shortcut.weight[:width, : x.shape[1]])


def stem(layer, x, width):
    return cell(layer.cell, operation(layer.stem, x, width, relu=False), width)


CASES = {
    "cell": (lambda: SlimmableNATSCell(WIDTHS, 6), cell, WIDTHS),
    "residual": (lambda: SlimmableNATSResidual(WIDTHS, 6), residual, WIDTHS),
    "stem": (lambda: SlimmableNATSStem(WIDTHS), stem, (3,)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_width_is_the_benchmarks_layer(case):
    make, reference, inputs = CASES[case]
    layer = make().double().eval()
    shuffle_norms(layer)
    for channels in inputs:
        x = torch.randn(2, channels, 8, 8).double()
        together = layer.forward_widths(x, WIDTHS)
        for width, y in zip(WIDTHS, together):
            expected = reference(layer, x, width)
            torch.testing.assert_close(layer(x, width), expected)
            torch.testing.assert_close(y, expected)
            plain = layer.extract(channels, width)
            torch.testing.assert_close(plain(x), expected)
            assert not any("limmable" in type(part).__name__ for part in plain.modules())


@pytest.mark.parametrize("case", CASES)
def test_training_updates_the_statistics_of_this_width_only(case):
    make, _, inputs = CASES[case]
    layer = make()
    plain = layer.extract(inputs[0], 4)
    x = torch.randn(2, inputs[0], 8, 8)
    assert torch.equal(layer(x, 4), plain(x))
    for name, part in layer.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            used = name.endswith(".4") and not (inputs[0] == 4 and "edges.03" in name)
            assert bool(part.num_batches_tracked) == used, name
    tracked = [part.running_mean for part in plain.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(mean.any() for mean in tracked)


def test_head():
    head = SlimmableNATSHead(WIDTHS, 5).double().eval()
    shuffle_norms(head)
    for width in WIDTHS:
        x = torch.randn(2, width, 4, 4).double()
        pooled = normalised(x, head.norm, width).relu().mean((2, 3))
        expected = pooled @ head.classifier.weight[:, :width].T + head.classifier.bias
        torch.testing.assert_close(head(x), expected)
        torch.testing.assert_close(head.extract((width, 4, 4))(x), expected)
