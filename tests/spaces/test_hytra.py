"""HyTra: its published size, its notation, and what the trellis forbids."""

import itertools

import numpy as np
import pytest

from pynas import spaces
from pynas.errors import InputError
from pynas.spaces import Architecture
from pynas.spaces.hytra import hytra

# Candidates at the scales 1/4, 1/8, 1/16, 1/32.
CHOICES = (1, 1, 2, 2)


def size_by_compositions(layers: int) -> int:
    """Every way to cut the layers into runs at successive scales, with the choices that each run has."""
    total = 0
    for first, last in itertools.combinations_with_replacement(range(4), 2):
        for cuts in itertools.combinations(range(1, layers), last - first):
            lengths = np.diff([0, *cuts, layers]).tolist()
            total += int(np.prod([CHOICES[s] ** n for s, n in zip(range(first, last + 1), lengths)]))
    return total


def test_sizes():
    # BossNAS, appendix A.2: "roughly 2.8 x 10^6".
    assert spaces.get("hytra").size == size_by_compositions(16) == 2_818_103
    assert spaces.get("hytra-mini").size == size_by_compositions(8) == 4_895


def texts(layers: int):
    """Every architecture of so many layers in the paper's way of drawing it."""
    for first, last in itertools.combinations_with_replacement(range(4), 2):
        for cuts in itertools.combinations(range(1, layers), last - first):
            lengths = np.diff([0, *cuts, layers]).tolist()
            runs = [itertools.product("10" if s > 1 else "1", repeat=n) for s, n in enumerate(lengths, first)]
            for digits in itertools.product(*runs):
                yield "|" * first + "|".join(map("".join, digits)) + "|" * (3 - last)


def test_every_architecture_of_the_mini_space_parses_back():
    space = spaces.get("hytra-mini")
    architectures = {text: space.parse(text) for text in texts(8)}
    assert len(set(architectures.values())) == space.size == len(architectures)
    for text, architecture in architectures.items():
        assert space.format(architecture) == text
        assert space.parse(str(architecture)) == architecture


def test_candidates_are_in_the_drawn_order():
    # Layers per scale and kind, read off the description of each chosen candidate.
    space, architecture = spaces.network("BossNet-T0")
    drawn = [[] for _ in range(4)]
    for b, choice in enumerate(architecture):
        for layer, candidate in zip(space.blocks[b][choice.cell].layers, choice.path):
            drawn[layer[candidate].scale].append("1" if layer[candidate].operation == "conv" else "0")
    assert "|".join(map("".join, drawn)) == "1|1|11101|000100000"


@pytest.mark.parametrize(
    "text",
    [
        "111|1111|111111|11",  # 15 layers
        "0|1|11101|000100000",  # attention at 1/4
        "1||111101|000100000",  # a scale left out
        "1|1|11121|000100000",
        "0122|2:2425|1:5535|3:5555",  # block 2 starts from another scale than block 1 leaves
        "0121|2:2425|3:5535|3:5555",  # back to a finer scale
        "0222|2:2425|3:5535|3:5555",  # two scales in one step
        "0122|2425|3:5535|3:5555",
    ],
)
def test_what_the_trellis_forbids(text):
    space = spaces.get("hytra")
    assert Architecture.parse("0122|2:2425|3:5535|3:5555") in space
    with pytest.raises(InputError, match="expected"):
        space.parse(text)


def test_samples_are_uniform():
    # Over 20 classes of equal probability by rank, 2,000 samples: chi-squared beyond 43.8 has probability 0.001.
    space = spaces.get("hytra-mini")
    rank = {text: i for i, text in enumerate(texts(8))}
    rng = np.random.default_rng(0)
    classes = [rank[space.format(space.sample(rng))] * 20 // space.size for _ in range(2000)]
    sizes = np.bincount([i * 20 // space.size for i in range(space.size)])
    expected = 2000 * sizes / space.size
    assert ((np.bincount(classes, minlength=20) - expected) ** 2 / expected).sum() < 43.8


def test_bad_input():
    with pytest.raises(InputError, match="stride of 1 or 2 into the last scale, got 3"):
        hytra(last_stride=3)
