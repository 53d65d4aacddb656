"""The BigNAS space: its exact size, block by block."""

import math

import numpy as np
import pytest

from pynas.errors import InputError
from pynas.spaces import bignas, get
from pynas.spaces.bignas import Stage


def test_the_size_is_the_product_of_the_table():
    space = get("bignas-cnn")
    # Resolution 192..320; stem 32, 40; stages: widths x sum over depths of kernels^depth; head 1280..1408 by 8.
    kernels = [1, 1, 2, 2, 2, 2, 2]
    widths = [2, 2, 2, 2, 3, 4, 5]
    depths = [(1, 2), (2, 3), (2, 3), (2, 3, 4), (2, 3, 4, 5, 6), (2, 3, 4, 5, 6), (1, 2)]
    stages = [w * sum(k**d for d in some) for w, k, some in zip(widths, kernels, depths)]
    # Every block again for each state before it: the resolution, and from the first stage on the width.
    before = [1, 5, *(5 * w for w in (2, *widths))]
    assert space.path_counts == tuple(n * m for n, m in zip(before, (5, 2, *stages, 17)))
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


def test_strings_are_resolution_widths_and_kernels():
    space = get("bignas-cnn")
    text = "224|40|16:33|32:333|48:35|80:355|128:33333|192:35|352:5|1408"
    architecture = space.parse(text)
    assert space.format(architecture) == text and space.parse(str(architecture)) == architecture
    for wrong in (text.replace("224", "225"), text.replace("80:", "81:"), text.replace("355", "375"), text[:-4] + "9"):
        with pytest.raises(InputError, match="expected resolution, widths and kernels of the space"):
            space.parse(wrong)
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(50)]
    assert all(space.parse(space.format(a)) == a for a in drawn) and len({a[0].path for a in drawn}) == 5


@pytest.mark.parametrize(
    ("sides", "kernels", "message"),
    [((9,), (3,), "sides of 10"), ((24, 16), (3,), "rising order"), ((24,), (4,), "odd kernels"),
     ((24,), (11,), "odd kernels")],
)  # fmt: skip
def test_bad_choices_are_named(sides, kernels, message):
    with pytest.raises(InputError, match=message):
        bignas("own", sides, (8,), (Stage((8,), (1,), kernels, 1, 1),), (16,))
