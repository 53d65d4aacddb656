"""path_distance against the formula in eager torch and torch.compile: `python -m bench.path_distance`.

Shapes: 64 paths of a block with 112 channels at 14x14 (block 4 of mbconv-boss) against the teacher, as in DNA; the
cosine on BossNAS-like vectors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import _timer
from bench._command import run
from pynas import ops
from pynas.ops.path_distance import path_distance_reference

# Kind, paths, shape of the target.
CASES = [
    ("relative_l1", 64, (16, 112, 14, 14)),
    ("mse", 64, (16, 112, 14, 14)),
    ("cosine", 64, (16, 112, 14, 14)),
    ("cosine", 16, (1024, 256)),
]
GPU_BATCH = 8


def eager(outputs: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Broadcast over the paths."""
    outputs = outputs.unflatten(0, (-1, len(target)))
    if kind == "relative_l1":
        return (outputs - target).abs().flatten(1).mean(1) / target.std()
    if kind == "mse":
        return (outputs - target).square().flatten(1).mean(1)
    return (2 - 2 * F.cosine_similarity(outputs.flatten(2), target.flatten(1)[None], dim=2)).mean(1)


def bench(kind: str, paths: int, shape: tuple[int, ...], dtype: torch.dtype, options) -> None:
    device = options.device
    outputs = torch.randn(paths * shape[0], *shape[1:], device=device).to(dtype)
    target = torch.randn(shape, device=device).to(dtype)
    expected = path_distance_reference(outputs[: 2 * shape[0]], target, kind).float()
    torch.testing.assert_close(ops.path_distance(outputs, target, kind)[:2], expected, rtol=1e-5, atol=1e-6)
    nbytes = outputs.numel() * outputs.element_size()
    functions = {
        "pynas": lambda: ops.path_distance(outputs, target, kind),
        "eager": lambda: eager(outputs, target, kind),
        "copy": _timer.copy(nbytes, device),
    }
    if not options.no_compile:
        compiled = _timer.compiled(eager)
        functions["compiled"] = lambda: compiled(outputs, target, kind)
    name = f"{kind} {paths} paths {list(shape)} {str(dtype).removeprefix('torch.')}"
    _timer.report("path_distance", name, nbytes, functions, options)


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    on_gpu = options.device.startswith("cuda")
    with torch.no_grad():
        for kind, paths, shape in _timer.some(CASES, options):
            shape = (shape[0] * (GPU_BATCH if on_gpu else 1), *shape[1:])
            for dtype in (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,):
                bench(kind, paths, shape, dtype, options)


if __name__ == "__main__":
    run(main)
