"""Tables of what a search found beside the best architectures: diverse ones, and prices of the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pynas.cli.display import out, say
from pynas.costs import cost_heading
from pynas.quantities import is_time, show, show_cost


def print_diverse(content: Mapping[str, Any]) -> None:
    """Print the diverse architectures of search.json, if it has any."""
    if "diverse" not in content:
        return
    diverse = content["diverse"]
    table = Table(
        title=f"Each the best of those that differ from all above it in at least {diverse['distance']} layers"
    )
    names = dict.fromkeys(["params", "madds", *content["limits"], *content["at_least"]])
    for heading in ("#", "architecture", "score", "layers\napart", *map(cost_heading, names)):
        left = heading == "architecture"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for rank, entry in enumerate(diverse["architectures"], 1):
        costs = (f"{entry[name]:.3f}" if is_time(name) else show(entry[name]) for name in names)
        nearest = str(min(entry["distances"], default=""))
        table.add_row(str(rank), entry["architecture"], f"{entry['score']:.6f}", nearest, *costs)
    out.print(table)
    if diverse["exhausted"]:
        say(f"Only {len(diverse['architectures'])} of the {diverse['asked']} asked for: no further one differs so far.")
    say(
        f"Each is exact: {diverse['visited']:,} nodes visited in all. The set is greedy: another may have a smaller sum of scores."
    )


def print_prices(content: Mapping[str, Any]) -> None:
    """Print the prices of the limits of search.json, if they were asked for."""
    if "prices" not in content:
        return
    table = Table(title="What the limits cost: best scores by exact searches with one limit moved")
    for heading in ("limit", "score", "5 %\nlower", "5 %\nhigher", "without\nit", "slope of\nthe bound"):
        table.add_column(heading, justify="left" if heading == "limit" else "right", no_wrap=heading != "limit")
    for price in content["prices"]:
        name, limit, score = price["cost"], price["limit"], price["score"]
        sign = "<=" if price["side"] == "limits" else ">="
        moved = ["infeasible" if each is None else f"{each - score:+.6f}" for _, each in price["moved"]]
        unit = 1.0 if is_time(name) else 10.0 ** (3 * (math.floor(math.log10(max(limit, 1))) // 3))
        per = show_cost(name, unit).removesuffix(".000 ms").replace(".00", "") + (" ms" if is_time(name) else "")
        slope = f"{price['multiplier'] * unit:.3g} per {per}"
        table.add_row(
            f"{name} {sign} {show_cost(name, limit)}", f"{score:.6f}", *moved, f"{price['free'] - score:+.6f}", slope
        )
    out.print(table)
    if not content["prices"]:
        say("No limit keeps any architecture out: none has a price.")
