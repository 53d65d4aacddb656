"""AutoFormer spaces: exact sizes, names of architectures, bad choices."""

import numpy as np
import pytest

from pynas.errors import InputError
from pynas.spaces import autoformer, get
from pynas.spaces.autoformer import describe
from tests.enumeration import autoformer_architecture

SIZES = {
    "autoformer-tiny": 1_056_964_608,
    "autoformer-small": 3 * (9**13 + 9**14),
    "autoformer-base": 3 * (6**14 + 6**15 + 6**16),
    "autoformer-mini": 2 * (4**4 + 4**5 + 4**6),
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes(name, size):
    space = get(name)
    assert space.size == size
    rng = np.random.default_rng(0)
    for architecture in (space.sample(rng) for _ in range(3)):
        assert space.parse(space.format(architecture)) == architecture
        choices = describe(space, architecture)
        assert autoformer_architecture(space, choices["dim"], choices["heads"], choices["ratios"]) == architecture


def test_cells_are_dimension_and_depth():
    space = get("autoformer-tiny")
    cells = [(cell.layers[0][0].dim, len(cell.layers)) for cell in space.blocks[0]]
    assert cells == [(dim, depth) for dim in (192, 216, 240) for depth in (12, 13, 14)]
    assert [spec.label for spec in space.blocks[0][0].layers[0]] == [
        "3 heads, MLP 3.5", "3 heads, MLP 4", "4 heads, MLP 3.5", "4 heads, MLP 4"
    ]  # fmt: skip
    assert {spec.head_dim for spec in space.blocks[0][0].layers[0]} == {64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": (3, 5)}, "divides the q-k-v dimension 256, got 5"),
        ({"heads": ()}, "positive heads in rising order"),
        ({"dims": (216, 192)}, "positive dims in rising order"),
        ({"depths": (0, 3)}, "positive depths in rising order"),
        ({"ratios": (4, 4)}, "positive ratios in rising order"),
        ({"patch": 15}, "divide the image's side 224, got 15"),
    ],
)
def test_bad_choices_are_named(changes, message):
    choices = {"dims": (192,), "depths": (12,), "heads": (3, 4), "ratios": (3.5, 4), "qkv_dim": 256} | changes
    with pytest.raises(InputError, match=message):
        autoformer("own", **choices)
