"""SNIP scores of every prefix box of a weight matrix, in one pass over it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F

from pynas.ops import _library as native

# Rows of a cell of the grid at most on the CPU, so that there are cells for all threads.
_ROWS = 32
# Rows and columns at most that a block of a CUDA kernel takes.
_STRIP = (16, 1024)


def saliency_boxes(weight: torch.Tensor, grad: torch.Tensor, rows: Sequence[int], cols: Sequence[int]) -> torch.Tensor:
    """Return the sum of abs(weight * grad) over each box `[:rows[i], :cols[j]]`, float64 `[len(rows), len(cols)]`.

    PreNAS eq. 4: a subnet of the first r rows and c columns of `weight` `[R, C]` has the score of its box. Divided by
    the score of the largest box it is a layer's term of eq. 13. Bounds are in any order and may repeat. Each element is
    read once; a matrix whose rows are dense (`weight[k::3]`) is not copied. Not differentiable.

    Raises `InputError` on shapes, dtypes or devices that do not fit, on bounds outside the matrix, and on inputs that
    need a gradient.
    """
    native.require_no_grad("saliency_boxes", weight=weight, grad=grad)
    return _run(weight, grad, _integers("rows", rows), _integers("cols", cols))


def saliency_boxes_reference(
    weight: torch.Tensor, grad: torch.Tensor, rows: Sequence[int], cols: Sequence[int]
) -> torch.Tensor:
    """Return the sums of `saliency_boxes`, one box after the other, in plain torch and float64."""
    product = (weight.double() * grad.double()).abs()
    boxes = [product[:row, :col].sum() for row in rows for col in cols]
    return torch.stack(boxes).view(len(rows), len(cols)) if boxes else product.new_empty(len(rows), len(cols))


def _integers(name: str, bounds: Sequence[int]) -> list[int]:
    try:
        return [operator.index(bound) for bound in bounds]
    except TypeError:
        native.refuse("saliency_boxes", f"{name} to be a sequence of integers", bounds)


def _check(weight: torch.Tensor, grad: torch.Tensor, rows: list[int], cols: list[int]) -> None:
    name = "saliency_boxes"
    native.require_tensor(name, "weight", weight)
    native.require_tensor(name, "grad", grad, like=weight)
    native.require(weight.dim() == 2, name, "weight of shape [R, C]", list(weight.shape))
    native.require(grad.shape == weight.shape, name, f"grad of shape {list(weight.shape)}", list(grad.shape))
    for argument, bounds, size in (("rows", rows, weight.shape[0]), ("cols", cols, weight.shape[1])):
        for bound in bounds:
            native.require(0 <= bound <= size, name, f"{argument} between 0 and {size}", bound)


def _unit_stride(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()


def _saliency_boxes(weight, grad, rows, cols):
    _check(weight, grad, rows, cols)
    weight, grad = _unit_stride(weight), _unit_stride(grad)
    row_edges, col_edges = sorted({0, *rows}), sorted({0, *cols})
    partial = None
    if native.backend(weight) == "cuda":
        strips = [sum(-(-(b - a) // most) for a, b in pairwise(e)) for e, most in zip((row_edges, col_edges), _STRIP)]
        partial = weight.new_empty(strips, dtype=torch.float64)
    else:
        row_edges = [row for first, last in pairwise(row_edges) for row in range(first, last, _ROWS)] + row_edges[-1:]
    boxes = weight.new_empty((len(row_edges) - 1, len(col_edges) - 1), dtype=torch.float64)
    if boxes.numel() > 0:
        native.call(
            "saliency_boxes",
            weight,
            weight=weight,
            grad=grad,
            row_edges=torch.tensor(row_edges),
            col_edges=torch.tensor(col_edges),
            boxes=boxes,
            partial=partial,
            weight_stride=weight.stride(0),
            grad_stride=grad.stride(0),
            row_cells=boxes.shape[0],
            col_cells=boxes.shape[1],
            strip_rows=_STRIP[0],
            strip_cols=_STRIP[1],
            dtype=weight.dtype,
        )
    if (rows, cols) == (row_edges[1:], col_edges[1:]):
        return boxes
    return F.pad(boxes, (1, 0, 1, 0))[_places(row_edges, rows, boxes)][:, _places(col_edges, cols, boxes)]


def _places(edges: list[int], bounds: list[int], on: torch.Tensor) -> torch.Tensor:
    """Return the positions of the bounds among the edges, on the device of `on`, which is not waited for."""
    place = {edge: i for i, edge in enumerate(edges)}
    return torch.tensor([place[bound] for bound in bounds], dtype=torch.int64).to(on.device, non_blocking=True)


def _fake(weight, grad, rows, cols):
    _check(weight, grad, rows, cols)
    return weight.new_empty((len(rows), len(cols)), dtype=torch.float64)


_run = native.define(
    "saliency_boxes", "(Tensor weight, Tensor grad, int[] rows, int[] cols) -> Tensor", _saliency_boxes, _fake
)
