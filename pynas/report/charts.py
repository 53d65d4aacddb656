"""Interactive charts for a page, by plotly: read under the pointer, zoomed, and filtered by the legend."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.stats import rankdata

from pynas.costs import cost_heading
from pynas.quantities import is_time, show_cost
from pynas.report import page
from pynas.report.network import Layer
from pynas.report.page import chart, escape

# Colours that can be read on a light and on a dark page.
GREY, BLUE, RED, ORANGE, GREEN, PURPLE, CYAN = (
    "#8b8f9a",
    "#3d84c6",
    "#d9483b",
    "#dd8a1f",
    "#3f9b5f",
    "#8d6cc9",
    "#2f9fae",
)
_BLOCKS = (BLUE, ORANGE, GREEN, PURPLE, CYAN, RED)
_LINE = "rgba(128,128,128,0.3)"
_HOVER = "%{text}<extra></extra>"
# Traces of more points are drawn by WebGL: as SVG a browser cannot open tens of thousands of marks.
_MANY = 3000

# An architecture with its scores by two runs.
Pair = tuple[str, float, float]


@dataclass(frozen=True)
class Point:
    """One architecture of a chart: its text, score and costs."""

    architecture: str
    score: float
    costs: Mapping[str, float]


def _figure(height: int, **layout: Any) -> go.Figure:
    """Return an empty figure without a background, in pixels as high as this and as wide as the page lets it."""
    axis = {"gridcolor": _LINE, "zerolinecolor": _LINE, "linecolor": _LINE, "automargin": True}
    figure = go.Figure()
    figure.update_layout(
        template="none", height=height, margin={"l": 10, "r": 10, "t": 30, "b": 10}, font={"size": 12}, hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", xaxis=axis, yaxis=axis,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}, **layout,
    )  # fmt: skip
    return figure


def _menu(buttons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a menu above a chart."""
    return [{"buttons": list(buttons), "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 6},
             "bgcolor": "rgba(0,0,0,0)", "bordercolor": _LINE}]  # fmt: skip


def _words(name: str, value: float) -> str:
    return f"{cost_heading(name)} {show_cost(name, value)}"


def _hover(point: Point) -> str:
    costs = "<br>".join(_words(name, value) for name, value in point.costs.items())
    return f"<b>{point.architecture}</b><br>score {point.score:.6g}<br>{costs}"


def architectures_chart(
    name: str, groups: Mapping[str, Sequence[Point]], limits: Mapping[str, float], identity: str = "architectures"
) -> str:
    """Return a chart of scores against a cost, which a menu changes to any other cost that all points have.

    name: the first cost. groups: points by what they are, in the order in which they are drawn; the group that begins with "front"
    is a line over the first cost. limits: a dashed line each. identity: id of the chart in the page.
    """
    points = [point for group in groups.values() for point in group]
    names = [name, *(each for each in points[0].costs if each != name and all(each in point.costs for point in points))]
    figure = _figure(430, yaxis_title="score (lower is better)")
    for number, (title, group) in enumerate(groups.items()):
        line = title.startswith("front")
        figure.add_scatter(
            x=[point.costs[name] for point in group], y=[point.score for point in group], name=title,
            text=[_hover(point) for point in group], hovertemplate=_HOVER, mode="lines+markers" if line else "markers",
            line={"shape": "hv", "width": 1}, marker=_marks(title, number),
        )  # fmt: skip
    buttons = [
        {"label": cost_heading(cost), "method": "update", "args": [
            {"x": [[point.costs[cost] for point in group] for group in groups.values()],
             "mode": ["lines+markers" if title.startswith("front") and cost == name else "markers" for title in groups]},
            {"xaxis.title.text": cost_heading(cost), "shapes": _limit(limits.get(cost))}]}
        for cost in names
    ]  # fmt: skip
    figure.update_layout(xaxis_title=cost_heading(name), shapes=_limit(limits.get(name)))
    if len(buttons) > 1:
        figure.update_layout(updatemenus=_menu(buttons), margin_t=50)
    return chart(figure, identity, f"Scores against {cost_heading(name)}")


def _marks(title: str, number: int) -> dict[str, Any]:
    many = {"color": GREY, "size": 4, "opacity": 0.6}
    kinds = {
        "random": many,
        "rated": many,
        "front": {"color": BLUE, "size": 5},
        "found": {"color": RED, "size": 11, "symbol": "circle-open", "line": {"width": 2}},
        "largest": {"color": ORANGE, "size": 11, "symbol": "diamond"},
    }
    return kinds.get(title.split()[0], {"color": _BLOCKS[number % len(_BLOCKS)], "size": 9})


def _limit(value: float | None) -> list[dict[str, Any]]:
    """Return the line of a limit on the x axis."""
    if value is None:
        return []
    return [{"type": "line", "x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper",
             "line": {"dash": "dash", "width": 1, "color": GREY}, "label": {"text": "limit", "textposition": "start"}}]  # fmt: skip


