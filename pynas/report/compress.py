"""Page of a compression: costs and losses, what each unit lost, and the whole front."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pynas.calls import Call
from pynas.compress import Compression, Report
from pynas.compress.cuts import Cut, Parts
from pynas.costs import UNITS
from pynas.costs.range import cost_range
from pynas.quantities import show_cost
from pynas.report import charts, page
from pynas.report.charts import Point
from pynas.report.figures import inline, page_style
from pynas.report.page import Section
from pynas.report.units import Group, Row, losses_figure, units_figure
from pynas.search import Entry, best, front

# Architectures of a space up to which its whole front is drawn, and limits between the least and all of a cost beyond.
_WHOLE, _LIMITS = 10**6, 20


def compression_page(
    model: str, compression: Compression, reports: Mapping[str, Report], beyond: Sequence[str] = ()
) -> str:
    """Return the HTML of the page of a compression.

    model: its name. reports: of at least one network of the compression, by its name. beyond: sentences on limits that no network
    keeps.
    """
    names = list(dict.fromkeys(name for report in reports.values() for name in report.limits)) or ["madds"]
    sections = [
        _results(compression, reports),
        *(_front(compression, reports, name) for name in names),
        _units(compression, reports),
        *(_blocks(compression, report, name, names[0], n) for n, (name, report) in enumerate(reports.items())),
    ]
    loss = next(iter(reports.values())).loss
    lead = page.paragraph(
        f"A block's score is the loss ({loss}) of the model with that block alone replaced, against the model's own "
        "output. Of all choices under its limits each network has the least sum of scores: the search is exact."
    )
    lead += "".join(page.paragraph(f"Out of reach: {line}") for line in beyond)
    return page.page(f"{model}, made smaller", lead, sections)


def _results(compression: Compression, reports: Mapping[str, Report]) -> Section:
    """Section of the costs before and after, and of the losses; of several networks also as a figure."""
    first = next(iter(reports.values()))
    distilled = any(report.distilled is not None for report in reports.values())
    headings = ["network", "limits", *(UNITS.get(name, name) for name in first.costs)]
    headings += [f"{first.loss} predicted", "measured", *(["after distillation"] if distilled else [])]
    reference = [show_cost(name, value) for name, value in first.reference.items()]
    rows = [["as it is", "", *reference, "0", "0", *([""] if distilled else [])]]
    for name, report in reports.items():
        limits = ", ".join(_limit(*item) for item in report.limits.items())
        costs = [_share(report, key, value) for key, value in report.costs.items()]
        losses = [_loss(report.predicted), _loss(report.actual), *([_loss(report.distilled)] if distilled else [])]
        rows.append([name, limits, *costs, *losses])
    body = page.table(headings, rows)
    if len(reports) > 1:
        points = {name: (report.predicted, report.actual, report.distilled) for name, report in reports.items()}
        caption = "What the block scores promise of each network, and what was measured."
        body += _drawn(
            lambda: losses_figure(points, first.loss), "losses", "Measured against predicted losses", caption
        )
    again = [name for name, report in reports.items() if report.recalibrated]
    if again:
        body += page.paragraph(f"With statistics of batch norm estimated anew: {', '.join(again)}.", quiet=True)
    if "latency" in first.costs:
        body += page.paragraph(f"Latencies on {compression.costs.metadata['device']}: a network's is the model's less what its "
                               "units save, each timed alone.", quiet=True)  # fmt: skip
    calls = [Call.of(batch, compression.plan.model) for batch in compression.rating]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in first.seconds.items())
    body += page.paragraph(f"Samples rated on: {sum(call.samples for call in calls)}. Seconds: {seconds}.", True)
    return Section("Costs and losses", body, half=True)


def _front(compression: Compression, reports: Mapping[str, Report], name: str) -> Section:
    """Section of the least predicted loss at each cost, with the networks marked."""
    scores, costs, space = compression.scores, compression.costs, compression.net.space
    chosen = [
        Point(f"{title}: {report.architecture}", report.predicted, report.costs) for title, report in reports.items()
    ]
    if space.size <= _WHOLE:
        found: Sequence[Entry] = list(front(scores, costs, name))
    else:
        least = cost_range(space, costs, name)[0]
        # The exact search adds costs up in another order: the least one must not be beyond its own limit by a rounding.
        limits = np.linspace(least + 1e-9 * abs(least), costs.metadata["reference"][name], _LIMITS)
        found = [best(scores, costs, {name: limit})[0] for limit in limits.tolist()]
    points = [Point(space.format(entry.architecture), entry.score, entry.costs) for entry in found]
    if space.size > _WHOLE:
        every = {(point.costs[name], point.score): point for point in [*chosen, *points]}
        points = [every[at] for at in sorted(every) if all(at[1] < score for cost, score in every if cost < at[0])]
    heading = UNITS.get(name, name)
    drawn = charts.architectures_chart(name, {f"front of {heading}": points, "found": chosen}, {}, f"front-{name}")
    return Section(f"The front of {heading}", page.figures(
        (drawn, f"The least sum of block scores at each cost, of {space.size:,} architectures.")), half=True)  # fmt: skip


def _units(compression: Compression, reports: Mapping[str, Report]) -> Section:
    """Section of the table of all units: their channels and heads, before and after, and the cut of each network."""
    chosen = [itertools.chain.from_iterable(_chosen(compression, report)) for report in reports.values()]
    blocks = [(number, parts) for number, block in enumerate(compression.net.blocks, 1) for parts, _ in block]
    counts = [_count(parts, Cut()) for _, parts in blocks]
    kinds = [kind for kind in counts[0] if any(count[kind] for count in counts)]
    rows = []
    for (block, parts), whole, *each in zip(blocks, counts, *chosen):
        kept = [_count(parts, cut) for _, cut in each]
        sizes = (
            f"{whole[kind]} → {', '.join(str(count[kind]) for count in kept)}" if whole[kind] else "" for kind in kinds
        )
        rows.append((parts.unit.name, block, *sizes, *(report.units[parts.unit.name] for report in reports.values())))
    return Section("What stays of each unit", page.table(("unit", "block", *kinds, *reports), rows))


def _blocks(compression: Compression, report: Report, title: str, cost: str, place: int) -> Section:
    """Section of one network: what each block's choice costs in loss and saves, as a figure and a table."""
    architecture, costs = compression.net.space.resolve(report.architecture), compression.costs
    groups, rows = [], []
    for number, (units, choice) in enumerate(zip(_chosen(compression, report), architecture)):
        score = float(compression.scores[number][0][choice.path])
        tables = {name: costs[name][number][0] for name in report.costs}
        saved = {name: (table.flat[0] - table[choice.path]).item() for name, table in tables.items()}
        groups.append(Group([_row(*unit) for unit in units], score, saved[cost] / (report.reference[cost] or 1)))
        names = [parts.unit.name for parts, _ in units]
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        rows.append((f"{number + 1}: {name}", _loss(score), *(_share(report, *item) for item in saved.items())))
    saved = {name: value - report.costs[name] for name, value in report.reference.items()}
    rows.append(("all", _loss(report.predicted), *(_share(report, *item) for item in saved.items())))
    heading = UNITS.get(cost, cost).partition(" (")[0]
    body = _drawn(
        lambda: units_figure(groups, report.loss, heading), f"units-{place}",
        f"What stays of each unit, and what that costs, of {title}",
        f"Units in the order in which they run; shaded in turns by block. Saved: share of the model's {heading}.",
    )  # fmt: skip
    body += page.table(("block", report.loss, *(f"{UNITS.get(name, name)} saved" for name in report.costs)), rows)
    return Section(f"{title}, block by block", body)


