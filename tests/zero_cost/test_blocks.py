"""Features between the blocks of networks of many forms."""

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas.errors import InputError
from pynas.zero_cost import PROXIES, block_features, score
from pynas.zero_cost.blocks import paired


class Block(nn.Module):
    """Convolution and activation beside a shortcut; returns more than one value where asked."""

    def __init__(self, channels, several=False):
        super().__init__()
        self.body, self.several = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()), several

    def forward(self, x):
        y = x + self.body(x)
        return (y, None) if self.several else y


class Stages(nn.Module):
    """Stem of single layers, stages of several blocks, a pooled head: the form of ResNet."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2)
        self.stage1 = nn.Sequential(Block(6), Block(6))
        self.stage2 = nn.Sequential(Block(6), Block(6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.stage2(self.stage1(self.pool(self.conv(x)))).mean((2, 3)))


class Encoder(nn.Module):
    """List inside a part, as in torchvision's transformers, with blocks that return two values and never run one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(6, several=True), Block(6, several=True), Block(6)])

    def forward(self, x):
        for layer in self.layers[:2]:
            x, _ = layer(x)
        return x


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.encoder, self.heads = nn.Conv2d(3, 6, 3), Encoder(), nn.Sequential(nn.Linear(6, 4))

    def forward(self, x):
        return self.heads(self.encoder(self.conv(x)).mean((2, 3)))


class Parts(nn.Module):
    """Blocks as attributes, each with parallel branches in a list: the form of GoogLeNet."""

    class Inception(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList([nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 3, padding=1)])

        def forward(self, x):
            return torch.cat([branch(x) for branch in self.branches], 1).relu()

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second, self.fc = (
            nn.Conv2d(3, 6, 3),
            self.Inception(),
            self.Inception(),
            nn.Linear(6, 4),
        )

    def forward(self, x):
        return self.fc(self.second(self.first(self.conv(x))).mean((2, 3)))


