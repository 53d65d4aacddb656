"""Taps of a teacher that fit the blocks of a supernet, out of timm's stages or out of all submodules."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from pynas.copies import copy_module
from pynas.teachers.maps import AsMap, MapOf, map_shape, maps_of
from pynas.teachers.pretrained import stages
from pynas.teachers.teacher import Teacher

Shape = Sequence[int]


def with_fitting_taps(teacher: Teacher, blocks: Sequence[Shape], image_shape: tuple[int, int, int]) -> Teacher:
    """Return the teacher tapped after one of its modules per block, of the block's size and as near as can be to its width.

    Modules are timm's stages where these fit; else the shallowest whose outputs are feature maps that fit, those of a sequence
    before others, and of those of one width and size as even a division as can be. Token sequences and maps with their channels
    last are tapped as maps (`pynas.teachers.maps.AsMap`). A teacher whose taps fit, and one in which no modules do, is returned
    as it is.

    blocks: output shapes (C, H, W) of the supernet's blocks.
    """
    if [tuple(shape[1:]) for shape in teacher.feature_shapes(image_shape)] == [tuple(block[1:]) for block in blocks]:
        return teacher
    names = stages(teacher.module)
    found = _assign(Teacher(teacher.module, names).feature_shapes(image_shape), blocks) if names else None
    if found is not None:
        return _tapped(teacher, [names[index] for index in found])
    taps = _of_all(maps_of(teacher.module, image_shape), blocks)
    return teacher if taps is None else with_maps(_tapped(teacher, taps), image_shape)


def with_maps(teacher: Teacher, image_shape: tuple[int, int, int]) -> Teacher:
    """Return the teacher with its taps as maps where they are token sequences or have their channels last.

    The other weights are shared with the teacher's module, which stays as it is.
    """
    shapes = teacher.feature_shapes(image_shape)
    others = [tap for tap, shape in zip(teacher.taps, shapes) if map_shape(shape) not in (None, tuple(shape))]
    if not others:
        return teacher
    module = copy_module(
        teacher.module, {id(tensor): tensor for tensor in teacher.module.state_dict(keep_vars=True).values()}
    )
    tapped = {tap: module.get_submodule(tap) for tap in teacher.taps}
    for tap in sorted(others, key=lambda name: -name.count(".")):  # the inner ones first, while the outer names hold
        wrapped = AsMap(tapped[tap]).eval()
        module.set_submodule(tap, wrapped)
        tapped[tap] = wrapped.map
    names = {part: name for name, part in module.named_modules()}
    return Teacher(module, [names[tapped[tap]] for tap in teacher.taps], teacher.norm, teacher.metadata)


def default_taps(module: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """Return a submodule for each resolution of the maps below the images' and above 1: the last one of a sequence, or else of any.

    Of those of different depths it is one of the least.
    """
    last: dict[tuple[int, ...], MapOf] = {}
    for found in maps_of(module, image_shape):
        size, rank = found.shape[1:], (found.in_sequence, -found.depth)
        if 1 < found.shape[1] < image_shape[1] and (
            size not in last or rank >= (last[size].in_sequence, -last[size].depth)
        ):
            last[size] = found
    return [last[size].name for size in sorted(last, reverse=True)]


def _tapped(teacher: Teacher, taps: Sequence[str]) -> Teacher:
    return Teacher(teacher.module, taps, teacher.norm, teacher.metadata)


def _of_all(maps: Sequence[MapOf], blocks: Sequence[Shape]) -> list[str] | None:
    """Names of the modules of the least depth that fit the blocks, of those in a sequence if they do; None where none fit."""
    for among in ([found for found in maps if found.in_sequence], maps):
        for depth in sorted({found.depth for found in among}):
            near = [found for found in among if found.depth <= depth]
            indices = _assign([found.shape for found in near], blocks, even=True)
            if indices is not None:
                return [near[index].name for index in indices]
    return None


def _assign(stages: Sequence[Shape], blocks: Sequence[Shape], even: bool = False) -> list[int] | None:
    """Indices of rising stages, one per block and of its size, with the least sum of |log of the ratio of widths|.

    even: of equal sums, those nearest to an even division of the stages of a size among its blocks; else the later stages.
    """
    # best[s]: the least sum, and its stages, of the blocks so far when the last of them has a stage up to s.
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(stages) + 1)
    for number, block in enumerate(blocks):
        after: list[tuple[float, list[int]]] = [(math.inf, [])]
        for index, stage in enumerate(stages):
            total, before = best[index]
            fits = tuple(stage[1:]) == tuple(block[1:])
            taken = total + abs(math.log(stage[0] / block[0])) if fits else math.inf
            if even and fits:
                taken += 1e-6 * abs(_place(stages, index) - _place(blocks, number))
            # Of equal sums the later stage is taken, the last one of its width.
            after.append((taken, [*before, index]) if taken <= after[-1][0] and fits else after[-1])
        best = after
    total, found = best[-1]
    return found if total < math.inf else None


def _place(shapes: Sequence[Shape], index: int) -> float:
    """Place of a shape among those of its size, from above 0 to 1 for the last one."""
    same = [number for number, shape in enumerate(shapes) if tuple(shape[1:]) == tuple(shapes[index][1:])]
    return (same.index(index) + 1) / len(same)
