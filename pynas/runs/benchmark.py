"""Speed and memory of a run's networks, and of published ones beside them (Pi-NAS, table 2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pynas import export, spaces
from pynas.costs import count_module
from pynas.errors import InputError
from pynas.evaluation.speed import Speed, measure, memory_source, training_passes
from pynas.runs.export import calibration_images
from pynas.runs.run import Run
from pynas.runtimes import RUNTIMES, Program, RefusedError, Served, Workload, build
from pynas.runtimes.programs import Files, weight_bytes
from pynas.spaces import Architecture
from pynas.spaces.networks import NETWORKS


@dataclass(frozen=True)
class _Network:
    """A network to measure; weights: a folder of retraining/, "exported" or "fresh". files: ONNX files, as `build` adds them."""

    name: str
    architecture: Architecture
    weights: str
    model: nn.Module
    shape: tuple[int, ...]
    scaled: bool = False
    accuracy: float | None = None
    files: Files = field(default_factory=dict)


def benchmark(
    run: Run,
    architectures: Sequence[str] = (),
    image_size: int | None = None,
    batch_size: int = 128,
    repeats: int = 10,
    training: bool = False,
    runtimes: Sequence[str] = (),
    threads: int | None = None,
    test_images: int | None = None,
) -> dict[str, Any]:
    """Measure networks in every format; return the device, what counted the memory, and a row for each network and format.

    architectures: string forms or names of published networks, of other spaces too, with the run's weights where it has any,
    else fresh ones; none for the run's retrained networks, else its exported one. image_size: side in pixels, None for the
    networks' or, with fresh weights, the run's. repeats: timings, of which the median counts. training: time forward and
    backward passes in training mode instead, by torch alone.
    runtimes: names of `pynas.runtimes.RUNTIMES`, each a format; none for all that are installed. threads: of the CPU, see
    `Workload`. test_images: how many test images each format's accuracy is measured on, None for all, 0 for no accuracy but
    torch's, as the network's file has it. Formats with 8-bit numbers are calibrated on 512 training images.

    A row has `size` (bytes of the file), `test_accuracy` (None for fresh weights), the fields of `Speed`, and `refused`: why a
    runtime does not take the network, else None.

    Raises:
        InputError: no network, an unknown one, or one that does not run on such images; a runtime that is not there.
    """
    workloads = _workloads(run, runtimes, batch_size, threads, training)
    networks = _networks(run, architectures, image_size)
    rows, report = [], run.progress.count("benchmark")
    images = cache(lambda: calibration_images(run))
    for network in networks:
        counted, _ = count_module(network.model, network.shape)
        about = {"network": network.name, "weights": network.weights, "image_size": network.shape[-1],
                 "params": counted["params"], "madds": counted["madds"]}  # fmt: skip
        for workload in workloads:
            row = (
                _trained(network, workload, repeats)
                if training
                else _served(run, network, workload, repeats, test_images, images)
            )
            rows.append(about | row)
            report(len(rows), len(networks) * len(workloads))
    return {"device": workloads[0].device_name, "batch_size": batch_size, "repeats": repeats,
            "memory_source": memory_source(run.device), "rows": rows}  # fmt: skip


def _workloads(run: Run, names: Sequence[str], batch_size: int, threads: int | None, training: bool) -> list[Workload]:
    if batch_size < 1:
        raise InputError(f"[benchmark] expected at least 1 image, got {batch_size}")
    if training:
        if names:
            raise InputError(
                f"[benchmark] expected no --runtime beside --training, which torch does, got {', '.join(names)}"
            )
        names = ["torch"]
    device = run.device.type
    found = [
        name for name, runtime in RUNTIMES.items() if not runtime.missing and device in (runtime.devices or (device,))
    ]
    return [Workload(name, run.device, batch_size, threads) for name in names or found]


def _trained(network: _Network, workload: Workload, repeats: int) -> dict[str, Any]:
    """Return the row of a network in training."""
    with workload.at_work():
        speed = measure(network.model, network.shape, workload.device, training_passes, batch_size=workload.batch_size,
                        repeats=repeats)  # fmt: skip
    size = {"size": weight_bytes(network.model), "test_accuracy": network.accuracy, "refused": None}
    return {"format": "torch, training", **size, **asdict(speed)}


def _served(
    run: Run,
    network: _Network,
    workload: Workload,
    repeats: int,
    test_images: int | None,
    calibrating: Callable[[], Tensor],
) -> dict[str, Any]:
    """Return the row of a network in a runtime; calibrating: returns the images for 8-bit numbers."""
    runtime, programs = RUNTIMES[workload.runtime], list[Program]()
    own = tuple(network.shape) == tuple(run.data.image_shape)
    row: dict[str, Any] = {"format": runtime.title, "size": None, "test_accuracy": None, "refused": None}
    calibration = calibrating() if runtime.int8 and own else None

    def prepare(model: nn.Module, batch: Tensor) -> Callable[[Tensor], object]:
        images = () if calibration is None else _whole_batches(calibration, len(batch))
        programs.append(build(workload.runtime, model, batch, workload.used_threads, images, network.files))
        return programs[-1].call

    with workload.at_work():
        try:
            speed = measure(network.model, network.shape, workload.device, prepare, batch_size=workload.batch_size,
                            repeats=repeats, by_torch=runtime.by_torch)  # fmt: skip
        except RefusedError as error:
            if workload.runtime == "torch":
                raise
            return row | dict.fromkeys(field.name for field in fields(Speed)) | {"refused": str(error)}
        row |= {"size": programs[0].size(), **asdict(speed)}
        if (
            network.accuracy is None
            or not own
            or test_images == 0
            or (workload.runtime, test_images) == ("torch", None)
        ):
            return row | {"test_accuracy": network.accuracy if workload.runtime == "torch" else None}
        served = Served(programs[0], workload.batch_size)
        return row | {"test_accuracy": _accuracy(run, served, workload, test_images)}


def _whole_batches(images: Tensor, batch_size: int) -> list[Tensor]:
    """Split images into batches of one size; those of the last one that are missing are taken from the first images."""
    places = torch.arange(-(-len(images) // batch_size) * batch_size) % len(images)
    return list(images[places].split(batch_size))


@torch.no_grad()
def _accuracy(run: Run, model: nn.Module, workload: Workload, test_images: int | None) -> float:
    """Return the top-1 accuracy on the first test images, None for all."""
    count = min(test_images or len(run.data.test), len(run.data.test))
    loader = run.data.loader("test", workload.batch_size, shuffle=False, device=workload.device)
    hits = [model(images).argmax(1).cpu() == labels.cpu() for images, labels in
            itertools.islice(loader, -(-count // workload.batch_size))]  # fmt: skip
    return torch.cat(hits)[:count].double().mean().item()


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
