"""Print what this machine has of that bench/gpu.sh needs; exit status 1 where something is missing."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

from packaging.requirements import Requirement
from setuptools.config.pyprojecttoml import load_file

from bench._command import command_line, run

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
# Of the extra `test`, what the cuda tests need.
TESTS = ("pytest", "pytest-timeout", "hypothesis", "pybind11", "setuptools")
PROGRAMS = ("cmake", "ninja", "nvcc", "nvidia-smi", "compute-sanitizer")
ONLY_WITH_A_GPU = ("nvidia-smi", "compute-sanitizer")


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--rehearse", action="store_true", help="programs that come with a GPU may be missing")
    options = parser.parse_args()
    print("Python", platform.python_version(), platform.platform())
    missing = packages()
    for name in PROGRAMS:
        path = shutil.which(name)
        said = "" if path is None else first_line([path, "--version"])
        print(name, path or "MISSING", said)
        if path is None and not (options.rehearse and name in ONLY_WITH_A_GPU):
            missing.append(name)
    missing += devices(options.rehearse)
    print("missing:", ", ".join(missing) or "nothing")
    raise SystemExit(1 if missing else 0)


def packages() -> list[str]:
    """Print the version of each package that the project and its cuda tests ask for; returns those missing or too old."""
    project = load_file(PROJECT)["project"]
    extra = [Requirement(text) for text in project["optional-dependencies"]["test"]]
    wanted = [Requirement(text) for text in project["dependencies"]] + [one for one in extra if one.name in TESTS]
    missing = []
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "MISSING"
        fits = version != "MISSING" and requirement.specifier.contains(version, prereleases=True)
        print(requirement.name, version, "" if fits else f"(needs {requirement})")
        missing += [] if fits else [str(requirement)]
    return missing


def devices(rehearse: bool) -> list[str]:
    """Print the GPUs that torch sees and the images that Pillow reads; returns what is missing."""
    try:
        import torch
        from PIL import features
    except ImportError as error:
        return [str(error)]

    for number in range(torch.cuda.device_count()):
        print(torch.cuda.get_device_properties(number))
    print("torch", torch.__version__, "CUDA", torch.version.cuda, "available:", torch.cuda.is_available())
    print("Pillow reads", {form: features.check(form) for form in ("avif", "webp", "jpg")})
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