def filter_chart(points: Sequence[Point], identity: str = "filter") -> str:
    """Return parallel axes of score and costs: a stretch that one marks on an axis leaves the architectures within it.

    A line above says how many are left, and names those of least score.
    """
    names = list(points[0].costs)
    axes = [{"label": "score", "values": [point.score for point in points]}]
    axes += [{"label": cost_heading(name), "values": [point.costs[name] for point in points],
              "tickformat": ".3f" if is_time(name) else ".3s"} for name in names]  # fmt: skip
    figure = _figure(330)
    figure.add_parcoords(
        dimensions=axes, line={"color": axes[0]["values"], "colorscale": [[0, BLUE], [1, ORANGE]]},
        unselected={"line": {"color": GREY, "opacity": 0.05}},
    )  # fmt: skip
    figure.update_layout(margin={"l": 45, "r": 45, "t": 45, "b": 20})
    drawn = chart(
        figure, identity, "Scores and costs of architectures on parallel axes", 110 * len(axes), script="filter.js"
    )
    texts = escape(json.dumps([point.architecture for point in points]))
    return f'<p id="{identity}-left" data-names="{texts}">{len(points):,} architectures, a line each</p>\n{drawn}'


def scores_chart(first: str, second: str, points: Sequence[Pair], marked: Mapping[str, Pair], identity: str) -> str:
    """Return a chart of the scores that two runs give the same architectures.

    first, second: names of the runs. points: (architecture, first score, second score). marked: points by what they are.
    """
    figure = _figure(430, xaxis_title=f"score by {first}", yaxis_title=f"score by {second}")
    groups = {"random architectures": list(points), **{title: [point] for title, point in marked.items()}}
    for number, (title, group) in enumerate(groups.items()):
        figure.add_scatter(
            x=[x for _, x, _ in group], y=[y for _, _, y in group], name=title, mode="markers", hovertemplate=_HOVER,
            text=[f"<b>{name}</b><br>{first}: {x:.6g}<br>{second}: {y:.6g}" for name, x, y in group], marker=_marks(title, number),
        )  # fmt: skip
    return chart(figure, identity, f"Scores by {first} and by {second}")


def latency_charts(name: str, about: Mapping[str, Any]) -> list[str]:
    """Return charts of measured latency against MAdds: of whole networks, where some were measured, and of candidates by block.

    name: of the table. about: what the table tells of itself, see `pynas.runs.latency.measure_latency`.
    """
    drawn, identity = [], page.identity("latency", name)
    axes = {"xaxis_title": "MAdds", "yaxis_title": "latency (ms)"}
    if networks := about.get("networks", []):
        figure = _figure(380, **axes)
        texts = [f"<b>{row['architecture']}</b><br>measured {row['measured']:.3f} ms<br>by the table {row['corrected']:.3f} ms<br>"
                 f"{_words('madds', row['madds'])}" for row in networks]  # fmt: skip
        for key, title, colour, symbol in (
            ("measured", "measured", BLUE, "circle"),
            ("corrected", "by the table", ORANGE, "circle-open"),
        ):
            figure.add_scatter(
                x=[row["madds"] for row in networks], y=[row[key] for row in networks], name=title, mode="markers", text=texts,
                hovertemplate=_HOVER, marker={"color": colour, "symbol": symbol, "size": 8},
            )  # fmt: skip
        drawn.append(chart(figure, f"{identity}-networks", f"MAdds and latency of whole networks, {name}"))
    inner = [row for row in about["candidates"] if not isinstance(row["place"][0], str) and row["madds"]]
    figure = _figure(380, **axes)
    for block in sorted({row["place"][0] for row in inner}):
        rows = [row for row in inner if row["place"][0] == block]
        figure.add_scatter(
            x=[row["madds"] for row in rows], y=[row["ms"] for row in rows], name=f"block {block}", mode="markers",
            text=[f"<b>{row.get('name', '')}</b> block {block}, cell {row['place'][1]}, layer {row['place'][2]}<br>"
                  f"{row['ms']:.4f} ms<br>{_words('madds', row['madds'])}" for row in rows],
            hovertemplate=_HOVER, marker={"color": _BLOCKS[block % len(_BLOCKS)], "size": 7},
        )  # fmt: skip
    return [*drawn, chart(figure, f"{identity}-candidates", f"MAdds and latency of candidates, {name}")]


