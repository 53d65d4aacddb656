"""Sections of a page that compares runs, each built from plain results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pynas.report import charts, page
from pynas.report.charts import Pair, Point
from pynas.report.network import Layer
from pynas.report.page import Section


def table_section(title: str, names: Sequence[str], rows: Mapping[str, Sequence[str]], half: bool = False) -> Section:
    """Section of a table with a column per run; names: of the runs. rows: values by what they are, one per run."""
    return Section(title, page.table(("", *names), [(what, *values) for what, values in rows.items()]), half)


def networks_section(networks: Mapping[str, tuple[str, Sequence[Layer]]]) -> Section:
    """Section of the networks of the runs, one below the other; networks: architecture and layers by the run's name."""
    drawn = [
        page.figures((charts.network_chart(layers, f"network-{number}"), f"{name}: {architecture}"))
        for number, (name, (architecture, layers)) in enumerate(networks.items())
    ]
    return Section("The architectures", "".join(drawn))


def scores_section(
    first: str,
    others: Mapping[str, tuple[float, Sequence[Pair], Mapping[str, Pair]]],
    blocks: Mapping[str, Sequence[float]],
) -> Section:
    """Section of how far runs on one space agree with the first of them.

    first: its name. others: Kendall's tau, the points and the marked points of each other run, see `scores_chart`.
    blocks: Kendall's tau of the scores of the paths of every block, by the name of the other run.
    """
    drawn = [
        (charts.scores_chart(first, name, points, marked, f"scores-{number}"),
         f"{len(points):,} architectures drawn at random; Kendall's tau of {first} and {name}: {tau:.2f}.")
        for number, (name, (tau, points, marked)) in enumerate(others.items())
    ]  # fmt: skip
    count = max(map(len, blocks.values()))
    rows = [(name, *(f"{tau:.2f}" for tau in taus)) for name, taus in blocks.items()]
    body = page.figures(*drawn) + page.paragraph(
        f"Kendall's tau of the scores of all paths of a block with those of {first}:"
    )
    return Section(
        "How far the scores agree",
        body + page.table(("run", *(f"block {b}" for b in range(count))), rows),
        half=len(rows) == 1,
    )


def fronts_section(fronts: Mapping[str, tuple[str, Mapping[str, Sequence[Point]], Mapping[str, float]]]) -> Section:
    """Section of the scores and costs of every run, side by side; fronts: what `architectures_chart` takes, by the run's name."""
    drawn = [
        (charts.architectures_chart(cost, groups, limits, f"architectures-{number}"), name)
        for number, (name, (cost, groups, limits)) in enumerate(fronts.items())
    ]
    note = page.paragraph(
        "Scores of one run can be compared with each other, and not with those of another run.", quiet=True
    )
    return Section("Scores and costs", page.figures(*drawn) + note)
