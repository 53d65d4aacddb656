"""The retraining stage of a run, in a folder of its own inside the run's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pynas import export
from pynas.cli.display import Show
from pynas.runs.stages import Run, first_process_first, found_architecture, is_first_process
from pynas.data import ImageData, load
from pynas.errors import InputError
from pynas.export.recipes import RECIPES
from pynas.files import header, read_json, write_json
from pynas.spaces import Architecture

RETRAINING = "pynas.retraining"


@dataclass(frozen=True)
class Wishes:
    """What a retraining is asked for; None is the recipe's own."""

    recipe: str = "deit"
    architecture: str | None = None
    start: str = "scratch"
    epochs: int | None = None
    batch_size: int | None = None
    distill: float = 0.0
    distill_kind: str = "soft"
    temperature: float = 1.0
    amp: bool = False

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(f"[retrain] expected a recipe of {', '.join(RECIPES)}, got {self.recipe!r}")
        if self.start not in ("scratch", "inherited"):
            raise InputError(f"[retrain] expected to start from scratch or inherited, got {self.start!r}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"[retrain] expected {name} of at least 1, got {getattr(self, name)}")


def retrain_found(run: Run, wishes: Wishes, workers: int, show: Show) -> dict[str, Any]:
    """Train, measure and write; a training of the same wishes that was stopped is gone on with."""
    architecture = _architecture(run, wishes.architecture)
    recipe = RECIPES[wishes.recipe]
    filled = replace(wishes, architecture=str(architecture), epochs=wishes.epochs or recipe.epochs,
                     batch_size=wishes.batch_size or recipe.batch_size)  # fmt: skip
    folder = run.folder / "retraining" / f"{wishes.recipe}-{wishes.start}"
    with first_process_first():
        _keep_wishes(folder, filled)
        model = _model(run, architecture, wishes.start)
        teacher = run.teacher(show.teacher()).to(run.device) if wishes.distill > 0 else None
    data = whole_training_data(run)
    model, measured = export.retrain(
        model, data, recipe, epochs=filled.epochs, batch_size=filled.batch_size, run=folder, seed=run.settings.seed,
        workers=workers, device=run.device, on_step=show.steps("retrain"), teacher=teacher, distill=wishes.distill,
        kind=wishes.distill_kind, temperature=wishes.temperature, amp=wishes.amp,
    )  # fmt: skip
    if not is_first_process():
        return {}
    path = folder / "subnet.safetensors"
    metadata = {"recipe": asdict(recipe), **asdict(filled), "data": data.fingerprint, "seed": run.settings.seed}
    shape = list(data.image_shape)
    export.save_subnet(path, model, run.space, architecture, data.num_classes, image_shape=shape,
                       test_accuracy=measured["top1"], retraining=metadata)  # fmt: skip
    content = {"architecture": run.space.format(architecture), "recipe": recipe.name, "from": wishes.start,
               "epochs": filled.epochs, **measured, "file": str(path)}  # fmt: skip
    write_json(folder / "report.json", header(RETRAINING, **metadata) | content)
    return content


def whole_training_data(run: Run) -> ImageData:
    """All training images, those that paths were rated on too, normalised as in the run."""
    size = run.settings.image_size or run.space.image_size
    settings = run.settings
    data = load(settings.data, size, seed=settings.seed, val_fraction=0.0, limit=settings.limit_images)
    return replace(data, mean=run.data.mean, std=run.data.std)


def _architecture(run: Run, text: str | None) -> Architecture:
    if text is not None:
        return run.space.parse(text)
    exported = run.folder / "subnet.safetensors"
    if exported.exists():
        return run.space.parse(export.load_subnet(exported, run.space)[1]["architecture"])
    return found_architecture(run)


def _model(run: Run, architecture: Architecture, start: str) -> torch.nn.Module:
    if start == "inherited":
        model, metadata = export.load_subnet(run.folder / "subnet.safetensors", run.space)
        if run.space.parse(metadata["architecture"]) != architecture:
            raise InputError(
                f"[retrain] expected the weights of {architecture}, got those of {metadata['architecture']} in "
                f"{run.folder / 'subnet.safetensors'}; "
                f"run `pynas export --run {run.folder} --architecture '{architecture}'` first"
            )
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.settings.seed)
        return export.standalone(run.space, architecture, run.data.num_classes, run.data.image_shape)


def _keep_wishes(folder: Path, wishes: Wishes) -> None:
    """Write them down, or compare with those that the folder's training was begun with."""
    path = folder / "config.json"
    content = asdict(wishes)
    if not path.exists():
        write_json(path, header(RETRAINING) | content)
        return
    before = read_json(path, RETRAINING)
    for name, value in content.items():
        if before.get(name) != value:
            raise InputError(f"[retrain] expected {name} = {before.get(name)!r}, as {folder} was begun with, got {value!r}; "
                             "move that folder away to train anew")  # fmt: skip
