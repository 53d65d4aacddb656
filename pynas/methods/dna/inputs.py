"""Inputs and targets of a block's rating, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.methods.blocks import Batches, BlockBatches, Pair
from pynas.methods.dna.full_width import FullWidth
from pynas.methods.dna.functional import functional_target, is_functional
from pynas.methods.dna.projection import check_one_shape
from pynas.methods.dna.widths import narrow
from pynas.spaces import Choice
from pynas.supernets import Supernet, evaluating


def block_inputs(
    net: Supernet,
    around: FullWidth,
    teach: Callable[[Tensor], tuple[Tensor, list[Tensor], Tensor | None]],
    batches: Batches,
    block: int,
    loss: Any,
    prefix: Sequence[Choice],
    width: int | None,
) -> BlockBatches:
    """Return a block's input and its target under `loss` for every batch.

    The input is the teacher's feature Y_{k-1}, or the output of a `prefix` of the student's blocks just before it (batch
    statistics). The target is Y_k, or the logits or labels that a functional loss compares with.

    teach: called with a batch's images, returns them on the method's device, the features after each block, and the logits.
    width: of the input.
    """
    first = block - len(prefix)
    if prefix:
        check_one_shape(net, "rate")
    modules = [module for b, choice in enumerate(prefix, first) for module in net.path(b, choice)]
    # A copy in training mode: its batch norm uses the batch's statistics, and the net's running ones do not change.
    before = copy_module(nn.Sequential(*modules)).train()

    def pair(images: Tensor, labels: Tensor) -> Pair:
        images, features, logits = teach(images)
        with evaluating(net.stem):
            if first == 0:
                x = before(net.enter(images))
            else:
                x = before(around.entries[first](narrow(features[first - 1], width)))
        return x, functional_target(str(loss), logits, labels) if is_functional(loss) else features[block]

    return BlockBatches(batches, pair)
