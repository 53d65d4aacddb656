"""Taps of a teacher whose features have the sizes of a supernet's blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pynas.teachers.pretrained import stages
from pynas.teachers.teacher import Teacher

Shape = Sequence[int]


def with_fitting_taps(teacher: Teacher, blocks: Sequence[Shape], image_shape: tuple[int, int, int]) -> Teacher:
    """Return the teacher tapped after one of its stages per block, of the block's size and as near as can be to its width.

    A teacher whose taps fit, and one in which no stages do, is returned as it is.

    teacher: of `timm_teacher`. blocks: output shapes (C, H, W) of the supernet's blocks.
    """
    shapes = teacher.feature_shapes(image_shape)
    if [shape[1:] for shape in shapes] == [tuple(block[1:]) for block in blocks]:
        return teacher
    names = stages(teacher.module)
    found = _assign(Teacher(teacher.module, names).feature_shapes(image_shape), blocks) if names else None
    if found is None:
        return teacher
    return Teacher(teacher.module, [names[index] for index in found], teacher.norm, teacher.metadata)


def _assign(stages: Sequence[Shape], blocks: Sequence[Shape]) -> list[int] | None:
    """Indices of rising stages, one per block and of its size, with the least sum of |log of the ratio of widths|."""
    # best[s]: the least sum, and its stages, of the blocks so far when the last of them has a stage up to s.
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(stages) + 1)
    for block in blocks:
        after: list[tuple[float, list[int]]] = [(math.inf, [])]
        for index, stage in enumerate(stages):
            total, before = best[index]
            fits = tuple(stage[1:]) == tuple(block[1:])
            taken = total + abs(math.log(stage[0] / block[0])) if fits else math.inf
            # Of equal sums the later stage is taken, the last one of its width.
            after.append((taken, [*before, index]) if taken <= after[-1][0] and fits else after[-1])
        best = after
    total, found = best[-1]
    return found if total < math.inf else None
