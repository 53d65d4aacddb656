"""A network in the formats of others: torch.export and ONNX, each read back and compared."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pynas.errors import InputError
from pynas.export.python_source import check_equal
from pynas.files import atomic


def write_torch_export(path: str | Path, model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """Write a `.pt2` for `torch.export.load`, any batch size; gives its largest difference from the model.

    Raises:
        InputError: a network that torch.export refuses, or that comes back otherwise.
    """
    model, example = _prepared(model, image_shape)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:
        raise InputError(f"[export] expected a network that torch.export takes, got {_reason(error)}") from None
    with atomic(path) as temporary:
        torch.export.save(program, temporary)
        again = torch.export.load(temporary).module()
        difference = check_equal(model, again(example[:1]), example[:1], "the program")
    return {"torch_export": str(path), "torch_export_difference": difference}


def write_onnx(path: str | Path, model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """Write an ONNX file with input `images` and output `logits`, any batch size, weights inside.

    It is run by onnxruntime where that is installed; `onnx_difference` is the largest difference from the model, else None.

    Raises:
        InputError: no exporter installed, a network that it refuses, or that computes otherwise.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise InputError("[export] expected the packages of pynas[onnx] for ONNX files, got no onnxscript")
    model, example = _prepared(model, image_shape)
    try:
        program = torch.onnx.export(
            model, (example,), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    except Exception as error:
        raise InputError(f"[export] expected a network that the ONNX exporter takes, got {_reason(error)}") from None
    assert program is not None
    with atomic(path) as temporary:
        program.save(temporary, external_data=False)
        difference = None
        if importlib.util.find_spec("onnxruntime") is not None:
            difference = check_equal(model, _run_onnx(temporary, example[:1]), example[:1], "the ONNX file")
    return {"onnx": str(path), "onnx_difference": difference}


def _run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _prepared(model: nn.Module, image_shape: Sequence[int]) -> tuple[nn.Module, torch.Tensor]:
    """A copy on the CPU in evaluation mode, and images to trace it with."""
    example = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    return copy.deepcopy(model).cpu().eval(), example


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
