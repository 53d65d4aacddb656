"""Make a run in a folder, or open the run that a folder holds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pynas.errors import InputError
from pynas.runs.images import RECORD
from pynas.runs.lock import hold
from pynas.runs.options import PAPER, SETTINGS, Options
from pynas.runs.progress import Progress
from pynas.runs.recipes import METHODS, recipe_of
from pynas.runs.run import COSTS, Run
from pynas.runs.settings import CONFIG, STATUS, Settings, open_folder, read_settings
from pynas.spaces import get
from pynas.train import Keep

# Folders of runs that this command made.
new_folders: list[Path] = []


def create(
    folder: str | Path | None = None,
    *,
    device: str = "auto",
    spread: str = "data",
    progress: Progress | None = None,
    workers: int | None = None,
    keep: Keep | None = None,
    sync_batch_norm: bool = False,
    **settings: Any,
) -> Run:
    """Make a run, or open the one that the folder holds; the process then works in the folder alone until it ends.

    folder: None for a new one under runs/. device: auto, cpu, cuda or cuda:N. spread: what processes of torchrun share,
    "data" or "blocks" (see `pynas.train.Team`). progress: where the stages report. workers: processes that read images, None
    for a number that suits the device. keep: epochs whose weights stay, beside the settings' keep_epochs.
    sync_batch_norm: batch norms of several processes' GPUs normalise the whole batch (`pynas.train.Method`).
    settings: fields of `pynas.runs.Settings`; None stands for the default, which depends on the method for `space`, and on the
        recipe for `epochs`, `batch_size` and `accumulate`. `options` holds those of the method. recipe: None for the method's
        "paper" where images have 224 pixels and more, else "small".

    Raises:
        InputError: an unknown method, recipe, space or option, a value of a wrong type or out of its range, a folder that holds
            something else or a run of other settings, or one that another process works in.
    """
    folder = None if folder is None else Path(folder)
    wanted = wanted_settings(folder, settings)
    new = folder is None or not (folder / CONFIG).exists()
    folder, made = open_folder(folder, wanted, {name for name, value in settings.items() if value is not None})
    hold(folder)
    if new:
        new_folders.append(folder)
    runner = recipe_of(made.method, made.space)
    return Run(
        folder, made, runner, device, spread, progress, workers=workers, keep=keep, sync_batch_norm=sync_batch_norm
    )


def forget_unbegun() -> None:
    """Remove the folders of runs that this command made, and that were refused before their first step.

    They hold nothing but settings, counted costs, the record of the images and the status.
    """
    for folder in new_folders:
        if all(path.is_dir() or path.name in (CONFIG, COSTS, RECORD, STATUS) for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def wanted_settings(folder: Path | None, given: Mapping[str, Any]) -> Settings:
    """Return the settings that the user named, completed by the folder's run or, for a new run, by the method's recipe.

    Raises:
        InputError: an unknown method, recipe, space, setting or option, a value of a wrong type or out of its range, or several
            seeds of a method whose scores are not averaged.
    """
    named = {name: value for name, value in given.items() if value is not None}
    options = named.pop("options", None)
    if {"val_fraction", "val_images"} <= set(named):
        raise InputError(f"[run] expected val_fraction or val_images, got both, {named['val_fraction']} and "
                         f"{named['val_images']}; leave one out")  # fmt: skip
    if folder is not None and (folder / CONFIG).exists():
        before = read_settings(folder)
        if "val_fraction" in named and before.val_images is not None:
            raise InputError(f"[run] expected val_images = {before.val_images}, as {folder} was made with, got val_fraction = "
                             f"{named['val_fraction']}; use another folder")  # fmt: skip
        wanted = before.replace(**named)
        if "recipe" in named:
            wanted = wanted.replace(recipe=options_of(wanted).recipe(wanted.recipe, get(wanted.space)))
    else:
        wanted = Settings.of(named)
        wanted = wanted.replace(space=named.get("space") or recipe_of(wanted.method).defaults.space)
        offered = options_of(wanted)
        chosen = offered.recipe(named.get("recipe"), get(wanted.space), wanted.image_size)
        proposed = offered.settings(chosen)
        if "val_fraction" in named:
            proposed.pop("val_images", None)
        wanted = wanted.replace(**{**proposed, **named, "recipe": chosen})
    if any(epoch > wanted.epochs for epoch in wanted.keep_epochs):
        raise InputError(f"[run] expected keep_epochs in 1..{wanted.epochs}, got {wanted.keep_epochs}")
    recipe = recipe_of(wanted.method, wanted.space)
    if wanted.seeds > 1 and not recipe.defaults.averages:
        takers = ", ".join(name for name, each in METHODS.items() if each.defaults.averages)
        raise InputError(f"[run] expected seeds = 1 for {wanted.method}, as path scores of several seeds are averaged for {takers} "
                         f"only, got {wanted.seeds}; start a run for each seed")  # fmt: skip
    return wanted if options is None else wanted.replace(options=recipe.options().check(options))


def options_of(settings: Settings) -> Options:
    """Return the options of the method of these settings in their space."""
    return recipe_of(settings.method, settings.space).options()


def describe_recipe(settings: Settings, rated: int | None = None) -> dict[str, Any]:
    """Return the name of the recipe that settings were made from, and the values in which they differ from the paper's.

    `differs`: the value and the paper's by the name of the option or setting. rated: number of validation images, which stands for
    `val_images` where the paper names a number; None where it is not known yet.
    """
    options, space = options_of(settings), get(settings.space)
    paper = options.recipe(PAPER, space)
    own = options.filled(settings.recipe, settings.options) | {name: getattr(settings, name) for name in SETTINGS}
    theirs = options.values(paper)
    if rated is not None and theirs["val_images"] is not None:
        own["val_images"] = rated
    differs = {name: [value, theirs[name]] for name, value in own.items() if value != theirs[name]}
    return {"recipe": settings.recipe, "paper": paper, "differs": differs}


def load(
    folder: str | Path,
    device: str = "auto",
    progress: Progress | None = None,
    **ways: Any,
) -> Run:
    """Open the run that a folder holds; the process then works in the folder alone until it ends.

    device, progress: as of `create`, and so are `ways`: workers, keep, sync_batch_norm.

    Raises:
        InputError: no run there, or another process works there.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    hold(folder)
    recipe = recipe_of(settings.method, settings.space)
    return Run(folder, settings, recipe, device, progress=progress, **ways)
