"""Rating of a block, side by side in one run on the same weights.

    python -m bench.rating [--case dna boss slimmable transformer others] [--dtype float32 bfloat16] [--sample 24] [--device cpu]
    python -m bench.rating --case dna --batches 16    # the same batches again and again; (a) is scaled to it
    python -m bench.rating --case others [--family NAME ...]    # small stand-ins of other projects' supernets

(a) the published way: each path alone from the block's input, each with its own pass over the target for the
    normalisation and one synchronisation; a sample of the paths is timed and scaled to all, its scores are compared;
(b) depth-first prefix sharing with plain modules: some subtrees are timed and scaled;
(c) pynas.rate, all paths; on a GPU also without CUDA graphs; and the convolutions alone, run by the same engine.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pynas
from bench._command import command_line, device, run
from bench._cost import Cost, agreement, repeated, reported, timed
from bench._timer import machine
from bench.families import FAMILIES, NORMS
from bench.others import measure_others
from pynas.nn import MBConv
from pynas.rating import Settings, rate, rate_population
from pynas.rating.shared_work import SharedWork


class ConvolutionsOnly(nn.Module):
    """What a rating cannot do without."""

    def __init__(self, module: MBConv) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y = self.module.depthwise.conv(self.module.expand.conv(x))
        self.module.se.expand(self.module.se.reduce(y[:, :, :1, :1]))
        return self.module.project.conv(y)


def block(kernels: tuple[int, ...], inputs: int, outputs: int, depth: int, device: str) -> list[list[nn.Module]]:
    """Layers of MB6 and MB3 with these kernels; the first halves the resolution."""
    torch.manual_seed(0)
    return [
        [MBConv(outputs if d else inputs, outputs, k, r, 1 if d else 2).to(device) for r in (6, 3) for k in kernels]
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


def measure_dna(arguments: argparse.Namespace) -> None:
    """DNA's block: 4 layers of 6 ops, 224 channels at 14x14 to 384 at 7x7, batch 16: 1,296 paths."""
    device = arguments.device
    layers = block((3, 5, 7), 224, 384, arguments.layers, device)
    x, target = torch.randn(16, 224, 14, 14, device=device), torch.randn(16, 384, 7, 7, device=device)
    total, sample = paths_of(layers, arguments.sample)
    plain = batch_statistics(layers)
    with torch.no_grad():
        published(plain, sample[0], x, target)
        alone = [timed(lambda path=path: published(plain, path, x, target), device) for path in sample]
        below, paths = timed(lambda: depth_first(plain, x, target, len(layers[0]) - 1), device)
    batches = [(x, target)] * (arguments.batches or 1)
    total *= len(batches)
    reference = Cost.mean([cost for cost, _ in alone]) * total
    reference.report("(a) each path alone", total, reference, f"{len(sample)} paths timed, scaled")
    (below * (total / paths)).report("(b) depth first, plain modules", total, reference, f"{paths} paths timed, scaled")
    scores = {path: score for path, (_, score) in zip(sample, alone)}
    only = [[ConvolutionsOnly(module) for module in layer] for layer in layers]
    for name in arguments.dtype:
        dtype = None if name == "float32" else getattr(torch, name)
        limit, _ = repeated(lambda d=dtype: rate(only, batches, "mse", "running", engine=Settings(dtype=d)), arguments)
        limit.report(f"    convolutions alone, {name}", total, reference)
        for graphs, label in graph_settings(device):
            settings = Settings(dtype=dtype, graphs=graphs)
            cost, table = repeated(lambda s=settings: rate(layers, batches, engine=s), arguments)
            cost.report(f"{label}, {name}", total, reference, note(cost, limit, table, scores))


