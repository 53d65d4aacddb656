"""Cuts of hidden channels: every family gives the outputs of the unit with zeros where the removed channels are read."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts
from pynas.compress.units import Unit, find_units
from pynas.compress.widths import Hidden, find_hidden, keep_hidden

from .families import FAMILIES, built


@dataclass(frozen=True)
class Expected:
    """Hidden channels of a family's last unit, written by hand.

    channels, parts: their number, and the groups of which each keeps as many. readers: names of all layers that read them.
    size: parameters of one channel.
    """

    channels: int
    parts: int
    readers: tuple[str, ...]
    size: int


SQUEEZED = ("conv_pwl", "se.conv_reduce")
EXPECTED = {
    "timm mobilenetv2": [Expected(960, 1, ("conv_pwl",), 160 + 2 + 9 + 2 + 320)],
    "timm mobilenetv3": [Expected(576, 1, SQUEEZED, 96 + 2 + 25 + 2 + 96 + 2 * 144 + 1)],
    "timm efficientnet": [Expected(1152, 1, SQUEEZED, 192 + 2 + 9 + 2 + 320 + 2 * 48 + 1)],
    "timm resnet18": [Expected(512, 1, ("conv2",), 2 * 9 * 512 + 2)],
    "timm resnet50": [Expected(512, 1, ("conv2",), 2048 + 2 + 9 * 512), Expected(512, 1, ("conv3",), 9 * 512 + 2 + 2048)],
    "timm regnet": [
        Expected(440, 55, ("conv2.conv",), 440 + 2 + 9 * 8),
        Expected(440, 55, ("conv3.conv", "se.fc1"), 9 * 8 + 2 + 440 + 2 * 110 + 1),
    ],
    "timm convnext": [Expected(1280, 1, ("mlp.fc2",), 2 * 320 + 1)],
    "timm convnextv2": [Expected(1280, 1, ("mlp.fc2",), 2 * 320 + 1 + 2)],
    "timm deit": [Expected(192, 1, ("mlp.fc2",), 2 * 48 + 1)],
    "timm swin": [Expected(192, 1, ("mlp.fc2",), 2 * 48 + 1)],
    "mobilenet_v2": [Expected(960, 1, ("conv.2",), 160 + 2 + 9 + 2 + 320)],
    "mobilenet_v3": [Expected(576, 1, ("block.3.0", "block.2.fc1"), 96 + 2 + 25 + 2 + 96 + 2 * 144 + 1)],
    "efficientnet": [Expected(1152, 1, ("block.3.0", "block.2.fc1"), 192 + 2 + 9 + 2 + 320 + 2 * 48 + 1)],
    "resnet18": [Expected(512, 1, ("conv2",), 2 * 9 * 512 + 2)],
    "regnet": [
        Expected(440, 55, ("f.b.0",), 440 + 2 + 9 * 8),
        Expected(440, 55, ("f.c.0", "f.se.fc1"), 9 * 8 + 2 + 440 + 2 * 110 + 1),
    ],
    "convnext": [Expected(3072, 1, ("block.5",), 2 * 768 + 1)],
    "vit": [Expected(48, 1, ("mlp.3",), 2 * 32 + 1)],
    "swin": [Expected(192, 1, ("mlp.3",), 2 * 48 + 1)],
    "BERT": [Expected(48, 1, ("output.dense",), 2 * 32 + 1)],
    "BERT classifier": [Expected(48, 1, ("output.dense",), 2 * 32 + 1)],
    "RoBERTa": [Expected(48, 1, ("output.dense",), 2 * 32 + 1)],
    "DistilBERT": [Expected(48, 1, ("ffn.lin2",), 2 * 32 + 1)],
    "Hugging Face ViT": [Expected(48, 1, ("mlp.fc2",), 2 * 32 + 1)],
    "Llama": [Expected(48, 1, ("mlp.down_proj",), 3 * 32)],
    "Mistral": [Expected(48, 1, ("mlp.down_proj",), 3 * 32)],
    "Qwen3": [Expected(48, 1, ("mlp.down_proj",), 3 * 32)],
    "encoder": [Expected(48, 1, ("linear2",), 2 * 32 + 1)],
}  # fmt: skip
# Readers in the first units, which are without squeeze-and-excitation.
EARLY = {"timm mobilenetv3": ("conv_pwl",), "mobilenet_v3": ("block.2.0",)}
# Families whose first stage has no hidden channels: a depthwise convolution reads its input.
NONE_IN_FIRST = {"mobilenet_v2", "mobilenet_v3", "efficientnet"}


@lru_cache(1)
def units_of(name: str) -> tuple[nn.Module, list[Unit]]:
    """Return a family's model with double precision, and its first, second and last unit."""
    model, call = built(FAMILIES[name])
    model.double()
    units = find_units(model, call.to(torch.device("cpu"), torch.float64))
    return model, [*units[: min(2, len(units) - 1)], units[-1]]


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    """Name of a family, its model, its tested units."""
    return request.param, *units_of(request.param)


