"""Build the native module with its CUDA kernels for the CPU: `python tests/cuda_host/build.py`.

csrc/cuda/*.cu are compiled by the C++ compiler against cuda_runtime.h beside this file, csrc/cpu for the baseline
instruction set. With `sanitize`, everything runs under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

from __future__ import annotations

import fcntl
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"]


def build(sanitize: bool = False) -> Path:
    """Compile the sources that changed, all after a change of a header; return the path of the extension module.

    Of several processes one compiles, and the others wait for it.
    """
    folder = ROOT / "build" / f"cuda_host{'_sanitize' if sanitize else ''}-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(folder, sanitize)


def _build(folder: Path, sanitize: bool) -> Path:
    sources = _sources()
    headers = [*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh"), *HERE.glob("*.h"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in headers)
    flags = _flags() + (SANITIZE if sanitize else [])
    objects = [folder / f"{path.parent.name}_{path.stem}.o" for path in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda pair: _compile(*pair, newest, flags), zip(sources, objects)))
    target = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in objects):
        link = [_compiler(), "-shared", "-o", f"{target}.new", *map(str, objects), "-ldl", "-pthread"]
        _run(link + (SANITIZE if sanitize else []))
        os.replace(f"{target}.new", target)
    return target


def load(path: Path) -> ModuleType:
    """Import the extension module at `path`, beside pynas._C."""
    loader = importlib.machinery.ExtensionFileLoader("cuda_host._C", str(path))
    spec = importlib.util.spec_from_file_location("cuda_host._C", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _sources() -> list[Path]:
    patterns = ("bindings/*.cpp", "common/*.cpp", "cpu/**/*.cpp", "cuda/*.cu")
    return [path for pattern in patterns for path in sorted((ROOT / "csrc").glob(pattern))] + [HERE / "cuda_host.cpp"]


def _flags() -> list[str]:
    import pybind11

    includes = [ROOT / "csrc", HERE, pybind11.get_include(), sysconfig.get_paths()["include"]]
    defines = ["-DPYNAS_X86=0", "-DPYNAS_ISA=baseline", "-DPYNAS_WITH_CUDA=1"]
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-sign-compare"]
    common = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fopenmp-simd"]
    return common + defines + warnings + [f"-I{path}" for path in includes]


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _compile(source: Path, target: Path, newest_header: float, flags: list[str]) -> None:
    if target.exists() and target.stat().st_mtime > max(newest_header, source.stat().st_mtime):
        return
    _run([_compiler(), "-x", "c++", *flags, "-c", str(source), "-o", f"{target}.new"])
    os.replace(f"{target}.new", target)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")


if __name__ == "__main__":
    print(build(sanitize="sanitize" in sys.argv[1:]))
