"""`pynas doctor`: what is installed, what works, what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from typing import Annotated, Any

import typer

from pynas._version import __version__
from pynas.cli import options

REQUIRED = ("torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "safetensors", "yaml", "rich", "matplotlib")
# What needs an optional package, and the extra that brings it.
OPTIONAL = {
    "datasets": ("`--data hf:NAME`", "hub-data"),
    "lmdb": ("cache of a teacher's features", "cache"),
    "mlflow": ("`--log mlflow`", "mlflow"),
    "onnx": ("ONNX export", "onnx"),
    "onnxruntime": ("checking ONNX files, latency in ONNX Runtime", "onnx"),
    "openvino": ("latency in OpenVINO", "openvino"),
    "submitit": ("`pynas submit`", "submit"),
    "tensorboard": ("`--log tensorboard`", "tensorboard"),
    "trackio": ("`--log trackio`", "trackio"),
    "transformers": ("teachers and networks of transformers", "hf"),
    "wandb": ("`--log wandb`", "wandb"),
    "webdataset": ("shards of images", "webdataset"),
}
# Packages whose name is not that of the module.
_PACKAGES = {"sklearn": "scikit-learn", "yaml": "pyyaml"}
_REBUILD = "pip install --force-reinstall --no-deps ."


def command(
    fix_hints: Annotated[
        bool,
        typer.Option("--fix-hints", help="Also print the command that mends each problem, or adds what is missing."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Print versions, backends, devices and threads; exit code 1 when something that pynas needs is broken.

    Example: `pynas doctor --fix-hints`
    """
    facts: dict[str, Any] = {"pynas": __version__, "python": platform.python_version(), "machine": platform.machine()}
    problems: list[str] = []
    hints: dict[str, str] = {}
    for name in REQUIRED:
        try:
            facts[name] = _version(importlib.import_module(name))
        except Exception as error:  # a broken package may raise anything
            facts[name] = "broken"
            problems.append(f"{name} does not import: {type(error).__name__}: {error}")
            hints[name] = f"pip install --force-reinstall {_PACKAGES.get(name, name)}"
    for check in (_native, _devices, _kernels):
        try:
            facts |= check()
        except Exception as error:
            part = check.__name__.strip("_")
            problems.append(f"{part}: {type(error).__name__}: {error}")
            hints[part] = _REBUILD
    missing = [f"{name} ({use})" for name, (use, _) in OPTIONAL.items() if not _installed(name)]
    if fix_hints:
        hints |= {name: f'pip install ".[{extra}]"' for name, (_, extra) in OPTIONAL.items() if not _installed(name)}
        if facts.get("CUDA kernels", "built") != "built" and facts.get("CUDA devices", "none") != "none":
            hints["CUDA kernels"] = f"install CUDA's nvcc, then {_REBUILD}"
        if facts.get("torch CUDA") == "CPU build" and shutil.which("nvidia-smi"):
            hints["torch CUDA"] = (
                "pip install --force-reinstall torch torchvision, a CUDA build as https://pytorch.org names it"
            )
    _print(
        {"facts": facts, "missing_optional": missing, "problems": problems, "hints": hints if fix_hints else {}}, json
    )
    if problems:
        raise typer.Exit(1)


def _version(module: Any) -> str:
    return str(getattr(module, "__version__", "installed"))


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _native() -> dict[str, Any]:
    from pynas.ops import _library

    native = _library._C
    return {
        "CPU kernels": native.isa(),
        "kernel threads": f"{_library.threads()} on {native.thread_backend()}, {os.cpu_count()} CPUs",
        "CUDA kernels": "built" if native.with_cuda else "not built (no nvcc when pynas was installed)",
    }


def _devices() -> dict[str, Any]:
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"CUDA devices": ", ".join(names) or "none", "torch CUDA": torch.version.cuda or "CPU build"}


def _kernels() -> dict[str, Any]:
    """Run one kernel against its reference."""
    import torch

    from pynas import ops

    x, y = torch.randn(4, 3, 5, 5), torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(ops.path_distance(x, y, "mse"), ((x.view(2, 2, 3, 5, 5) - y) ** 2).mean((1, 2, 3, 4)))
    return {"kernel check": "passed"}


def _print(report: dict[str, Any], json: bool) -> None:
    from rich.console import Console

    if json:
        import json as document

        print(document.dumps(report, indent=2))
        return
    console = Console(markup=False, emoji=False, highlight=False)
    for name, value in report["facts"].items():
        console.print(f"{name:<16} {value}")
    if report["missing_optional"]:
        console.print(f"{'not installed':<16} {', '.join(report['missing_optional'])}")
    for problem in report["problems"]:
        console.print(f"{'broken':<16} {problem}", style="red")
    for name, hint in report["hints"].items():
        console.print(f"{name:<16} {hint}")
    if not report["problems"]:
        console.print("All that pynas needs is there.")
