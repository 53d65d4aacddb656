"""Training of one network of a run, which `pynas retrain` and `pynas finetune` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pynas.cli import display
from pynas.runs import load
from pynas.runs.processes import process_group
from pynas.runs.tracking import tracking
from pynas.train.team import is_first_process


def train_network(
    train: Callable[..., dict[str, Any]],
    folder: Path,
    request: Any,
    device: str,
    json: bool,
    log: Sequence[str] | None = None,
    **ways: Any,
) -> None:
    """Open a run, train a network by its request, and print what was measured, once among several processes.

    train: `pynas.runs.retrain.retrain` or `pynas.runs.finetune.finetune`. request: of that module. log: names of
    trackers. ways: of `pynas.runs.load`.
    """
    run = load(folder, device, **ways)
    with process_group(run.device, folder), display.bars(is_first_process()) as bars:
        run.progress, rows = display.progress(bars), list[dict[str, Any]]()
        with tracking(run, log if is_first_process() else None, lambda: rows):
            content = train(run, request)
            rows.append({name: value for name, value in content.items() if isinstance(value, str | int | float)})
        if not is_first_process():
            return
    (display.print_json if json else display.print_trained)(content)
