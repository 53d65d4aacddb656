"""Figures as files, and as SVG inside a page: in the page's text colour, width and fonts, without outside references."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pynas.files import atomic

# Placeholder for the page's text colour while a figure is drawn; no figure uses it for anything else.
_INK = "#0a0b0c"
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
          "grid.color", "legend.labelcolor")  # fmt: skip
_STYLE: dict[Any, Any] = {
    **dict.fromkeys(_INKED, _INK),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "grid.linewidth": 0.5,
    "font.size": 9.0,
    # Text stays text: it can be searched for and read aloud, and the file needs no font.
    "svg.fonttype": "none",
    "svg.hashsalt": "pynas",
}
# Width and height in inches of a figure that fits a phone unscaled.
SMALL = (4.2, 3.0)


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write a figure to `stem`.png and `stem`.svg, atomically, and return both paths."""
    paths = [Path(f"{stem}.png"), Path(f"{stem}.svg")]
    for path in paths:
        with atomic(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, dpi=150, format=path.suffix[1:], metadata=metadata)
    return paths


@contextlib.contextmanager
def page_style() -> Iterator[None]:
    """Set matplotlib's style for a while; figures for `inline` must be drawn in it."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an `<svg>` element; `name`, a word, is the prefix that makes its ids unique in the page."""
    file = io.StringIO()
    with page_style():
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r'(\bid=")', rf"\1{name}-", text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = html.escape(description, quote=True)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return text.replace(_INK, "currentColor").strip()
