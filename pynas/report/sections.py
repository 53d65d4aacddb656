"""Sections of a run's page, each built from plain results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pynas.costs import cost_heading
from pynas.rating import Scores
from pynas.report import charts, page
from pynas.report.charts import Point
from pynas.report.feature_maps import feature_maps_figure
from pynas.report.figures import inline, page_style
from pynas.report.network import Layer
from pynas.report.page import Section
from pynas.report.robustness import robustness_figure
from pynas.report.scores import score_figure
from pynas.report.training import loss_label, rate_figure, training_figure
from pynas.spaces import Architecture
from pynas.tabular.budgets import compare_within
from pynas.tabular.correlation import correlations

# Called with the name and the value of a cost, returns the value as text with its unit.
Show = Callable[[str, float], str]


def network_section(layers: Sequence[Layer], architecture: str, show: Show) -> Section:
    """Section of an architecture: its drawing, and a table of its layers where their costs are known."""
    measured = layers[0].shape is not None
    note = (
        ": as high as its output's resolution, on a logarithmic scale, and as wide as its channels" if measured else ""
    )
    body = page.figures(
        (
            charts.network_chart(layers),
            f"{architecture}, from the images on, a bar per layer{note}. Blocks count from 0.",
        )
    )
    if measured:
        rows = [
            (f"{layer.label}{'' if layer.block is None else f', block {layer.block}'}",
             "×".join(map(str, layer.shape or ())), show("params", layer.params or 0), show("madds", layer.madds or 0))
            for layer in layers
        ]  # fmt: skip
        body += page.details("Layer by layer", page.table(("layer", "output", "parameters", "MAdds"), rows))
    return Section("The architecture", body)


def scores_section(scores: Scores, architecture: Architecture | None) -> Section:
    """Section of the scores: a histogram per block, with the paths of an architecture marked."""
    drawn = []
    with page_style():
        for b, tables in enumerate(scores):
            chosen = architecture[b] if architecture is not None else None
            figure = score_figure(tables, chosen)
            paths = sum(map(len, tables))
            drawn.append((inline(figure, f"scores-{b}", f"Histogram of the scores of block {b}"),
                          f"Block {b}: {paths:,} paths rated"))  # fmt: skip
    return Section("Scores of all paths", page.figures(*drawn))


def agreement_section(
    names: Sequence[str], totals: np.ndarray, tau: Sequence[Sequence[float]], lines: Sequence[str]
) -> Section:
    """Section of the agreement of several seeds: what is said of it, and its drawing; see `robustness_figure`."""
    with page_style():
        drawn = inline(robustness_figure(names, totals, tau), "agreement", "Scores by each seed, and Kendall's tau")
    figure = page.figures((drawn, f"{totals.shape[1]:,} architectures drawn at random, scored by each seed."))
    return Section("How far the seeds agree", "".join(map(page.paragraph, lines)) + figure)


def architectures_section(name: str, groups: Mapping[str, Sequence[Point]], limits: Mapping[str, float]) -> Section:
    """Section of scores against costs; see `architectures_chart`."""
    caption = (
        "Each point is an architecture, named under the pointer. A click on a word of the legend hides its points."
    )
    return Section(
        "Scores and costs", page.figures((charts.architectures_chart(name, groups, limits), caption)), half=True
    )


def filter_section(points: Sequence[Point]) -> Section:
    """Section of the parallel axes on which architectures are filtered; see `filter_chart`."""
    caption = "Drag along an axis to leave the architectures within; a click on it leaves all."
    return Section("Filter", page.figures((charts.filter_chart(points), caption)))


def latency_section(tables: Mapping[str, Mapping[str, Any]], notes: Mapping[str, str]) -> Section:
    """Section of the measured latencies beside MAdds, by the name of the table; see `latency_charts`."""
    body = ""
    for name, about in tables.items():
        drawn = charts.latency_charts(name, about)
        captions = ["Whole networks, and what the table says of them", "Candidates, each measured alone"][-len(drawn) :]
        body += page.paragraph(f"{name}: {notes[name]}")
        if about.get("networks"):
            body += page.paragraph(f"Kendall's tau with the measured latency of whole networks: MAdds {about['tau_madds']:.2f}, "
                                   f"the table {about['tau_sum']:.2f}.")  # fmt: skip
        body += page.figures(*zip(drawn, captions))
    return Section("Latency, measured", body)


def found_section(content: Mapping[str, Any], names: Sequence[str], show: Show, notes: Sequence[str] = ()) -> Section:
    """Section of a search from the content of search.json: the architectures, the named costs, and the proven bound.

    notes: sentences on the scores.
    """
    limits = [f"{cost_heading(name)} at most {show(name, value)}" for name, value in content["limits"].items()]
    limits += [f"{cost_heading(name)} at least {show(name, value)}" for name, value in content["at_least"].items()]
    rows = [(entry["architecture"], f"{entry['score']:.6f}", *(show(name, entry[name]) for name in names))
            for entry in content["found"]]  # fmt: skip
    text = f"The best of {content['space_size']:,} architectures with {', '.join(limits) or 'no limits'}. "
    if "rated" in content:
        text += f"The {content['search']} search rated {content['rated']:,} of them; others were not looked at."
    else:
        text += (f"No architecture within the limits scores below {content['lower_bound']:.6f}: "
                 f"{content['visited']:,} nodes visited, {content['pruned']:,} pruned.")  # fmt: skip
    headings = ("architecture", "score", *(cost_heading(name) for name in names))
    body = "".join(map(page.paragraph, (text, *notes))) + page.table(headings, rows)
    return Section("What was found, and what it costs", body, half=True)


def training_section(metrics: Sequence[Mapping[str, Any]], of: str = "") -> Section:
    """Section of a training: losses and learning rate over the steps; of: name of the run, where the page has several."""
    return Section(f"Training{of and f', {of}'}", _curves(metrics, page.identity("training", of)), half=bool(of))


def feature_maps_section(blocks: Sequence[int], teacher: Sequence[Any], student: Sequence[Any]) -> Section:
    """Section of the blocks' feature maps beside the teacher's; see `feature_maps_figure`."""
    with page_style():
        figure = feature_maps_figure(blocks, teacher, student)
        drawn = inline(figure, "maps", "Feature maps of teacher and student, block by block")
    caption = (
        "The first validation image: channels in which the teacher varies most, and below them the found network's."
    )
    return Section("Teacher and student", page.figures((drawn, caption)))


def retraining_section(
    trainings: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]], of: str = ""
) -> Section:
    """Section of the finished retrainings, from (report.json, metrics) of each: accuracies and curves; of: as in a training's."""
    rows = [(f"{report['recipe']} from {report['from']}", report["architecture"], report["epochs"],
             f"{report['top1']:.2%}", f"{report['top5']:.2%}") for report, _ in trainings]  # fmt: skip
    body = page.table(("recipe", "architecture", "epochs", "top-1", "top-5"), rows)
    for number, (_, metrics) in enumerate(trainings):
        body += _curves(metrics, page.identity(f"retraining-{number}", of))
    return Section(f"Retraining{of and f', {of}'}", body)


