"""Two processes on one device, over gloo, against one process: training by blocks, training by shares, rating.

    python -m bench.two_processes [--device cuda] [--steps 6] [--batch 64] [--json FILE]

Blocks: two processes must end with one process's weights. Shares: with those of two copies in one process whose gradients
are averaged by hand (batch norm normalises each share by itself). Rating: the same scores. A GPU's sums have no fixed order,
so one process is also run twice: two processes may differ from it by ten times what it differs from itself, or by a
hundredth of what the training moved.
"""

from __future__ import annotations

import argparse
import copy
import json
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing

import pynas
from bench._command import command_line, device, run

SEED = 5


def build(device: str) -> Any:
    """DNA on mbconv-mini with an untrained teacher."""
    torch.manual_seed(0)
    net = pynas.supernet("mbconv-mini", 10)
    blocks, stem = pynas.teachers.small_like(net.block_shapes((3, 32, 32)), (3, 32, 32))
    module = pynas.teachers.small(10, blocks, stem)
    teacher = pynas.teachers.Teacher(module, [f"blocks.{b}" for b in range(len(blocks))])
    return pynas.methods.DNA(net, teacher, image_shape=(3, 32, 32)).to(device, memory_format=torch.channels_last)


def batches(count: int, size: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """Noise and labels."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 3, 32, 32, generator=generator).to(device).contiguous(memory_format=torch.channels_last),
             torch.randint(0, 10, (size,), generator=generator).to(device)) for _ in range(count)]  # fmt: skip


def rated(method: Any, images: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Every score of the last block."""
    last = len(method.net.space) - 1
    tables = method.rate_block(images, last)
    return {f"cell {number}": torch.as_tensor(np.asarray(table.scores)) for number, table in enumerate(tables)}


def train(options: argparse.Namespace, spread: str) -> Any:
    """One training through pynas.fit; with a process group, this process's part."""
    method = build(options.device)
    pynas.fit(method, batches(options.steps, options.batch, options.device), 1, seed=SEED, spread=spread)
    return method


def weights(method: Any) -> dict[str, Tensor]:
    """The supernet's, on the host."""
    return {name: value.detach().cpu().clone() for name, value in method.net.state_dict().items()}


def worker(rank: int, port: int, folder: str, options: argparse.Namespace) -> None:
    """One of the two processes: leaves its weights and scores in the folder."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if options.device.startswith("cuda"):
        torch.cuda.set_device(0)
    for spread in ("blocks", "data"):
        start = time.perf_counter()
        torch.save(weights(train(options, spread)), f"{folder}/{spread}-{rank}.pt")
        print(f"process {rank}, {spread}: {time.perf_counter() - start:.1f} s", flush=True)
    start = time.perf_counter()
    torch.save(
        rated(build(options.device).eval(), batches(2, options.batch, options.device)), f"{folder}/scores-{rank}.pt"
    )
    print(f"process {rank}, rating: {time.perf_counter() - start:.1f} s", flush=True)
    distributed.destroy_process_group()


def shares_by_hand(options: argparse.Namespace) -> dict[str, Tensor]:
    """Two copies in one process, each on half of every batch; gradients and, at last, running statistics averaged."""
    data = batches(options.steps, options.batch, options.device)
    pair = [build(options.device)]
    torch.manual_seed(SEED)
    pair[0].prepare(iter(data))
    pair.append(copy.deepcopy(pair[0]))
    optimizers = [one.train().optimizer() for one in pair]
    rates = [group["lr"] for group in optimizers[0].param_groups]
    for step, (images, labels) in enumerate(data):
        for number, (one, optimizer) in enumerate(zip(pair, optimizers)):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * one.rate_factor(step / len(data), 1)
            optimizer.zero_grad(set_to_none=True)
            rng = np.random.default_rng([SEED, step])
            torch.manual_seed(int(rng.integers(2**62)) + number)
            one.training_step(images[number::2], labels[number::2], rng)
        for ours, theirs in zip(*(one.parameters() for one in pair)):
            if ours.grad is not None:
                ours.grad = (ours.grad + theirs.grad) / 2
                theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    first, second = (weights(one) for one in pair)
    return {name: (value + second[name]) / 2 if value.is_floating_point() else value for name, value in first.items()}


def difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The norm of the difference over that of what is wanted."""
    have, want = (torch.cat([each[name].double().flatten() for name in wanted]) for each in (found, wanted))
    return float((have - want).norm() / want.norm())


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path, help="append what was found to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.spawn(worker, (port, folder, options), nprocs=2)
        left = {path.stem: torch.load(path) for path in Path(folder).glob("*.pt")}
    torch.set_num_threads(1)  # as in the workers: sums in the same order
    once, again = (weights(train(options, "data")) for _ in range(2))
    hands = [shares_by_hand(options) for _ in range(2)]
    scores = [rated(build(options.device).eval(), batches(2, options.batch, options.device)) for _ in range(2)]
    moved = difference(once, weights(build(options.device)))
    print(f"the training moved the weights by {moved:.3f}")
    rows: dict[str, dict[str, Any]] = {}
    for name, wanted, repeated in (("blocks", once, again), ("data", *hands), ("scores", *scores)):
        noise = difference(repeated, wanted)
        found = [difference(left[f"{name}-{rank}"], wanted) for rank in range(2)]
        bound = max(10 * noise, 1e-5 if name == "scores" else moved / 100)
        rows[name] = {"differences": found, "of_itself": noise, "bound": bound, "equal": max(found) <= bound,
                      "processes_agree": difference(left[f"{name}-1"], left[f"{name}-0"]) == 0}  # fmt: skip
        print(name, rows[name], flush=True)
    if options.json:
        with options.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"bench": "two_processes", "device": options.device, "moved": moved, **rows}) + "\n")
    equal = all(row["equal"] and row["processes_agree"] for row in rows.values())
    # A training must have moved the weights, or equality says nothing.
    raise SystemExit(0 if equal and moved > 1e-3 else 1)


if __name__ == "__main__":
    run(main)
