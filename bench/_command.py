"""Command lines of the benchmarks: a mistake is one line and exit code 2; packages that may be missing are named."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def command_line(file: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the benchmark in `file` (its `__file__`)."""
    name = f"bench.{Path(file).stem}"
    parser = argparse.ArgumentParser(
        f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = lambda message: parser.exit(2, f"[{name}] {message}; {parser.prog} --help says more\n")  # type: ignore[method-assign]
    return parser


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; a mistake of its user that pynas finds is one line and exit code 2 too."""
    try:
        main()
    except Exception as error:
        errors = sys.modules.get("pynas.errors")  # where it is not loaded, pynas has not raised anything
        if errors is None or not isinstance(error, errors.InputError):
            raise
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def device(text: str) -> str:
    """Check the name of a device, for `type=` of an option."""
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError):
        raise argparse.ArgumentTypeError(f"expected a device that torch has here, got {text!r}") from None
    return text


def installed(module: str, package: str) -> ModuleType | None:
    """Return an optional module; None, and one line that says so, where its package is not installed."""
    if importlib.util.find_spec(module) is None:
        print(f"{package} is not installed: left out (pip install {package})", flush=True)
        return None
    return importlib.import_module(module)
