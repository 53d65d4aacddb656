"""Accuracies of published and of retrained networks against their sizes (DNA, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

# Costs of the panels, and the words below them.
_PANELS = {"params": "parameters", "flops": "FLOPs as the paper counts them; MAdds of what was retrained"}
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
# Distances of a name from its point, in the order in which they are tried, in points of the figure.
_DISTANCES = (6, 12, 20, 30, 42, 56)
_SIDES: dict[int, Literal["left", "center", "right"]] = {-1: "right", 0: "center", 1: "left"}
Place = tuple[int, int, Literal["left", "center", "right"]]
_MARK = 5  # half a mark's side in points


@dataclass(frozen=True)
class Measured:
    """A network with its accuracy (%) and those of its costs that are known, `params` and `flops`.

    group: networks of one group have one colour. ours: whether it was retrained here, which a star shows.
    """

    name: str
    group: str
    top1: float
    costs: Mapping[str, float]
    ours: bool = False


def networks_figure(networks: Sequence[Measured], title: str = "") -> Figure:
    """Draw accuracy against parameters and against FLOPs, on a logarithmic axis, with names that do not cover each other.

    A panel has the networks whose cost is known.
    """
    figure = Figure(figsize=(13, 6), layout="constrained")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.suptitle(title)
    colours = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(one.group for one in networks))}
    panels = figure.subplots(1, 2)
    for axes, (cost, label) in zip(panels, _PANELS.items()):
        _draw(axes, [one for one in networks if cost in one.costs], cost, colours)
        axes.set_xlabel(label)
        axes.set_ylabel("top-1 accuracy (%)")
    marks = {one.group: one for one in networks}
    handles = [axes.plot([], [], _mark(one), color=colours[group], ms=10 if one.ours else 6, label=group)[0]
               for group, one in marks.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
    figure.draw_without_rendering()
    for axes, cost in zip(panels, _PANELS):
        _write_names(axes, [(one.costs[cost], one.top1, one.name) for one in networks if cost in one.costs], renderer)
    return figure


def _mark(one: Measured) -> str:
    return "*" if one.ours else "o"


def _draw(axes: Axes, networks: Sequence[Measured], cost: str, colours: Mapping[str, str]) -> None:
    for one in networks:
        axes.scatter(one.costs[cost], one.top1, s=110 if one.ours else 36, color=colours[one.group], marker=_mark(one))
    axes.set_xscale("log")
    axes.margins(0.18, 0.1)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _write_names(axes: Axes, points: Sequence[tuple[float, float, str]], renderer: RendererBase) -> None:
    """Write every name at the nearest place where it covers neither a mark nor another name, else where it covers least."""
    scale = axes.figure.dpi / 72
    pixels = [axes.transData.transform(point[:2]) for point in points]
    taken = [Bbox.from_extents(x - _MARK * scale, y - _MARK * scale, x + _MARK * scale, y + _MARK * scale)
             for x, y in pixels]  # fmt: skip
    for x, y, name in points:
        note = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8, va="center",
                             arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0})  # fmt: skip
        note.set_in_layout(False)
        places = [(distance * dx, distance * dy, _SIDES[dx]) for distance in _DISTANCES for dx, dy in _DIRECTIONS]
        best = min(places, key=lambda place: _covered(_moved(note, place, renderer), taken, axes.bbox))
        taken.append(_moved(note, best, renderer))


def _moved(note: Annotation, place: Place, renderer: RendererBase) -> Bbox:
    """Move a name, and return the pixels that it then covers, without its line."""
    note.set_position(place[:2])
    note.set_horizontalalignment(place[2])
    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> int:
    """Return the number of things that a name covers; leaving the panel counts most."""
    outside = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
    return 100 * outside + box.count_overlaps(taken)
