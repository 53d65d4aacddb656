"""The torch operator library `pynas::`, the native module, and the checks every operator shares."""

from __future__ import annotations

from pathlib import Path

import torch

from pynas import _C

library = torch.library.Library("pynas", "DEF")

# The codes of csrc/common/dtype.h.
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3, torch.int64: 4}
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _share_openmp() -> None:
    """Let the kernels run on torch's own OpenMP threads (a second pool would fight for the same cores)."""
    for path in sorted(Path(torch.__file__).parent.joinpath("lib").glob("lib*omp*.so*")):
        if _C.use_openmp(str(path)):
            return


_share_openmp()


def threads() -> int:
    """Threads that a kernel may use: torch's setting."""
    return torch.get_num_threads()


def stream(tensor: torch.Tensor) -> int:
    """The raw current CUDA stream of the tensor's device."""
    return torch.cuda.current_stream(tensor.device).cuda_stream


def require(condition: bool, operator: str, expected: str, got: object) -> None:
    """Raise `ValueError('[operator] expected ..., got ...')` unless the condition holds."""
    if not condition:
        raise ValueError(f"[{operator}] expected {expected}, got {got}")