def measure_boss(arguments: argparse.Namespace) -> None:
    """BossNAS's block: 4 layers of 4 ops, 80 channels at 14x14 to 112 at 7x7, 256 paths, two views, batch 16.

    (a) re-estimates each path's statistics on a calibration batch, then runs both views; all outputs are held for the mean.
    """
    device = arguments.device
    layers = block((3, 5), 80, 112, arguments.layers, device)
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(112, 256)).to(device)
    calibration, first, second = torch.randn(3, 16, 80, 14, 14, device=device)
    total, sample = paths_of(layers, arguments.sample)
    plain = batch_statistics(layers)
    norms = [
        part for layer in plain for module in layer for part in module.modules() if isinstance(part, nn.BatchNorm2d)
    ]

    def alone(path) -> Tensor:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None
        x = calibration
        for layer, choice in zip(plain, path):
            x = layer[choice](x)
        for norm in norms:
            norm.eval()
        outputs = []
        for view in (first, second):
            for layer, choice in zip(plain, path):
                view = layer[choice](view)
            outputs.append(F.normalize(tail(view), dim=1).cpu())
        return torch.stack(outputs)

    with torch.no_grad():
        alone(sample[0])
        costs = [timed(lambda path=path: alone(path), device) for path in sample]
        everything = None
        if arguments.check:
            everything = torch.stack([alone(path) for path in np.ndindex(*(len(layer) for layer in layers))])
    batches = [(first, second)] * (arguments.batches or 1)
    total *= len(batches)
    reference = Cost.mean([cost for cost, _ in costs]) * total
    reference.report("(a) each path alone", total, reference, f"{len(sample)} paths timed, scaled")
    scores = {}
    if everything is not None:
        means = everything.mean(0).flip(0)
        found = (everything - means).square().sum(3).mean(2).sum(1).numpy()
        scores = dict(zip(np.ndindex(*(len(layer) for layer in layers)), found))
    only = [[ConvolutionsOnly(module) for module in layer] for layer in layers]
    for name in arguments.dtype:
        dtype = None if name == "float32" else getattr(torch, name)

        def run(candidates, norm: str, graphs=None, dtype=dtype):
            settings = Settings(dtype=dtype, graphs=graphs)
            return rate_population(candidates, batches, norm, calibration=[calibration], tail=tail, engine=settings)

        limit, _ = repeated(lambda run=run: run(only, "running"), arguments)
        # The calibration batch, which the running mode leaves out; up to eight batches of two views share it.
        limit = limit * (1 + 0.5 / min(len(batches), 8))
        limit.report(f"    convolutions alone, {name}", total, reference)
        for graphs, label in graph_settings(device):
            cost, table = repeated(lambda run=run, graphs=graphs: run(layers, "recalibrate", graphs), arguments)
            cost.report(f"{label}, {name}", total, reference, note(cost, limit, table, scores))


# Batches of the cases with few or small paths, so that the first look at each candidate does not weigh too much.
BATCHES = 4


def graph_settings(device: str) -> list[tuple[bool | None, str]]:
    """Values of the setting `graphs` to measure, with the names of their rows."""
    plain = [(False, "    pynas, graphs=False")] if device.startswith("cuda") else []
    return [*plain, (None, "(c) pynas")]


def measure_shared(arguments: argparse.Namespace, layers, x: Tensor, target: Tensor) -> None:
    """Candidates that share weights: (a), (b), and pynas with and without sharing their work."""
    device = arguments.device
    layers = [[module.to(device) for module in layer] for layer in layers]
    x, target = x.to(device), target.to(device)
    total, sample = paths_of(layers, arguments.sample)
    plain = batch_statistics(layers)
    loss = lambda y, _: (y - target[:, : y.shape[1]]).abs().mean()  # noqa: E731

    def alone(path) -> float:
        y = x
        for layer, choice in zip(plain, path):
            y = layer[choice](y)
        return loss(y, None).item()

    with torch.no_grad():
        alone(sample[0])
        costs = [timed(lambda path=path: alone(path), device) for path in sample]
    count = arguments.batches or BATCHES
    total *= count
    reference = Cost.mean([cost for cost, _ in costs]) * total
    reference.report("(a) each path alone", total, reference, f"{len(sample)} paths timed, scaled")
    scores = {path: score for path, (_, score) in zip(sample, costs)}
    batches = [(x, target)] * count
    for name in arguments.dtype:
        dtype = None if name == "float32" else getattr(torch, name)
        with mock.patch.object(SharedWork, "family", lambda self, candidate: None):
            apart, _ = repeated(lambda d=dtype: rate(layers, batches, loss, engine=Settings(dtype=d)), arguments)
        apart.report(f"    pynas, candidates apart, {name}", total, reference)
        for graphs, label in graph_settings(device):
            settings = Settings(dtype=dtype, graphs=graphs)
            cost, table = repeated(lambda s=settings: rate(layers, batches, loss, engine=s), arguments)
            worst = max(abs(table[path] / score - 1) for path, score in scores.items())
            cost.report(f"{label}, {name}", total, reference, agreement(len(scores), worst))


