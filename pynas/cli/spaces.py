"""`pynas spaces`: the search spaces."""

from __future__ import annotations

from pynas.cli import options


def command(json: options.Json = False) -> None:
    """List the search spaces with their exact sizes.

    Example: `pynas spaces`
    """
    from rich.table import Table

    from pynas.cli import display
    from pynas.spaces import SPACES

    found = [build() for build in SPACES.values()]
    if json:
        display.print_json({space.name: {"size": space.size, "paths_per_block": space.path_counts,
                                         "image_size": space.image_size} for space in found})  # fmt: skip
        return
    table = Table()
    for heading in ("space", "architectures", "paths per block", "image side (px)"):
        # Names and sizes are never cut; on a narrow terminal the paths are broken.
        cut = heading == "paths per block"
        table.add_column(heading, justify="left" if heading == "space" else "right", no_wrap=not cut, overflow="fold")
    for space in found:
        table.add_row(space.name, f"{space.size:,}", " ".join(map(str, space.path_counts)), str(space.image_size))
    display.out.print(table)
