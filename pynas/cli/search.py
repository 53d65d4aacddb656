"""`pynas search`: the best architectures under limits, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pynas.cli import options


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a rated run.")],
    max_madds: options.MaxMAdds = None,
    max_params: options.MaxParams = None,
    max_memory: Annotated[
        str | None, typer.Option(help="At most so many bytes of weights and layer outputs for one image, e.g. 20M.")
    ] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(help="At most so long for a batch in --runtime on --device, e.g. 12ms; measured once and kept."),
    ] = None,
    runtime: options.Runtime = "torch",
    batch_size: options.ServedBatch = 1,
    threads: options.Threads = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE: at most so much of any cost, also one of --costs; VALUE may be 60%, a range 3M..4M, or 300M+-5%; "
            "NAME==VALUE: exactly so much. May be repeated."
        ),
    ] = None,
    at_least: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE: at least so much of a cost; VALUE may be 20%. May be repeated."),
    ] = None,
    costs: Annotated[
        list[str] | None,
        typer.Option(
            help="FILE or WORKLOAD=FILE: costs of your own, a CSV file (block, cell, layer, candidate, and a column for each) or a "
            "saved .npz; WORKLOAD=FILE names them NAME@WORKLOAD. May be repeated."
        ),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(
            help="'block 2: cell 1', 'block 2 layer 1: kernel=5' or 'kernel=5': only architectures with this choice, everywhere or "
            "there; numbers count from 0. May be repeated."
        ),
    ] = None,
    forbid: Annotated[
        list[str] | None,
        typer.Option(
            help="'kernel=7', 'block 1: cell 0', ...: only architectures without this choice. May be repeated."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weight of each block's score, separated by commas. [default: 1 each]")
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(help="CSV file (architecture, accuracy) of a few trained nets: fit the weights to them."),
    ] = None,
    prior: options.Prior = None,
    prior_weight: options.PriorWeight = "auto",
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Search the scores that `pynas calibrate` fitted to trained networks.")
    ] = False,
    join: Annotated[str, typer.Option(help="How block scores join: sum or product.")] = "sum",
    front: Annotated[
        str | None,
        typer.Option(help="Also find the whole Pareto front of score and this cost, and draw it (PNG and SVG)."),
    ] = None,
    diverse: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also find so many architectures of which any two differ in --distance layers.",
            show_default=False,
        ),
    ] = None,
    distance: Annotated[
        int | None,
        typer.Option(min=1, help="Least number of layers in which those of --diverse differ.", show_default=False),
    ] = None,
    prices: Annotated[
        bool,
        typer.Option("--prices", help="Also find the best scores with each limit 5 % lower and higher: what it costs."),
    ] = False,
    top_k: options.TopK = 5,
    device: options.Device = "auto",
    workers: options.Workers = None,
    json: options.Json = False,
) -> None:
    """Find the architectures with the least joined score that keep every limit; no other one is better.

    Long lists of the search go to the GPU of --device, if there is one; the answer does not depend on it.

    Latency is that of `pynas latency`, whose tables by name are the costs latency@NAME of --limit.

    A limit is a number, a share of the largest network of the space by that cost (60%), or of the teacher ('60% of teacher'), or
    two of these with .. between them.

    `dna-plus` trains its later generations here: torchrun shares them among processes, as with `pynas train`.

    Example: `pynas search runs/digits --max-madds 15M --max-params 400k --max-latency 12ms --top-k 10 --front madds`
    """
    from pynas.cli import display, found_beside
    from pynas.quantities import assignments, numbers
    from pynas.runs import load
    from pynas.runs.processes import check_alone, process_group
    from pynas.train.team import is_first_process

    limits = options.limits(*(limit or ()), madds=max_madds, params=max_params, memory=max_memory, latency=max_latency)
    opened = load(run, device, workers=workers)
    if not opened.recipe.defaults.shares_search:
        check_alone("search")
    with process_group(opened.device, run), display.bars(is_first_process()) as bars:
        opened.progress = display.progress(bars)
        content = opened.search(limits, at_least=assignments(at_least), top_k=top_k, weights=numbers(weights), join=join,
                                front=front, costs=costs or (), trained=trained, prior=prior, prior_weight=prior_weight,
                                calibrated=calibrated, runtime=runtime, batch_size=batch_size, threads=threads, fix=fix or (),
                                forbid=forbid or (), diverse=diverse, distance=distance, prices=prices)  # fmt: skip
        if not is_first_process():
            return
    if json:
        display.print_json(content)
        return
    display.print_found(content)
    if "fitted" in content:
        display.print_fitted(content["fitted"])
    found_beside.print_diverse(content)
    found_beside.print_prices(content)
    if front is not None:
        found = content["front"]
        pictures = ", ".join(str(run / name) for name in found["pictures"])
        display.say(f"Front of score and {front}: {len(found['architectures']):,} architectures, drawn in {pictures}")
    display.say(f"Written to {run / 'search.json'}; next: pynas export --run {run}")
