"""Tables that `pynas correlate` prints."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from pynas.cli import display
from pynas.quantities import show
from pynas.runs.spent import describe_cost
from pynas.tabular import LABELS, Budgets, Comparison, Correlation, Regret


def print_comparison(found: Comparison, source: str | None) -> None:
    """Print how well scores and baselines rank a benchmark, and what they find within budgets."""
    sides = "larger is better" if source is None else "the scores' own side counts as better, of the others the larger"
    display.say(f"Scores: {source or 'none given'}; 1 is the true order, -1 the reverse ({sides}). Below each: "
                f"where {found.confidence:.0%} of {found.resamples} bootstrap resamples lie.")  # fmt: skip
    top = f"the top {found.top_fraction:.0%}: {found.top_count:,} architectures from {found.top_accuracy:.2f} %"
    for rows, name, picks in (
        (found.everything, f"all {found.count:,} architectures", found.picks),
        (found.top, top, {}),
    ):
        display.out.print(_table(rows, f"{found.benchmark} ({found.data}), {name}", picks, found.best_accuracy))
    k, count = found.ndcg_k, len(found.budgets.limits)
    display.say(f"nDCG@{k}: 1 where the best {k} come first, 0 where the worst do. Then the accuracy of the network ranked "
                f"first within a budget, the mean over {count} budgets, and that minus the accuracy of the best, of a random "
                "and of the largest network there, in points: higher is better. Below: the worst and the best budget.")  # fmt: skip
    display.out.print(_regret_table(found))
    if found.budgets.caution:
        display.say(found.budgets.caution)


def print_truth(content: dict[str, Any]) -> None:
    """Print the correlations of a run's scores with the accuracies of trained networks."""
    table = Table(title=f"{content['networks']} networks of {content['truth']}")
    for heading in ("predictor", "Kendall τ", "Spearman ρ", "Pearson R"):
        table.add_column(heading, justify="left" if heading == "predictor" else "right")
    for name, row in content["everything"].items():
        table.add_row(LABELS.get(name, name), *(f"{value:.4f}" for value in row.values()))
    display.out.print(table)
    if "search_cost" in content:
        display.say(f"Search cost: {describe_cost(content['search_cost'])}")
    display.say(f"Drawn in {', '.join(content['pictures'])}")


def print_statistics(content: dict[str, Any]) -> None:
    """Print the ranges of a benchmark's accuracies and costs."""
    display.say(f"{content['benchmark']} ({content['data']}): {content['count']:,} architectures; {content['source']}.")
    for name, unit in (("accuracy", " % top-1"), ("params", " parameters"), ("madds", " MAdds")):
        shown = {key: f"{value:.2f}" if name == "accuracy" else show(value) for key, value in content[name].items()}
        display.say("{least} to {most}{0}, {mean} on average".format(unit, **shown))
    display.say(f"Drawn in {', '.join(content['pictures'])}")


def print_row(found: Comparison, method: str, cost: dict[str, Any]) -> None:
    """Print a row of DNA's table 7 and BossNAS's table 3."""
    row = found.everything["scores"]
    spent = f" {describe_cost(cost['search_cost'])} |" if cost else ""
    display.say(f"As in DNA's table 7: | {method} |{spent} τ {row.tau:.2f} | ρ {row.rho:.2f} | R {row.r:.2f} |")


def _table(rows, title: str, picks, best: float):
    table = Table(title=title)
    headings = ["predictor", "Kendall τ", "Spearman ρ", "Pearson R"]
    headings += [f"pick\n(best\n{best:.2f} %)"] if picks else []
    for heading in headings:
        first = heading == "predictor"
        table.add_column(heading, justify="left" if first else "right", no_wrap=not first)
    for name, found in rows.items():
        cells = [_cell(found, which) for which in ("tau", "rho", "r")]
        table.add_row(LABELS.get(name, name), *cells, *([f"{picks[name]:.2f} %"] if picks else []))
    return table


def _regret_table(found: Comparison):
    within, cost = found.budgets, LABELS[found.budgets.cost]
    table = Table(title=f"{found.benchmark} ({found.data}), {len(within.limits)} budgets: {show(within.limits[0])} {cost} "
                        f"({within.counts[0]:,} within) to {show(within.limits[-1])} (all {within.counts[-1]:,})")  # fmt: skip
    table.add_column("predictor")
    others = ("minus\nthe best", "minus\nrandom", "minus\nthe largest")
    for heading in (f"nDCG\n@{found.ndcg_k}", "found\nwithin", *others):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, regret in found.regret.items():
        differences = [
            f"{mean:+.2f}\n{min(points):+.2f}..{max(points):+.2f}" for mean, points in _points(regret, within)
        ]
        table.add_row(LABELS.get(name, name), f"{found.ndcg[name]:.3f}", f"{regret.accuracy:.2f} %", *differences)
    return table


def _points(regret: Regret, within: Budgets):
    """Yield the means of the differences to the best, to random and to the largest, and their values budget by budget."""
    for mean, others in ((regret.minus_best, within.best), (regret.minus_random, within.random),
                         (regret.minus_largest, within.largest)):  # fmt: skip
        yield mean, [one - other for one, other in zip(regret.found, others)]


def _cell(found: Correlation, which: str) -> str:
    low, high = getattr(found, f"{which}_interval")
    return f"{getattr(found, which):.4f}\n{low:.3f}..{high:.3f}"
