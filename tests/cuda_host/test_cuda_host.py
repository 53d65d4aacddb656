"""The host shim itself: it does what CUDA does, and it notices what CUDA forbids."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
COMPILER = os.environ.get("CXX", "g++")


@pytest.fixture(scope="module", params=["plain", "ucontext", "sanitize"])
def program(request, tmp_path_factory) -> Path:
    """shim_test.cu and the shim: as built for the tests, as on other processors, and under the sanitizers."""
    target = tmp_path_factory.mktemp("shim") / request.param
    extra = {"plain": [], "ucontext": ["-DCUDA_HOST_UCONTEXT"], "sanitize": ["-fsanitize=address,undefined"]}
    flags = ["-std=c++17", "-O1", f"-I{HERE}", f"-I{HERE.parents[1] / 'csrc'}", *extra[request.param]]
    sources = [str(HERE / name) for name in ("shim_test.cu", "cuda_host.cpp")]
    subprocess.run([COMPILER, "-x", "c++", *flags, *sources, "-o", str(target)], check=True)
    return target


def run(program: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), name], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["indices", "sums", "shuffles", "leave_early", "unset"])
def test_does_what_cuda_does(program, name):
    result = run(program, name)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half_a_barrier", "threads wait for ever"),
        ("absent_lane", "reads a lane that takes no part"),
        ("missing_barrier", "failed: ints"),
    ],
)
def test_notices_what_cuda_forbids(program, name, message):
    result = run(program, name)
    assert result.returncode != 0 and message in result.stdout + result.stderr


def test_sanitizer_sees_past_shared_memory(program):
    result = run(program, "past_the_end")
    assert ("heap-buffer-overflow" in result.stderr) == (program.name == "sanitize")
