"""Write a network as torch.export or ONNX; the file is read back and compared with the network."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.export.python_source import check_equal
from pynas.files import atomic


def write_torch_export(path: str | Path, model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """Write a `.pt2` file for `torch.export.load`, for any batch size.

    Returns `torch_export`, the path, and `torch_export_difference`, the largest difference of the outputs.

    Raises:
        InputError: a network that torch.export refuses, or whose file gives other outputs.
    """
    model, example = _prepared(model, image_shape)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:
        raise InputError(f"[export] expected a network that torch.export takes, got {_reason(error)}") from None
    with atomic(path) as temporary:
        torch.export.save(program, temporary)
        loaded = torch.export.load(temporary).module()
        difference = check_equal(model, loaded(example[:1]), example[:1], "the .pt2 file")
    return {"torch_export": str(path), "torch_export_difference": difference}


def write_onnx(path: str | Path, model: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """Write an ONNX file with its weights, from input `images` to output `logits`, for any batch size.

    Returns `onnx`, the path, and `onnx_difference`, the largest difference of the outputs (None without onnxruntime).

    Raises:
        InputError: no exporter installed, a network that the exporter refuses, or whose file gives other outputs.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise InputError('[export] expected onnxscript for ONNX files, got no such package; pip install ".[onnx]"')
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
    """Return a copy of the model on the CPU in evaluation mode, and images to trace it with."""
    example = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0))
    return copy_module(model).cpu().eval(), example


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
