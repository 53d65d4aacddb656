"""The rating stage of methods that score paths: block after block, each kept in a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pynas import spaces
from pynas.errors import InputError
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.rating.scores import block_file, load_block, save_block
from pynas.runs.images import check_rated
from pynas.runs.progress import PathCounter
from pynas.runs.run import Run
from pynas.runs.settings import Settings, member_folder
from pynas.spaces import Architecture
from pynas.train.team import is_first_process


def rate_paths(run: Run, loss: str | None, norm: str, epoch: int | None = None) -> Scores:
    """Score every path of every block; blocks that are rated already, from the same weights, are read.

    A rating that was stopped goes on where it was. Under torchrun the processes share the paths, and the first one
    writes. loss: None for the method's `default_loss()`. epoch: rate the weights that were kept after it, not the last ones.
    """
    method, digest = run.trained_method() if epoch is None else run.method_after(epoch)
    part = "" if epoch is None else epoch_part(epoch)
    loss = loss or method.default_loss()
    batches = run.loader("val")
    metadata = {"checkpoint": digest, "data": run.data.fingerprint, "loss": loss, "norm": norm}
    tables = []
    counter = PathCounter(run.progress.count(), sum(run.space.path_counts) * len(batches))
    for b, paths in enumerate(run.space.path_counts):
        file = block_file(scores_folder(run) / part, b)
        block = rated_block(run, b, metadata, part)
        known = block is not None
        if block is None:
            name = f".{digest[:8]}-{run.data.fingerprint[:8]}-{loss}-{norm}-block_{b + 1}"
            block = method.rate_block(batches, b, loss=loss, norm=norm, progress=counter.cell,
                                      resume=file.parent / name)  # fmt: skip
            if is_first_process():
                save_block(file, block, space=run.space.name, **metadata)
        counter.block(paths * len(batches), known)
        tables.append(block)
    if is_first_process():
        run.count_costs()
    return Scores(run.space, tables, metadata)


def score_networks(run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
    """Rate the paths of some networks alone; return the networks' scores `[N]`.

    A block of several cells is rated whole. loss: None for the method's `default_loss()`.
    """
    method, _ = run.trained_method()
    batches, tables = run.loader("val"), []
    count = run.progress.count()
    for b, cells in enumerate(run.space.blocks):
        paths = {"paths": sorted({network[b].path for network in networks})} if len(cells) == 1 else {}
        tables.append(method.rate_block(batches, b, loss=loss or method.default_loss(), norm=norm, **paths))
        count(b + 1, len(run.space))
    return Scores(run.space, tables).total(networks)


def scores_folder(run: Run) -> Path:
    """Return the folder of a run's score files."""
    return run.folder / "scores"


def epoch_part(epoch: int) -> str:
    """Return the name of the subfolder of the scores after an epoch."""
    return f"epoch_{epoch}"


def rated_block(run: Run, block: int, metadata: dict[str, Any], part: str = "") -> list[Any] | None:
    """Return a block's tables where the run has rated it from this `metadata`, else None; part: a subfolder of the scores."""
    file = block_file(scores_folder(run) / part, block)
    if not file.exists():
        return None
    tables, before = load_block(file)
    return tables if before == {"space": run.space.name, **metadata} else None


def own_scores(run: Run, part: str = "") -> Scores:
    """Read the scores of all blocks that this run's own supernet got, without those of further seeds.

    part: a subfolder of the scores, as of an epoch; "" for the final ones.

    Raises:
        InputError: a block that is not rated, a damaged file, or scores of other images than the run's.
    """
    folder = scores_folder(run) / part
    scores = Scores.load(folder, run.space)
    check_rated(scores.metadata, run.data, folder)
    return scores


def load_members(run: Run, part: str = "") -> list[Scores]:
    """Read the scores of every seed of a run, its own first; one for a run of one seed.

    part: as of `own_scores`.

    Raises:
        InputError: a seed that is not rated, or rated otherwise than the first, a damaged file, or scores of other images
            than the run's.
    """
    members: list[Scores] = []
    for member in run.members():
        folder = scores_folder(member) / part
        if not Scores.complete(folder, run.space):
            raise InputError(f"[run] expected the scores of every block, got none of some in {folder}; "
                             f"run `pynas train --run {run.folder}` and `pynas rate --run {run.folder}` first")  # fmt: skip
        members.append(own_scores(member, part))
        for name in ("loss", "norm"):
            first, this = (each.metadata.get(name) for each in (members[0], members[-1]))
            if first != this:
                raise InputError(f"[run] expected scores of one {name}, got {first} in {scores_folder(run)} and {this} in "
                                 f"{folder}; run `pynas rate --run {run.folder}` again")  # fmt: skip
    return members


def stored_members(folder: Path, settings: Settings) -> list[Scores]:
    """Read the scores of every seed from a run's folder alone, without its images; none where a block is not rated yet."""
    rated = [folder / name / "scores" for name in ("", *map(member_folder, settings.further_seeds))]
    space = spaces.get(settings.space)
    complete = all(Scores.complete(path, space) for path in rated)
    return [Scores.load(path, space) for path in rated] if complete else []


def load_scores(run: Run, part: str = "") -> Scores:
    """Read the scores of all blocks; of a run of several seeds the average of their standardised ones.

    part: as of `own_scores`.

    Raises:
        InputError: as of `load_members`.
    """
    return combined(load_members(run, part))
