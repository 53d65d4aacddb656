"""`pynas methods`: the methods and their options."""

from __future__ import annotations

import inspect
from typing import Any

from pynas.cli import options


def command(json: options.Json = False) -> None:
    """List the methods with their default spaces and the options that `--option NAME=VALUE` takes.

    Example: `pynas methods`
    """
    from rich.table import Table

    from pynas.cli import display
    from pynas.runs.recipes.registry import FLOWS

    content: dict[str, dict[str, Any]] = {}
    for name, flow in FLOWS.items():
        what = (inspect.getdoc(flow.method) or "").partition("\n")[0]
        given = {option: str(default) for option, default in flow.options.items()}
        content[name] = {"what": what, "space": flow.space, "options": given}
    if json:
        display.print_json(content)
        return
    table = Table(show_lines=True)
    for heading in ("method", "what", "default space", "options"):
        table.add_column(heading)
    for name, method in content.items():
        defaults = ", ".join(f"{option}={default}" for option, default in method["options"].items())
        table.add_row(name, method["what"], method["space"], defaults)
    display.out.print(table)
