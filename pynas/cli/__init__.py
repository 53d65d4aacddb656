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
    explain,
    export,
    finetune,
    isomers,
    latency,
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
    submit,
    train,
)
from pynas.errors import InputError, last_line

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
    explain,
    calibrate,
    select,
    isomers,
    export,
    retrain,
    finetune,
    scale,
    latency,
    benchmark,
    compress,
    report,
    status,
    submit,
    correlate,
    robustness,
    stability,
    spaces,
    methods,
    doctor,
)
for module in COMMANDS:
    app.command(module.__name__.rsplit(".", 1)[1])(module.command)


# What torch says of other processes that die, and what to do: readers of images (or no room for what they read), and those of
# torchrun, by gloo (`Connection closed by peer`, `Timed out waiting`), NCCL or the store through which they met.
_LOST = {
    r"DataLoader worker.*(killed by signal|exited unexpectedly)|(unable to|No space left).*(/torch_|shm)":
        "[data] expected processes that read images to the end, got: {last}; use fewer --workers, or give /dev/shm more room; "
        "the last checkpoint is kept",
    r"^Dist\w*Error: |[/\\]gloo[/\\]|Gloo |pair closure":
        "[processes] expected {WORLD_SIZE} processes to the end, got process {RANK} that lost another one: {last}; {go_on}",
}  # fmt: skip


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
    # A launcher's own handlers stay: submitit's, as a cluster's SIGTERM comes before the signal to submit the job again.
    plain = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) in plain]
    before = {number: signal.signal(number, stop) for number in numbers}
    if "torch" not in sys.modules:
        # torch's own account of a lost connection, with stack traces, would surround the one line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    try:
        app()
    except (Stopped, InputError, RuntimeError, FloatingPointError, OSError) as error:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # torchrun stops the others while they say why they end
        message, code = _ending(error)
        if not code:
            raise
        sys.exit(_complain(message, code))
    finally:
        warnings.showwarning = shown
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending(error: BaseException) -> tuple[str, int]:
    """Return the line and the exit code that an error ends with; code 0 for a fault of the program."""
    if isinstance(error, Stopped):
        return _how_to_go_on(), 128 + error.args[0]
    if isinstance(error, InputError):
        _forget_unbegun()
        return str(error), 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, OSError):  # a full disk or a read-only folder is the user's to mend
        return f"[files] {error}", 2
    said = f"{type(error).__name__}: {error}"
    line = next((line for pattern, line in _LOST.items() if re.search(pattern, said, re.DOTALL)), "")
    team = {name: os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE")}
    return line.format(last=last_line(error), go_on=_how_to_go_on(), **team), 2 if line else 0


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
