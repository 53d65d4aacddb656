"""Images exchanged between processes and put back."""

import socket

import pytest
import torch
from torch import distributed, multiprocessing

from pynas.methods.whole.shuffle import shuffled, unshuffled


def test_one_process_keeps_its_images():
    images = torch.randn(3, 2)
    kept, order = shuffled(images)
    assert kept is images and order is None and unshuffled(images, order) is images


def worker(rank, port, folder):
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # the order must come from one process
    images = torch.arange(8.0).view(8, 1, 1, 1) + 100 * rank
    mine, order = shuffled(images)
    features = unshuffled(mine.flatten(1) * 2, order)
    torch.save({"mine": mine.flatten(), "features": features.flatten()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_mix_theirs(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    everything = torch.cat([torch.arange(8.0), torch.arange(8.0) + 100])
    assert torch.equal(torch.cat([rank["mine"] for rank in ranks]).sort().values, everything)
    for number, rank in enumerate(ranks):
        # Each process normalised images of both, and got the features of its own back in their order.
        assert 0 < int((rank["mine"] >= 100).sum()) < 8
        assert torch.equal(rank["features"], 2 * (torch.arange(8.0) + 100 * number))