def ranking_chart(scores: np.ndarray, accuracy: np.ndarray, names: Sequence[str]) -> str:
    """Return a chart of scores against accuracies, which a menu changes to predicted against true ranks; rank 1 is the best.

    scores, accuracy: `[N]`; a lower score is better. names: texts of the architectures, `[N]`.
    """
    predicted, true = rankdata(scores), rankdata(-accuracy)
    figure = _figure(430, xaxis_title="top-1 accuracy (%)", yaxis_title="score (lower is better)")
    kind = go.Scattergl if len(scores) > _MANY else go.Scatter
    figure.add_trace(kind(
        x=accuracy, y=scores, mode="markers", hovertemplate=_HOVER,
        marker={"color": BLUE, "size": 8 if len(scores) <= 100 else 4, "opacity": 0.8 if len(scores) <= _MANY else 0.25},
        text=[f"<b>{name}</b><br>accuracy {a:.2f} %<br>score {s:.6g}<br>rank {t:g}, predicted {p:g}"
              for name, a, s, t, p in zip(names, accuracy, scores, true, predicted)],
    ))  # fmt: skip
    n = len(scores)
    buttons = [
        {"label": label, "method": "update", "args": [
            {"x": [x], "y": [y]},
            {"xaxis.title.text": of_x, "yaxis.title.text": of_y, "shapes": shapes, "xaxis.autorange": True,
             "yaxis.autorange": True}]}
        for label, x, y, of_x, of_y, shapes in (
            ("scores and accuracies", accuracy, scores, "top-1 accuracy (%)", "score (lower is better)", []),
            ("ranks", true, predicted, "true rank (1 is the best)", "predicted rank",
             [{"type": "line", "x0": 1, "y0": 1, "x1": n, "y1": n, "line": {"dash": "dash", "width": 1, "color": GREY}}]))
    ]  # fmt: skip
    figure.update_layout(updatemenus=_menu(buttons), margin_t=50)
    return chart(figure, "ranking", "Scores against accuracies, and predicted against true ranks")


def network_chart(layers: Sequence[Layer], identity: str = "network") -> str:
    """Return the drawing of a network: a bar per layer, as high as its output's resolution and as wide as its channels.

    Heights are on a logarithmic scale. Bands in the background are the stages of one resolution, colours the blocks.

    identity: id of the chart in the page.
    """
    figure = _figure(320, showlegend=False, bargap=0, uniformtext={"minsize": 8, "mode": "hide"})
    sides, channels = [_side(layer) for layer in layers], [_channels(layer) for layer in layers]
    heights = [math.log2(side) + 1 for side in sides]
    figure.add_bar(
        x=list(range(len(layers))), y=heights, base=[-height / 2 for height in heights],
        width=[0.25 + 0.67 * math.sqrt(count / max(channels)) for count in channels],
        marker={"color": [GREY if layer.block is None else _BLOCKS[layer.block % len(_BLOCKS)] for layer in layers],
                "opacity": 0.55, "line": {"width": 0}},
        text=[layer.label for layer in layers], textposition="inside", insidetextanchor="middle",
        hovertext=[_about_layer(layer) for layer in layers], hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    for number, (start, end) in enumerate(_groups(list(map(_resolution, layers)))):
        if text := _resolution(layers[start]):
            figure.add_vrect(
                start - 0.5, end + 0.5, fillcolor=_LINE, opacity=0.45 * (number % 2), line_width=0, layer="below"
            )
            figure.add_annotation(
                x=(start + end) / 2, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False, font_size=10
            )
    blocks = [
        (start, end) for start, end in _groups([layer.block for layer in layers]) if layers[start].block is not None
    ]
    figure.update_xaxes(
        tickvals=[(start + end) / 2 for start, end in blocks], showgrid=False, zeroline=False,
        ticktext=[f"block {layers[start].block}" for start, _ in blocks],
    )  # fmt: skip
    figure.update_yaxes(visible=False)
    return chart(figure, identity, "The layers of the network, by stages of one resolution")


def _groups(values: Sequence[Any]) -> list[tuple[int, int]]:
    """Return (first, last) of every stretch of equal values."""
    firsts = [n for n, value in enumerate(values) if n == 0 or value != values[n - 1]]
    return [(first, following - 1) for first, following in zip(firsts, [*firsts[1:], len(values)])]


def _resolution(layer: Layer) -> str:
    """Return the height and width of a layer's output, or its number of tokens, as text; empty for a vector or no shape."""
    shape = layer.shape or ()
    return f"{shape[1]}×{shape[2]}" if len(shape) == 3 else f"{shape[0]} tokens" if len(shape) == 2 else ""


def _side(layer: Layer) -> float:
    shape = layer.shape or ()
    return float(max(shape[1:])) if len(shape) == 3 else math.sqrt(shape[0]) if len(shape) == 2 else 1.0


def _channels(layer: Layer) -> int:
    shape = layer.shape or (1,)
    return shape[1] if len(shape) == 2 else shape[0]


def _about_layer(layer: Layer) -> str:
    lines = [f"<b>{layer.label}</b>" + ("" if layer.block is None else f" block {layer.block}")]
    if layer.shape:
        lines += [
            "×".join(map(str, layer.shape)),
            _words("params", layer.params or 0),
            _words("madds", layer.madds or 0),
        ]
    return "<br>".join(lines)
