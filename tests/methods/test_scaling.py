"""Compound scaling against counting layers and widths one by one."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pynas import spaces, supernet
from pynas.errors import InputError
from pynas.export import standalone
from pynas.methods import DNA
from pynas.methods.dna.scaling import compound_scaling, load_scaled, save_scaled, scaled_space, scaled_teacher
from pynas.spaces import Architecture
from pynas.spaces.mbconv import DNA_OPS, StemSpec, mbconv


def test_the_rule_is_efficientnets():
    rule = compound_scaling(3)
    assert (rule.depth, rule.width, rule.resolution) == pytest.approx((1.728, 1.331, 1.520875))
    # EfficientNet-B4 is width 1.4, depth 1.8: its stage widths 24, 40, 80, 112, 192, 320 and stem 48, depths 2, 3, 4.
    b4 = type(rule)(1.8, 1.4, 380 / 224)
    assert [b4.channels(width) for width in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        48, 24, 32, 56, 112, 160, 272, 448, 1792]  # fmt: skip
    assert [b4.layers(count) for count in (1, 2, 3, 4)] == [2, 4, 6, 8]
    assert b4.side(224) == 380
    for phi in (-1, "b8", "large", float("inf")):
        with pytest.raises(InputError, match="phi of at least 0, or b0 to b7, got"):
            compound_scaling(phi)
    assert compound_scaling("2") == compound_scaling(2)


@pytest.mark.parametrize("name", ["mbconv-mini", "mbconv-dna", "mbconv-boss", "mbconv-boss-no-se"])
@pytest.mark.parametrize("phi", [0, 1, 2.5])
def test_every_layer_and_width(name, phi):
    space = spaces.get(name)
    architecture = space.sample(np.random.default_rng(int(2 * phi)))
    scaled = scaled_space(space, architecture, phi)
    assert scaled.size == 1 and scaled.image_size == round(space.image_size * 1.15**phi)

    def width(channels):
        grown = channels * 1.1**phi
        rounded = max(8, int(grown + 4) // 8 * 8)
        return max(channels, rounded if rounded >= 0.9 * grown else rounded + 8)

    before = width(space.stem.out_channels)
    for cells, choice, (cell,) in zip(space.blocks, architecture, scaled.blocks):
        chosen = [layer[c] for layer, c in zip(cells[choice.cell].layers, choice.path)]
        assert len(cell.layers) == math.ceil(round(len(chosen) * 1.2**phi, 9))
        specs = [layer[0] for layer in cell.layers]
        repeated = repeat_as_efficientnet(chosen, len(specs))
        assert [(s.kernel, s.expand, s.out_channels) for s in specs] == [
            (s.kernel, s.expand, width(s.out_channels)) for s in repeated]  # fmt: skip
        assert [s.stride for s in specs] == [chosen[0].stride] + [1] * (len(specs) - 1)
        assert [s.in_channels for s in specs] == [before, *(s.out_channels for s in specs[:-1])]
        exits = chosen[-1].exit_channels
        assert [s.exit_channels for s in specs] == [None] * (len(specs) - 1) + [exits and width(exits)]
        before = specs[-1].exit_channels or specs[-1].out_channels
    assert scaled.head.in_channels == before and scaled.head.channels == width(space.head.channels)
    parts = [
        space.stem,
        space.head,
        scaled.stem,
        scaled.head,
        *(layer[0] for (cell,) in scaled.blocks for layer in cell.layers),
    ]
    assert {part.se for part in parts} == {0 if name.endswith("no-se") else 0.25}


def repeat_as_efficientnet(chosen, total):
    """Runs of equal layers, last one first, get their share of the layers that are left."""
    runs = []
    for spec in chosen:
        if runs and (runs[-1][0].kernel, runs[-1][0].expand) == (spec.kernel, spec.expand):
            runs[-1].append(spec)
        else:
            runs.append([spec])
    repeated, left = [], len(chosen)
    for run in reversed(runs):
        more = max(1, round(len(run) / left * (total - len(repeated))))
        repeated, left = [run[0]] * more + repeated, left - len(run)
    return repeated


# DNA-c of the authors' public retraining code: expansion and kernel of each layer.
DNA_C = [
    ["65", "63"],
    ["65", "65", "63", "65"],
    ["65", "63", "65", "65"],
    ["63", "65", "65", "35"],
    ["65", "35", "65", "65"],
    ["63"],
]


@pytest.mark.parametrize(
    ("phi", "side", "printed"),
    [
        (0, 224, 5.3),
        ("b1", 240, 7.5),
        ("b2", 260, 8.8),
        ("b3", 300, 12),
        ("b4", 380, 19),
        ("b5", 456, 30),
        ("b7", 600, 64.9),
    ],
)
def test_dna_c_scaled_has_the_parameters_of_tables_4_and_11(phi, side, printed):
    sizes = [(2, 24), (4, 40), (4, 80), (4, 112), (4, 192), (1, 320)]
    blocks = [(stride, (size,)) for stride, size in zip((2, 2, 2, 1, 2, 1), sizes)]
    space = mbconv("single", blocks, DNA_OPS, StemSpec(32, 2, mb1_channels=16), 1280)
    names = [f"{expand}{kernel}" for expand, kernel in DNA_OPS]
    architecture = Architecture.of((0, [names.index(name) for name in block]) for block in DNA_C)
    scaled = scaled_space(space, architecture, phi)
    assert scaled.image_size == side
    with torch.device("meta"):
        network = standalone(scaled, next(scaled.architectures()), 1000)
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert float(f"{parameters:.{2 if printed < 10 else 3 if printed != round(printed) else 2}g}") == printed


def test_unscaled_it_is_the_network_itself():
    space = spaces.get("mbconv-mini")
    architecture = space.sample(np.random.default_rng(3))
    teacher = scaled_teacher(space, architecture, 0, 10)
    plain = standalone(space, architecture, 10).eval()
    plain.load_state_dict(teacher.module.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher.logits(images), plain(images))


def test_it_teaches_and_comes_back_from_its_file(tmp_path):
    space = spaces.get("mbconv-mini")
    teacher = scaled_teacher(space, space.sample(np.random.default_rng(1)), 2, 7)
    for module in teacher.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    save_scaled(tmp_path / "teacher.safetensors", teacher, test_accuracy=0.5)
    loaded = load_scaled(tmp_path / "teacher.safetensors")
    images = torch.randn(4, 3, 32, 32)
    for ours, theirs in zip(teacher(images), loaded(images), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(teacher.logits(images), loaded.logits(images))
    assert loaded.metadata["test_accuracy"] == 0.5 and loaded.taps == teacher.taps
    method = DNA(supernet(space, 7), loaded)
    assert [len(projection.weight) for projection in method.projections] == [24, 40, 64, 96]


def test_a_space_without_a_rule_is_named():
    space = spaces.Space.from_counts("own", [[[2]]])
    with pytest.raises(InputError, match="a space of kind mbconv, got"):
        scaled_space(space, Architecture.of([(0, (1,))]), 1)
