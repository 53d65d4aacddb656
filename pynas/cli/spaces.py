"""`pynas spaces`: the search spaces, and the published networks in them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    networks: Annotated[
        bool, typer.Option("--networks", help="List the papers' networks instead, counted here and as printed there.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="With --networks: also draw their accuracy against parameters and FLOPs; .png and .svg are added. "
            "[default: no]",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --picture: folder of a run whose retrained networks are drawn beside. May be repeated.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List the search spaces with their exact sizes, or with --networks the published architectures by name.

    Commands take such a name wherever they take an architecture: `pynas export --run RUN --architecture DNA-c`.

    Example: `pynas spaces`, `pynas spaces --networks`, `pynas spaces --networks --picture networks --run runs/dna`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.runs.networks import draw_networks

    if (picture is not None and not networks) or (run and picture is None):
        raise InputError("[spaces] expected --networks beside --picture, and --picture beside --run, got one alone")
    drawn = draw_networks(picture, run or []) if picture is not None else None
    found = _networks() if networks else _spaces()
    if json:
        display.print_json(found if drawn is None else {"networks": found, **drawn})
    elif networks:
        _print_networks(found)
    else:
        _print_spaces(found)
    if drawn is not None and not json:
        display.say(f"Drawn in {', '.join(drawn['pictures'])}")


def _spaces() -> dict[str, Any]:
    from pynas.spaces import SPACES

    found = [build() for build in SPACES.values()]
    return {space.name: {"size": space.size, "paths_per_block": space.path_counts, "image_size": space.image_size}
            for space in found}  # fmt: skip


def _networks() -> dict[str, Any]:
    """Return the published networks with their parameters and MAdds, counted for a thousand classes (NATS-Bench: ten)."""
    import torch

    from pynas import export
    from pynas.costs import count_module
    from pynas.spaces import NETWORKS, network
    from pynas.supernets import supernet

    found, nets = {}, {}
    for name, entry in NETWORKS.items():
        space, architecture = network(name)
        if space.name not in nets:
            with torch.device("meta"):
                nets[space.name] = supernet(space, 10 if space.kind == "nats-size" else 1000)
        model = export.subnet(nets[space.name], architecture)
        counted, _ = count_module(model, (3, space.image_size, space.image_size))
        published = asdict(entry)
        found[name] = {"spaces": published.pop("spaces"), "architecture": published.pop("architecture"),
                       "params": counted["params"], "madds": counted["madds"], "published": published}  # fmt: skip
    return found


def _print_spaces(found: dict[str, Any]) -> None:
    from rich.table import Table

    from pynas.cli import display

    table = Table()
    for heading in ("space", "architectures", "paths per block", "image side (px)"):
        # Names and sizes are never cut; on a narrow terminal the paths are broken.
        cut = heading == "paths per block"
        table.add_column(heading, justify="left" if heading == "space" else "right", no_wrap=not cut, overflow="fold")
    for name, space in found.items():
        paths = " ".join(map(str, space["paths_per_block"]))
        table.add_row(name, f"{space['size']:,}", paths, str(space["image_size"]))
    display.out.print(table)


def _print_networks(found: dict[str, Any]) -> None:
    from rich.table import Table

    from pynas.cli import display
    from pynas.quantities import show

    table = Table()
    for heading in ("network", "space", "params (paper)", "MAdds (paper)", "top-1 (paper, %)"):
        left = heading in ("network", "space")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left, overflow="fold")
    for name, entry in found.items():
        params, flops, top1 = (entry["published"][key] for key in ("params", "flops", "top1"))
        table.add_row(name, entry["spaces"][0], f"{show(entry['params'])} ({_printed(params)})",
                      f"{show(entry['madds'])} ({_printed(flops)})", "-" if top1 is None else f"{top1:g}")  # fmt: skip
    display.out.print(table)
    display.say("Papers count MAdds by rules of their own: see the reference of pynas.spaces.")


def _printed(value: float | None) -> str:
    """Write a figure of a paper in M or G."""
    if value is None:
        return "-"
    return f"{value / 1e9:.4g}G" if value >= 1e9 else f"{value / 1e6:.4g}M"
