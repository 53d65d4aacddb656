"""A run's network for a hub: the folder in timm's form, its model card, and the push."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.export import hub
from pynas.runs.card import model_card
from pynas.runs.run import Run


def check_push(folder: Path | None, repository: str | None) -> None:
    """Raise InputError for a push without a folder, or to a repository's name of another form than USER/NAME."""
    if repository is not None:
        hub.check_repository(repository)
        if folder is None:
            raise InputError("[hub] expected --hub FOLDER beside --push, got none; name the folder to push")


def write_hub(run: Run, subnet: Path, folder: Path, repository: str | None = None) -> dict[str, Any]:
    """Write a network's folder in timm's form for a hub, with its model card, and push it where a repository is named.

    repository: USER/NAME, made if need be. Returns `hub`, the folder, and `pushed`, the repository's address.

    Raises:
        InputError: see `pynas.export.hub.write_hub` and `push`; the folder stays where only the push fails.
    """
    content = {"hub": str(hub.write_hub(folder, subnet, model_card(run, subnet)))}
    return content if repository is None else content | {"pushed": hub.push(folder, repository)}
