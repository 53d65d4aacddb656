"""`pynas run --dry-run`: what a run would cost, from a few timed steps in a folder that is thrown away."""

from __future__ import annotations

import contextlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pynas import export, teachers
from pynas.runs.recipes import registry as flows
from pynas.runs import select as selecting
from pynas.runs import stages
from pynas.cli.display import Show
from pynas.runs.settings import CONFIG, read_settings
from pynas.runs.stages import Run
from pynas.costs import cost_range
from pynas.train import Step
from pynas.zero_cost import load_preferred

# Steps that are timed after the first, and seconds after which fewer will do.
STEPS, SECONDS = 5, 30.0


class Clock:
    """Takes the times of training steps, as a log of `Show`, and ends the training when it has enough."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.trainings = self.steps_each = 0

    def steps(self, what: str) -> Callable[[Step], None]:
        """One training, of which there may be several."""
        self.trainings += 1
        return self.tick

    def tick(self, step: Step) -> None:
        """A step has ended."""
        self.steps_each = step.steps
        self.times.append(time.perf_counter())
        if len(self.times) > STEPS or (len(self.times) > 1 and self.times[-1] - self.times[0] > SECONDS):
            raise Enough

    @property
    def seconds(self) -> float:
        """A step's median time; None was timed where there was but one."""
        return statistics.median(np.diff(self.times)) if len(self.times) > 1 else float("nan")


class Enough(Exception):
    """All that was wanted is known."""


def dry_run(folder: Path | None, given: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Sizes, costs, memory and time of a run of these settings; nothing stays on the disk.

    Raises:
        InputError: whatever the run itself would refuse before its first step.
    """
    if folder is not None and (folder / CONFIG).exists():
        given = asdict(read_settings(folder))
    with tempfile.TemporaryDirectory(prefix="pynas-dry-") as temporary:
        run = flows.new_run(Path(temporary) / "run", given, device)
        untrained_teacher(run)
        clock = Clock()
        with contextlib.suppress(Enough):
            run.flow.train(run, Show(None, clock))
        steps = clock.steps_each * clock.trainings
        return {**_sizes(run), **_costs(run), "device": str(run.device), "steps": steps,
                "seconds_per_step": clock.seconds, "training_seconds": clock.seconds * steps, **_rating(run),
                "memory_bytes": _peak_memory(run.device)}  # fmt: skip


def untrained_teacher(run: Run) -> None:
    """A small teacher as the run would train one, without the training."""
    if run.settings.teacher != "small" or not hasattr(run.net, "block_shapes"):
        return
    blocks, stem = teachers.small_like(run.net.block_shapes(run.data.image_shape), run.data.image_shape)
    module = teachers.small(run.data.num_classes, blocks, stem)
    metadata = {"num_classes": run.data.num_classes, "blocks": [list(block) for block in blocks], "stem": list(stem)}
    teacher = teachers.Teacher(module, [f"blocks.{b}" for b in range(len(blocks))], metadata=metadata)
    teachers.save_small(run.folder / "teacher.safetensors", teacher)


def _sizes(run: Run) -> dict[str, Any]:
    data = run.data
    return {"method": run.settings.method, "space": run.space.name, "architectures": run.space.size,
            "paths_per_block": list(run.space.path_counts),
            "supernet_parameters": sum(p.numel() for p in run.net.parameters()),
            "images": {part: len(getattr(data, part)) for part in ("train", "val", "test")},
            "image_shape": list(data.image_shape), "classes": data.num_classes}  # fmt: skip


def _costs(run: Run) -> dict[str, Any]:
    table = stages.costs(run)
    return {"costs": {name: list(cost_range(run.space, table, name)) for name in table.names}}


def _rating(run: Run) -> dict[str, Any]:
    """A rating's multiply-adds per image, prefixes shared, and its time at the rate of one network's forward pass."""
    table = stages.costs(run)["madds"]
    if (run.folder / selecting.FILE).exists():
        # The preferred architectures, each alone.
        members = load_preferred(run.folder / selecting.FILE, run.space).members
        return _rating_time(run, sum(one.costs["madds"] for one in members))
    shared = 0.0
    for cells, tables in zip(run.space.blocks, table):
        for cell, costs in zip(cells, tables):
            prefixes = np.cumprod(cell.counts, dtype=np.float64)
            # Layers of a cell count alike: their own shares are not in the tables.
            shared += float(prefixes.sum()) * float(np.mean(costs)) / len(cell.counts)
    return _rating_time(run, shared)


def _rating_time(run: Run, madds: float) -> dict[str, Any]:
    seconds = madds * len(run.data.val) / _madds_per_second(run)
    return {"rating_madds_per_image": madds, "rating_seconds": seconds}


@torch.no_grad()
def _madds_per_second(run: Run) -> float:
    architecture = run.space.sample(np.random.default_rng(0))
    model = export.subnet(run.net, architecture, run.data.image_shape).to(run.device).eval()
    images, _ = next(iter(run.loader("val")))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        float(model(images).sum())
        times.append(time.perf_counter() - start)
    return stages.costs(run).of(architecture)["madds"] * len(images) / statistics.median(times[1:])


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
