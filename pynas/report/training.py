"""Training curves from the lines of metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pynas.report.svg import SMALL

# Points of a curve; more steps are averaged in groups.
_POINTS = 200


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The steps of a training, in order; ends at the first line that is not whole (a run may be writing it)."""
    steps = []
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            try:
                steps.append(json.loads(line))
            except ValueError:
                break
    return steps


def joined_metrics(trainings: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Trainings that ran one after the other as if side by side: a step holds the losses of all that have it."""
    steps: dict[int, dict[str, Any]] = {}
    for line in (line for training in trainings for line in training):
        known = steps.setdefault(line["step"], {**line, "losses": {}})
        known["losses"] = {**known["losses"], **line["losses"]}
    return [steps[step] for step in sorted(steps)]


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Every loss over the steps, on a logarithmic axis where all of them are positive."""
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.add_subplot()
    step = np.array([line["step"] for line in metrics], dtype=np.float64)
    positive = True
    for name in metrics[0]["losses"]:
        loss = np.array([line["losses"].get(name, np.nan) for line in metrics], dtype=np.float64)
        axes.plot(_means(step), _means(loss), linewidth=1.2, label=name.replace("_", " "))
        positive = positive and bool((loss > 0).all())
    if positive:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.25)
    if len(metrics[0]["losses"]) > 1:
        axes.legend(ncols=2)
    return figure


def rate_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """The learning rate of the first parameter group over the steps."""
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in metrics], [line["learning_rate"] for line in metrics], linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    return figure


def _means(values: np.ndarray) -> np.ndarray:
    """Means of equal groups of neighbours, at most `_POINTS` of them."""
    return np.array([group.mean() for group in np.array_split(values, min(_POINTS, len(values)))])
