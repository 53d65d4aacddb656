"""Figures inside a page: SVG that takes the page's text colour, width and fonts, and refers to nothing outside."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Stands for the page's own text colour while a figure is drawn: no figure uses it for anything else.
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
    # Letters stay letters: they can be read out and searched for, and no font is needed inside the file.
    "svg.fonttype": "none",
    "svg.hashsalt": "pynas",
}
# Width and height in inches of a figure that a phone shows at its own size.
SMALL = (4.2, 3.0)


@contextlib.contextmanager
def page_style() -> Iterator[None]:
    """Figures drawn and written inside suit `inline`."""
    with matplotlib.rc_context(_STYLE):
        yield


def inline(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element; `name` (a word) keeps its ids apart from those of the page's other figures."""
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
