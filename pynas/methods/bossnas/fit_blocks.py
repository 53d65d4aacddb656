"""Block after block: train a block, rate its paths, fix the best one, go on with the next; resumes from any moment."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.methods.sampling import start_fits
from pynas.rating import ScoreTable
from pynas.rating.scores import load_block, save_block
from pynas.spaces import Choice
from pynas.tensor_files import read_tensors, write_tensors
from pynas.train.checkpoint import differing_names, trained_state
from pynas.train.loop import Batch, Step, fit
from pynas.train.team import is_first_process

BLOCK = "pynas.block"
TRAINING = "training"


@dataclass(frozen=True)
class BlockStep:
    """A step of the training of one block, counted from 1; with feed="joint" block is 1 throughout."""

    block: int
    blocks: int
    step: Step


@dataclass
class _Driver:
    method: Any
    train_loader: Iterable[Batch]
    val_loader: Iterable[Batch]
    epochs: int
    run: Path | None
    seed: int
    accumulate: int
    rate_epochs: Collection[int]
    calibration_batches: int
    on_step: Callable[[BlockStep], None] | None
    spread: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def joint(self) -> bool:
        return self.method.feed == "joint"

    @property
    def blocks(self) -> int:
        return len(self.method.net.space.blocks)

    def block(self, b: int) -> list[ScoreTable]:
        """Train, rate and fix a block, or read all that."""
        if b == 0 or not self.joint:
            if not self.joint and self.restore(b):
                return self.tables(b)
            self.train(b)
        if self.joint and self.restore(b):
            return self.tables(b)
        tables = self.rate(b)
        run = self.run if is_first_process() else None
        if run is not None:
            save_block(run / "scores" / f"block_{b + 1}.npz", tables, **self.description(b))
        choice = best_choice(tables, self.method, b)
        self.method.fix(choice, self.calibration())
        if run is not None:
            metadata = self.description(b) | {"choice": [choice.cell, list(choice.path)]}
            write_tensors(self.file(b), BLOCK, self.tensors(b), **metadata)
            if not self.joint:
                shutil.rmtree(run / TRAINING / f"block_{b + 1}" / "checkpoints", ignore_errors=True)
        return tables

    def train(self, b: int) -> None:
        self.method.start(b)
        length = -(-len(self.train_loader) // self.accumulate)  # type: ignore[arg-type]

        def on_step(step: Step) -> None:
            if self.on_step is not None:
                self.on_step(BlockStep(b + 1, self.blocks, step))
            if step.step % length == 0 and step.epoch in self.rate_epochs and self.run is not None:
                file = self.run / "scores" / f"epoch_{step.epoch}" / f"block_{b + 1}.npz"
                tables = self.rate(b)
                if is_first_process():
                    save_block(file, tables, **self.description(b), epoch=step.epoch)

        fit(
            self.method,
            self.train_loader,
            self.epochs,
            self.folder(b),
            seed=self.seed + b,
            accumulate=self.accumulate,
            on_step=on_step,
            spread=self.spread,
        )

    def rate(self, b: int) -> list[ScoreTable]:
        return self.method.rate_block(
            self.val_loader, b, calibration=self.calibration(), seed=self.seed, **self.options
        )

    def calibration(self) -> list[Batch]:
        loader = self.train_loader
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(0, 0)
        return list(itertools.islice(loader, self.calibration_batches))

    def restore(self, b: int) -> bool:
        """Whether the block was done; if so it is as it was then."""
        if self.run is None or not self.file(b).exists():
            return False
        stored = read_tensors(self.file(b), BLOCK)
        for name, value in self.description(b).items():
            if stored.metadata.get(name) != value:
                raise InputError(f"[fit_blocks] expected a block with {name} = {value}, got {stored.metadata.get(name)} "
                                 f"in {self.file(b)}; use the same setting or another run folder")  # fmt: skip
        differing = differing_names(stored.tensors, self.tensors(b))
        if differing:
            raise InputError(f"[fit_blocks] expected the weights of this network in {self.file(b)}, got others: "
                             f"{len(differing)} tensors differ, the first is {differing[0]!r}")  # fmt: skip
        self.method.load_state_dict(stored.tensors, strict=False)
        cell, path = stored.metadata["choice"]
        self.method.chosen.append(Choice(cell, tuple(path)))
        return True

    def tables(self, b: int) -> list[ScoreTable]:
        assert self.run is not None
        return load_block(self.run / "scores" / f"block_{b + 1}.npz")[0]

    def tensors(self, b: int) -> dict[str, Any]:
        """The block's part of the method's state."""
        parts = [f"net.blocks.{b}.", f"ema.blocks.{b}.", f"heads.{b}.", f"ema_heads.{b}."]
        parts += ["net.stem.", "ema.stem."] if b == 0 else []
        return {name: value for name, value in trained_state(self.method).items() if name.startswith(tuple(parts))}

    def description(self, b: int) -> dict[str, Any]:
        length = len(self.train_loader)  # type: ignore[arg-type]
        said = {"seed": self.seed, "epochs": self.epochs, "accumulate": self.accumulate, "batches": length}
        return {"block": b + 1, **said}

    def file(self, b: int) -> Path:
        assert self.run is not None
        return self.run / "checkpoints" / f"block_{b + 1}.safetensors"

    def folder(self, b: int) -> Path | None:
        return None if self.run is None else self.run / TRAINING / ("joint" if self.joint else f"block_{b + 1}")


def fit_blocks(
    method: Any,
    train_loader: Iterable[Batch],
    val_loader: Iterable[Batch],
    epochs: int,
    run: str | Path | None = None,
    *,
    seed: int = 0,
    accumulate: int = 1,
    rate_epochs: Collection[int] = (),
    calibration_batches: int = 1,
    on_step: Callable[[BlockStep], None] | None = None,
    spread: str = "data",
    **options: Any,
) -> list[list[ScoreTable]]:
    """Train a method's blocks one after the other, each for `epochs`; returns the score tables `[block][cell]`.

    After a block its paths are rated, the best one is fixed and feeds the next block (with feed="joint" all are trained
    first, together). A run that was killed goes on where it was and ends the same.

    method: a `pynas.methods.Method` with `start(block)`, `rate_block(...)`, `fix(choice, batches)`, `chosen` and `feed`,
        as BossNAS. val_loader: yields (two views, labels), the same each time. options: for `rate_block`.
    accumulate: batches that make one step.
    run: folder for `checkpoints/block_k.safetensors`, `scores/block_k.npz`, `training/block_k/metrics.jsonl`.
    Under torch.distributed the processes share the batches and the paths, and the first one writes.
    rate_epochs: the block is rated at the end of these epochs too, into `scores/epoch_E/block_k.npz`.
    calibration_batches: training batches that batch-norm statistics are re-estimated on.

    Raises:
        InputError: files of a run with other settings, or rate_epochs with feed="joint".
    """
    if rate_epochs and method.feed == "joint":
        raise InputError("[fit_blocks] expected no rate_epochs with feed='joint', where no path is chosen before the end, "
                         f"got {sorted(rate_epochs)}")  # fmt: skip
    folder = None if run is None else Path(run)
    driver = _Driver(method, train_loader, val_loader, epochs, folder, seed, accumulate, rate_epochs, calibration_batches, on_step,
                     spread, dict(options))  # fmt: skip
    if method.chosen:
        raise InputError("[fit_blocks] expected a fresh method, got one with chosen paths")
    return [driver.block(b) for b in range(driver.blocks)]


def best_choice(tables: list[ScoreTable], method: Any, block: int) -> Choice:
    """The path of least score among the cells that were rated (that can follow what was chosen)."""
    state = method.start_state(block)
    fitting = [c for c, cell in enumerate(method.net.space.blocks[block]) if start_fits(cell, state)]
    found = [(score, c, path) for c in fitting for path, score in tables[c].best()]
    _, cell, path = min(found)
    return Choice(cell, path)
