"""What compute-sanitizer runs on a GPU covers every CUDA kernel; here the CPU's kernels run it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from bench import check_kernels
from pynas.ops import _library

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "csrc" / "no_cuda" / "kernels.cpp"
KERNELS = set(re.findall(r"^PYNAS_NO_CUDA\((\w+)", SOURCE.read_text(encoding="utf-8"), re.M))


def launched(checks, monkeypatch) -> set[str]:
    """Run the checks; the names, on a GPU, of the native kernels that they called."""
    names, run = set(), _library.run

    def record(kernel: str, /, **arguments: object) -> None:
        names.add({"pareto_filter": "pareto_dominated"}.get(kernel, kernel))
        run(kernel, **arguments)

    monkeypatch.setattr(_library, "run", record)
    for _, check in checks:
        torch.manual_seed(0)
        check()
    return names


def test_every_kernel_is_checked(monkeypatch):
    assert launched(check_kernels.small("cpu"), monkeypatch) == KERNELS


def test_every_kernel_is_checked_at_large_sizes(monkeypatch):
    names = launched(check_kernels.large("cpu", 300_000), monkeypatch)
    # Points of a front are sorted first, which takes more memory than there is; the lists of a search are never as long.
    assert names >= KERNELS - {"pareto_dominated", "traverse"}
