"""Speed and memory of a run's networks, and of published ones beside them (Pi-NAS, table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pynas import export, spaces
from pynas.costs import count_module
from pynas.costs.latency import device_name
from pynas.errors import InputError
from pynas.evaluation.speed import FORMATS, TRAINING, measure, memory_source
from pynas.runs.run import Run
from pynas.spaces import Architecture
from pynas.spaces.networks import NETWORKS


@dataclass(frozen=True)
class _Network:
    """A network to measure; weights: a folder of retraining/, "exported" or "fresh"."""

    name: str
    architecture: Architecture
    weights: str
    model: nn.Module
    shape: tuple[int, ...]
    scaled: bool = False
    accuracy: float | None = None


def benchmark(
    run: Run,
    architectures: Sequence[str] = (),
    image_size: int | None = None,
    batch_size: int = 128,
    repeats: int = 10,
    training: bool = False,
) -> dict[str, Any]:
    """Measure networks in every format; return the device, what counted the memory, and a row for each network and format.

    architectures: string forms or names of published networks, of other spaces too, with the run's weights where it has any,
    else fresh ones; none for the run's retrained networks, else its exported one. image_size: side in pixels, None for the
    networks' or, with fresh weights, the run's. repeats: timings, of which the median counts. training: time forward and
    backward passes in training mode instead.

    Raises:
        InputError: no network, an unknown one, or one that does not run on such images.
    """
    networks = _networks(run, architectures, image_size)
    rows, report = [], run.progress.count("benchmark")
    for number, network in enumerate(networks, 1):
        counted, _ = count_module(network.model, network.shape)
        about = {"network": network.name, "weights": network.weights, "image_size": network.shape[-1],
                 "params": counted["params"], "madds": counted["madds"], "test_accuracy": network.accuracy}  # fmt: skip
        for name, prepare in (TRAINING if training else FORMATS).items():
            speed = measure(network.model, network.shape, run.device, prepare, batch_size=batch_size, repeats=repeats)
            rows.append({**about, "format": name, **asdict(speed)})
        report(number, len(networks))
    return {"device": device_name(run.device), "batch_size": batch_size, "repeats": repeats,
            "memory_source": memory_source(run.device), "rows": rows}  # fmt: skip


def _networks(run: Run, architectures: Sequence[str], image_size: int | None) -> list[_Network]:
    retrained, exported = sorted(run.folder.glob("retraining/*/subnet.safetensors")), run.folder / "subnet.safetensors"
    files = [*retrained, *[exported] * exported.exists()]
    if not files and not architectures:
        raise InputError(f"[benchmark] expected a network in {run.folder}, got none; run `pynas export --run {run.folder}` first, "
                         "or name one by --architecture")  # fmt: skip
    own = [_of_file(run, path, image_size) for path in files]
    named = [network for name in architectures for network in _named(run, name, own, image_size)]
    return named or own[: len(retrained) or 1]


def _of_file(run: Run, path: Path, image_size: int | None) -> _Network:
    model, about = export.load_subnet(path, run.space)
    accuracy = about.get("test_accuracy")
    if image_size not in (None, about["image_shape"][-1]):
        accuracy = None  # it was measured at the file's side
        model, about = export.load_subnet(path, run.space, image_size)
    architecture = run.space.parse(about["architecture"])
    scaled = f", scaled by {about['phi']}" if about.get("phi") else ""
    weights = "exported" if path.parent == run.folder else path.parent.name
    return _Network(run.space.format(architecture) + scaled, architecture, weights, model, tuple(about["image_shape"]),
                    bool(scaled), accuracy)  # fmt: skip


def _named(run: Run, name: str, own: Sequence[_Network], image_size: int | None) -> list[_Network]:
    """Return the run's networks of the named architecture, else one with fresh weights, of a published one in its paper's space."""
    space = run.space
    if name not in NETWORKS or space.name in NETWORKS[name].spaces:
        found = [network for network in own if network.architecture == space.parse(name) and not network.scaled]
        if found:
            return found
    space, architecture = spaces.network(name) if name in NETWORKS else (space, space.parse(name))
    side = image_size or run.image_size
    shape = (3, side, side)
    model = run.seeded(lambda: export.fresh_network(space, architecture, run.data.num_classes, shape))
    return [_Network(name, architecture, "fresh", model.eval(), shape)]
