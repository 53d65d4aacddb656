"""Estimate a run (`pynas run --dry-run`): sizes, costs, memory and time, from a few steps in a temporary folder."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from pynas import export
from pynas.costs import cost_range
from pynas.runs.progress import Progress
from pynas.runs.recipes import recipe_of
from pynas.runs.run import Run
from pynas.runs.select import FILE
from pynas.runs.settings import Settings, open_folder
from pynas.train import Step
from pynas.zero_cost import load_preferred

# Steps that are timed after the first, and seconds after which fewer will do.
STEPS, SECONDS = 5, 30.0


class Clock:
    """Takes the times of training steps, and ends the training when it has enough."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.trainings = self.steps_each = 0

    def log(self, name: str) -> Callable[[Step], None]:
        """Return the log of one training, of which there may be several."""
        self.trainings += 1
        return self.tick

    def tick(self, step: Step) -> None:
        """Note the end of a step.

        Raises:
            Enough: the steps at hand suffice.
        """
        self.steps_each = step.steps
        self.times.append(time.perf_counter())
        if len(self.times) > STEPS or (len(self.times) > 1 and self.times[-1] - self.times[0] > SECONDS):
            raise Enough

    @property
    def seconds(self) -> float:
        """A step's median time; NaN where there was but one step."""
        return statistics.median(np.diff(self.times)) if len(self.times) > 1 else float("nan")


class Enough(Exception):
    """Ends a training whose steps are timed."""


def estimate(settings: Settings, device: str = "auto", workers: int | None = None) -> dict[str, Any]:
    """Return sizes, costs, memory and time of a run of these settings; nothing stays on the disk.

    Raises:
        InputError: whatever the run itself would refuse before its first step.
    """
    with tempfile.TemporaryDirectory(prefix="pynas-dry-") as temporary:
        folder, settings = open_folder(Path(temporary) / "run", settings, {})
        clock = Clock()
        recipe = recipe_of(settings.method, settings.space)
        run = Run(folder, settings, recipe, device, progress=Progress(log=clock.log), rehearsal=True, workers=workers)
        with contextlib.suppress(Enough):
            recipe.train(run)  # of one seed; each further one takes as long
        seeds = settings.seeds
        steps = clock.steps_each * clock.trainings * seeds
        costs = {name: list(cost_range(run.space, run.costs, name)) for name in run.costs.additive}
        rating = _rating(run)
        # The first seed's supernet is still held while the others train.
        held = sum(tensor.nbytes for tensor in run.net.state_dict().values()) if seeds > 1 else 0
        fresh = settings.teacher == "small" and recipe.teacher(run) is not None
        return {**_sizes(run), "seeds": seeds, "teacher_to_train": fresh, "costs": costs, "device": str(run.device), "steps": steps,
                "seconds_per_step": clock.seconds, "training_seconds": clock.seconds * steps, **rating,
                "rating_seconds": rating["rating_seconds"] * seeds, "memory_bytes": _peak_memory(run.device) + held}  # fmt: skip


def _sizes(run: Run) -> dict[str, Any]:
    data = run.data
    return {"method": run.settings.method, "space": run.space.name, "architectures": run.space.size,
            "paths_per_block": list(run.space.path_counts),
            "supernet_parameters": sum(p.numel() for p in run.net.parameters()),
            "images": {part: len(getattr(data, part)) for part in ("train", "val", "test")},
            "image_shape": list(data.image_shape), "classes": data.num_classes}  # fmt: skip


def _rating(run: Run) -> dict[str, Any]:
    """Return a rating's multiply-adds per image, prefixes shared, and its time at the rate of one network's forward pass."""
    if (run.folder / FILE).exists():  # the preferred architectures, each alone
        members = load_preferred(run.folder / FILE, run.space).members
        madds = sum(member.costs["madds"] for member in members)
    else:
        madds = 0.0
        for cells, tables in zip(run.space.blocks, run.costs["madds"]):
            for cell, costs in zip(cells, tables):
                prefixes = np.cumprod(cell.counts, dtype=np.float64)
                # Layers of a cell count alike: their own shares are not in the tables.
                madds += float(prefixes.sum()) * float(np.mean(costs)) / len(cell.counts)
    return {"rating_madds_per_image": madds, "rating_seconds": madds * len(run.data.val) / _madds_per_second(run)}


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
    return run.costs.of(architecture)["madds"] * len(images) / statistics.median(times[1:])


def _peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: of the device's memory, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    # Bytes on macOS, KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
