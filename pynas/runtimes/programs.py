"""A network as a program of a runtime: torch, torch.compile, torch.export, ONNX Runtime, OpenVINO, TensorRT."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.runtimes.batches import leaves, quiet, reason_of
from pynas.runtimes.formats import onnx_file
from pynas.runtimes.int8 import quantized

Outputs = Callable[[Tensor], Any]
# Contents of ONNX files of one network, by the shape of a batch and whether they are of 8 bits.
Files = dict[tuple[torch.Size, bool], bytes]


class RefusedError(InputError):
    """A network that a runtime does not take."""


@dataclass(frozen=True)
class Program:
    """A network that is ready to run in a runtime, for batches of one shape.

    call: takes a batch `[B, ...]` on the program's device and returns the outputs in the runtime's own form; this is timed.
    size: returns the bytes of the file that the network is served from; of torch and torch.compile, of its weights.
    """

    call: Outputs
    size: Callable[[], int]

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the network's first output for a batch `[B, ...]`, as a tensor."""
        output = self.call(batch)
        return leaves(output)[0] if isinstance(output, Tensor | list | tuple | dict) else torch.from_numpy(output)


class Served(nn.Module):
    """A program as a module that takes batches of up to the program's size: a smaller one is filled up with its last sample."""

    def __init__(self, program: Program, batch_size: int) -> None:
        super().__init__()
        self._program, self._batch_size = program, batch_size

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs of a batch, one row per sample."""
        filled = torch.cat([images, *[images[-1:]] * (self._batch_size - len(images))])
        return self._program(filled)[: len(images)]


@dataclass(frozen=True)
class Runtime:
    """A runtime. title: its name in tables. packages: what must be installed, and how. devices: kinds of devices; none for any.

    build: called with a module on the device, in evaluation mode, a batch, the number of threads, and what returns the content of
    the module's ONNX file for such batches; returns the program. int8: that file is the one of 8 bits.
    """

    title: str
    build: Callable[[nn.Module, Tensor, int, Callable[[], bytes]], Program]
    packages: tuple[str, ...] = ()
    install: str = ""
    devices: tuple[str, ...] = ()
    int8: bool = False

    @property
    def by_torch(self) -> bool:
        """Whether torch itself runs the network, in its own threads and memory."""
        return not self.packages

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


def _torch(model: nn.Module, batch: Tensor, threads: int, file: Callable[[], bytes]) -> Program:
    return Program(torch.inference_mode()(model), partial(weight_bytes, model))


def _compile(model: nn.Module, batch: Tensor, threads: int, file: Callable[[], bytes]) -> Program:
    with quiet(), torch.no_grad():
        # Each traced graph has code of its own: of modules of one class torch.compile gives up after a few.
        traced = torch.export.export(model, (batch,), strict=False).module()
        compiled = torch.compile(traced, dynamic=False, fullgraph=True)
        compiled(batch)
    return Program(torch.no_grad()(compiled), partial(weight_bytes, model))


def _export(model: nn.Module, batch: Tensor, threads: int, file: Callable[[], bytes]) -> Program:
    with quiet(), torch.no_grad():
        program = torch.export.export(model, (batch,), strict=False)

    def size() -> int:
        file = io.BytesIO()
        with quiet():
            torch.export.save(program, file)
        return len(file.getvalue())

    return Program(torch.inference_mode()(program.module()), size)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.nbytes for tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.values())


def _onnxruntime(model: nn.Module, batch: Tensor, threads: int, file: Callable[[], bytes]) -> Program:
    import onnxruntime

    content, options = file(), onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Program(lambda images: session.run(None, {name: images.numpy()})[0], lambda: len(content))


def _openvino(model: nn.Module, batch: Tensor, threads: int, file: Callable[[], bytes]) -> Program:
    import openvino

    content = file()
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(openvino.Core().read_model(content), "CPU", hints).create_infer_request()

    def call(images: Tensor) -> Any:
        request.infer(images.numpy(), share_inputs=True)
        return request.get_output_tensor(0).data

    return Program(call, lambda: len(content))


def _tensorrt(model: nn.Module, batch: Tensor, threads: int, file: Callable[[], bytes]) -> Program:
    import torch_tensorrt

    with quiet():
        compiled = torch_tensorrt.compile(model, ir="dynamo", arg_inputs=[batch])
    return Program(torch.no_grad()(compiled), partial(weight_bytes, model))


_ONNX, _OPENVINO = ("onnx", "onnxscript", "onnxruntime"), ("onnx", "onnxscript", "openvino")
# Runtimes by name; those of the CPU alone run there whatever the device of a run is.
RUNTIMES: dict[str, Runtime] = {
    "torch": Runtime("torch", _torch),
    "compile": Runtime("torch.compile", _compile),
    "export": Runtime("torch.export", _export),
    "onnxruntime": Runtime("ONNX Runtime", _onnxruntime, _ONNX, 'pip install ".[onnx]"', ("cpu",)),
    "onnxruntime-int8": Runtime("ONNX Runtime, int8", _onnxruntime, _ONNX, 'pip install ".[onnx]"', ("cpu",), int8=True),
    "openvino": Runtime("OpenVINO", _openvino, _OPENVINO, 'pip install ".[openvino]"', ("cpu",)),
    "openvino-int8": Runtime("OpenVINO, int8", _openvino, (*_OPENVINO, "onnxruntime"),
                             'pip install ".[openvino]"', ("cpu",), int8=True),
    "tensorrt": Runtime("TensorRT", _tensorrt, ("torch_tensorrt",), "pip install torch-tensorrt", ("cuda",)),
}  # fmt: skip


def build(
    name: str,
    model: nn.Module,
    batch: Tensor,
    threads: int,
    calibration: Sequence[Tensor] = (),
    files: Files | None = None,
) -> Program:
    """Return a network as the program of a runtime, for batches of the shape of `batch`.

    model: on the device of the batch, in evaluation mode. threads: of the CPU, beside torch's own. calibration: batches of the
        same shape, for 8-bit numbers; none for `batch` itself. files: the network's ONNX files that other runtimes needed
        before, of the same calibration; those that are made here are added.

    Raises:
        RefusedError: a network that the runtime does not take; the message names its operator, where the runtime does.
    """
    runtime, made = RUNTIMES[name], {} if files is None else files

    def file(int8: bool) -> bytes:
        key = batch.shape, int8
        if key not in made:
            made[key] = (
                quantized(file(False), [x.numpy() for x in calibration or [batch]]) if int8 else onnx_file(model, batch)
            )
        return made[key]

    try:
        program = runtime.build(model, batch, threads, partial(file, runtime.int8))
        program.call(batch)
    except Exception as error:  # every library has errors of its own
        reason = str(error).removeprefix("[export] expected ") if isinstance(error, InputError) else reason_of(error)
        raise RefusedError(f"[runtime] expected a network that {runtime.title} takes, got {reason}") from error
    return program