def half(hidden: Hidden, seed: int) -> list[int]:
    """Random half of the channels: at the same positions of each part."""
    size = hidden.channels // hidden.parts
    kept = random.Random(seed).sample(range(size), max(1, size // 2))
    return sorted(part * size + position for part in range(hidden.parts) for position in kept)


def zeroed(unit: Unit, cuts: list[tuple[tuple[str, ...], set[int]]]) -> nn.Module:
    """Return a copy of the unit in which layers do not read channels. cuts: names of layers, channels."""
    module = copy.deepcopy(unit.module)
    for readers, removed in cuts:
        for name in readers:
            layer = module.get_submodule(name)
            groups = getattr(layer, "groups", 1)
            outputs, columns = len(layer.weight) // groups, layer.weight.shape[1]
            for channel in removed:
                group, column = divmod(channel, columns)
                layer.weight.data[group * outputs : (group + 1) * outputs, column] = 0
    return module


def cut(unit: Unit, cuts: list[tuple[Hidden, list[int]]]) -> nn.Module:
    module = copy.deepcopy(unit.module)
    keep_hidden(module, unit, cuts)
    return module


def run(unit: Unit, module: nn.Module) -> Tensor:
    with torch.no_grad():
        return unit.pick(unit.call.mapped(torch.clone)(module))


def size(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def removed(hidden: Hidden, kept: list[int]) -> set[int]:
    return {*range(hidden.channels)} - {*kept}


def test_cut_equals_zeros_in_all_readers(family):
    name, _, units = family
    for number, unit in enumerate(units):
        found, expected = Parts.of(unit).hidden, EXPECTED[name]
        if name in NONE_IN_FIRST and number == 0:
            assert found == []
            continue
        assert len(found) == len(expected)
        options = [[pair] for pair in zip(found, expected)] + [[*zip(found, expected)]] * (len(found) > 1)
        for chosen in options:
            cuts = [(hidden, half(hidden, number)) for hidden, _ in chosen]
            reads = [(one.readers, removed(hidden, kept)) for (hidden, kept), (_, one) in zip(cuts, chosen)]
            if name in EARLY and number < 2:
                reads = [(EARLY[name], channels) for _, channels in reads]
            smaller, original = run(unit, cut(unit, cuts)), run(unit, unit.module)
            assert smaller.shape == original.shape
            assert (smaller - original).abs().max() > 1e-4 * original.abs().max()  # the channels count
            if name != "timm convnextv2":  # its norm is over the hidden channels
                torch.testing.assert_close(smaller, run(unit, zeroed(unit, reads)), rtol=1e-9, atol=1e-9)


def test_channels_readers_and_parameters(family):
    name, _, units = family
    unit, found = units[-1], Parts.of(units[-1]).hidden
    for hidden, expected in zip(found, EXPECTED[name]):
        assert (hidden.channels, hidden.parts) == (expected.channels, expected.parts)
        # The squeeze of squeeze-and-excitation, the second one here, is neither refitted nor weighed.
        assert [reader.name for reader in hidden.readers] == [expected.readers[0]]
        kept = half(hidden, 7)
        away = len(removed(hidden, kept))
        assert size(unit.module) - size(cut(unit, [(hidden, kept)])) == away * expected.size


def test_only_attention_and_others_are_ignored():
    _, units = units_of("timm deit")
    assert find_hidden(units[0], {"mlp.fc1"})[0] == find_hidden(units[0], {"mlp.fc2"})[0] == []
    assert [hidden.root for hidden in find_hidden(units[0], {"attn", "attn.qkv", "attn.proj"})[0]] == ["mlp.fc1"]


def test_unit_and_flags_stay(family):
    _, model, units = family
    before = copy.deepcopy(model.state_dict())
    for number, value in enumerate(model.parameters()):
        value.requires_grad_(number % 2 == 0)
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    unit = units[-1]
    parts = Parts.of(unit)
    smaller = cut(unit, [(hidden, half(hidden, 1)) for hidden in parts.hidden])
    assert {name: value.requires_grad for name, value in model.named_parameters()} == flags
    assert all(value.grad is None for value in [*model.parameters(), *smaller.parameters()])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    own = dict(unit.module.named_parameters())
    changed = {name: value for name, value in smaller.named_parameters() if value.shape != own[name].shape}
    assert {name: value.requires_grad for name, value in smaller.named_parameters()} == {
        name: value.requires_grad for name, value in own.items()
    }
    assert {value.requires_grad for value in changed.values()} == {True, False}
    assert type(smaller) is type(unit.module) and not any(part.training for part in smaller.modules())
    model.requires_grad_(True)


def test_structure_depends_on_counts_alone(family):
    _, _, units = family
    unit = units[-1]
    hidden = Parts.of(unit).hidden
    first, other = (cut(unit, [(each, half(each, seed)) for each in hidden]) for seed in (1, 2))
    assert not torch.equal(run(unit, first), run(unit, other))
    other.load_state_dict(first.state_dict())
    assert torch.equal(run(unit, first), run(unit, other))


def test_all_channels_stay_as_they_are():
    _, units = units_of("timm resnet50")
    hidden = Parts.of(units[-1]).hidden
    same = cut(units[-1], [(each, list(range(each.channels))) for each in hidden])
    assert torch.equal(run(units[-1], same), run(units[-1], units[-1].module))


def test_attention_keeps_its_sizes(family):
    _, _, units = family
    parts = Parts.of(units[-1])
    for heads in parts.heads:
        smaller = cut(units[-1], [(hidden, half(hidden, 1)) for hidden in parts.hidden])
        own, cut_one = (dict(m.get_submodule(heads.module).named_parameters()) for m in (units[-1].module, smaller))
        assert {name: value.shape for name, value in own.items()} == {n: v.shape for n, v in cut_one.items()}


def test_sizes_are_multiples():
    _, units = units_of("timm mobilenetv2")
    parts = Parts.of(units[-1])
    counts = [parts.sizes(Cut(width))["hidden conv_dw"] for width in (1.0, 0.5, 0.33, 0.001)]
    assert counts == [960, 480, 320, 8]
    _, units = units_of("timm regnet")
    assert Parts.of(units[-1]).sizes(Cut(0.5)) == {"hidden conv1.conv": 220, "hidden se.fc2": 220}


def test_module_without_a_call_of_its_own():
    """A layer that does not run in the example is not cut."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.idle = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.second(self.first(x).relu())

    (unit,) = find_units(nn.Sequential(nn.Linear(4, 4), Branches()).eval(), Call((torch.randn(2, 4),)))
    (hidden,) = Parts.of(unit).hidden
    assert [reader.name for reader in hidden.readers] == ["second"]
    assert cut(unit, [(hidden, [0, 1])]).idle.weight.shape == (4, 8)
