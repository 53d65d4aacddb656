"""Smaller kernels: they give the outputs of the unit with zeros around the kernel's centre."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts
from pynas.compress.kernels import crop_kernel, find_kernels
from pynas.compress.units import find_units

from .families import FAMILIES, built


def units_of(name):
    model, call = built(FAMILIES[name])
    return find_units(model.double(), call.to(torch.device("cpu"), torch.float64))


@pytest.mark.parametrize(
    "name, kernels",
    [
        ("timm efficientnet", {f"{stage}.{unit}": 5 for stage, units in ((2, 2), (4, 3), (5, 4)) for unit in range(units)}),
        ("timm mobilenetv3", {f"{stage}.{unit}": 5 for stage, units in ((2, 3), (3, 2), (4, 3)) for unit in range(units)}),
        ("timm convnext", {"stages.0.blocks.0": 7, "stages.3.blocks.1": 7}),
    ],
)  # fmt: skip
@torch.no_grad()
def test_cropped_kernel_equals_zeros_around_its_centre(name, kernels):
    units = units_of(name)
    if "convnext" in name:
        units = [units[0], units[-1]]
    found = {unit.name.removeprefix("blocks."): find_kernels(unit) for unit in units}
    assert {unit for unit, names in found.items() if names} == {*kernels}
    for unit in units:
        for layer in find_kernels(unit):
            side = kernels[unit.name.removeprefix("blocks.")]
            assert layer == "conv_dw" and unit.module.conv_dw.kernel_size == (side, side)
            for smaller in range(3, side, 2):
                cropped, zeroed = copy.deepcopy(unit.module), copy.deepcopy(unit.module)
                crop_kernel(cropped.conv_dw, smaller)
                margin = (side - smaller) // 2
                inner = torch.zeros(side, side, dtype=torch.float64)
                inner[margin : side - margin, margin : side - margin] = 1
                zeroed.conv_dw.weight.mul_(inner)
                expected = unit.pick(unit.call(zeroed))
                torch.testing.assert_close(unit.pick(unit.call(cropped)), expected, rtol=1e-9, atol=1e-9)
                if (
                    unit.feature(unit.call).shape[-1] > 1 + smaller // 2
                ):  # in smaller maps, zeros alone lie around the centre
                    assert (unit.pick(unit.call(unit.module)) - expected).abs().max() > 1e-3
                assert cropped.conv_dw.weight.shape[2:] == (smaller, smaller)
                repr(cropped)


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2, "padding": 4}, {"padding": "same"}, {"bias": False},
                                     {"padding_mode": "reflect"}, {"padding_mode": "circular", "padding": 2}], ids=str)  # fmt: skip
@torch.no_grad()
def test_options_of_convolutions(options):
    layer = nn.Conv2d(4, 4, 5, groups=4, **{"padding": 2, **options}).double()
    layer.weight.requires_grad_(False)
    cropped, zeroed = copy.deepcopy(layer), copy.deepcopy(layer)
    crop_kernel(cropped, 3)
    zeroed.weight[:, :, [0, 4]] = 0
    zeroed.weight[:, :, :, [0, 4]] = 0
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(cropped(x), zeroed(x))
    assert not cropped.weight.requires_grad and layer.weight.shape[-1] == 5
    restored = copy.deepcopy(cropped)
    torch.testing.assert_close(restored(x), zeroed(x))


class Around(nn.Module):
    """Residual unit around a depthwise convolution."""

    def __init__(self, *between, **options):
        super().__init__()
        self.branch = nn.Sequential(
            *between, nn.Conv2d(4, 4, **{"groups": 4, "padding": 2, **options}), nn.Conv2d(4, 4, 1)
        )

    def forward(self, x):
        y = self.branch(x)
        return x[..., : y.shape[-2], : y.shape[-1]] + y if y.shape != x.shape else x + y


@pytest.mark.parametrize(
    "kernel_size, options, found",
    [(5, {}, True), (3, {"padding": 1}, False), (4, {"padding": "same"}, False), (5, {"groups": 2}, False),
     ((5, 3), {"padding": (2, 1)}, False)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_which_kernels_are_found(kernel_size, options, found):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Around(kernel_size=kernel_size, **options)).eval()
    (unit,) = find_units(model, Call((torch.randn(2, 3, 8, 8),)))
    assert find_kernels(unit) == ["branch.0"] * found


def test_kernel_whose_padding_is_elsewhere():
    """A layer before the convolution pads for the kernel as it is: the feature would have another size with a smaller one."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Around(nn.ZeroPad2d(2), kernel_size=5, padding=0)).eval()
    (unit,) = find_units(model, Call((torch.randn(2, 3, 8, 8),)))
    assert find_kernels(unit) == []


def test_sizes_and_candidates():
    unit = next(unit for unit in units_of("timm convnext"))
    parts = Parts.of(unit)
    cuts = parts.cuts((1.0,), (1.0,), (3, 5), drop=False)
    assert [cut.kernel for cut in cuts] == [0, 3, 5]
    assert [parts.sizes(cut)["kernel conv_dw"] for cut in cuts] == [7, 3, 5]
    assert parts.cut(parts.sizes(Cut(kernel=9))).conv_dw.kernel_size == (7, 7)
