"""Small teachers with the sizes of a supernet's blocks."""

from __future__ import annotations

from typing import Any

from pynas import teachers


def fresh_teacher(run: Any) -> teachers.Teacher:
    """Return a small teacher of a run with the sizes of its supernet's blocks and weights from its seed."""
    blocks, stem = small_teacher_shape(run)
    module = run.seeded(lambda: teachers.small(run.data.num_classes, blocks, stem))
    return teachers.Teacher(module, [f"blocks.{b}" for b in range(len(blocks))])


def small_teacher_shape(run: Any) -> tuple[Any, Any]:
    """Return the blocks and the stem of a small teacher whose features have the sizes of the supernet's blocks."""
    shape = run.data.image_shape
    return teachers.small_like(run.net.block_shapes(shape), shape)
