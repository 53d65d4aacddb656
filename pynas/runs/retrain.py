"""The retraining stage of a run, in a folder of its own inside the run's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pynas import export
from pynas.checked import AtLeastOne, Fraction, Positive, checked
from pynas.copies import copy_module
from pynas.data import ImageData
from pynas.errors import InputError
from pynas.export.image_size import resize_positions
from pynas.export.recipes import Recipe, recipe_of
from pynas.files import header, read_json, write_json
from pynas.methods.dna.scaling import compound_scaling
from pynas.runs.export import found_architecture
from pynas.runs.processes import first_process_first
from pynas.runs.run import Run
from pynas.runs.status import reporting
from pynas.spaces import Architecture
from pynas.train.checkpoint import LAST
from pynas.train.team import is_first_process

RETRAINING = "pynas.retraining"


@checked("retrain")
@dataclass(frozen=True, kw_only=True)
class Request:
    """A retraining's request; None stands for the recipe's own.

    start: from scratch, or from the inherited weights of the exported network. options: other numbers of the recipe
    (`pynas.export.Recipe`) by name. phi: train the architecture scaled (`pynas.methods.dna.scaling.compound_scaling`), from
    scratch. distill: weight of the run's teacher in the loss; distill_kind: soft (KL, at a temperature), hard (the teacher's
    decision) or token (hard, by a second classifier of a vision transformer). amp: bfloat16 autocast. image_size: side of the
    images in pixels, None for the run's, times the scaling's resolution; learned positions are resampled. test_size: measure
    at images of this side too, without training on them. name: of the folder in `retraining/`, None for RECIPE-START, where a
    run has one retraining of each.
    """

    recipe: str = "deit"
    architecture: str | None = None
    start: Literal["scratch", "inherited"] = "scratch"
    epochs: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    phi: str | None = None
    distill: Fraction = 0.0
    distill_kind: Literal["soft", "hard", "token"] = "soft"
    temperature: Positive = 1.0
    amp: bool = False
    image_size: AtLeastOne | None = None
    test_size: AtLeastOne | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[\w.-]*\w[\w.-]*", self.name):
            raise InputError(f"[retrain] expected a name of letters, digits, dots and dashes, got {self.name!r}")
        recipe_of(self.recipe).changed(self.options)
        if self.phi is not None:
            compound_scaling(self.phi)
            if self.start == "inherited":
                raise InputError(f"[retrain] expected a scaled network to start from scratch, got phi = {self.phi} and "
                                 "inherited weights")  # fmt: skip
        if self.distill_kind == "token" and self.distill == 0:
            raise InputError("[retrain] expected distill above 0 for a distillation token, got 0")

    @property
    def folder(self) -> str:
        """Name of the retraining's folder."""
        return self.name or f"{self.recipe}-{self.start}" + ("" if self.phi is None else f"-phi_{self.phi}")


def retrain(run: Run, request: Request) -> dict[str, Any]:
    """Train a found network, measure it and write it; a training of the same request that was stopped goes on."""
    data = whole_training_data(run, request.image_size or _side(run, request.phi))
    architecture = chosen_architecture(run, request.architecture)
    recipe = recipe_of(request.recipe)
    request = filled(replace(request, architecture=str(architecture)), recipe)
    folder = run.folder / "retraining" / request.folder
    test_data = None if request.test_size is None else whole_training_data(run, request.test_size)
    with first_process_first():
        model = _model(run, architecture, request, data)
        begin(folder, request, RETRAINING, model, data, test_data)
        teacher = (run.recipe.teacher(run) or run.teacher()).to(run.device) if request.distill > 0 else None
    distillation = {
        "teacher": teacher,
        "distill": request.distill,
        "kind": request.distill_kind,
        "temperature": request.temperature,
    }
    scaled = {} if request.phi is None else {"phi": request.phi}
    content = train_network(run, folder, request, recipe, model, data, architecture, test_data=test_data,
                            training=distillation, metadata=scaled)  # fmt: skip
    return write_report(folder, content | {"from": request.start} | scaled, request, RETRAINING)


