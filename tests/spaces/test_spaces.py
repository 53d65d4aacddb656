"""Sizes of the spaces, sampling, and the string form of architectures."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from pynas import spaces
from pynas.errors import InputError
from pynas.spaces import Architecture, Space

# Published sizes (DNA, table 1; BossNAS, section 4) by counting: paths per block, architectures.
SIZES = {
    "mbconv-dna": ((288, 1548, 1548, 2808, 16848, 6), 195_898_498_887_057_408),
    "mbconv-dna-single": ((36, 1296, 1296, 1296, 1296, 6), 609_359_740_010_496),
    "mbconv-boss": ((16, 256, 256, 256, 256), 68_719_476_736),
    "mbconv-boss-no-se": ((16, 256, 256, 256, 256), 68_719_476_736),
    "nats-size": ((64, 8 * 64, 8 * 8), 32_768),
    "nats-size-cifar100": ((64, 8 * 8, 8 * 64), 32_768),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    space = spaces.get(name)
    assert (space.path_counts, space.size) == SIZES[name]


@pytest.mark.parametrize("name", spaces.SPACES)
def test_size_is_the_number_of_paths(name):
    space = spaces.get(name)
    counted = [
        len(set(space.paths(b))) if space.path_counts[b] < 5000 else space.path_counts[b] for b in range(len(space))
    ]
    assert tuple(counted) == space.path_counts
    assert space.has_states or space.size == int(np.prod([float(n) for n in counted])) or space.size > 2**53


def test_layers_and_widths_of_mbconv_dna():
    # DNA, table 1: cells as (layers, channels); a cell's last layer hands on the width of the block's widest cell.
    table = [
        [(2, 24), (3, 24), (2, 32)], [(2, 40), (3, 40), (4, 40)], [(2, 80), (3, 80), (4, 80)],
        [(3, 112), (4, 112), (4, 96)], [(4, 192), (5, 192), (5, 160)], [(1, 320)],
    ]  # fmt: skip
    space = spaces.get("mbconv-dna")
    assert [[(len(cell.layers), cell.layers[0][0].out_channels) for cell in cells] for cells in space.blocks] == table
    strides = [cells[0].layers[0][0].stride for cells in space.blocks]
    assert strides == [2, 2, 2, 1, 2, 1]
    for cells in space.blocks:
        widths = {cell.layers[-1][0].exit_channels or cell.layers[-1][0].out_channels for cell in cells}
        assert widths == {max(cell.layers[0][0].out_channels for cell in cells)}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("mbconv-dna-single", [(2, 24), (4, 40), (4, 80), (4, 112), (4, 192), (1, 320)]),
        ("mbconv-dna-a", [(3, 24), (4, 40), (4, 80), (4, 96), (5, 160), (1, 320)]),
        ("mbconv-dna-b", [(3, 24), (3, 40), (4, 80), (4, 96), (5, 192), (1, 320)]),
        ("mbconv-dna-d", [(3, 24), (4, 40), (4, 80), (4, 112), (5, 192), (1, 320)]),
    ],
)
def test_single_cells_chain_without_exits(name, cells):
    """Each layer takes what the one before it gives, strides as in DNA's table 1, and no 1x1 convolution ends a block."""
    space, width = spaces.get(name), 16
    assert (space.stem.channels, space.stem.out_channels, space.head.channels) == (32, 16, 1280)
    for (cell,), (depth, channels), stride in zip(space.blocks, cells, (2, 2, 2, 1, 2, 1), strict=True):
        assert cell.counts == (6,) * depth
        for number, layer in enumerate(cell.layers):
            for spec in layer:
                assert (spec.in_channels, spec.out_channels) == (width, channels) and spec.exit_channels is None
                assert spec.stride == (stride if number == 0 else 1) and spec.se == 0.25
            width = channels


def test_encoding_of_mbconv_boss():
    labels = [spec.label for spec in spaces.get("mbconv-boss").blocks[0][0].layers[0]]
    assert labels == ["MB6 k3", "MB6 k5", "MB3 k3", "MB3 k5"]


@given(st.lists(st.tuples(st.integers(0, 12), st.lists(st.integers(0, 80), min_size=1, max_size=6)), min_size=1))
def test_string_form_parses_back(choices):
    architecture = Architecture.of(choices)
    assert Architecture.parse(str(architecture)) == architecture
    assert hash(Architecture.parse(str(architecture))) == hash(architecture)


def test_string_form_is_the_fields_own():
    assert str(Architecture.of([(0, (1, 1)), (0, (1, 0, 3, 1)), (2, (3, 0))])) == "11|1031|2:30"


@pytest.mark.parametrize("name", spaces.SPACES)
def test_samples_are_in_the_space_and_repeat(name):
    space = spaces.get(name)
    first = [space.sample(np.random.default_rng(7)) for _ in range(2)]
    assert first[0] == first[1]
    for seed in range(20):
        assert space.sample(np.random.default_rng(seed)) in space


def test_sampling_is_uniform_over_paths_not_cells():
    space = Space.from_counts("two cells", [[[2], [3, 3]]])
    rng = np.random.default_rng(0)
    cells = [space.sample(rng)[0].cell for _ in range(4000)]
    # 2 of 11 paths are in the first cell; four standard deviations of a binomial are 0.024.
    assert abs(np.mean(cells) - 9 / 11) < 0.025


@pytest.mark.parametrize(
    "text",
    ["", "11", "11|1111|1111|1111|111", "11|1111|1111|1111|1114", "1:11|1111|1111|1111|1111", "11|11 1|1111|1111|1"],
)
def test_bad_architectures_are_named(text):
    with pytest.raises(InputError, match="expected"):
        spaces.get("mbconv-boss").parse(text)


def test_unknown_space_lists_the_names():
    with pytest.raises(InputError, match="mbconv-dna.*did you mean 'mbconv-mini'"):
        spaces.get("mbconv-min")
