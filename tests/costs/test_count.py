"""Cost tables: the published FLOPs figures, and exported networks counted whole."""

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import costs, export
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.nn import MBConv

OPS = [(6, 3), (6, 5), (6, 7), (3, 3), (3, 5), (3, 7)]
# The FLOPs table of DNA's released code, in thousands: in, out, side of the input, stride, figures by OPS.
PUBLISHED = [
    (16, 24, 112, 2, (32364, 37181, 44407, 16257, 18666, 22279)),
    (24, 24, 56, 1, (27699, 34924, 45762, 13925, 17537, 22956)),
    (32, 40, 56, 2, (28215, 30623, 34236, 14139, 15343, 17149)),
    (40, 40, 28, 1, (17567, 20577, 25093, 8815, 10320, 12578)),
    (40, 80, 28, 2, (12220, 12972, 14101, 6126, 6502, 7066)),
    (80, 80, 14, 1, (16327, 17832, 20090, 8179, 8932, 10061)),
    (80, 96, 14, 1, (17838, 19344, 21602, 8938, 9691, 10820)),
    (96, 96, 14, 1, (23210, 25016, 27725, 11624, 12527, 13882)),
    (192, 192, 7, 1, (22540, 23444, 24798, 11280, 11731, 12409)),
    (192, 320, 7, 1, (29778, 30682, 32036, 14905, 15356, 16034)),
]


def batch_norm_elements(module, shape):
    """Output elements of all batch norms, for one image."""
    elements = []
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda m, i, output: elements.append(output.numel()))
    module.eval()(torch.zeros(1, *shape))
    return sum(elements)


@pytest.mark.parametrize("inputs, outputs, side, stride, figures", PUBLISHED)
def test_published_flops(inputs, outputs, side, stride, figures):
    # The published rule: MAdds of convolutions plus 2 per batch-norm output element; figures to 1 in 10,000.
    for (expand, kernel), figure in zip(OPS, figures):
        block = MBConv(inputs, outputs, kernel, expand, stride)
        counted, shape = costs.count_module(block, (inputs, side, side))
        assert shape == (outputs, side // stride, side // stride)
        total = counted["madds"] + 2 * batch_norm_elements(block, (inputs, side, side))
        assert total / 1000 == pytest.approx(figure, rel=1e-4)


def naive_madds(module, images):
    """Multiply-adds by hooks, independently of the counter: every convolution and linear layer that runs."""
    total = 0

    def hook(layer, inputs, output):
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        else:
            total += output[0].numel() * layer.in_features

    handles = [m.register_forward_hook(hook) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    module.eval()(images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name, samples", [("mbconv-mini", 6), ("mbconv-boss", 1), ("mbconv-dna", 2)])
def test_tables_equal_counting_the_exported_network(name, samples):
    net = pynas.supernet(name, num_classes=10)
    side = net.space.image_size
    table = costs.count(net, (3, side, side))
    rng = np.random.default_rng(0)
    for _ in range(samples):
        architecture = net.space.sample(rng)
        model = export.subnet(net, architecture)
        cost = table.of(architecture)
        assert cost["params"] == sum(p.numel() for p in model.parameters())
        assert cost["madds"] == naive_madds(model, torch.zeros(1, 3, side, side))


def test_tables_have_the_shape_of_the_space_and_survive_a_file(tmp_path):
    net = pynas.supernet("mbconv-mini", num_classes=10)
    table = costs.count(net, (3, 32, 32))
    table.save(tmp_path / "costs.npz")
    again = Costs.load(tmp_path / "costs.npz")
    assert again.fixed == table.fixed and again.names == table.names
    for name in ("params", "madds"):
        for cells, read, described in zip(table[name], again[name], net.space.blocks):
            assert [cell.shape for cell in cells] == [cell.counts for cell in described]
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(cells, read))


def test_counting_leaves_the_net_alone():
    net = pynas.supernet("mbconv-mini", num_classes=10).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    costs.count(net, (3, 32, 32))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_disagreeing_shapes_are_named():
    net = pynas.Supernet([[[[nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)]]]])
    with pytest.raises(InputError, match="block 0.*one shape"):
        costs.count(net, (3, 8, 8))


def test_truncated_costs_are_named(tmp_path):
    path = tmp_path / "costs.npz"
    Costs({"madds": [[np.arange(6)]]}, {"madds": 1}).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"damaged.*costs\.npz"):
        Costs.load(path)