class Last(nn.Module):
    """Maps with the channels last and merging of positions, as in Swin."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 2, 2)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(6, 6), nn.GELU()), nn.Sequential(nn.Linear(6, 12), nn.GELU())
        )
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = self.blocks[0](self.embed(x).permute(0, 2, 3, 1))
        return self.fc(self.blocks[1](x[:, ::2, ::2]).mean((1, 2)))


def chain():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))  # fmt: skip


@pytest.mark.parametrize(("build", "shapes"), [
    (Stages, [(6, 4, 4)] * 5),
    (Nested, [(6, 6, 6)] * 3),
    (Parts, [(6, 6, 6)] * 3),
    (chain, [(6, 6, 6), (8, 4, 4)]),
])  # fmt: skip
def test_blocks_of_every_form_are_found(build, shapes):
    torch.manual_seed(0)
    model, images = build().eval(), torch.randn(4, 3, 8, 8)
    plain = model(images)
    found = block_features(model, images)
    assert [tuple(feature.shape[1:]) for feature in found] == shapes
    assert all(feature.requires_grad for feature in found)
    assert torch.equal(model(images), plain) and not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize("build", [Stages, Nested, Parts, Last, chain])
@pytest.mark.parametrize("name", ["expressivity", "progressivity", "trainability", "vkdnw", "jacov", "zico", "madds"])
def test_every_form_has_every_score(build, name):
    torch.manual_seed(0)
    value = score(name, build(), torch.randn(8, 3, 8, 8), torch.arange(8) % 4)
    assert abs(value) < float("inf")


def test_features_are_taken_before_the_next_layer_changes_them():
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
              nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))]  # fmt: skip
    model, images = (
        nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval(),
        torch.randn(2, 3, 6, 6),
    )
    first, second = block_features(model, images)
    assert torch.equal(first, blocks[0](images)) and bool((first < 0).any())
    (gradient,) = torch.autograd.grad(second.sum(), first)
    assert not bool(gradient[first < 0].any()) and bool(gradient[first > 0].any())


def test_windows_of_positions_become_channels():
    before, after = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6), torch.zeros(2, 5, 2, 3)
    windows, _ = paired(before, after)
    assert windows.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            window = before[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert set(windows[1, row * 3 + column].tolist()) == set(window[1].flatten().tolist())
    # Sides that windows do not divide are filled up; a class token is left out.
    assert paired(torch.ones(1, 2, 5, 5), torch.ones(1, 3, 3, 3))[0].shape == (1, 9, 8)
    assert paired(torch.ones(1, 17, 2), torch.ones(1, 5, 3))[0].shape == (1, 4, 8)
    with pytest.raises(InputError, match="square grid, got 7 tokens"):
        paired(torch.ones(1, 16, 2), torch.ones(1, 7, 3))
    assert [part.shape for part in paired(after, before)] == [(2, 6, 5), (2, 6, 12)]


def test_an_identity_and_a_dead_block_have_no_score():
    class Same(nn.Module):
        def __init__(self, dead):
            super().__init__()
            self.layer, self.dead = nn.Sequential(nn.Identity()), dead

        def forward(self, x):
            return torch.zeros_like(x) if self.dead else self.layer(x)

    def model(dead):
        stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        return nn.Sequential(stem, Same(dead), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    with pytest.raises(InputError, match="finite score, got -inf from trainability"):
        score("trainability", model(False), torch.randn(4, 3, 6, 6))
    with pytest.raises(InputError, match="finite score, got nan from expressivity"):
        score("expressivity", model(True), torch.randn(4, 3, 6, 6))
    for name in ("jacov", "zico", "vkdnw"):
        with pytest.raises(InputError, match=f"finite score, got (nan|-inf) from {name}"):
            score(name, nn.Sequential(nn.Conv2d(3, 2, 1), Zeros()), torch.randn(4, 3, 6, 6))


def test_nothing_passes_a_block_of_constants():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Sequential(nn.Identity())

        def forward(self, x):
            return torch.ones_like(x)

    torch.manual_seed(0)
    stem, tail = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(stem, Constant(), tail, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    # Spectral norm 0 on both sides of the constant: 2 - 0 - 1 / 1e-6 each.
    assert score("trainability", model, torch.randn(4, 3, 6, 6)) == pytest.approx(2 - 1e6)


class Zeros(nn.Module):
    def forward(self, x):
        return 0 * x.mean((2, 3))


def test_networks_and_batches_that_cannot_be_scored_are_named():
    images = torch.randn(4, 3, 6, 6)
    mlp, one = (
        nn.Sequential(nn.Flatten(), nn.Linear(108, 5)),
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 2)),
    )
    with pytest.raises(InputError, match="at least two blocks.*got 0 such features"):
        score("expressivity", mlp, images)
    with pytest.raises(InputError, match="at least two blocks.*got 1 such features"):
        score("trainability", one, images)
    with pytest.raises(InputError, match="at least 2 images for zico"):
        score("zico", chain(), images[:1])
    with pytest.raises(InputError, match="at least 2 images for jacov"):
        score("jacov", chain(), images[:1])
    with pytest.raises(InputError, match=r"outputs \[images, classes\] for vkdnw, got \[4, 2, 4, 4\]"):
        score("vkdnw", one[0], images)
    normed = nn.Sequential(nn.Conv2d(3, 2, 6), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(InputError, match="several values per channel"):
        score("zico", normed, images[:2])


@pytest.mark.parametrize("space", ["mbconv-mini", "hytra-mini", "nats-size", "nasbench201-mini", "vit-mini"])
def test_every_space_has_every_score(space):
    torch.manual_seed(0)
    space = pynas.spaces.get(space)
    architecture = space.sample(np.random.default_rng(4))
    model = pynas.export.standalone(space, architecture, 4)
    images = torch.randn(4, 3, space.image_size, space.image_size)
    for name in ("expressivity", "vkdnw", "zico"):
        assert abs(score(name, model, images, torch.arange(4))) < float("inf")
    assert len(block_features(model, images)) > 2 and set(PROXIES) >= {"jacov", "trainability"}
