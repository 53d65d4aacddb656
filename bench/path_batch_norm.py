"""path_batch_norm with SiLU against batch_norm + silu path by path: `python -m bench.path_batch_norm`.

Shapes: features between the convolutions of MBConv layers as DNA and BossNAS rate them (expansion 6 at 14x14, 56x56 and
7x7), G paths stacked on the batch axis. "backward": the gradients of all paths' images as one path, as in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

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


def form(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> str:
    """The words for a tensor."""
    return f"{list(shape)} {str(dtype).removeprefix('torch.')} {layout.removesuffix('_format')}"


def bench(paths: int, shape: tuple[int, ...], layout: str, dtype: torch.dtype, options) -> None:
    device = options.device
    x = torch.randn(shape, device=device).to(dtype)
    x = x.contiguous(memory_format=getattr(torch, layout))
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
    name = f"{paths} paths {form(shape, layout, dtype)}"
    _timer.report("path_batch_norm", name, 2 * x.numel() * x.element_size(), functions, options)


def bench_backward(shape: tuple[int, ...], layout: str, dtype: torch.dtype, options) -> None:
    device, memory_format = options.device, getattr(torch, layout)
    x, gradient = (torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=memory_format) for _ in "xy")
    leaves = [x, *torch.rand(2, shape[1], device=device)]
    for leaf in leaves:
        leaf.requires_grad_()

    def backward(norm) -> Callable[[], tuple[torch.Tensor, ...]]:
        y = norm(*leaves)
        return lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True)

    functions = {
        "pynas": backward(lambda x, weight, bias: ops.path_batch_norm(x, 1, weight, bias, 1e-5, "silu")[0]),
        "eager": backward(lambda x, weight, bias: eager(x, 1, weight, bias)),
    }
    if not options.no_compile:
        torch._functorch.config.donated_buffer = False  # a compiled backward that frees what it read runs only once
        compiled = _timer.compiled(vectorised)
        functions["compiled"] = backward(lambda x, weight, bias: compiled(x, 1, weight, bias))
    wanted, rounding = functions["pynas"](), 1e-4 if dtype == torch.float32 else 2e-2
    for found in (function() for name, function in functions.items() if name != "pynas"):
        for ours, theirs in zip(wanted, found):
            scale = ours.abs().max()
            torch.testing.assert_close(theirs / scale, ours / scale, rtol=0, atol=rounding)
    nbytes = 3 * x.numel() * x.element_size()  # x and the gradient of y read once, that of x written
    functions["copy"] = _timer.copy(nbytes, device)
    _timer.report("path_batch_norm backward", form(shape, layout, dtype), nbytes, functions, options)


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    on_gpu = options.device.startswith("cuda")
    factor, dtypes = (GPU_PATHS, (torch.float32, torch.bfloat16)) if on_gpu else (1, (torch.float32,))
    cases = [(paths * factor, (batch * factor, *rest)) for paths, (batch, *rest) in _timer.some(CASES, options)]
    forms = [(layout, dtype) for layout in ("contiguous_format", "channels_last") for dtype in dtypes]
    with torch.no_grad():
        for (paths, shape), (layout, dtype) in itertools.product(cases, forms):
            bench(paths, shape, layout, dtype, options)
    for shape, (layout, dtype) in itertools.product(dict.fromkeys(shape for _, shape in cases), forms):
        bench_backward(shape, layout, dtype, options)


if __name__ == "__main__":
    run(main)
