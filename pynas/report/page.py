"""Build a self-contained HTML page: without network or scripts, light or dark as the reader's device, from phones up."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    body: str


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the HTML document; `lead` is the HTML between the title and the sections."""
    template = Template((files("pynas.report") / "page.html").read_text(encoding="utf-8"))
    body = [lead, *(f"<section>\n<h2>{escape(part.title)}</h2>\n{part.body}\n</section>" for part in sections)]
    return template.substitute(title=escape(title), body="\n".join(body))


def escape(text: object) -> str:
    """Escape text for HTML."""
    return html.escape(str(text))


def paragraph(text: str, quiet: bool = False) -> str:
    """Return plain text as a paragraph."""
    opening = '<p class="quiet">' if quiet else "<p>"
    return f"{opening}{escape(text)}</p>"


def figures(*drawn: tuple[str, str]) -> str:
    """Return (svg, caption) pairs as figures, side by side where there is room."""
    parts = [f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>" for svg, caption in drawn]
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
