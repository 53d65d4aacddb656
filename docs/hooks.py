"""Fills the pages of the reference with every public name of a package; puts the Markdown of all pages beside them."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    # GitHub wants `a\|b` in the code of a table, Python-Markdown shows that backslash.
    markdown = re.sub(r"^\|.*$", lambda row: re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), row[0]), markdown,
                      flags=re.M)  # fmt: skip
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    return markdown + reference(name) if folder == "reference" else markdown


def on_post_build(config: Any, **_: Any) -> None:
    """Called by mkdocs at the end: llms.txt links to the pages' Markdown, which is copied to where it says."""
    for page in (ROOT / "docs").rglob("*.md"):
        shutil.copy(page, Path(config.site_dir) / page.relative_to(ROOT / "docs"))


def reference(package: str) -> str:
    """The package's first line, and a directive for each name that it gives."""
    tree = ast.parse((ROOT / "pynas" / package / "__init__.py").read_text(encoding="utf-8"))
    given = [(alias.name, node.module) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
             if (node.module or "").startswith("pynas.") and not alias.name.startswith("_")]  # fmt: skip
    given += [
        (node.name, f"pynas.{package}") for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    directives = [f"::: {module}.{name}" for name, module in sorted(given)]
    return "\n\n".join(["", (ast.get_docstring(tree) or "").splitlines()[0], *directives, ""])
