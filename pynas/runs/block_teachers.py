"""Teachers whose features have the sizes of a supernet's blocks."""

from __future__ import annotations

from typing import Any

from pynas import teachers
from pynas.methods.dna.scaling import load_scaled
from pynas.supernets.build import check_blocks
from pynas.supernets.walk import walk_shapes


def fitting_teacher(run: Any, teacher: teachers.Teacher) -> teachers.Teacher:
    """Return a named teacher tapped after modules of the sizes of a run's blocks, see `pynas.teachers.with_fitting_taps`."""
    return teachers.with_fitting_taps(teacher, _feature_shapes(run), run.data.image_shape)


def kept_teacher(run: Any) -> teachers.Teacher:
    """Return DNA+'s scaled teacher of the run's folder, or a small one, which is trained once; a rehearsal does not train."""
    path = run.folder / "teacher.safetensors"
    if run.settings.teacher == "scaled":
        return load_scaled(path)
    if path.exists():
        return teachers.load_small(path)
    if run.rehearsal:
        return fresh_teacher(run)
    teacher = teachers.fit_small(run.data, *small_teacher_shape(run), seed=run.settings.seed, device=run.device,
                                 progress=run.progress.epochs())  # fmt: skip
    teachers.save_small(path, teacher)
    return teacher


def fresh_teacher(run: Any) -> teachers.Teacher:
    """Return a small teacher of a run with the sizes of its supernet's blocks and weights from its seed."""
    blocks, stem = small_teacher_shape(run)
    module = run.seeded(lambda: teachers.small(run.data.num_classes, blocks, stem))
    return teachers.Teacher(module, [f"blocks.{b}" for b in range(len(blocks))])


def small_teacher_shape(run: Any) -> tuple[Any, Any]:
    """Return the blocks and the stem of a small teacher whose features have the sizes of the supernet's blocks."""
    return teachers.small_like(_feature_shapes(run), run.data.image_shape)


def _feature_shapes(run: Any) -> list[tuple[int, ...]]:
    """Return the shape (C, H, W) of a teacher's features after each block: that of the block's output, the widest of several.

    Where the paths of a block end with maps of several sizes, the teacher has a larger one after an early block and a smaller
    one after a late block, as ResNet-50 has in HyTra.
    """
    check_blocks(run.space)
    if not run.space.has_states:
        return list(run.net.block_shapes(run.data.image_shape))
    blocks, shapes = walk_shapes(run.net, run.data.image_shape).blocks, []
    for b, cells in enumerate(blocks):
        widths: dict[tuple[int, ...], int] = {}
        for width, *rest in (shape for cell in cells for shape in cell.shapes[-1]):
            widths[tuple(rest)] = max(width, widths.get(tuple(rest), 0))
        sizes = sorted(widths, reverse=True)
        size = sizes[round(b * (len(sizes) - 1) / max(1, len(blocks) - 1))]
        shapes.append((widths[size], *size))
    return shapes
