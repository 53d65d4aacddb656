"""Rating of a block, side by side in one run on the same weights.

    python -m bench.rating [--case dna] [--dtype float32 bfloat16] [--sample 24] [--device cpu]

(a) the published way: each path alone from the block's input, each with its own pass over the target for the
    normalisation and one synchronisation; a sample of the paths is timed and scaled to all, its scores are compared;
(b) depth-first prefix sharing with plain modules: some subtrees are timed and scaled;
(c) pynas.rate, all paths; and the convolutions alone, run by the same engine.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.nn import MBConv
from pynas.rating import rate


class ConvolutionsOnly(nn.Module):
    """What a rating cannot do without."""

    def __init__(self, module: MBConv) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y = self.module.depthwise.conv(self.module.expand.conv(x))
        self.module.se.expand(self.module.se.reduce(y[:, :, :1, :1]))
        return self.module.project.conv(y)


def block(kernels: tuple[int, ...], inputs: int, outputs: int, depth: int) -> list[list[nn.Module]]:
    """Layers of MB6 and MB3 with these kernels; the first halves the resolution."""
    return [
        [MBConv(outputs if d else inputs, outputs, k, r, 1 if d else 2) for r in (6, 3) for k in kernels]
        for d in range(depth)
    ]


def published(layers, path, x: Tensor, target: Tensor) -> float:
    """One path as the released code rates it: batch statistics, relative L1, a number for the host."""
    for layer, choice in zip(layers, path):
        x = layer[choice](x)
    return ((x - target).abs().mean() / target.std()).item()


def depth_first(layers, x: Tensor, target: Tensor, first: int) -> int:
    """Plain prefix sharing below one candidate of the first layer; the number of paths."""

    def walk(depth: int, x: Tensor) -> int:
        if depth == len(layers):
            (F.l1_loss(x, target) / target.std()).item()
            return 1
        return sum(walk(depth + 1, module(x)) for module in layers[depth])

    return walk(1, layers[0][first](x))


def peak_bytes(reset: bool = False) -> int:
    """The process's largest resident size since the last reset (Linux)."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def timed(function, device: str) -> tuple[float, object]:
    """Wall-clock seconds, and what came out."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def measure_dna(arguments: argparse.Namespace) -> None:
    """DNA's block: 4 layers of 6 ops, 224 channels at 14x14 to 384 at 7x7, batch 16: 1,296 paths."""
    torch.manual_seed(0)
    device = arguments.device
    depth = arguments.layers
    layers = block((3, 5, 7), 224, 384, depth)
    for module in itertools.chain.from_iterable(layers):
        module.to(device).train()
    x = torch.randn(16, 224, 14, 14, device=device)
    target = torch.randn(16, 384, 7, 7, device=device)
    shape = [len(layer) for layer in layers]
    total = int(np.prod(shape))
    generator = np.random.default_rng(0)
    sample = [tuple(int(generator.integers(n)) for n in shape) for _ in range(arguments.sample)]

    plain = [[module.eval() for module in layer] for layer in layers]
    for part in itertools.chain.from_iterable(m.modules() for layer in plain for m in layer):
        if isinstance(part, nn.BatchNorm2d):
            part.train()
    with torch.no_grad():
        published(plain, sample[0], x, target)
        alone = [timed(lambda path=path: published(plain, path, x, target), device) for path in sample]
        seconds_a = statistics.mean(seconds for seconds, _ in alone) * total
        subtree, paths = timed(lambda: depth_first(plain, x, target, shape[0] - 1), device)
    seconds_b = subtree / paths * total
    report("(a) each path alone", seconds_a, total, seconds_a, f"{len(sample)} paths timed, scaled")
    report("(b) depth first, plain modules", seconds_b, total, seconds_a, f"{paths} paths timed, scaled")
    only = [[ConvolutionsOnly(module) for module in layer] for layer in layers]
    for name in arguments.dtype:
        dtype = None if name == "float32" else getattr(torch, name)
        gc.collect()
        before = peak_bytes(reset=True)
        runs = [timed(lambda d=dtype: rate(layers, [(x, target)], dtype=d), device) for _ in range(arguments.repeat)]
        memory = peak_bytes() - before
        seconds_c, table = statistics.median(seconds for seconds, _ in runs), runs[0][1]
        limits = [
            timed(lambda d=dtype: rate(only, [(x, target)], loss="mse", norm="running", dtype=d), device)[0]
            for _ in range(arguments.repeat)
        ]
        limit = statistics.median(limits)
        worst = max(abs(table[path] / score - 1) for path, (_, score) in zip(sample, alone))
        report(f"    convolutions alone, {name}", limit, total, seconds_a, "")
        note = (
            f"{seconds_c / limit:.2f} of the convolutions; peak {memory / 1e6:.0f} MB more; scores within {worst:.1e}"
        )
        report(f"(c) pynas, {name}", seconds_c, total, seconds_a, note)


def report(name: str, seconds: float, paths: int, reference: float, note: str) -> None:
    """One line."""
    speed = f"{paths / seconds:9.1f} paths/s  {reference / seconds:6.1f} x (a)"
    print(f"{name:36s} {seconds:8.2f} s  {speed}  {note}", flush=True)


CASES = {"dna": measure_dna}


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--sample", type=int, default=24, help="paths timed for (a)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads")
    for case in arguments.case:
        CASES[case](arguments)


if __name__ == "__main__":
    main()
