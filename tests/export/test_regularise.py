"""Stochastic depth and dropout of retraining: they act in every kind of network, rise with depth, and leave no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from timm.models import create_model
from timm.models.vision_transformer import Block
from torch import nn
from torchvision.models import efficientnet_b0
from torchvision.ops import StochasticDepth

import pynas
from pynas.errors import InputError
from pynas.export import DEIT, EFFICIENTNET, retrain, standalone
from pynas.export.python_source import traced
from pynas.export.regularise import regularise, residual_layers
from pynas.nn.cell import ReLUConvBN, ResidualReduction, edge_operation
from pynas.nn.hytra import Bottleneck
from pynas.nn.mbconv import MBConv
from pynas.nn.nats import NATSCell, NATSResidual
from pynas.nn.transformer import TransformerLayer
from pynas.spaces.splitattention import SplitAttentionSpec
from pynas.supernets.nasbench201 import PlainCell
from pynas.supernets.splitattention import split_attention
from tests.export.test_retrain import tiny_data


def cell(*operations):
    return PlainCell([edge_operation(operation, 4) for operation in operations])


def nats_cell(skip):
    return NATSCell({"03": skip} | {edge: ReLUConvBN(4, 4, 3) for edge in ("01", "02", "12", "13", "23")})


def nats_residual():
    return NATSResidual(ReLUConvBN(4, 6, 3, 2), ReLUConvBN(6, 6, 3), nn.Conv2d(4, 6, 1))


def split():
    return split_attention(SplitAttentionSpec(16, 4, 1, 2, 1, 64))


MAP, TOKENS = (4, 4, 8, 8), (4, 5, 8)
# A module, the shape of its input, and its output when every branch is dropped.
MODULES = {
    "mbconv": (lambda: MBConv(4, 4, 3, 2), MAP, lambda m, x: x),
    "hytra-identity": (lambda: Bottleneck("conv", [(64, 1)], 64, 16), (2, 64, 4, 4), lambda m, x: x.relu()),
    "hytra-projection": (lambda: Bottleneck("attention", [(32, 2)], 64, 16, se=True), (2, 32, 4, 4),
                         lambda m, x: m.entries["32"].shortcut(x).relu()),
    "nats-cell": (lambda: nats_cell(nn.Identity()), MAP, lambda m, x: x),
    "nats-projection": (lambda: nats_cell(nn.Conv2d(4, 4, 1)), MAP, lambda m, x: m.edges["03"](x)),
    "nats-residual": (nats_residual, MAP, lambda m, x: m.shortcut(m.pool(x))),
    "nasbench201-reduction": (lambda: ResidualReduction(4, 6), MAP, lambda m, x: m.shortcut(x)),
    "nasbench201-cell": (lambda: cell(*["nor_conv_3x3"] * 3, "skip_connect", "avg_pool_3x3", "nor_conv_1x1"), MAP, lambda m, x: x),
    "splitattention": (split, (2, 16, 4, 4), lambda m, x: x.relu()),
    "autoformer": (lambda: TransformerLayer(8, 2, 4, 16), TOKENS, lambda m, x: x),
    "vit": (lambda: Block(8, 2), TOKENS, lambda m, x: x),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_dropped_branch_leaves_the_shortcut(name):
    build, shape, shortcut = MODULES[name]
    torch.manual_seed(0)
    module, x = build().train(), torch.randn(shape)
    whole = module(x.clone())
    undo = regularise(nn.Sequential(module, nn.Flatten(), nn.Linear(1, 1)), 0.0, 1.0)
    torch.testing.assert_close(module(x.clone()), shortcut(module, x.clone()))
    undo.close()
    torch.testing.assert_close(module(x.clone()), whole)


def networks():
    """The first architecture of a small space of every kind."""
    for name in ("mbconv-mini", "hytra-mini", "nats-size", "nasbench201-mini", "splitattention-mini", "vit-mini",
                 "autoformer-mini", "bignas-mini"):  # fmt: skip
        yield name, pynas.spaces.get(name)


def test_every_kind_is_tried():
    assert {space.kind for _, space in networks()} == set(pynas.supernets.KINDS)


@pytest.mark.parametrize("name", [name for name, _ in networks()])
def test_networks_of_every_kind(name):
    space = pynas.spaces.get(name)
    torch.manual_seed(0)
    shape = (3, space.image_size, space.image_size)
    model = standalone(space, space.sample(np.random.default_rng(0)), 5, shape).eval()
    for part in model.modules():  # else a fresh network's zero weights hide its branches
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
    images = torch.randn(4, *shape)
    keys, outputs, code = list(model.state_dict()), model(images), traced(model, images).code
    layers = residual_layers(model)
    undo = regularise(model, 0.0, 0.5)
    rates = [[part.drop_prob for part in named(places) if isinstance(part, DropPath)] for places in layers]
    assert (
        len(rates) >= 2 and all(rates) and sum(map(len, rates)) == sum(isinstance(p, DropPath) for p in model.modules())
    )
    for layer, own in enumerate(rates):
        assert own == pytest.approx([0.5 * layer / (len(rates) - 1)] * len(own))
    assert torch.equal(model(images), outputs)
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    assert not torch.equal(model(images), model(images))
    undo.close()
    model.eval()
    assert not any(isinstance(part, DropPath) for part in model.modules())
    assert list(model.state_dict()) == keys and torch.equal(model(images), outputs)
    assert traced(model, images).code == code


def named(places):
    values = [getattr(owner, name) for owner, name in places]
    return [part for value in values for part in value.modules()]


def count(model):
    return len(residual_layers(model))


def test_residual_layers_counted_by_hand():
    """Layers with a shortcut alone: MBConv at stride 1 and equal widths, cells with a skip beside an operation."""
    assert count(nn.Sequential(MBConv(4, 4, 3, 2), MBConv(4, 6, 3, 2), MBConv(6, 6, 3, 2, 2), MBConv(6, 6, 5, 6))) == 2
    assert count(cell(*["nor_conv_3x3"] * 6)) == 0
    assert count(cell(*["skip_connect"] * 6)) == 0
    assert count(cell("none", "none", "none", "skip_connect", "none", "none")) == 0
    assert count(cell("none", "skip_connect", "nor_conv_1x1", "none", "none", "none")) == 1
    assert count(split()) == 1


def test_networks_of_others():
    """Nine of EfficientNet-B0's sixteen blocks have a shortcut, all of ResNet-18's eight."""
    assert count(efficientnet_b0()) == count(create_model("efficientnet_b0")) == 9
    assert count(create_model("resnet18")) == 8
    model = efficientnet_b0()
    before = [part.p for part in model.modules() if isinstance(part, StochasticDepth)]
    undo = regularise(model, 0.3, 0.8)
    owners = [owner.stochastic_depth.p for ((owner, _),) in residual_layers(model)]
    assert owners == pytest.approx(np.linspace(0, 0.8, 9)) and model.classifier[0].p == 0.3
    undo.close()
    assert [part.p for part in model.modules() if isinstance(part, StochasticDepth)] == before
    assert model.classifier[0].p == 0.2


def test_stochastic_depth_that_a_network_has_gets_the_rate():
    model = nn.Sequential(TransformerLayer(8, 2, 4, 16, drop_path=0.3), nn.Linear(8, 2))
    undo = regularise(model, 0.0, 0.6)
    assert model[0].drop_path.drop_prob == 0.6
    undo.close()
    assert model[0].drop_path.drop_prob == 0.3


def small(residual=True):
    torch.manual_seed(0)
    block = [MBConv(4, 4, 3, 1), MBConv(4, 4, 3, 1)] if residual else []
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), *block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("option", ["drop", "drop_path"])
def test_a_retraining_acts_and_leaves_no_trace(option, ema):
    recipe = replace(EFFICIENTNET, drop=0.0, drop_path=0.0, ema=ema)
    found = [
        retrain(small(), tiny_data(), r, epochs=1, batch_size=8)[0] for r in (recipe, replace(recipe, **{option: 0.5}))
    ]
    without, acting = (model.state_dict() for model in found)
    assert list(without) == list(acting) == list(small().state_dict())
    assert any(not torch.equal(value, acting[key]) for key, value in without.items())
    assert not any(isinstance(part, (DropPath, nn.Dropout)) for model in found for part in model.modules())
    plain, images = small().eval(), torch.randn(2, 3, 8, 8)
    plain.load_state_dict(acting)
    torch.testing.assert_close(plain(images), found[1](images))  # up to the order of sums in channels last
    torch.testing.assert_close(found[1].train()(images), plain.train()(images))


def test_an_interrupted_retraining_leaves_no_trace():
    def stop(step):
        raise KeyboardInterrupt

    model = small()
    with pytest.raises(KeyboardInterrupt):
        retrain(model, tiny_data(), EFFICIENTNET, epochs=1, batch_size=8, on_step=stop)
    assert not any(isinstance(part, DropPath) or part._forward_pre_hooks for part in model.modules())


def test_dropout_is_the_classifiers():
    """That of the last layer's MLP, the last of the network before, is another one."""
    model = create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)
    inside = model.blocks[-1].mlp.drop2
    undo = regularise(model, 0.4, 0.0)
    assert inside.p == 0 and model.head_drop.p == 0.4
    undo.close()
    assert model.head_drop.p == 0
    model = nn.Sequential(Block(8, 2), nn.LayerNorm(8), nn.Linear(8, 2))
    x = torch.randn(2, 5, 8)
    before = model(x)
    undo = regularise(model, 0.5, 0.0)
    assert model[0].mlp.drop2.p == 0 and not torch.equal(model(x), before) and torch.equal(model.eval()(x), before)
    undo.close()
    assert torch.equal(model.train()(x), before)


@pytest.mark.parametrize(("model", "option"), [
    (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), r"residual branches for the recipe's stochastic depth of 0\.1"),
    (nn.Sequential(MBConv(3, 3, 3, 1), nn.Flatten()), r"a linear classifier for the recipe's dropout of 0\.2"),
])  # fmt: skip
def test_a_network_without_a_place_is_named(model, option):
    with pytest.warns(
        UserWarning, match=rf"^\[retrain\] expected {option}, got none in the network: it trains without$"
    ):
        regularise(model, 0.2, 0.1)
    regularise(model, 0.0, 0.0)  # nothing was asked for: no warning


def test_networks_without_weights_are_refused():
    with pytest.raises(InputError, match="expected a network with weights to train, got none"):
        retrain(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), tiny_data(), DEIT)


def test_recipes_ask_for_both():
    assert DEIT.drop_path > 0 and EFFICIENTNET.drop_path > 0 and EFFICIENTNET.drop > 0
