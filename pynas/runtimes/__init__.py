"""Runtimes: a network as a program of the runtime that serves it, and as a file that this runtime reads."""

from pynas.runtimes.formats import onnx_runner, write_onnx, write_onnx_int8, write_torch_export
from pynas.runtimes.programs import RUNTIMES, Program, RefusedError, Runtime, Served, build
from pynas.runtimes.workload import Workload

__all__ = ["RUNTIMES", "Program", "RefusedError", "Runtime", "Served", "Workload", "build", "onnx_runner", "write_onnx",
           "write_onnx_int8", "write_torch_export"]  # fmt: skip
