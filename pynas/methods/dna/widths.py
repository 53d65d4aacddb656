"""Widths of a space whose blocks end in several: the first principal components of the teacher's features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pynas.supernets import Supernet
from pynas.supernets.shapes import Shape
from pynas.supernets.walk import walk_shapes


def input_widths(net: Supernet, image_shape: Shape) -> list[list[int | None]]:
    """Channels that the paths of each block, then the head, may get: of a block one number per cell, `[block][cell]`.

    None where the block before ends in one shape.
    """
    if not net.space.has_states:
        return [[None] * number for number in (*map(len, net.space.blocks), 1)]
    walked = walk_shapes(net, image_shape)
    widths: list[list[int | None]] = [[None] * len(walked.blocks[0])]
    for cells in walked.blocks[1:]:
        widths.append([cell.shapes[0][0][0] for cell in cells])
    widths.append([*sorted({shape[0] for cell in walked.blocks[-1] for shape in cell.shapes[-1]})])
    return widths


def narrow(features: Tensor, width: int | None) -> Tensor:
    """The first `width` channels of features `[B, C, H, W]`, which are their first principal components; None: all."""
    return features if width is None else features[:, :width]


class Widen(nn.Module):
    """Zeros in the place of the channels that an output lacks: `[B, c, H, W]` -> `[B, width, H, W]`.

    A path of few channels is so charged, in a loss on features, what it cannot tell of the teacher's.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, output: Tensor) -> Tensor:
        """output: [B, c, H, W], c up to the width."""
        return functional.pad(output, (0, 0, 0, 0, 0, self.width - output.shape[1]))
