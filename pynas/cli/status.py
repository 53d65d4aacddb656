"""`pynas status`: how far a run is, seen from anywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options

# Seconds between two looks of --watch.
EVERY = 2.0
_WORDS = {
    "running": "at work",
    "between": "at work between two stages",
    "gone": "ended without a word; the same command with --run {run} goes on",
    "silent": "no news since {time}",
    "done": "stage done",
    "stopped": "stopped; the same command with --run {run} goes on",
    "failed": "failed: {error}",
    "unknown": "never reported",
}


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, at work or not; another machine may work there.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C or the run ends.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say how far a run is: stage, step, time to go, losses, speed, memory, checkpoint, and whether a process works on it.

    Reads files only, beside a run that works.

    Example: `pynas status runs/dna --watch`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.runs.overview import overview

    if watch and json:
        raise InputError("[status] expected --watch or --json, got both")
    content = overview(run)
    if json:
        display.print_json(content)
    elif watch:
        _watch(run, content)
    else:
        display.out.print(_table(content))


def _watch(run: Path, content: dict[str, Any]) -> None:
    """Draw the overview again and again, until no process works on the run."""
    from rich.live import Live

    from pynas.cli import display
    from pynas.runs.overview import overview

    with Live(_table(content), console=display.out, auto_refresh=False) as live:
        while content["process"] in ("running", "between", "silent"):
            time.sleep(EVERY)
            content = overview(run)
            live.update(_table(content), refresh=True)


def _table(content: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{content['run']}: {content['method']} on {content['space']}", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in {**_at_work(content), **_made(content)}.items():
        table.add_row(name, value)
    return table


def _at_work(content: dict[str, Any]) -> dict[str, str]:
    """Rows of status.json."""
    from pynas.cli.display import duration
    from pynas.quantities import show

    status = content["status"] or {}
    written = _clock(status["time"]) if status else ""
    state = _WORDS[content["process"]].format(run=content["run"], time=written, error=status.get("error"))
    if not status:
        return {"process": state}
    several = f", the first of {status['processes']} processes" if status["processes"] > 1 else ""
    rows = {"process": f"{state} ({status['pid']} on {status['host']}{several}; written {written})"}
    rows["stage"] = f"{status['stage']}: {status['work']}"
    epoch = f", epoch {status['epoch']}" if status["epoch"] else ""
    rows["step"] = f"{status['step']:,} of {status['steps']:,}{epoch}"
    if status["eta_seconds"] and content["process"] in ("running", "silent"):
        rows["to go"] = duration(status["eta_seconds"])
    if status["losses"]:
        means = status["mean_losses"]
        rows["losses (mean)"] = ", ".join(f"{n} {v:.4g} ({means[n]:.4g})" for n, v in status["losses"].items())
        rows["learning rate"] = f"{status['learning_rate']:.4g}"
    speeds = {"steps": status["steps_per_second"], "images": status["images_per_second"]}
    rows["speed"] = ", ".join(f"{speed:,.4g} {name}/s" for name, speed in speeds.items() if speed)
    spent = status["spent_seconds"]
    rows["time spent"] = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in spent.items())
    gpu = status["gpu_memory_bytes"]
    rows["memory"] = f"{show(status['memory_bytes'])}B" + ("" if gpu is None else f", at most {show(gpu)}B of the GPU")
    return {name: value for name, value in rows.items() if value}


def _made(content: dict[str, Any]) -> dict[str, str]:
    """Rows of the other files."""
    rows = {}
    if checkpoint := content["checkpoint"]:
        step = f"step {checkpoint['step']:,} of {checkpoint['steps']:,}"
        rows["checkpoint"] = f"{step} at {_clock(checkpoint['time'])}, {checkpoint['path']}"
    for member in content["members"]:
        rated = f"{member['blocks_rated']} of {member['blocks']} blocks rated"
        rows[f"done {member['folder']}".strip()] = f"{_trained(member)}; {rated}"
    made = {"search.json": content["search"], "subnet.safetensors": content["subnet"]}
    rows["made"] = ", ".join([*(name for name, there in made.items() if there), *content["retrained"]])
    return {name: value for name, value in rows.items() if value}


def _trained(member: dict[str, Any]) -> str:
    if member["blocks_trained"]:
        return f"{member['blocks_trained']} of {member['blocks']} blocks trained"
    if member["step"] is None:
        return "no checkpoint of the training"
    if member["step"] >= member["steps"]:
        return "training finished"
    return f"training at step {member['step']:,} of {member['steps']:,}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
