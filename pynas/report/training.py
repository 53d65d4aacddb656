"""Curves of a training from its metrics.jsonl."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pynas.report.figures import SMALL

# Points of a curve; more steps are averaged in groups of neighbours.
_POINTS = 200


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read the steps of a training, up to the first incomplete line, which a run may be writing."""
    steps = []
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            try:
                steps.append(json.loads(line))
            except ValueError:
                break
    return steps


def joined_metrics(trainings: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Merge the metrics of trainings that ran one after the other: step n holds the losses of step n of each."""
    steps: dict[int, dict[str, Any]] = {}
    for line in (line for training in trainings for line in training):
        step = steps.setdefault(line["step"], {**line, "losses": {}})
        step["losses"] = {**step["losses"], **line["losses"]}
    return [steps[step] for step in sorted(steps)]


def training_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw every loss over the steps, on a logarithmic axis where all losses are positive."""
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.add_subplot()
    step = np.array([line["step"] for line in metrics], dtype=np.float64)
    positive = True
    for name in metrics[0]["losses"]:
        loss = np.array([line["losses"].get(name, np.nan) for line in metrics], dtype=np.float64)
        axes.plot(_means(step), _means(loss), linewidth=1.2, label=loss_label(name))
        positive = positive and bool((loss > 0).all())
    if positive:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.25)
    if len(metrics[0]["losses"]) > 1:
        axes.legend(loc="upper right", ncols=2)
    return figure


def loss_label(name: str) -> str:
    """Return the words of a loss: blocks count from 0 on a page, while names of losses and files begin at block_1."""
    return re.sub(r"^block_(\d+)", lambda match: f"block {int(match[1]) - 1}", name).replace("_", " ")


def rate_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the learning rate of the first parameter group over the steps."""
    figure = Figure(figsize=SMALL, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in metrics], [line["learning_rate"] for line in metrics], linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    return figure


def _means(values: np.ndarray) -> np.ndarray:
    """Means of at most `_POINTS` groups of neighbours of equal size."""
    return np.array([group.mean() for group in np.array_split(values, min(_POINTS, len(values)))])
