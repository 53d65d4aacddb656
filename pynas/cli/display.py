"""Progress on stderr, tables or JSON on stdout."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pynas.costs import UNITS, cost_heading
from pynas.quantities import is_time, show, show_cost
from pynas.runs.agreement import describe_agreement
from pynas.runs.joined import describe_joined
from pynas.runs.latency import describe_latency
from pynas.runs.limits import describe
from pynas.runs.progress import Progress, Update

# Paths, notations and errors hold brackets and colons: neither markup nor emoji.
out, err = (Console(stderr=stderr, markup=False, emoji=False) for stderr in (False, True))


@contextlib.contextmanager
def bars(visible: bool = True) -> Iterator[rich.progress.Progress]:
    """Show progress bars with counts, time so far and time to go."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(16), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))  # fmt: skip
    with rich.progress.Progress(*columns, console=err, disable=not visible) as shown:
        yield shown


def progress(shown: rich.progress.Progress) -> Progress:
    """Return a run's progress as bars."""

    def bar(name: str) -> Update:
        tasks: list[Any] = []

        def update(done: int, total: int, note: str) -> None:
            if not tasks:  # the bar is added when it first moves
                tasks.append(shown.add_task(name, total=total, note=""))
            shown.update(tasks[0], completed=done, total=total, note=note)

        return update

    return Progress(bar)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(content, indent=2))


def say(text: str) -> None:
    """Print a line that is not broken, so that paths can be copied."""
    out.print(text, soft_wrap=True, highlight=False)


def print_found(content: Mapping[str, Any]) -> None:
    """Print the architectures that a search found."""
    table = Table(title=f"Best architectures of {content['space_size']:,}: {describe(content)}")
    # The costs that everybody wants, and those that were asked about.
    names = dict.fromkeys(["params", "madds", *content["limits"], *content["at_least"]])
    for heading in ("#", "architecture", "score", *(cost_heading(name) for name in names)):
        # NAS-Bench-201's long names are broken rather than everything else cut.
        name = heading == "architecture"
        table.add_column(heading, justify="left" if name else "right", no_wrap=not name, overflow="fold")
    for rank, entry in enumerate(content["found"], 1):
        costs = (f"{entry[name]:.3f}" if is_time(name) else show(entry[name]) for name in names)
        table.add_row(str(rank), entry["architecture"], f"{entry['score']:.6f}", *costs)
    out.print(table)
    if content["exhausted"]:
        say(f"Only {len(content['found'])} of the {content['top_k']} asked for keep the limits; these are all.")
    if "rated" in content:
        say(f"The best of {content['rated']:,} that {content['search']} rated; others were not looked at.")
    else:
        say(
            f"Exact: {content['visited']:,} nodes visited, {content['pruned']:,} pruned, "
            f"no architecture scores below {content['lower_bound']:.6f}."
        )
    for line in describe_joined(content):
        say(line)
    if "agreement" in content:
        for line in describe_agreement(content["seeds"], content["agreement"]):
            say(line)
    elif content.get("seeds") == 1 and "generations" not in content:
        say("One seed: the scores have no error bar; a run of --seeds 3 gives one.")
    for each in content.get("generations", ()):
        tau = "" if each["tau_to_last"] is None else f", tau to the generation before {each['tau_to_last']:.3f}"
        by = "" if each["teacher_accuracy"] is None else f", taught at {each['teacher_accuracy']:.2%}"
        say(f"Generation {each['generation']}: {each['architecture']}{by}{tau}")
    for cost, note in content.get("latency_tables", {}).items():
        say(f"{cost[0].upper()}{cost[1:]}: {describe_latency(note)}")


