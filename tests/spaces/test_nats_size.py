"""nats-size: all of it, and its own string form."""

import itertools
import pickle

import numpy as np
import pytest

from pynas import spaces
from pynas.errors import InputError
from pynas.spaces import Architecture, nats_size
from pynas.tabular import load

WIDTHS = range(8, 65, 8)


@pytest.mark.parametrize("name", ["nats-size", "nats-size-cifar100"])
def test_every_network_once(name):
    space = spaces.get(name)
    found = set()
    for widths in itertools.product(WIDTHS, repeat=5):
        text = ":".join(map(str, widths))
        architecture = space.parse(text)
        assert space.format(architecture) == text
        found.add(architecture)
    assert len(found) == space.size == 32_768


def test_the_two_forms_are_the_same():
    space = spaces.get("nats-size")
    architecture = space.parse("64:40:48:64:56")
    assert str(architecture) == "74|4:57|7:6" and space.parse(str(architecture)) == architecture
    assert str(spaces.get("nats-size-cifar100").parse("64:40:48:64:56")) == "74|4:5|5:76"
    assert space.parse(" 8:8:8:8:8 ") == Architecture.parse("00|00|0")


def test_a_block_goes_on_from_the_width_before_it():
    space = spaces.get("nats-size")
    rng = np.random.default_rng(0)
    for _ in range(20):
        architecture = space.sample(rng)
        for before, after in itertools.pairwise(architecture):
            assert before.path[-1] == after.cell
    with pytest.raises(InputError, match="starts from 40, as block 0 ends, got one from 48"):
        space.parse("74|5:57|7:6")


@pytest.mark.parametrize("text", ["64:40:48:64", "64:40:48:64:57", "64:40:48:64:x", "64:40:48:64:56:8", "64:40"])
def test_bad_widths_are_named(text):
    with pytest.raises(InputError, match=r"expected 5 widths of 8, 16, .*got '64:40"):
        spaces.get("nats-size").parse(text)


def test_rows_of_the_published_table_are_architectures():
    space, bench = spaces.get("nats-size"), load("nats-size")
    for row in (0, 1234, 32767):
        assert space.format(space.parse(bench.architectures[row])) == bench.architectures[row]


def test_other_blocks_and_widths():
    space = nats_size("small", (1, 4), (2, 4))
    assert space.size == 32 and len(space.blocks[1]) == 2
    assert pickle.loads(pickle.dumps(space)).parse("2:4:4:2:2") == space.parse("2:4:4:2:2")
    with pytest.raises(InputError, match="5 layers"):
        nats_size("wrong", (2, 2))
    with pytest.raises(InputError, match="5 layers"):
        nats_size("wrong", (5, 0))
