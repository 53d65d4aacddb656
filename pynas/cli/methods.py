"""`pynas methods`: the methods, their recipes and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pynas.cli import options


def command(
    method: Annotated[str | None, typer.Argument(help="Only this method. [default: all]", show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """List the methods with their recipes: the value of each option that `--option NAME=VALUE` takes, and of the settings.

    Example: `pynas methods bossnas`
    """
    from pynas.cli import display
    from pynas.runs import METHODS
    from pynas.runs.recipes import recipe_of

    names = list(METHODS) if method is None else [method]
    content = {name: _described(recipe_of(name)) for name in names}
    if json:
        display.print_json(content)
        return
    for name, described in content.items():
        display.out.print(_table(name, described))
    display.say(
        "An empty field has the value to its left. Values of paper* are the paper's, of code* the released code's."
    )


def _described(recipe: Any) -> dict[str, Any]:
    """Return a method's summary, default space, and values by recipe, as text."""
    offered = recipe.options()
    shown = {name: {option: _text(value) for option, value in offered.values(name).items()} for name in offered.recipes}
    return {"what": recipe.summary, "space": recipe.defaults.space, "recipes": shown}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _table(name: str, described: Mapping[str, Any]) -> Any:
    from rich.table import Table

    recipes = described["recipes"]
    table = Table(title=f"{name}: {described['what']} Default space: {described['space']}.", title_justify="left")
    table.add_column("option", no_wrap=True)
    for recipe in recipes:
        table.add_column(recipe, overflow="fold")
    first = next(iter(recipes.values()))
    for option in first:
        # A recipe's value that is that of the recipe before it is not printed again.
        row = [recipes[recipe][option] for recipe in recipes]
        table.add_row(option, *[value if n == 0 or value != row[n - 1] else "" for n, value in enumerate(row)])
    return table
