"""path_batch_norm with SiLU against batch_norm + silu path by path: `python -m bench.path_batch_norm`.

Shapes: features between the convolutions of MBConv layers as DNA and BossNAS rate them (expansion 6 at 14x14, 56x56 and
7x7), G paths stacked on the batch axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench import _timer
from bench._command import run
from pynas import ops
from pynas.ops.path_batch_norm import path_batch_norm_reference

# Paths, shape; on a GPU, with room for a whole level of the tree, that many times the paths.
CASES = [(1, (16, 672, 14, 14)), (4, (16, 672, 14, 14)), (2, (16, 144, 56, 56)), (4, (64, 960, 7, 7))]
GPU_PATHS = 16


def eager(x: torch.Tensor, paths: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """One path after the other, as the released rating code does."""
    parts = [F.silu(F.batch_norm(part, None, None, weight, bias, True)) for part in x.chunk(paths)]
    return parts[0] if paths == 1 else torch.cat(parts)


def vectorised(x: torch.Tensor, paths: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """All paths at once, for torch.compile: path by path, it would compile a graph as long as there are paths."""
    parts = x.unflatten(0, (paths, -1)).float()
    var, mean = torch.var_mean(parts, (1, 3, 4), correction=0, keepdim=True)
    y = (parts - mean) * (var + 1e-5).rsqrt() * weight.float()[:, None, None] + bias.float()[:, None, None]
    return F.silu(y).to(x.dtype).flatten(0, 1)


def bench(paths: int, shape: tuple[int, ...], layout: str, dtype: torch.dtype, options) -> None:
    device = options.device
    x = torch.randn(shape, device=device).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)
    weight, bias = torch.rand(shape[1], device=device), torch.randn(shape[1], device=device)
    out = torch.empty_like(x)
    y = ops.path_batch_norm(x, paths, weight, bias, 1e-5, "silu")[0]
    expected = path_batch_norm_reference(x, paths, weight, bias, 1e-5, "silu")[0].to(dtype)
    torch.testing.assert_close(y, expected, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-3)
    weight, bias = weight.to(dtype), bias.to(dtype)
    functions = {
        "pynas": lambda: ops.path_batch_norm(x, paths, weight, bias, 1e-5, "silu"),
        "into a buffer": lambda: ops.path_batch_norm(x, paths, weight, bias, 1e-5, "silu", out=out),
        "eager": lambda: eager(x, paths, weight, bias),
        "copy": lambda: out.copy_(x),
        "clone": lambda: x.clone(),
    }
    if not options.no_compile:
        compiled = _timer.compiled(vectorised)
        torch.testing.assert_close(
            compiled(x, paths, weight, bias), y, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-2
        )
        functions["compiled"] = lambda: compiled(x, paths, weight, bias)
    name = f"{paths} paths {list(shape)} {str(dtype).removeprefix('torch.')} {layout}"
    _timer.report("path_batch_norm", name, 2 * x.numel() * x.element_size(), functions, options)


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    on_gpu = options.device.startswith("cuda")
    with torch.no_grad():
        for paths, shape in _timer.some(CASES, options):
            if on_gpu:
                paths, shape = paths * GPU_PATHS, (shape[0] * GPU_PATHS, *shape[1:])
            for layout in ("contiguous", "channels_last"):
                for dtype in (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,):
                    bench(paths, shape, layout, dtype, options)


if __name__ == "__main__":
    run(main)
