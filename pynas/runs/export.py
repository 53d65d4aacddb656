"""The export stage: a network with its weights, measured, and other formats of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pynas import export, teachers
from pynas.errors import InputError
from pynas.files import read_json
from pynas.runs.baselines import measure_baselines
from pynas.runs.run import Run
from pynas.runs.search import SEARCH
from pynas.runtimes import onnx_runner
from pynas.spaces import Architecture

# Batches that batch-norm statistics of a found network are re-estimated on.
CALIBRATION_BATCHES = 32
# Images that 8-bit numbers are calibrated on.
CALIBRATION_IMAGES = 512


def export_trained(run: Run, architecture: Architecture | None) -> dict[str, Any]:
    """Take a network out of the trained supernet, re-estimate its batch norm, measure it and write it.

    architecture: None for the best of search.json.
    """
    method, digest = run.trained_method()
    return export_from(run, method.net, digest, architecture, method.fold)


def export_from(
    run: Run,
    net: Any,
    digest: str,
    architecture: Architecture | None,
    fold: Callable[[torch.nn.Module], bool] = lambda model: True,
) -> dict[str, Any]:
    """Take a network out of `net`, whose weights have this digest, re-estimate its batch norm, measure it and write it.

    fold: takes up in the network what the method trained around its blocks; returns whether it could.
    """
    folded = True

    def take(architecture: Architecture) -> torch.nn.Module:
        nonlocal folded
        model = export.subnet(net, architecture)
        folded = fold(model)
        recalibrate(run, model)
        return model

    architecture = architecture or found_architecture(run)
    content = write_subnet(run, take(architecture), architecture, digest)
    if folded:
        measure_baselines(run, take, digest)
    else:
        content["note"] = ("the learned convolutions between the teacher's widths and the blocks' are not in this network: it has "
                           f"to be trained, by `pynas retrain --run {run.folder}`.")  # fmt: skip
    return content


def found_architecture(run: Run) -> Architecture:
    """Return the best architecture of search.json."""
    found = read_json(run.folder / "search.json", SEARCH)["found"]
    return run.space.parse(found[0]["architecture"])


def recalibrate(run: Run, model: torch.nn.Module) -> None:
    """Re-estimate a network's batch norm on training images, and leave it in evaluation mode."""
    export.recalibrate(model, itertools.islice(run.loader("train"), CALIBRATION_BATCHES))
    model.eval()


def write_subnet(run: Run, model: torch.nn.Module, architecture: Architecture, digest: str) -> dict[str, Any]:
    """Measure a network on the test images and write it as subnet.safetensors.

    digest: of the weights that it was taken from.
    """
    accuracy = teachers.accuracy(model, run.data, device=run.device)
    path = run.folder / "subnet.safetensors"
    metadata = {"checkpoint": digest, "image_shape": list(run.data.image_shape), "data": run.data.fingerprint,
                "test_accuracy": accuracy, "mean": list(run.data.mean), "std": list(run.data.std),
                "crop_pct": run.data.crop_pct}  # fmt: skip
    export.save_subnet(path, model, run.space, architecture, run.data.num_classes, **metadata)
    return {"architecture": run.space.format(architecture), "file": str(path), "test_accuracy": accuracy,
            **run.costs.of(architecture)}  # fmt: skip


def written_subnet(run: Run, subnet: Path) -> dict[str, Any]:
    """Return the name, the file and the accuracy of a network that was exported or retrained before."""
    _, metadata = export.load_subnet(subnet, run.space)
    architecture = run.space.parse(metadata["architecture"])
    return {"architecture": run.space.format(architecture), "file": str(subnet),
            **{name: metadata[name] for name in ("test_accuracy",) if name in metadata}}  # fmt: skip


def calibration_images(run: Run) -> Tensor:
    """Return training images to calibrate 8-bit numbers on, `[N, 3, H, W]`."""
    count = min(CALIBRATION_IMAGES, len(run.data.train))
    loader = run.data.loader("train", min(64, count), seed=run.settings.seed)
    return torch.cat([images for images, _ in itertools.islice(loader, -(-count // 64))])


def write_formats(
    run: Run,
    subnet: Path,
    python: Path | None = None,
    torch_export: Path | None = None,
    onnx: Path | None = None,
    image_size: int | None = None,
    onnx_int8: Path | None = None,
) -> dict[str, Any]:
    """Write the formats that are asked for, each checked against the network of the file `subnet`; return their files.

    image_size: side of their images in pixels, None for the network's. onnx_int8: file of a network of 8 bits, calibrated on
    training images; its accuracy on the test images is `onnx_int8_accuracy`.

    Raises:
        InputError: a network without such a file, or an image size that it does not take.
    """
    if all(path is None for path in (python, torch_export, onnx, onnx_int8)):
        return {}
    model, metadata = export.load_subnet(subnet, run.space, image_size)
    shape = tuple(metadata["image_shape"])
    content: dict[str, Any] = {}
    if python is not None:
        title = f"{run.space.format(run.space.parse(metadata['architecture']))} of {run.space.name}, found by pynas."
        written = export.write_python(python, model, shape, title=title, mean=run.data.mean, std=run.data.std)
        content["python"] = str(written)
    if torch_export is not None:
        content |= export.write_torch_export(torch_export, model, shape)
    if onnx is not None:
        content |= export.write_onnx(onnx, model, shape)
    if onnx_int8 is not None:
        if shape != tuple(run.data.image_shape):
            raise InputError(f"[export] expected images of the run's side, {run.data.image_shape[-1]}, for int8, which is "
                             f"calibrated on them, got --image-size {shape[-1]}")  # fmt: skip
        content |= export.write_onnx_int8(onnx_int8, model, shape, [calibration_images(run).numpy()])
        content["onnx_int8_accuracy"] = teachers.accuracy(onnx_runner(onnx_int8), run.data)
    return content
