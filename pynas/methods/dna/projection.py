"""Match of a teacher's features to a student's blocks: checked sizes, and widths projected onto principal components."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.methods.blocks import Batches
from pynas.methods.dna.full_width import FullWidth
from pynas.supernets import Supernet
from pynas.supernets.build import check_blocks
from pynas.teachers import Teacher

Shape = tuple[int, ...]


class Projection(nn.Module):
    """y = W x at every position, W `[out_channels, in_channels]` with orthonormal rows (columns, when widening).

    Narrowing keeps the directions in which the features vary most (principal components of the uncentred second
    moment); widening is an isometry. W is fixed before training and is not learned: a learned adaptation on the
    student's side could do a part of the block's work, and the exported network would lack it.

    nested: outputs of fewer channels stand for the first ones of y, the principal components that vary most; the features
    are then turned also where the widths are equal, where they pass unchanged otherwise.
    """

    weight: torch.Tensor

    def __init__(self, in_channels: int, out_channels: int, nested: bool = False):
        super().__init__()
        self.nested = nested
        self.register_buffer("weight", torch.eye(out_channels, in_channels))

    @property
    def is_identity(self) -> bool:
        """Whether features pass unchanged."""
        return self.weight.shape[0] == self.weight.shape[1] and not self.nested

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features: [B, in_channels, H, W] -> [B, out_channels, H, W]."""
        if self.is_identity:
            return features
        return functional.conv2d(features, self.weight.to(features.dtype)[:, :, None, None])

    def back(self, features: torch.Tensor) -> torch.Tensor:
        """W^T y: [B, out_channels, H, W] -> [B, in_channels, H, W].

        This inverts a widening exactly; for a narrowing it returns the smallest feature that `forward` maps to y. Where y has
        only the first c channels, the others count as 0.
        """
        if self.is_identity:
            return features
        weight = self.weight[: features.shape[1]].T.to(features.dtype)
        return functional.conv2d(features, weight[:, :, None, None])

    @torch.no_grad()
    def fit(self, batches: Iterable[torch.Tensor]) -> None:
        """Set W from features `[B, in_channels, H, W]`; deterministic for the same features."""
        out_channels, in_channels = self.weight.shape
        if self.is_identity:
            return
        moment = torch.zeros(in_channels, in_channels, dtype=torch.float64)
        for features in batches:
            flat = features.detach().transpose(0, 1).reshape(in_channels, -1).double().cpu()
            moment += flat @ flat.T
        directions = torch.linalg.eigh(moment).eigenvectors.flip(1).T
        # An eigenvector's sign is arbitrary; a positive largest entry gives the same result on all machines.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        directions = directions * largest.sign()
        if out_channels > in_channels:
            generator = torch.Generator().manual_seed(0)
            random = torch.randn(out_channels, in_channels, dtype=torch.float64, generator=generator)
            directions = torch.linalg.qr(random).Q @ directions
        self.weight.copy_(directions[:out_channels])


@torch.no_grad()
def fit_projections(
    projections: nn.ModuleList, batches: Batches, count: int, features: Callable[[Any], list[torch.Tensor]]
) -> None:
    """Fit the blocks' projections on the first `count` batches.

    features: called with a batch's images, returns the teacher's features, one per projection.

    Raises:
        InputError: no batches.
    """
    fitted_on = []
    for number, (images, _) in enumerate(batches):
        if number == count:
            break
        fitted_on.append(features(images))
    if not fitted_on:
        raise InputError("[dna] expected training batches, got an empty loader")
    for projection, block in zip(projections, zip(*fitted_on)):
        projection.fit(block)  # type: ignore[operator]


def check_taps(teacher: Teacher, net: Supernet, image_shape: tuple[int, int, int]) -> list[tuple[Shape, Shape]]:
    """Return for each block the teacher's feature shape at its tap and the block's output shape, the widest of several.

    Raises:
        InputError: another number of taps than blocks, another spatial size, blocks that end in maps of several sizes, or,
            where they end in several widths, a teacher that is narrower than the widest.
    """
    check_blocks(net.space)
    theirs, ours = teacher.feature_shapes(image_shape), net.block_shapes(image_shape)
    if len(theirs) != len(ours):
        raise InputError(
            f"[dna] expected {len(ours)} taps, one per block, got {len(theirs)}: {', '.join(teacher.taps)}"
        )
    for b, (feature, output, tap) in enumerate(zip(theirs, ours, teacher.taps)):
        if feature[1:] != output[1:]:
            raise InputError(
                f"[dna] expected features of size {_size(output)} after block {b + 1}, got {_size(feature)} "
                f"at the teacher's tap {tap!r} for {_size(image_shape)} images"
            )
        if net.space.has_states and feature[0] < output[0]:
            raise InputError(f"[dna] expected at least {output[0]} channels after block {b + 1}, as many as the widest path has, "
                             f"got {feature[0]} at the teacher's tap {tap!r}")  # fmt: skip
    return list(zip(theirs, ours))


def build_projections(
    teacher: Teacher, net: Supernet, image_shape: tuple[int, int, int], width: str
) -> tuple[nn.ModuleList, FullWidth]:
    """Return a `Projection` per block, not yet fitted, and the learned convolutions around the blocks.

    width: "projection" to the blocks' widths, without learned ones; "teacher": features pass unchanged.

    Raises:
        InputError: as `check_taps`, or width="teacher" in a space whose blocks end in several widths.
    """
    shapes = check_taps(teacher, net, image_shape)
    theirs, ours = ([shape[0] for shape in side] for side in zip(*shapes))
    if width == "teacher":
        if net.space.has_states:
            raise InputError(f"[dna] expected width='projection' for {net.space.name}, whose blocks end in several widths, got "
                             "'teacher'")  # fmt: skip
        return nn.ModuleList(Projection(channels, channels) for channels in theirs), FullWidth(theirs, ours)
    fixed = (Projection(*channels, net.space.has_states) for channels in zip(theirs, ours))
    return nn.ModuleList(fixed), FullWidth(ours, ours)


def check_one_shape(net: Supernet, method: str) -> None:
    """Raise InputError for a space whose blocks end in several shapes."""
    if net.space.has_states:
        raise InputError(f"[{method}] expected a space whose blocks each end in one shape, got {net.space.name}, where it "
                         "depends on the path; use bossnas, or dna where only the widths differ")  # fmt: skip


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape[1:])) if len(shape) == 3 else f"the shape {shape}"
