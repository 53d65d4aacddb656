"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from pynas.files import atomic

FORMATS = ("png", "svg")


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg, atomically."""
    paths = [Path(f"{stem}.{kind}") for kind in FORMATS]
    for path in paths:
        with atomic(path) as temporary:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, dpi=150, format=path.suffix[1:], metadata=metadata)
    return paths
