"""A run's network scaled by EfficientNet's compound rule (DNA, tables 4 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from pynas import costs, export
from pynas.files import header, write_json
from pynas.methods.dna.scaling import compound_scaling
from pynas.runs.retrain import chosen_architecture
from pynas.runs.run import Run
from pynas.spaces import Architecture

SCALED = "pynas.scaled"


def scale(run: Run, phis: Sequence[str], architecture: str | None = None) -> dict[str, Any]:
    """Scale an architecture's depth, width and resolution, count each network's costs, and write it with fresh weights.

    Writes scaled/phi_PHI.safetensors in the run's folder, which `pynas.export.load_subnet` reads, and scaled/scaled.json.

    phis: see `compound_scaling`. architecture: None for the exported one, else the best found.

    Raises:
        InputError: a space without a rule of scaling, or a phi of another form.
    """
    chosen, folder = chosen_architecture(run, architecture), run.folder / "scaled"
    networks = []
    for phi in phis:
        scaling = compound_scaling(phi)
        side = scaling.side(run.image_size)
        shape = (3, side, side)
        model = _fresh(run, chosen, phi, shape)
        path = folder / f"phi_{phi}.safetensors"
        export.save_subnet(path, model, run.space, chosen, run.data.num_classes, image_shape=list(shape), phi=phi,
                           mean=list(run.data.mean), std=list(run.data.std))  # fmt: skip
        counted, _ = costs.count_module(model, shape)
        networks.append({"phi": phi, "depth": scaling.depth, "width": scaling.width, "image_size": side,
                         **{name: counted[name] for name in ("params", "madds")}, "file": str(path)})  # fmt: skip
    content = {"architecture": run.space.format(chosen), "networks": networks}
    write_json(folder / "scaled.json", header(SCALED, space=run.space.name) | content)
    return content


def _fresh(run: Run, architecture: Architecture, phi: str, shape: tuple[int, int, int]) -> nn.Module:
    return run.seeded(lambda: export.fresh_network(run.space, architecture, run.data.num_classes, shape, phi=phi))