def print_calibration(content: Mapping[str, Any]) -> None:
    """Print a fit to trained networks: Kendall's tau beside that of what was there before, and the weights."""
    table = Table(title=f"Kendall's tau of {content['networks']} networks ({content['source']})")
    for heading in ("scores", "tau", "95 %"):
        table.add_column(heading, justify="left" if heading == "scores" else "right")
    rows = {"calibrated, each network left out": "", "of the rating": "uncalibrated_"}
    for label, name in rows.items():
        low, high = content[f"{name}tau_interval"]
        table.add_row(label, f"{content[f'{name}tau']:.3f}", f"{low:.2f} to {high:.2f}")
    out.print(table)
    named = sorted(content["weights"].items(), key=lambda item: -abs(item[1]))
    shown = ", ".join(f"{name} {weight:+.3f}" for name, weight in named[:8])
    say(f"Weights in points of accuracy, the {min(8, len(named))} largest of {len(named)}: {shown}")


def print_fitted(fitted: Mapping[str, Any]) -> None:
    """Print block weights that were fitted to trained networks."""
    say(f"Weights {', '.join(f'{w:.3f}' for w in fitted['weights'])}, fitted to {fitted['networks']} nets: tau "
        f"{fitted['tau']:.3f}, of each net left out {fitted['left_out_tau']:.3f}; with equal weights "
        f"{fitted['uniform_tau']:.3f}")  # fmt: skip


def print_preferred(content: Mapping[str, Any]) -> None:
    """Print the preferred architectures of a space."""
    cost = content["cost"]
    table = Table(
        title=f"Preferred architectures of {content['space_size']:,}, {content['metadata']['top']} per interval"
    )
    names = dict.fromkeys([cost, "params", "madds"])
    keys = list(content["architectures"][0])
    # The field's words, or else its notation.
    words = keys[keys.index("architecture") + 1 : keys.index("interval")] or ["architecture"]
    for heading in ("from", "to", *(UNITS.get(name, name) for name in names), *words, "SNIP"):
        left = isinstance(content["architectures"][0].get(heading), list | str)
        name = {"ratios": "MLP ratios"}.get(heading, heading)
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for entry in content["architectures"]:
        bounds = [show_cost(cost, bound) for bound in entry["interval"]]
        costs = (show_cost(name, entry[name]) for name in names)
        table.add_row(*bounds, *costs, *(_written(entry[word]) for word in words), f"{entry['snip']:.5g}")
    out.print(table)
    seconds = content["seconds"]
    say(f"Selected in {seconds['selection']:.2f} s after a backward pass of {seconds['backward']:.1f} s.")


def _written(value: Any) -> str:
    """Write a number, or numbers in a row."""
    if isinstance(value, list):
        return " ".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_isomers(cases: Mapping[str, Any]) -> None:
    """Print groups of equally large subnets, and the mean best rank of each way to score them."""
    words = {"mlp": ("Case 1: the MLP ratio varies", "MLP features"), "heads": ("Case 2: the heads vary", "heads")}
    for name, case in cases.items():
        title, unit = words[name]
        groups = Table(title=f"{title}; dimension {case['dim']}, depth {case['depth']}, {case['subnets']:,} subnets")
        for heading in ("group", unit, "subnets", "accuracy span (points)"):
            groups.add_column(heading, justify="right")
        for number, group in enumerate(case["groups"], 1):
            groups.add_row(str(number), str(group["total"]), str(group["subnets"]), f"{group['span']:.3f}")
        out.print(groups)
    ranks = Table(title="Mean best rank: 0 picks the best of every group, 1 the worst, 0.5 is chance")
    for heading in ("case", "score", "fresh weights", "trained weights"):
        ranks.add_column(heading, justify="left" if heading in ("case", "score") else "right")
    for name, case in cases.items():
        for normaliser, by_weights in case["mean_best_rank"].items():
            ranks.add_row(name, normaliser, f"{by_weights['fresh']:.3f}", f"{by_weights['trained']:.3f}")
    out.print(ranks)
    say("layer: SNIP with layer normalisation (eq. 13); balance: the released code's; snip: SNIP (eq. 4).")


