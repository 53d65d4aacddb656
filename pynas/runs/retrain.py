"""The retraining stage of a run, in a folder of its own inside the run's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pynas import export
from pynas.checked import AtLeastOne, Fraction, Positive, checked
from pynas.data import ImageData, load
from pynas.errors import InputError
from pynas.export.recipes import RECIPES
from pynas.files import header, read_json, write_json
from pynas.runs.export import found_architecture
from pynas.runs.processes import first_process_first
from pynas.runs.run import Run
from pynas.spaces import Architecture
from pynas.train.team import is_first_process

RETRAINING = "pynas.retraining"


@checked("retrain")
@dataclass(frozen=True, kw_only=True)
class Request:
    """A retraining's request; None stands for the recipe's own.

    start: from scratch, or from the inherited weights of the exported network. distill: weight of the run's teacher in the
    loss; distill_kind: soft (KL, at a temperature) or hard (the teacher's decision). amp: bfloat16 autocast. image_size: side
    of the images in pixels, None for the run's; learned positions are resampled.
    """

    recipe: str = "deit"
    architecture: str | None = None
    start: Literal["scratch", "inherited"] = "scratch"
    epochs: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    distill: Fraction = 0.0
    distill_kind: Literal["soft", "hard"] = "soft"
    temperature: Positive = 1.0
    amp: bool = False
    image_size: AtLeastOne | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(f"[retrain] expected a recipe of {', '.join(RECIPES)}, got {self.recipe!r}")


def retrain(run: Run, request: Request, workers: int = 0) -> dict[str, Any]:
    """Train a found network, measure it and write it; a training of the same request that was stopped goes on.

    workers: processes that read images.
    """
    data = whole_training_data(run)
    architecture = _architecture(run, request.architecture)
    recipe = RECIPES[request.recipe]
    filled = replace(request, architecture=str(architecture), epochs=request.epochs or recipe.epochs,
                     batch_size=request.batch_size or recipe.batch_size)  # fmt: skip
    folder = run.folder / "retraining" / f"{request.recipe}-{request.start}"
    with first_process_first():
        _keep_request(folder, filled)
        data = whole_training_data(run, request.image_size)
        model = _model(run, architecture, request.start, data)
        teacher = run.teacher().to(run.device) if request.distill > 0 else None
    model, measured = export.retrain(
        model, data, recipe, epochs=filled.epochs, batch_size=filled.batch_size, run=folder, seed=run.settings.seed,
        workers=workers, device=run.device, on_step=run.progress.steps("retrain"), teacher=teacher, distill=request.distill,
        kind=request.distill_kind, temperature=request.temperature, amp=request.amp,
    )  # fmt: skip
    if not is_first_process():
        return {}
    path = folder / "subnet.safetensors"
    metadata = {"recipe": asdict(recipe), **asdict(filled), "data": data.fingerprint, "seed": run.settings.seed}
    shape = list(data.image_shape)
    export.save_subnet(path, model, run.space, architecture, data.num_classes, image_shape=shape, mean=list(data.mean),
                       std=list(data.std), test_accuracy=measured["top1"], retraining=metadata)  # fmt: skip
    content = {"architecture": run.space.format(architecture), "recipe": recipe.name, "from": request.start,
               "epochs": filled.epochs, **measured, "file": str(path)}  # fmt: skip
    write_json(folder / "report.json", header(RETRAINING, **metadata) | content)
    return content


def whole_training_data(run: Run, image_size: int | None = None) -> ImageData:
    """Return all training images, those that paths were rated on too, normalised as in the run.

    image_size: side in pixels, None for the run's.
    """
    settings = run.settings
    data = load(settings.data, image_size or settings.image_size or run.space.image_size, seed=settings.seed, val_fraction=0.0,
                limit=settings.limit_images)  # fmt: skip
    return replace(data, mean=run.data.mean, std=run.data.std)


def _architecture(run: Run, text: str | None) -> Architecture:
    """Return the named architecture, else the exported one, else the best of search.json."""
    if text is not None:
        return run.space.parse(text)
    exported = run.folder / "subnet.safetensors"
    if exported.exists():
        return run.space.parse(export.load_subnet(exported, run.space)[1]["architecture"])
    return found_architecture(run)


def _model(run: Run, architecture: Architecture, start: str, data: ImageData) -> torch.nn.Module:
    """Return the network with fresh or inherited weights, for images of the data's size."""
    if start == "inherited":
        path = run.folder / "subnet.safetensors"
        model, metadata = export.load_subnet(path, run.space, data.image_shape[1])
        if run.space.parse(metadata["architecture"]) != architecture:
            raise InputError(f"[retrain] expected the weights of {architecture}, got those of {metadata['architecture']} in "
                             f"{path}; run `pynas export --run {run.folder} --architecture '{architecture}'` first")  # fmt: skip
        return model
    return run.seeded(lambda: export.standalone(run.space, architecture, data.num_classes, data.image_shape))


def _keep_request(folder: Path, request: Request) -> None:
    """Write the request down, or compare it with the one that the folder's training was begun with."""
    path = folder / "config.json"
    content = asdict(request)
    if not path.exists():
        write_json(path, header(RETRAINING) | content)
        return
    before = read_json(path, RETRAINING)
    for name, value in content.items():
        if before.get(name) != value:
            raise InputError(f"[retrain] expected {name} = {before.get(name)!r}, as {folder} was begun with, got {value!r}; "
                             "move that folder away to train anew")  # fmt: skip
