"""The rating stage of methods that score paths: block after block, each kept in a file of its own."""

from __future__ import annotations

from typing import Any

from pynas.rating import Scores
from pynas.rating.scores import block_file, load_block, save_block
from pynas.runs.images import check_rated
from pynas.runs.progress import PathCounter
from pynas.runs.run import Run
from pynas.train.team import is_first_process


def rate_paths(run: Run, loss: str | None, norm: str) -> Scores:
    """Score every path of every block; blocks that are rated already, from the same weights, are read.

    A rating that was stopped goes on where it was. Under torchrun the processes share the paths, and the first one
    writes. loss: None for the method's `default_loss()`.
    """
    method, digest = run.trained_method()
    loss = loss or method.default_loss()
    batches = run.loader("val")
    metadata = {"checkpoint": digest, "data": run.data.fingerprint, "loss": loss, "norm": norm}
    tables = []
    counter = PathCounter(run.progress.count(), sum(run.space.path_counts) * len(batches))
    for b, paths in enumerate(run.space.path_counts):
        file = block_file(scores_folder(run), b)
        block = rated_block(run, b, metadata)
        if block is None:
            name = f".{digest[:8]}-{run.data.fingerprint[:8]}-{loss}-{norm}-block_{b + 1}"
            block = method.rate_block(batches, b, loss=loss, norm=norm, progress=counter.cell,
                                      resume=file.parent / name)  # fmt: skip
            if is_first_process():
                save_block(file, block, space=run.space.name, **metadata)
        counter.block(paths * len(batches))
        tables.append(block)
    if is_first_process():
        run.count_costs()
    return Scores(run.space, tables, metadata)


def scores_folder(run: Run) -> Any:
    """Return the folder of a run's score files."""
    return run.folder / "scores"


def rated_block(run: Run, block: int, metadata: dict[str, Any]) -> list[Any] | None:
    """Return a block's tables where the run has rated it from this `metadata`, else None."""
    file = block_file(scores_folder(run), block)
    if not file.exists():
        return None
    tables, before = load_block(file)
    return tables if before == {"space": run.space.name, **metadata} else None


def load_scores(run: Run) -> Scores:
    """Read the scores of all blocks.

    Raises:
        InputError: a block that is not rated, a damaged file, or scores of other images than the run's.
    """
    scores = Scores.load(scores_folder(run), run.space)
    check_rated(scores.metadata, run.data, scores_folder(run))
    return scores