def train_network(
    run: Run,
    folder: Path,
    request: Any,
    recipe: Recipe,
    model: nn.Module,
    data: ImageData,
    architecture: Architecture,
    *,
    test_data: ImageData | None,
    training: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """Train a network in a folder, measure it and write it as subnet.safetensors; return its name and what was measured.

    request: of a retraining or a fine-tuning, filled. test_data: images of another size to measure it on too.
    training: further arguments of `pynas.export.Retraining`. metadata: kept in the file, as `save_subnet` takes them.
    """
    recipe = recipe.changed(request.options)
    with reporting(run, "retrain"):
        model, measured = _trained(
            folder,
            model, data, recipe, epochs=request.epochs, batch_size=request.batch_size, run=folder, seed=run.settings.seed,
            device=run.device, on_step=run.progress.steps("retrain", f"retrain {folder.name}"), keep=run.keep, amp=request.amp,
            sync_batch_norm=run.sync_batch_norm, **training,
        )  # fmt: skip
    if test_data is not None:
        at_size = export.evaluate(_resized(model, data, test_data), test_data, device=run.device)
        measured |= {"test_size": test_data.image_shape[1], "top1_at_test_size": at_size["top1"],
                     "top5_at_test_size": at_size["top5"]}  # fmt: skip
    path = folder / "subnet.safetensors"
    if is_first_process():
        kept = {**asdict(request), "numbers": asdict(recipe), "data": data.fingerprint, "seed": run.settings.seed}
        export.save_subnet(path, model, run.space, architecture, data.num_classes, image_shape=list(data.image_shape),
                           mean=list(data.mean), std=list(data.std), crop_pct=data.crop_pct,
                           test_accuracy=measured["top1"], retraining=kept, **metadata)  # fmt: skip
    return {"architecture": run.space.format(architecture), "recipe": recipe.name, "epochs": request.epochs, **measured,
            "data": data.fingerprint, "file": str(path)}  # fmt: skip


def _trained(folder: Path, *arguments: Any, **options: Any) -> tuple[nn.Module, dict[str, float]]:
    """Call `pynas.export.retrain`; a request that it refuses before a checkpoint is not kept in the folder."""
    try:
        return export.retrain(*arguments, **options)
    except InputError:
        if is_first_process() and not (folder / LAST).exists():
            (folder / "config.json").unlink(missing_ok=True)
        raise


def _resized(model: nn.Module, data: ImageData, test_data: ImageData) -> nn.Module:
    """Return a copy of a network for the size of other images."""
    resized = copy_module(model)
    resize_positions(resized, data.image_shape[1], test_data.image_shape[1])
    return resized


def write_report(folder: Path, content: dict[str, Any], request: Any, kind: str) -> dict[str, Any]:
    """Write what a training measured as report.json, once among several processes; return it."""
    if is_first_process():
        write_json(folder / "report.json", header(kind, **asdict(request)) | content)
    return content


def whole_training_data(run: Run, image_size: int | None = None) -> ImageData:
    """Return all training images, those that paths were rated on too, normalised as in the run.

    image_size: side in pixels, None for the run's.
    """
    settings = run.settings
    return run.other_images(settings.data, image_size or run.image_size, val_fraction=0.0, limit=settings.limit_images)


def filled(request: Any, recipe: Recipe) -> Any:
    """Return a request with the recipe's epochs and batch size where it names none."""
    return replace(request, epochs=request.epochs or recipe.epochs, batch_size=request.batch_size or recipe.batch_size)


def begin(
    folder: Path, request: Any, kind: str, model: nn.Module, data: ImageData, test_data: ImageData | None
) -> None:
    """Write a request down, or compare it with the one that the folder's training was begun with; but for `test_size`.

    Raises:
        InputError: another request, or images to measure on of a size that the network does not take.
    """
    if test_data is not None:
        _resized(model, data, test_data)
    path = folder / "config.json"
    content = {name: value for name, value in asdict(request).items() if name not in ("test_size", "name")}
    if not path.exists():
        write_json(path, header(kind) | content)
        return
    before = read_json(path, kind)
    for name, value in content.items():
        made_with = before.get(name)  # an option that came later is not in folders made before
        if made_with != value and (made_with or value):
            raise InputError(f"[retrain] expected {name} = {made_with!r}, as {folder} was begun with, got {value!r}; "
                             "name another folder by --name, or move that one away")  # fmt: skip


def _side(run: Run, phi: str | None) -> int | None:
    """Side of the images of a scaled network in pixels; None for the run's."""
    return None if phi is None else compound_scaling(phi).side(run.image_size)


def chosen_architecture(run: Run, text: str | None) -> Architecture:
    """Return the named architecture, else the exported one, else the best of search.json."""
    if text is not None:
        return run.space.parse(text)
    exported = run.folder / "subnet.safetensors"
    if exported.exists():
        return run.space.parse(export.load_subnet(exported, run.space)[1]["architecture"])
    return found_architecture(run)


def _model(run: Run, architecture: Architecture, request: Request, data: ImageData) -> nn.Module:
    """Return the network with fresh or inherited weights, for images of the data's size."""
    if request.start == "inherited":
        path = run.folder / "subnet.safetensors"
        model, metadata = export.load_subnet(path, run.space, data.image_shape[1])
        if run.space.parse(metadata["architecture"]) != architecture:
            raise InputError(f"[retrain] expected the weights of {architecture}, got those of {metadata['architecture']} in "
                             f"{path}; run `pynas export --run {run.folder} --architecture '{architecture}'` first")  # fmt: skip
        fresh = model
    else:
        shape = data.image_shape
        fresh = run.seeded(
            lambda: export.fresh_network(run.space, architecture, data.num_classes, shape, phi=request.phi)
        )
    return run.seeded(lambda: export.add_distillation(fresh)) if request.distill_kind == "token" else fresh
