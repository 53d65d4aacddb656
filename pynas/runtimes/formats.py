"""Write a network as torch.export or ONNX; the file is read back and compared with the network at several batch sizes."""

from __future__ import annotations

import importlib.util
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.copies import unwrapped
from pynas.errors import InputError
from pynas.files import atomic
from pynas.runtimes.batches import difference, leaves, named, prepared, quiet, reason_of, traced_program
from pynas.runtimes.int8 import quantized


def write_torch_export(
    path: str | Path, model: nn.Module, example: Sequence[int] | Call, any_batch: bool = True
) -> dict[str, Any]:
    """Write a `.pt2` file for `torch.export.load`.

    example: the shape of images, (3, H, W), or a call of the model, by the tensors of which the file is called.
    any_batch: for any number of samples; else for that of the example call.

    Returns `torch_export`, the path, and `torch_export_difference`, the largest difference of the outputs.

    Raises:
        InputError: a network that torch.export refuses, that fixes the batch size, or whose file gives other outputs.
    """
    model, inputs = prepared(model, example, any_batch)
    program = traced_program(model, inputs, any_batch)
    with atomic(path) as temporary:
        try:
            with quiet():
                torch.export.save(program, temporary)
                loaded = torch.export.load(temporary).module()
        except OSError:
            raise
        except Exception as error:
            raise InputError(f"[export] expected a network that torch.export saves, got {reason_of(error)}") from None
        apart = difference(model, loaded, inputs, "the .pt2 file", any_batch)
    return {"torch_export": str(path), "torch_export_difference": apart}


def write_onnx(
    path: str | Path, model: nn.Module, example: Sequence[int] | Call, any_batch: bool = True
) -> dict[str, Any]:
    """Write an ONNX file with its weights; the arguments are those of `write_torch_export`.

    The input is `images`; those of a call have the names of the model's arguments. The output is `logits`; several outputs have
    the keys of the network's dictionary, or are `output_1`, `output_2`, ... The file runs in onnxruntime, or else in onnx's
    reference evaluator.

    Returns `onnx`, the path, and `onnx_difference`, the largest difference of the outputs.

    Raises:
        InputError: no exporter installed, a network that the exporter refuses, that fixes the batch size, or whose file
            gives other outputs.
    """
    written, model, inputs, entries = _converted(model, example, any_batch)
    with atomic(path) as temporary:
        written.save(temporary, external_data=False)
        if any_batch:
            _check_any_batch(temporary)
        try:
            run = _onnx_runner(temporary, entries)
        except Exception as error:
            raise InputError(f"[export] expected an ONNX file that its runtime takes, got {reason_of(error)}: leave out what "
                             "it lacks, as autocast to bfloat16, or write the network by write_torch_export") from None  # fmt: skip
        apart = difference(model, run, inputs, "the ONNX file", any_batch)
    return {"onnx": str(path), "onnx_difference": apart}


def write_onnx_int8(
    path: str | Path, model: nn.Module, example: Sequence[int], images: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Write an ONNX file with weights and outputs of 8 bits, quantised after the training; see `pynas.runtimes.int8.quantized`.

    example: shape of the images, (3, H, W). images: batches `[B, 3, H, W]` that stand for those that will come; the outputs'
        ranges are theirs.

    Returns `onnx_int8`, the path.

    Raises:
        InputError: as `write_onnx`, or a file that ONNX Runtime cannot quantise.
    """
    with tempfile.TemporaryDirectory() as folder, atomic(path) as temporary:
        whole = Path(folder) / "float32.onnx"
        write_onnx(whole, model, example)
        try:
            temporary.write_bytes(quantized(whole.read_bytes(), images))
            _onnx_runner(temporary, ["images"])(torch.from_numpy(images[0]))
        except OSError:
            raise
        except Exception as error:
            raise InputError(
                f"[export] expected a network that ONNX Runtime quantises, got {reason_of(error)}"
            ) from None
    return {"onnx_int8": str(path)}


def onnx_runner(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Return an ONNX file of `write_onnx` as a function of images `[B, 3, H, W]` that gives its first output."""
    run = _onnx_runner(Path(path), ["images"])
    return lambda images: run(images)[0]


def onnx_file(model: nn.Module, batch: Tensor) -> bytes:
    """Return the content of an ONNX file of a network, for batches of this shape alone.

    Raises:
        InputError: as `write_onnx`, or a network of more than 2 GB.
    """
    written, *_ = _converted(model, Call((batch,)), any_batch=False)
    try:
        return bytes(written.model_proto.SerializeToString())
    except Exception as error:
        raise InputError(
            f"[export] expected a network whose ONNX file has less than 2 GB, got {reason_of(error)}"
        ) from None


def _converted(
    model: nn.Module, example: Sequence[int] | Call, any_batch: bool
) -> tuple[torch.onnx.ONNXProgram, nn.Module, Tensor | Call, list[str]]:
    """Return a network as ONNX, its copy and inputs of `prepared`, and the names of the file's inputs."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise InputError(
            '[export] expected onnx and onnxscript for ONNX files, got no such packages; pip install ".[onnx]"'
        )
    entries = _input_names(model, example)
    model, inputs = prepared(model, example, any_batch)
    program = traced_program(model, inputs, any_batch)
    names = [f"output_{name}" if name in entries else name for name in _output_names(model, inputs)]
    try:
        with quiet():
            written = torch.onnx.export(program, dynamo=True, input_names=entries, output_names=names, verbose=False)
    except Exception as error:
        raise InputError(f"[export] expected a network that the ONNX exporter takes, got {reason_of(error)}") from None
    assert written is not None
    return written, model, inputs, entries


def _input_names(model: nn.Module, example: Sequence[int] | Call) -> list[str]:
    """Names of the tensors of a call: those of the arguments."""
    if not isinstance(example, Call):
        return ["images"]
    model = unwrapped(model)
    example, names = named(model, example), list(inspect.signature(model.forward).parameters)
    return [*names[: len(example.args)], *(name for name, x in example.kwargs.items() if isinstance(x, Tensor))]


def _output_names(model: nn.Module, inputs: Tensor | Call) -> list[str]:
    with torch.no_grad():
        output = Call.of(inputs, model)(model)
    count = len(leaves(output))
    if isinstance(output, Mapping) and count == len(output):
        return [str(name) for name in output]
    return ["logits"] if count == 1 else [f"output_{number}" for number in range(1, count + 1)]


def _check_any_batch(path: Path) -> None:
    """Raise InputError unless the first dimension of an ONNX file's inputs and outputs is a symbol."""
    import onnx

    graph = onnx.load(path).graph
    for value in (*graph.input, *graph.output):
        sizes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if not sizes or not isinstance(sizes[0], str):
            raise InputError(f"[export] expected an ONNX file for any batch size, got the shape {sizes} of {value.name!r}: "
                             "see that no size is fixed in the network")  # fmt: skip


def _onnx_runner(path: Path, names: Sequence[str]) -> Any:
    """Return an ONNX file as a function of its inputs, which have these names, that gives a list of tensors."""
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    else:
        import onnx.reference

        session = onnx.reference.ReferenceEvaluator(str(path))

    def run(*args: Tensor, **kwargs: Tensor) -> list[Tensor]:
        feeds = {name: x.numpy() for name, x in zip(names, (*args, *kwargs.values()))}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return run
