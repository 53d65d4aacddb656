"""Several processes for a test: `spawn(target, folder, size)`, whose targets begin with `join`; or command lines of torchrun."""

import socket
import sys

import torch
from torch import distributed, multiprocessing

# A training of seconds; the number of epochs follows.
TRAIN = [
    "train",
    "--data",
    "digits",
    "--space",
    "mbconv-mini",
    "--limit-images",
    "160",
    "--batch-size",
    "16",
    "--epochs",
]


def torchrun(*words):
    """Return torchrun's command line with these options of its own; the words after `pynas` follow."""
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words), "-m", "--", "pynas"]


def join(rank, port, size):
    """Join the process group, in a process that `spawn` started."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)


def spawn(target, folder, size):
    """Run `target(rank, port, folder)` in `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(target, (port, str(folder)), nprocs=size)
