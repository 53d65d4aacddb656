"""The BigNAS space: its exact size, block by block."""

import math

import numpy as np

from pynas.spaces import get


def test_the_size_is_the_product_of_the_table():
    space = get("bignas-cnn")
    # Resolution 192..320; stem 32, 40; stages: widths x sum over depths of kernels^depth; head 1280..1408 by 8.
    kernels = [1, 1, 2, 2, 2, 2, 2]
    widths = [2, 2, 2, 2, 3, 4, 5]
    depths = [(1, 2), (2, 3), (2, 3), (2, 3, 4), (2, 3, 4, 5, 6), (2, 3, 4, 5, 6), (1, 2)]
    stages = [w * sum(k**d for d in some) for w, k, some in zip(widths, kernels, depths)]
    assert space.path_counts == (5, 2, *stages, 17)
    assert space.size == math.prod((5, 2, *stages, 17)) == 20_235_504_844_800


def test_widths_strides_and_kernels_are_those_of_the_table():
    space = get("bignas-cnn")
    ranges = []
    for cells in space.blocks[2:-1]:
        channels = [cell.layers[0][0].channels for cell in cells]
        depths = [len(cell.layers) for cell in cells]
        specs = {(spec.kernel, spec.expand) for cell in cells for layer in cell.layers for spec in layer}
        ranges.append((min(channels), max(channels), min(depths), max(depths), specs, cells[0].layers[0][0].stride))
    both = {(3, 6), (5, 6)}
    assert ranges == [
        (16, 24, 1, 2, {(3, 1)}, 1), (24, 32, 2, 3, {(3, 6)}, 2), (40, 48, 2, 3, both, 2), (80, 88, 2, 4, both, 2),
        (112, 128, 2, 6, both, 1), (192, 216, 2, 6, both, 2), (320, 352, 1, 2, both, 1),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    for architecture in (space.sample(rng) for _ in range(5)):
        assert space.parse(str(architecture)) == architecture
