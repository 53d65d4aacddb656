"""What a block of the supernet gets from the teacher (or the student's blocks before it), and should put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.methods.dna.functional import functional_target, is_functional
from pynas.spaces import Choice
from pynas.supernets import Supernet, evaluating
from pynas.teachers import Teacher

if TYPE_CHECKING:
    from pynas.methods.dna.dna import DNA

Batches = Iterable[tuple[Tensor, Tensor]]


class BlockBatches:
    """(input, target) of one block for every batch; runs the teacher anew each time it is iterated.

    The input is the teacher's feature Y_{k-1}, or what the student's own path `prefix` puts out where one is given (one
    choice per block before this one; batch statistics). The target is Y_k, or what a functional loss compares with.
    """

    def __init__(
        self,
        method: DNA,
        batches: Batches,
        block: int,
        loss: str | Callable[..., Tensor],
        prefix: Sequence[Choice] = (),
    ):
        self.method, self.batches, self.block, self.loss = method, batches, block, loss
        paths = [method.net.path(b, choice) for b, choice in enumerate(prefix)]
        # A copy in training mode: its batch norm uses the batch's statistics, and the net's own stay as they are.
        self.prefix = copy.deepcopy(nn.Sequential(*(m for path in paths for m in path))).train() if paths else None

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            images = self.method.place(images)
            features, logits = self.method.targets(images)
            if is_functional(self.loss):
                yield self.input(images, features), functional_target(str(self.loss), logits, labels)
            else:
                yield self.input(images, features), features[self.block]

    def input(self, images: Tensor, features: Sequence[Tensor]) -> Tensor:
        """What the block gets."""
        if self.block > 0 and self.prefix is None:
            return features[self.block - 1]
        net = self.method.net
        with evaluating(net.stem):
            x = net.enter(images)
        return x if self.prefix is None else self.prefix(x)


def check_taps(
    teacher: Teacher, net: Supernet, image_shape: tuple[int, int, int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The teacher's shape at each tap beside the block's.

    Raises:
        InputError: another number of taps than blocks, another spatial size, or a space whose blocks end in several shapes.
    """
    if net.space.has_states:
        raise InputError(f"[dna] expected a space whose blocks each end in one shape, got {net.space.name}, where it "
                         "depends on the path; bossnas trains such spaces")  # fmt: skip
    have, want = teacher.feature_shapes(image_shape), net.block_shapes(image_shape)
    if len(have) != len(want):
        raise InputError(f"[dna] expected {len(want)} taps, one per block, got {len(have)}: {', '.join(teacher.taps)}")
    for b, (a, w) in enumerate(zip(have, want)):
        if a[1:] != w[1:]:
            raise InputError(
                f"[dna] expected features of size {_size(w)} after block {b + 1}, got {_size(a)} "
                f"at the teacher's tap {teacher.taps[b]!r} for {_size(image_shape)} images"
            )
    return list(zip(have, want))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:])) if len(shape) == 3 else f"the shape {shape}"
