"""Other formats of a network that is taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pynas import export
from pynas.runs.stages import Run


def write_formats(
    run: Run, subnet: Path, python: Path | None, torch_export: Path | None, onnx: Path | None
) -> dict[str, Any]:
    """Write those that are asked for, each checked against the network of the file `subnet`; what the command says of it."""
    if python is None and torch_export is None and onnx is None:
        return {}
    model, metadata = export.load_subnet(subnet, run.space)
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
    return content


def measured(run: Run, subnet: Path) -> dict[str, Any]:
    """What is known of a network that was taken out or retrained before."""
    _, metadata = export.load_subnet(subnet, run.space)
    architecture = run.space.parse(metadata["architecture"])
    return {"architecture": run.space.format(architecture), "file": str(subnet),
            "test_accuracy": metadata["test_accuracy"]}  # fmt: skip
