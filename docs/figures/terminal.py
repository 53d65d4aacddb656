"""Picture of `pynas run --max-madds 16M` in a terminal, from its real output: `python docs/figures/terminal.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = "pynas run --max-madds 16M"
WIDTH = 100
PICTURE = Path(__file__).with_suffix(".svg")


def output(command: str) -> str:
    """Return what a command of pynas prints in a terminal of WIDTH columns, with its colours and the bars' last state."""
    environment = os.environ | {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TTY_INTERACTIVE": "0"}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", *command.split()]
        done = subprocess.run(
            words, cwd=folder, env=environment, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    return done.stdout


def picture(command: str, text: str) -> str:
    """Return an SVG of a terminal that shows a command and its output; its font is the reader's, none is fetched."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(text.strip()))
    svg = console.export_svg(title=command, unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->", "", svg, flags=re.DOTALL).replace(
        "Fira Code, monospace", "monospace"
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(COMMAND, output(COMMAND)), encoding="utf-8")