def measure_slimmable(arguments: argparse.Namespace) -> None:
    """The first two blocks of nats-size, the second after 64 channels: 64 paths each, batch 32 of 32x32 images."""
    torch.manual_seed(0)
    net = pynas.supernet("nats-size", num_classes=10)
    for layers, inputs, side in ((net.layers(0, 0), 3, 32), (net.layers(1, 7), 64, 16)):
        x, target = torch.randn(32, inputs, side, side), torch.randn(32, 64, side // 2, side // 2)
        measure_shared(arguments, layers, x, target)


def measure_transformer(arguments: argparse.Namespace) -> None:
    """Four layers of heads 3, 4 and ratios 3.5, 4, as in AutoFormer-tiny: 256 paths, width 240, 197 tokens, batch 4."""
    torch.manual_seed(0)
    layers = pynas.supernet("autoformer-tiny", 10).layers(0, -1)[: arguments.layers]
    measure_shared(arguments, layers, torch.randn(4, 197, 240), torch.randn(4, 197, 240))


def paths_of(layers, count: int) -> tuple[int, list[tuple[int, ...]]]:
    """The number of paths, and a sample of them."""
    shape = [len(layer) for layer in layers]
    generator = np.random.default_rng(0)
    return int(np.prod(shape)), [tuple(int(generator.integers(n)) for n in shape) for _ in range(count)]


def batch_statistics(layers):
    """The same modules, batch norm with the batch's statistics, all else in evaluation mode."""
    for part in itertools.chain.from_iterable(module.eval().modules() for layer in layers for module in layer):
        if isinstance(part, nn.BatchNorm2d):
            part.train()
    return layers


def note(cost: Cost, limit: Cost, table, scores: dict) -> str:
    """How far from the convolutions alone, how much memory, how equal."""
    worst = max((abs(table[path] / score - 1) for path, score in scores.items()), default=float("nan"))
    return (
        f"{cost.seconds / limit.seconds:.2f} of the convolutions (CPU {cost.cpu / limit.cpu:.2f}); "
        f"peak {cost.peak / 1e6:.0f} MB; {agreement(len(scores), worst)}"
    )


CASES = {
    "dna": measure_dna,
    "boss": measure_boss,
    "slimmable": measure_slimmable,
    "transformer": measure_transformer,
    "others": measure_others,
}


def main() -> None:
    """Run the cases asked for."""
    parser = command_line(__file__, __doc__)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    dtypes = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes[:2])
    parser.add_argument(
        "--batches",
        type=int,
        help="batches rated; default: 1 for dna and boss, 4 for slimmable and transformer, 2 for others",
    )
    parser.add_argument("--sample", type=int, default=24, help="paths timed for (a)")
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="of others")
    parser.add_argument("--norm", choices=NORMS, default="batch", help="others: the norm mode")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="boss: run all paths alone, and compare the scores")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="append the seconds of every row to this file, a block a line")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads")
    for case in arguments.case:
        print(CASES[case].__doc__.splitlines()[0])
        reported.clear()
        CASES[case](arguments)
        if arguments.json:
            with arguments.json.open("a") as file:
                for number, seconds in enumerate(reported):
                    which = next(iter(seconds)).partition("(a)")[0] or number
                    content = {"bench": "rating", "case": f"{case} {which}".strip(), "seconds": seconds}
                    file.write(json.dumps({**content, **machine(arguments.device)}) + "\n")


if __name__ == "__main__":
    run(main)
