"""csrc/cpu is built once per instruction set: no code of one may stand in for another's, and all give the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pynas import ops

ROOT = Path(__file__).resolve().parents[2]
# All but the integer kernels, which CMakeLists.txt builds once.
SOURCES = [path for path in sorted(ROOT.glob("csrc/cpu/*.cpp")) if path.name != "pareto.cpp"]
COMPILER = os.environ.get("CXX", "g++")


@pytest.mark.skipif(shutil.which(COMPILER) is None or shutil.which("nm") is None, reason="needs a compiler and nm")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_symbol_is_shared(source, tmp_path):
    """Without inlining, every weak symbol names the instruction set: the linker can merge none with another set's."""
    target = tmp_path / "kernel.o"
    flags = ["-std=c++17", "-O0", "-fopenmp-simd", "-DPYNAS_ISA=avx2", "-DPYNAS_X86=1", f"-I{ROOT / 'csrc'}"]
    subprocess.run([COMPILER, *flags, "-c", str(source), "-o", str(target)], check=True)
    symbols = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout
    weak = [line.split(maxsplit=2)[2] for line in symbols.splitlines() if re.match(r"[0-9a-f]+ [WVu] ", line)]
    assert [symbol for symbol in weak if "pynas::avx2::" not in symbol] == []


PROGRAM = """
import json, sys, torch
from pynas import _C, ops
x = torch.randn(6, 70, 5, 7, generator=torch.Generator().manual_seed(0))
results = []
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    for layout in (torch.contiguous_format, torch.channels_last):
        y = x.to(dtype).contiguous(memory_format=layout)
        results.append(ops.path_batch_norm(y, 2, activation="silu")[0].double().flatten()[::97].tolist())
    for kind in ("relative_l1", "mse", "cosine"):
        results.append(ops.path_distance(x.to(dtype), x[:2].flip(1).to(dtype), kind).tolist())
print(json.dumps([_C.isa(), results]))
"""


@pytest.fixture(scope="module")
def results() -> dict[str, list[list[float]]]:
    """By the name of the instruction set; asking for one that the processor lacks gives the next narrower."""
    found = {}
    for requested in ("baseline", "avx2", "avx512"):
        environment = dict(os.environ, PYNAS_ISA=requested)
        command = [sys.executable, "-c", PROGRAM]
        run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        name, values = json.loads(run.stdout)
        found[name] = values
    return found


def test_instruction_sets_agree(results):
    assert "baseline" in results
    tolerances = [1e-5] * 5 + [1e-3] * 5 + [8e-3] * 5 + [1e-12] * 5
    for values in results.values():
        for ours, baseline, tolerance in zip(values, results["baseline"], tolerances, strict=True):
            got, expected = torch.tensor(ours, dtype=torch.float64), torch.tensor(baseline, dtype=torch.float64)
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("factor", [1.0, 0.7310585, 3.1e-4, 1.7e3])
def test_half_conversions_round_as_torch(dtype, factor, device):
    """All 65536 values, times a factor: bitwise as torch rounds, subnormals and overflow included."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).to(device)[:, None]
    zero = torch.zeros(1, 1, device=device)
    weight = torch.tensor([factor], device=device)
    y = ops.path_batch_norm(x, 1, weight, eps=0.0, mean=zero, var=zero + 1)[0]
    expected = (x.float() * weight).to(dtype)
    same = (y == expected) | (y.isnan() & expected.isnan())
    assert same.all(), (x[~same][:5], y[~same][:5], expected[~same][:5])
