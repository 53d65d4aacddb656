"""Several processes for a test: `spawn(target, folder, size)`, whose targets begin with `join`."""

import socket

import torch
from torch import distributed, multiprocessing


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
