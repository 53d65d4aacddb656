"""Transfer of a run's network to another data set (DNA, table 3; PreNAS, table 5), in a folder inside the run's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from pynas import export
from pynas.checked import AtLeastOne, checked
from pynas.errors import InputError
from pynas.export.recipes import TRANSFERS, recipe_of
from pynas.runs.processes import first_process_first
from pynas.runs.retrain import begin, filled, train_network, write_report
from pynas.runs.run import Run

FINETUNING = "pynas.finetuning"
# Kinds of space whose networks are vision transformers.
_TRANSFORMERS = ("autoformer", "vit")


@checked("finetune")
@dataclass(frozen=True, kw_only=True)
class Request:
    """A fine-tuning's request; None stands for the recipe's own.

    data: the other data set, as a run's `data`. recipe: transfer-cnn or transfer-vit, None for what suits the network.
    subnet: file of the network, None for the run's only retrained one, else its exported one. options: other numbers of the
    recipe. image_size: side of the images in pixels, None for the network's. test_size: measure at images of this side too.
    """

    data: str
    recipe: str | None = None
    subnet: str | None = None
    epochs: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    amp: bool = False
    image_size: AtLeastOne | None = None
    test_size: AtLeastOne | None = None

    def __post_init__(self) -> None:
        if self.recipe is not None:
            recipe_of(self.recipe, TRANSFERS).changed(self.options)


def finetune(run: Run, request: Request) -> dict[str, Any]:
    """Train a network on another data set from the weights that it has; a training that was stopped goes on.

    Its classifier is drawn anew. Images are normalised as those that it was trained on. Writes
    finetuning/DATA-RECIPE/: checkpoints, metrics.jsonl, report.json and subnet.safetensors.


    Raises:
        InputError: no network, or one of several retrained ones to be named, or another request than the folder's.
    """
    path = Path(request.subnet) if request.subnet else _network(run)
    name = request.recipe or ("transfer-vit" if run.space.kind in _TRANSFORMERS else "transfer-cnn")
    recipe = recipe_of(name, TRANSFERS)
    request = filled(replace(request, recipe=name, subnet=_relative(path, run.folder)), recipe)
    folder = run.folder / "finetuning" / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', request.data).strip('_')}-{name}"
    with first_process_first():
        _, metadata = export.load_subnet(path, run.space)
        data = run.other_images(request.data, request.image_size or metadata["image_shape"][1], val_fraction=0.0)
        model = run.seeded(lambda: _with_new_classifier(run, path, metadata, data.image_shape[1], data.num_classes))
        test_data = None
        if request.test_size is not None:
            test_data = run.other_images(request.data, request.test_size, val_fraction=0.0)
        begin(folder, request, FINETUNING, model, data, test_data)
    extra = {"phi": metadata["phi"]} if metadata.get("phi") else {}
    architecture = run.space.parse(metadata["architecture"])
    content = train_network(run, folder, request, recipe, model, data, architecture, test_data=test_data,
                            training={}, metadata=extra)  # fmt: skip
    return write_report(folder, content | {"from": str(path)}, request, FINETUNING)


def _network(run: Run) -> Path:
    """Return the file of the run's retrained network, else of its exported one.

    Raises:
        InputError: none, or several retrained ones.
    """
    retrained = sorted(run.folder.glob("retraining/*/subnet.safetensors"))
    if len(retrained) > 1:
        names = ", ".join(map(str, retrained))
        raise InputError(f"[finetune] expected one retrained network, got {names}; name one by --subnet")
    exported = run.folder / "subnet.safetensors"
    for path in (*retrained, exported):
        if path.exists():
            return path
    raise InputError(f"[finetune] expected a network in {run.folder}, got none; run `pynas retrain --run {run.folder}` or "
                     f"`pynas export --run {run.folder}` first")  # fmt: skip


def _with_new_classifier(run: Run, path: Path, metadata: Mapping[str, Any], side: int, num_classes: int) -> nn.Module:
    """Return the network of a file for images of a side, its classifier with fresh weights for `num_classes`.

    The second classifier of a distillation token is left out: no teacher trains it here.
    """
    trained, _ = export.load_subnet(path, run.space, side)
    architecture, shape, phi = metadata["architecture"], (3, side, side), metadata.get("phi")
    model, other = (
        export.fresh_network(run.space, architecture, classes, shape, phi=phi)
        for classes in (num_classes, num_classes + 1)
    )
    fresh, others, kept = model.state_dict(), other.state_dict(), trained.state_dict()
    classifier = {name for name, value in fresh.items() if value.shape != others[name].shape}
    model.load_state_dict({name: value if name in classifier else kept[name] for name, value in fresh.items()})
    return model


def _relative(path: Path, folder: Path) -> str:
    """Name of a file from a folder on where it is inside, else its absolute one: the same from any directory."""
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