def _curves(metrics: Sequence[Mapping[str, Any]], name: str) -> str:
    with page_style():
        losses = inline(training_figure(metrics), name, "Training losses over the steps")
        rates = inline(rate_figure(metrics), f"{name}-rate", "Learning rate over the steps")
    last = metrics[-1]
    text = ", ".join(f"{loss_label(loss)} {value:.4g}" for loss, value in last["losses"].items())
    note = page.paragraph(f"Step {last['step']:,} of {last['steps']:,}; last losses: {text}.", quiet=True)
    return page.figures((losses, "Training losses"), (rates, "Learning rate")) + note


def ranking_section(
    scores: np.ndarray,
    accuracy: np.ndarray,
    names: Sequence[str],
    source: str,
    baselines: Mapping[str, np.ndarray] | None = None,
    madds: np.ndarray | None = None,
) -> Section:
    """Section of the ranking: scores against accuracies, and how well the scores and baselines rank and what they find.

    scores, accuracy: `[N]`, of architectures; a lower score is better. names: their texts. source: origin of the accuracies.
    baselines: values `[N]` by name; a higher value is better. madds: `[N]`, for the budgets; None leaves them out.
    """
    drawn = charts.ranking_chart(scores, accuracy, names)
    predictors = {"the scores": -scores, **(baselines or {})}
    rows = [(name, *(f"{value:.4f}" for value in correlations(values, accuracy)))
            for name, values in predictors.items()]  # fmt: skip
    body = page.table(("predictor", "Kendall τ", "Spearman ρ", "Pearson R"), rows)
    if madds is None:
        body += page.paragraph("No costs of these networks are known, so nothing is said of budgets.", quiet=True)
    else:
        body += _under_budgets(predictors, np.asarray(accuracy, np.float64), madds)
    caption = f"{len(scores):,} architectures; accuracies: {source}"
    return Section("Ranking against the truth", page.figures((drawn, caption)) + body)


def _under_budgets(predictors: Mapping[str, np.ndarray], accuracy: np.ndarray, madds: np.ndarray) -> str:
    """Table of the accuracies that predictors, larger first, find under budgets of MAdds."""
    (within, regrets, gains), rows = compare_within(predictors, accuracy, madds), []
    for name, found in regrets.items():
        points = (found.minus_best, found.minus_random, found.minus_largest)
        rows.append((name, f"{gains[name]:.3f}", f"{found.accuracy:.2f} %", *(f"{p:+.2f}" for p in points)))
    text = (f"The network ranked first within a budget, the mean over {len(within.limits)} budgets from the least to the "
            "largest MAdds: its accuracy, and that minus the accuracy of the best, of a random and of the largest network "
            "within, in points. nDCG@10 is 1 where the best come first. Higher is better in every column.")  # fmt: skip
    if within.caution:
        text += f" {within.caution}"
    headings = ("predictor", "nDCG@10", "found within", "minus the best", "minus random", "minus the largest")
    return page.paragraph(text) + page.table(headings, rows)


def repeat_section(lines: Sequence[str], notes: Sequence[str]) -> Section:
    """Section of the commands that repeat the run, with notes on versions and files."""
    return Section("Repeat it", page.commands(lines) + "".join(page.paragraph(note, quiet=True) for note in notes))