def _chosen(compression: Compression, report: Report) -> list[list[tuple[Parts, Cut]]]:
    """Units of each block with their cuts."""
    architecture = compression.net.space.resolve(report.architecture)
    return [
        [(parts, cuts[candidate]) for (parts, cuts), candidate in zip(block, choice.path)]
        for block, choice in zip(compression.net.blocks, architecture)
    ]


def _count(parts: Parts, cut: Cut) -> dict[str, int]:
    """Hidden channels and heads of a unit that can be cut and stay."""
    sizes = parts.sizes(cut)
    heads = sum(sizes[f"heads {h.module}"] * h.count // h.groups for h in parts.heads)
    whole = {"channels": sum(sizes[f"hidden {h.root}"] for h in parts.hidden), "heads": heads}
    return dict.fromkeys(whole, 0) if cut.left_out else whole


def _row(parts: Parts, cut: Cut) -> Row:
    kept = _count(parts, cut)
    shares = {kind: kept[kind] / whole for kind, whole in _count(parts, Cut()).items() if whole}
    return Row(parts.unit.name, shares, "left out" if cut.left_out else f"kernel {cut.kernel}" if cut.kernel else "")


def _drawn(draw: Callable[[], Figure], name: str, description: str, caption: str) -> str:
    with page_style():
        return page.figures((inline(draw(), name, description), caption))


def _limit(name: str, limit: str | float) -> str:
    return f"{UNITS.get(name, name)} at most {limit if isinstance(limit, str) else show_cost(name, limit)}"


def _share(report: Report, name: str, value: float) -> str:
    """Cost with its share of the model's."""
    return f"{show_cost(name, value)} ({value / (report.reference[name] or 1):.1%})"


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