def print_estimate(content: Mapping[str, Any]) -> None:
    """Print the estimate of a dry run."""
    images, costs = content["images"], content["costs"]
    table = Table(title=f"{content['method']} on {content['space']}, {content['device']}", show_header=False)
    paths = " ".join(f"{count:,}" for count in content["paths_per_block"])
    rows = {
        "architectures": f"{content['architectures']:,} (paths per block: {paths})",
        "images": ", ".join(f"{part} {count:,}" for part, count in images.items())
        + f" of {'x'.join(map(str, content['image_shape']))}, {content['classes']} classes",
        "supernet": f"{show(content['supernet_parameters'])} parameters",
        **{UNITS[name]: f"{show(low)} to {show(high)} in the space" for name, (low, high) in costs.items()},
        **({} if content["seeds"] == 1 else {"seeds": f"{content['seeds']}, one after the other"}),
        "training": f"{content['steps']:,} steps of {content['seconds_per_step']:.3g} s: "
        + duration(content["training_seconds"])
        + (" (a small teacher's own comes on top)" if content["teacher_to_train"] else ""),
        "rating": f"{show(content['rating_madds_per_image'])} MAdds per image: about {duration(content['rating_seconds'])}",
        "memory": f"{show(content['memory_bytes'])} bytes at the peak of a step",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table)


def print_trained(content: Mapping[str, Any]) -> None:
    """Print the accuracy of a retrained or fine-tuned network."""
    at_size = ""
    if "test_size" in content:
        at_size = f" ({content['top1_at_test_size']:.2%} at {content['test_size']} pixels)"
    say(f"{content['architecture']}: {content['top1']:.2%} top-1{at_size}, {content['top5']:.2%} top-5 on the test images after "
        f"{content['epochs']} epochs from {content['from']} -> {content['file']}")  # fmt: skip


def print_recipe(content: Mapping[str, Any]) -> None:
    """Print the name of a run's recipe, and the values in which it differs from the paper's."""
    differs = ", ".join(f"{name} {value} ({paper})" for name, (value, paper) in content["differs"].items())
    others = (
        f"; in brackets the values of {content['paper']}: {differs}"
        if differs
        else f": the values of {content['paper']}"
    )
    say(f"Recipe {content['recipe']}{others}")


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def print_compressed(content: Mapping[str, Any]) -> None:
    """Print what a compression found: the costs beside the model's, the loss, and the cut of each unit."""
    networks = content.get("networks") or {"": content}
    first = next(iter(networks.values()))
    table = Table(title=f"{content['model']} made smaller; the best of all choices by the sum of block scores")
    for heading in (
        "network",
        *(UNITS.get(name, name) for name in first["costs"]),
        f"{first['loss']} predicted",
        "measured",
    ):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    table.add_row("as it is", *(show_cost(name, value) for name, value in first["reference"].items()), "0", "0")
    for name, report in networks.items():
        shares = [
            f"{show_cost(key, value)} ({value / (report['reference'][key] or 1):.0%})"
            for key, value in report["costs"].items()
        ]
        loss = report["actual"] if report["distilled"] is None else report["distilled"]
        table.add_row(name or "smaller", *shares, f"{report['predicted']:.4g}", f"{loss:.4g}")
    out.print(table)
    if "units" in content:
        cuts = Table("unit", "stays")
        for unit, cut in content["units"].items():
            cuts.add_row(unit, cut)
        out.print(cuts)
    for line in content.get("infeasible", ()):
        say(line)
    if first["workload"] is not None:
        say(
            "Latencies of units and the model alone, in {runtime} on {device}, batches of {batch_size}.".format(
                **first["workload"]
            )
        )
    say(
        f"Written to {content['folder']}, with the page report.html; "
        "pynas.compress.load(model, folder) puts it into the model's own class."
    )
    for report in networks.values():
        folder = report.get("hugging_face", {})
        if folder:
            say(folder.get("load") or folder["refused"])
        for name in ("torch_export", "onnx"):
            if name in report:
                samples = "any number of" if report[f"{name}_batch"] == "any" else report[f"{name}_batch"]
                say(f"Written and checked for {samples} samples: {report[name]}")


def print_exported(content: Mapping[str, Any]) -> None:
    """Print the network that was taken out."""
    say(
        f"Exported {content['architecture']} with the supernet's weights: {content['test_accuracy']:.2%} top-1 on the "
        f"test images, {show(content['params'])} parameters, {show(content['madds'])} MAdds -> {content['file']}"
    )
    if "note" in content:
        say(content["note"])
