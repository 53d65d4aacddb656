"""Supernets from spaces and from anybody's modules."""

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas.errors import InputError
from pynas.spaces import Architecture


def test_forward_runs_the_chosen_modules():
    blocks = [
        [[[nn.Linear(3, 4), nn.Linear(3, 4)], [nn.Linear(4, 4)]], [[nn.Linear(3, 4)]]],
        [[[nn.Linear(4, 2), nn.Tanh()]]],
    ]
    stem, head = nn.ReLU(), nn.Softmax(1)
    net = pynas.Supernet(blocks, stem=stem, head=head)
    assert net.space.path_counts == (3, 2) and net.space.size == 6
    x = torch.randn(5, 3)
    expected = head(blocks[1][0][0][0](blocks[0][0][1][0](blocks[0][0][0][1](stem(x)))))
    torch.testing.assert_close(net(x, Architecture.parse("10|0")), expected)
    expected = head(torch.tanh(blocks[0][1][0][0](stem(x))))
    torch.testing.assert_close(net(x, Architecture.parse("1:0|1")), expected)


def test_every_architecture_of_the_mini_space_runs():
    net = pynas.supernet("mbconv-mini", num_classes=7).eval()
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert net(torch.zeros(2, 3, 32, 32), net.space.sample(rng)).shape == (2, 7)
    assert net.block_shapes((3, 32, 32)) == [(24, 16, 16), (40, 8, 8), (64, 8, 8), (96, 4, 4)]


def test_blocks_of_mbconv_dna_have_the_published_sizes():
    net = pynas.supernet("mbconv-dna", num_classes=10)
    sides = [(c, s) for c, s, _ in net.block_shapes((3, 224, 224))]
    assert sides == [(32, 56), (40, 28), (80, 14), (112, 14), (192, 7), (320, 7)]


@pytest.mark.parametrize("blocks", [[], [[]], [[[]]], [[[[]]]], [[[["not a module"]]]]])
def test_bad_blocks_are_named(blocks):
    with pytest.raises(InputError, match=r"\[supernet\] expected"):
        pynas.Supernet(blocks)


def test_blocks_must_be_those_of_the_space():
    with pytest.raises(InputError, match="candidates of mbconv-mini"):
        pynas.Supernet([[[[nn.Identity()]]]], space=pynas.spaces.get("mbconv-mini"))
