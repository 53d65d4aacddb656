"""Training block by block: train a block, rate its paths, fix the best one, continue with the next; resumable."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.methods.bossnas.bossnas import BossNAS
from pynas.rating import Progress, Scores, ScoreTable
from pynas.rating.scores import block_file, load_block, save_block
from pynas.spaces import Choice
from pynas.tensor_files import read_tensors, write_tensors
from pynas.train.checkpoint import check_images, check_same
from pynas.train.loop import Batch, Step, fit
from pynas.train.team import is_first_process

BLOCK = "pynas.block"
TRAINING = "training"


@dataclass(frozen=True)
class BlockStep:
    """Report of a step in the training of a block, counted from 1; with feed="joint" the block is always 1."""

    block: int
    blocks: int
    step: Step


@dataclass
class _Driver:
    method: BossNAS
    train_loader: Iterable[Batch]
    val_loader: Iterable[Batch]
    epochs: int
    run: Path | None
    seed: int
    accumulate: int
    rate_epochs: Collection[int]
    calibration_batches: int
    on_step: Callable[[BlockStep], None] | None
    on_rating: Callable[[int, Progress], None] | None
    spread: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def joint(self) -> bool:
        return self.method.bootstrap.feed == "joint"

    @property
    def blocks(self) -> int:
        return len(self.method.net.space.blocks)

    def block(self, b: int) -> list[ScoreTable]:
        """Train, rate and fix a block, or restore it where that was done; returns its tables."""
        if b == 0 or not self.joint:
            if not self.joint and self.restore(b):
                return self.tables(b)
            self.train(b)
        if self.joint and self.restore(b):
            return self.tables(b)
        tables = self.rate(b)
        run = self.run if is_first_process() else None
        if run is not None:
            save_block(block_file(run / "scores", b), tables, **self.description(b))
        choice = best_choice(tables, self.method, b)
        self.method.fix(choice, self.calibration())
        if run is not None:
            metadata = self.description(b) | {"choice": [choice.cell, list(choice.path)]}
            write_tensors(self.file(b), BLOCK, self.method.block_state(b), **metadata)
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
                file = block_file(self.run / "scores" / f"epoch_{step.epoch}", b)
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
        told = {} if self.on_rating is None else {"progress": partial(self.on_rating, b + 1)}
        return self.method.rate_block(self.val_loader, b, calibration=self.calibration(), seed=self.seed,
                                      **{**told, **self.options})  # fmt: skip

    def calibration(self) -> list[Batch]:
        loader = self.train_loader
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(0, 0)
        return list(itertools.islice(loader, self.calibration_batches))

    def restore(self, b: int) -> bool:
        """Restore a block that was trained, rated and fixed; returns False where it was not."""
        if self.run is None or not self.file(b).exists():
            return False
        stored = read_tensors(self.file(b), BLOCK)
        own = self.description(b)
        check_images("fit_blocks", stored.metadata, own.pop("data"), self.file(b))
        for name, value in own.items():
            if stored.metadata.get(name) != value:
                raise InputError(f"[fit_blocks] expected a block with {name} = {value}, got {stored.metadata.get(name)} "
                                 f"in {self.file(b)}; use the same setting or another run folder")  # fmt: skip
        check_same("fit_blocks", stored.tensors, self.method.block_state(b))
        self.method.load_state_dict(stored.tensors, strict=False)
        cell, path = stored.metadata["choice"]
        self.method.chosen.append(Choice(cell, tuple(path)))
        return True

    def tables(self, b: int) -> list[ScoreTable]:
        assert self.run is not None
        return load_block(block_file(self.run / "scores", b))[0]

    def description(self, b: int) -> dict[str, Any]:
        """Metadata of the block's files."""
        length = len(self.train_loader)  # type: ignore[arg-type]
        return {
            "block": b + 1,
            "seed": self.seed,
            "epochs": self.epochs,
            "accumulate": self.accumulate,
            "batches": length,
            "data": getattr(self.train_loader, "fingerprint", None),
        }

    def file(self, b: int) -> Path:
        assert self.run is not None
        return self.run / "checkpoints" / f"block_{b + 1}.safetensors"

    def folder(self, b: int) -> Path | None:
        return None if self.run is None else self.run / TRAINING / ("joint" if self.joint else f"block_{b + 1}")


def fit_blocks(
    method: BossNAS,
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
    on_rating: Callable[[int, Progress], None] | None = None,
    spread: str = "data",
    **options: Any,
) -> Scores:
    """Train a method's blocks one after the other, each for `epochs` epochs; returns the scores of all paths.

    After a block's training its paths are rated, and the best one is fixed and feeds the next block (with feed="joint" all
    blocks are trained in the same steps first). A run that was killed continues where it was, and ends alike.

    method: a `BossNAS`. val_loader: yields (two views, labels), the same batches each time.
    accumulate: batches that make one step of the optimizer.
    run: folder for `checkpoints/block_k.safetensors`, `scores/block_k.npz`, `training/block_k/metrics.jsonl`.
        Under torch.distributed the processes share the batches and the paths, and the first process writes the files.
    rate_epochs: epochs after which a block is rated too, into `scores/epoch_E/block_k.npz`.
    calibration_batches: training batches that batch-norm statistics are re-estimated on.
    on_rating: called while a block is rated, with its number, counted from 1, and a `pynas.rating.Progress`.
    options: for `BossNAS.rate_block`.

    Raises:
        InputError: files of a run with other settings, or rate_epochs with feed="joint".
    """
    if rate_epochs and method.bootstrap.feed == "joint":
        raise InputError("[fit_blocks] expected no rate_epochs with feed='joint', which chooses no path before the end, "
                         f"got {sorted(rate_epochs)}; use feed='best'")  # fmt: skip
    folder = None if run is None else Path(run)
    driver = _Driver(method, train_loader, val_loader, epochs, folder, seed, accumulate, rate_epochs, calibration_batches, on_step,
                     on_rating, spread, dict(options))  # fmt: skip
    if method.chosen:
        raise InputError("[fit_blocks] expected a fresh method, got one with chosen paths")
    return Scores(method.net.space, [driver.block(b) for b in range(driver.blocks)])


def best_choice(tables: list[ScoreTable], method: BossNAS, block: int) -> Choice:
    """Return the path of least score among the cells that can follow the chosen paths."""
    following = method.net.space.cells_after(block, method.start_state(block))
    best = [(score, c, path) for c in following for path, score in tables[c].best()]
    _, cell, path = min(best)
    return Choice(cell, path)
