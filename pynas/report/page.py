"""Build a self-contained HTML page: without network, light or dark as the reader's device, from phones to wide screens."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

# What a chart is without scripts.
_NO_SCRIPTS = "<noscript><p>The charts of this page need scripts; nothing is loaded from a network.</p></noscript>"

# A chart takes the width that it finds when it is drawn, before those beside it are there.
_FIT = '<script>addEventListener("load", () => dispatchEvent(new Event("resize")))</script>'


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it; two of half the page's width that follow each other stand side by side."""

    title: str
    body: str
    half: bool = False


@dataclass(frozen=True)
class Tile:
    """A number that one sees first: what it is, its value with the unit, and notes below it."""

    title: str
    value: str
    notes: Sequence[str] = ()


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the HTML document; `lead` is the HTML between the title and the sections.

    The scripts of the charts are in it, where there are charts.
    """
    template = Template(_read("page.html"))
    links = "".join(f'<a href="#section-{number}">{escape(part.title)}</a>' for number, part in enumerate(sections))
    body = [lead, f"<nav>{links}</nav>", "<main>"]
    for number, part in enumerate(sections):
        opening = f'<section id="section-{number}"{" class=half" if part.half else ""}>'
        body.append(f"{opening}\n<h2>{escape(part.title)}</h2>\n{part.body}\n</section>")
    text = "\n".join([*body, "</main>"])
    return template.substitute(title=escape(title), body=text, scripts=_scripts() if "plotly-graph-div" in text else "")


def _read(name: str) -> str:
    return (files("pynas.report") / name).read_text(encoding="utf-8")


def _scripts() -> str:
    from plotly.offline import get_plotlyjs

    return f"{_NO_SCRIPTS}\n<script>{get_plotlyjs()}</script>\n{_FIT}"


def chart(figure: Any, identity: str, description: str, least: int = 0, script: str | None = None) -> str:
    """Return a figure of plotly as an element with this id, as wide as the page lets it.

    description: for who hears the page. least: width in pixels; on a narrower page the chart scrolls. script: a file of this
    package that runs once the chart is drawn.
    """
    text = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=identity, config={"responsive": True, "displayModeBar": False},
        post_script=_read(script) if script else None,
    )  # fmt: skip
    label = html.escape(description, quote=True)
    return (
        f'<div class="scroll"><div role="figure" aria-label="{label}" style="min-width: {least}px">{text}</div></div>'
    )


def tiles(shown: Sequence[Tile]) -> str:
    """Return tiles in a row, in several where the page is narrow."""
    parts = []
    for tile in shown:
        notes = "".join(f"<li>{escape(note)}</li>" for note in tile.notes)
        value = f'<p class="value">{escape(tile.value)}</p>'
        parts.append(f'<div class="tile"><h3>{escape(tile.title)}</h3>{value}<ul>{notes}</ul></div>')
    return '<div class="tiles">\n' + "\n".join(parts) + "\n</div>"


def details(summary: str, body: str) -> str:
    """Return HTML that opens below its summary."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def escape(text: object) -> str:
    """Escape text for HTML."""
    return html.escape(str(text))


def identity(*words: str) -> str:
    """Return the id of an element from its words: letters, digits and hyphens."""
    return re.sub(r"\W+", "-", "-".join(filter(None, words)))


def paragraph(text: str, quiet: bool = False) -> str:
    """Return plain text as a paragraph."""
    opening = '<p class="quiet">' if quiet else "<p>"
    return f"{opening}{escape(text)}</p>"


def figures(*drawn: tuple[str, str]) -> str:
    """Return (svg or chart, caption) pairs as figures, side by side where there is room."""
    parts = [f"<figure>\n{shown}\n<figcaption>{escape(caption)}</figcaption>\n</figure>" for shown, caption in drawn]
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with text in its first column and numbers in the others; a table that is too wide scrolls."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return (f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
            + "\n".join(lines) + "\n</tbody>\n</table></div>")  # fmt: skip


def commands(lines: Sequence[str]) -> str:
    """Return lines for a shell as preformatted text."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"
