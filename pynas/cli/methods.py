"""`pynas methods`: the methods and their options."""

from __future__ import annotations

from typing import Any

from pynas.cli import options


def command(json: options.Json = False) -> None:
    """List the methods with their default spaces and the options that `--option NAME=VALUE` takes.

    Example: `pynas methods`
    """
    from rich.table import Table

    from pynas.cli import display
    from pynas.runs import METHODS

    content: dict[str, dict[str, Any]] = {}
    for name, recipe in METHODS.items():
        defaults = {option: str(default) for option, default in recipe.options().names.items()}
        content[name] = {"what": recipe.summary, "space": recipe.defaults.space, "options": defaults}
    if json:
        display.print_json(content)
        return
    table = Table(show_lines=True)
    for heading in ("method", "what", "default space", "options"):
        table.add_column(heading)
    for name, method in content.items():
        listed = ", ".join(f"{option}={default}" for option, default in method["options"].items())
        table.add_row(name, method["what"], method["space"], listed)
    display.out.print(table)
