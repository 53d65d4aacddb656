"""Print what this machine has of that bench/gpu.sh needs; exit status 1 where something is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import subprocess

from bench._command import command_line, run

MODULES = ("torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "matplotlib", "safetensors", "yaml", "typer", "rich",
           "PIL", "pytest", "pytest_timeout", "hypothesis", "pybind11", "setuptools", "pydantic", "psutil")  # fmt: skip
PROGRAMS = ("cmake", "ninja", "nvcc", "nvidia-smi", "compute-sanitizer")
ONLY_WITH_A_GPU = ("nvidia-smi", "compute-sanitizer")


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--rehearse", action="store_true", help="programs that come with a GPU may be missing")
    options = parser.parse_args()
    missing = []
    print("Python", platform.python_version(), platform.platform())
    for name in MODULES:
        try:
            module = importlib.import_module(name)
            print(name, getattr(module, "__version__", "?"), getattr(module, "__file__", ""))
        except Exception as error:
            print(name, "MISSING:", repr(error))
            missing.append(name)
    for name in PROGRAMS:
        path = shutil.which(name)
        said = "" if path is None else first_line([path, "--version"])
        print(name, path or "MISSING", said)
        if path is None and not (options.rehearse and name in ONLY_WITH_A_GPU):
            missing.append(name)
    if "PIL" not in missing:
        from PIL import features

        print("Pillow reads", {form: features.check(form) for form in ("avif", "webp", "jpg")})
    if "torch" not in missing:
        missing += devices(options.rehearse)
    print("missing:", ", ".join(missing) or "nothing")
    raise SystemExit(1 if missing else 0)


def devices(rehearse: bool) -> list[str]:
    """Print the GPUs that torch sees; returns what is missing."""
    import torch

    for number in range(torch.cuda.device_count()):
        print(torch.cuda.get_device_properties(number))
    print("torch", torch.__version__, "CUDA", torch.version.cuda, "available:", torch.cuda.is_available())
    return [] if rehearse or torch.cuda.is_available() else ["a CUDA device"]


def first_line(command: list[str]) -> str:
    """The first line that a program prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return repr(error)
    return next(iter((done.stdout or done.stderr).splitlines()), "")


if __name__ == "__main__":
    run(main)
