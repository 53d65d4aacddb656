"""What a rating by KL through the rest of the teacher costs, beside one by the distance of features (DNA, eq. 7).

    python -m bench.functional_rating [--space mbconv-mini] [--images 128] [--repeats 3]

Every path of every block is rated on noise with fresh weights by a `small` teacher; wall seconds, alone on the machine.
"""

from __future__ import annotations

import statistics
import time

import torch

import pynas
from bench._command import command_line, run
from pynas import teachers


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--space", default="mbconv-mini")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    net = pynas.supernet(options.space, 10)
    shape = (3, net.space.image_size, net.space.image_size)
    blocks, stem = teachers.small_like(net.block_shapes(shape), shape)
    teacher = teachers.Teacher(teachers.small(10, blocks, stem).eval(), [f"blocks.{b}" for b in range(len(blocks))])
    method = pynas.methods.DNA(net, teacher, image_shape=shape)
    images = torch.randn(options.images, *shape)
    batches = [(part, torch.zeros(len(part), dtype=torch.int64)) for part in images.split(options.batch_size)]
    method.prepare(batches)
    times: dict[str, list[list[float]]] = {"relative_l1": [], "kl": []}
    for _ in range(options.repeats):
        for loss, taken in times.items():
            taken.append([])
            for block in range(len(blocks)):
                begin = time.perf_counter()
                method.rate_block(batches, block, loss=loss)
                taken[-1].append(time.perf_counter() - begin)
    medians = {loss: [statistics.median(column) for column in zip(*taken)] for loss, taken in times.items()}
    for block, (distance, functional) in enumerate(zip(*medians.values())):
        print(
            f"block {block + 1}: relative_l1 {distance:7.2f} s   kl {functional:7.2f} s   {functional / distance:5.2f}"
        )
    distance, functional = (sum(column) for column in medians.values())
    print(f"all:     relative_l1 {distance:7.2f} s   kl {functional:7.2f} s   {functional / distance:5.2f}")


if __name__ == "__main__":
    run(main)
