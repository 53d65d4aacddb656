"""Teachers whose features have the sizes of a supernet's blocks."""

from __future__ import annotations

from typing import Any

from pynas import teachers
from pynas.supernets.build import check_blocks


def fitting_teacher(run: Any, teacher: teachers.Teacher) -> teachers.Teacher:
    """Return a timm teacher tapped after stages of the sizes of a run's blocks, see `pynas.teachers.with_fitting_taps`."""
    check_blocks(run.space)
    shape = run.data.image_shape
    return teachers.with_fitting_taps(teacher, run.net.block_shapes(shape), shape)


def fresh_teacher(run: Any) -> teachers.Teacher:
    """Return a small teacher of a run with the sizes of its supernet's blocks and weights from its seed."""
    blocks, stem = small_teacher_shape(run)
    module = run.seeded(lambda: teachers.small(run.data.num_classes, blocks, stem))
    return teachers.Teacher(module, [f"blocks.{b}" for b in range(len(blocks))])


def small_teacher_shape(run: Any) -> tuple[Any, Any]:
    """Return the blocks and the stem of a small teacher whose features have the sizes of the supernet's blocks."""
    check_blocks(run.space)
    shape = run.data.image_shape
    return teachers.small_like(run.net.block_shapes(shape), shape)
