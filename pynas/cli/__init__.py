"""The command line: one subcommand per file."""

from __future__ import annotations

import sys

import typer

from pynas.cli import correlate, doctor, export, methods, rate, report, retrain, run, search, select, spaces, train
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
    select,
    export,
    retrain,
    report,
    correlate,
    spaces,
    methods,
    doctor,
)
for module in COMMANDS:
    app.command(module.__name__.rsplit(".", 1)[1])(module.command)


def main() -> None:
    """Run the command line; bad input ends with one line on stderr and exit code 2."""
    try:
        app()
    except InputError as error:
        sys.exit(_complain(str(error), 2))
    except FloatingPointError as error:
        sys.exit(_complain(str(error), 1))
    except OSError as error:
        # A full disk or a read-only folder is the user's to mend, not a fault of the program.
        sys.exit(_complain(f"[files] {error}", 2))


def _complain(message: str, code: int) -> int:
    print("pynas: " + " ".join(message.split()), file=sys.stderr)
    return code
