"""Picture of the papers' networks, and of those that runs retrained beside them (DNA, figure 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pynas import export, spaces
from pynas.costs import count_module
from pynas.errors import InputError
from pynas.files import read_json
from pynas.report.figures import save_figure
from pynas.report.networks import Measured, networks_figure
from pynas.runs.retrain import RETRAINING
from pynas.runs.settings import read_settings
from pynas.spaces.networks import NETWORKS, SCALED


def draw_networks(stem: Path, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """Draw the papers' ImageNet networks by their printed figures, and the retrained networks of runs by name as stars.

    stem: of the picture; .png and .svg are added. folders: of the runs. Returns the retrained networks and the pictures.

    Raises:
        InputError: a folder that holds no run, or a run without a finished retraining.
    """
    published = [
        Measured(
            name,
            entry.paper,
            entry.top1,
            {cost: value for cost in ("params", "flops") if (value := getattr(entry, cost))},
        )
        for name, entry in NETWORKS.items()
        if entry.top1 is not None
    ]
    for name, (params, top1) in SCALED.items():
        published.append(Measured(name, "DNA" if name.startswith("DNA") else "EfficientNet", top1, {"params": params}))
    own = [one for folder in folders for one in retrained(folder)]
    stars = [Measured(one["name"], f"retrained on {one['data']}", one["top1"],
                      {"params": one["params"], "flops": one["madds"]}, ours=True) for one in own]  # fmt: skip
    figure = networks_figure([*published, *stars], "Accuracy against size: published on ImageNet")
    return {"retrained": own, "pictures": [str(path) for path in save_figure(figure, stem)]}


def retrained(folder: Path) -> list[dict[str, Any]]:
    """Return a run's retrained networks: the name RUN/RETRAINING, the images, the test accuracy (%), parameters and MAdds.

    Costs are counted on the network as it was written, at the size of its images.

    Raises:
        InputError: no run there, or one without a finished retraining.
    """
    settings = read_settings(folder)
    found = list(_retrained(folder, spaces.get(settings.space), Path(settings.data).stem))
    if not found:
        raise InputError(f"[spaces] expected a run with a finished retraining, got none in {folder}; run `pynas retrain --run "
                         f"{folder}` first")  # fmt: skip
    return found


def _retrained(folder: Path, space: spaces.Space, data: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("retraining/*/report.json")):
        report = read_json(path, RETRAINING)
        model, metadata = export.load_subnet(path.with_name("subnet.safetensors"), space)
        counted, _ = count_module(model, tuple(metadata["image_shape"]))
        yield {"name": f"{folder.resolve().name}/{path.parent.name}", "architecture": report["architecture"], "data": data,
               "top1": 100 * report["top1"], "params": counted["params"], "madds": counted["madds"]}  # fmt: skip
