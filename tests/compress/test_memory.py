"""Memory: what a plan and its candidates hold beside the model."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from pynas import compress
from pynas.compress import plan
from pynas.compress.cuts import Cut
from pynas.errors import InputError

from .families import FAMILIES, built


def storages(*modules: torch.nn.Module) -> dict[int, int]:
    """Bytes of each distinct memory of the modules' weights."""
    values = [p.untyped_storage() for module in modules for p in module.parameters()]
    return {value.data_ptr(): value.nbytes() for value in values}


@pytest.mark.parametrize("name", ["Llama", "BERT", "timm resnet50"])
def test_candidates_share_what_is_equal(name: str) -> None:
    """All candidates of a block need less than each width and each number of heads once, beside the model's own weights."""
    model, call = built(FAMILIES[name])
    planned = plan(model, call)
    assert storages(planned.model).keys() == storages(model).keys()
    net = planned.supernet(widths=(1.0, 0.5, 0.25), heads=(1.0, 0.5, 0.25), refit=[call])
    for number, block in enumerate(net.blocks):
        pieces = [piece.module for layer in net.layers(number) for piece in layer if piece.module is not None]
        own = {key: size for key, size in storages(*pieces).items() if key not in storages(model)}
        alone = [
            parts.cut(parts.sizes(cut))
            for parts, cuts in block
            for cut in cuts
            if not cut.left_out and sum([cut.width < 1, cut.heads < 1, cut.kernel > 0]) == 1
        ]
        assert sum(own.values()) <= sum(storages(*alone).values())


def test_smaller_networks_have_weights_of_their_own() -> None:
    model, call = built(FAMILIES["BERT"])
    net = plan(model, call).supernet(widths=(1.0, 0.5), refit=[call])
    for architecture in (net.original, net.space.sample(np.random.default_rng(0))):
        small = net.extract(architecture)
        assert not storages(small).keys() & storages(model).keys()
        assert len(storages(small)) == len({*small.parameters()})


def test_a_model_that_was_trained_since() -> None:
    model, call = built(FAMILIES["timm resnet18"])
    planned = plan(model, call)
    net = planned.supernet(widths=(1.0, 0.5), refit=[call])
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(InputError, match=r"\[compress\] expected the weights that the plan was made of, got others"):
        net.layers(0)
    with pytest.raises(InputError, match=r"\[compress\] expected the weights that the plan was made of, got others"):
        compress.rate(net, [call])


@pytest.mark.parametrize("name", ["Llama", "timm resnet18", "BERT", "vit"])
def test_copies_are_free_as_soon_as_they_are_not_needed(name: str) -> None:
    model, call = built(FAMILIES[name])
    parts = plan(model, call).parts[0]
    gc.collect()
    gc.disable()
    try:
        copies = [weakref.ref(part) for part in parts.cut(parts.sizes(Cut(width=0.5, heads=0.5))).modules()]
        assert all(copy() is None for copy in copies)
    finally:
        gc.enable()
