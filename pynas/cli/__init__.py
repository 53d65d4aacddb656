"""The command line: one subcommand per file."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from typing import Any

import typer

from pynas.cli import (
    benchmark,
    calibrate,
    compress,
    correlate,
    doctor,
    export,
    finetune,
    isomers,
    methods,
    rate,
    report,
    retrain,
    robustness,
    run,
    scale,
    search,
    select,
    spaces,
    stability,
    status,
    train,
)
from pynas.errors import InputError

app = typer.Typer(
    help="Neural architecture search that rates every path and finds the provably best architecture.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)
COMMANDS = (
    run,
    train,
    rate,
    search,
    calibrate,
    select,
    isomers,
    export,
    retrain,
    finetune,
    scale,
    benchmark,
    compress,
    report,
    status,
    correlate,
    robustness,
    stability,
    spaces,
    methods,
    doctor,
)
for module in COMMANDS:
    app.command(module.__name__.rsplit(".", 1)[1])(module.command)


# What torch says of processes that read images when they die or have no room for what they read.
_WORKER_LOST = re.compile(
    r"DataLoader worker.*(killed by signal|exited unexpectedly)|(unable to|No space left).*(/torch_|shm)", re.DOTALL
)


class Stopped(BaseException):
    """A signal to stop: the terminal's Ctrl-C, or a cluster's SIGTERM."""


def main() -> None:
    """Run the command line; bad input ends with one line on stderr and exit code 2, Ctrl-C with 130."""
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        # Processes that read images inherit this; they end quietly.
        raise Stopped(number) if os.getpid() == process else KeyboardInterrupt

    if (folders := sys.modules.get("pynas.runs.folders")) is not None:
        folders.new_folders.clear()
    shown, warnings.showwarning = warnings.showwarning, _warn
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        app()
    except Stopped as stopped:
        sys.exit(_complain(_how_to_go_on(), 128 + stopped.args[0]))
    except InputError as error:
        _forget_unbegun()
        sys.exit(_complain(str(error), 2))
    except RuntimeError as error:
        if not _WORKER_LOST.search(str(error)):
            raise
        last = str(error).strip().splitlines()[-1].rstrip(". ")
        sys.exit(_complain(f"[data] expected processes that read images to the end, got: {last}; use fewer --workers, or give "
                           "/dev/shm more room; the last checkpoint is kept", 2))  # fmt: skip
    except FloatingPointError as error:
        sys.exit(_complain(str(error), 1))
    except OSError as error:
        # A full disk or a read-only folder is the user's to mend, not a fault of the program.
        sys.exit(_complain(f"[files] {error}", 2))
    finally:
        warnings.showwarning = shown
        for number, handler in before.items():
            signal.signal(number, handler)


def _how_to_go_on() -> str:
    from pynas.runs.lock import held

    folder = held()
    return f"stopped; all files are whole, and the same command with --run {folder} goes on" if folder else "stopped"


def _forget_unbegun() -> None:
    if (folders := sys.modules.get("pynas.runs.folders")) is not None:  # else no run was made
        folders.forget_unbegun()


def _warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    """Print a warning in one line, without the place in the source."""
    print("pynas warning: " + " ".join(str(message).split()), file=file or sys.stderr)


def _complain(message: str, code: int) -> int:
    print("pynas: " + " ".join(message.split()), file=sys.stderr)
    return code
