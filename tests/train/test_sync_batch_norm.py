"""torch's SyncBatchNorm in the place of a method's batch norms: in two processes, as in one with the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from pynas.errors import InputError
from pynas.nn import batch_norm_act
from pynas.train import Method, fit
from pynas.train.sync_batch_norm import _change, synchronised
from tests.processes import join, spawn

EPOCHS, BATCH = 2, 8


class Small(nn.Module, Method):
    """A network of every kind of batch norm that is synchronised."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), BatchNormAct2d(6),
                                 nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(24), nn.Linear(24, 5))  # fmt: skip
        self.seen: list[str] = []

    def optimizer(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def rate_factor(self, progress, epochs):
        return 1.0

    def training_step(self, images, labels, rng: np.random.Generator):
        self.seen = [type(norm).__name__ for norm in (self.net[1], self.net[3], self.net[6])]
        device = self.net[0].weight.device
        loss = nn.functional.cross_entropy(self.net(images.to(device)), labels.to(device))
        loss.backward()
        return {"loss": loss.detach()}


def batches():
    generator = torch.Generator().manual_seed(1)
    # Each process's share is an image of another brightness: statistics of its own would be far from the batch's.
    scale = torch.arange(BATCH).remainder(2).mul(5).add(1).view(-1, 1, 1, 1)
    return [(torch.randn(BATCH, 3, 9, 9, generator=generator) * scale,
             torch.randint(5, (BATCH,), generator=generator)) for _ in range(3)]  # fmt: skip


def _train_on_gpu(rank, port, folder):
    join(rank, port, 2)
    method = Small().cuda()
    method.sync_batch_norm = True
    fit(method, batches(), EPOCHS)
    assert method.seen == ["SyncBatchNorm", "SyncBatchNormAct", "SyncBatchNorm"]
    assert type(method.net[1]) is nn.BatchNorm2d
    torch.save({name: value.cpu() for name, value in method.state_dict().items()}, f"{folder}/{rank}.pt")


@pytest.mark.cuda
def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    spawn(_train_on_gpu, tmp_path, 2)
    alone = Small().cuda()
    fit(alone, batches(), EPOCHS)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value.cpu(), rtol=1e-3, atol=1e-4)


def _train_on_cpu(rank, port, folder):
    join(rank, port, 2)
    method = Small()
    method.sync_batch_norm = True
    with pytest.raises(InputError, match="expected a GPU for sync_batch_norm"):
        fit(method, batches(), EPOCHS)
    assert type(method.net[1]) is nn.BatchNorm2d


def test_processes_on_a_cpu_are_refused(tmp_path):
    spawn(_train_on_cpu, tmp_path, 2)


def test_norms_of_every_kind_are_changed_in_place():
    net = Small().eval()
    x, before, weight = batches()[0][0], net.state_dict(), net.net[3].weight
    expected = net.net(x)
    changed = _change(net, None)
    assert [type(net.net[k]).__name__ for k in (1, 3, 6)] == ["SyncBatchNorm", "SyncBatchNormAct", "SyncBatchNorm"]
    assert net.net[3].weight is weight and net.state_dict().keys() == before.keys()
    assert torch.equal(net.net(x), expected)  # in evaluation mode nothing is exchanged, and the activation stays
    assert {id(norm) for norm, _ in changed} == {id(net.net[k]) for k in (1, 3, 6)}


def test_norms_are_restored_after_an_error():
    net = Small().to("meta")
    with pytest.raises(KeyError), synchronised(net, "a group", 2):
        assert net.net[1].process_group == "a group"
        raise KeyError
    assert [type(net.net[k]) for k in (1, 3, 6)] == [nn.BatchNorm2d, BatchNormAct2d, nn.BatchNorm1d]
    assert not hasattr(net.net[1], "process_group")


def test_one_process_keeps_its_norms():
    method = Small()
    method.sync_batch_norm = True
    fit(method, batches(), 1)
    assert method.seen == ["BatchNorm2d", "BatchNormAct2d", "BatchNorm1d"]


def test_other_norms_are_refused_by_name():
    class Own(nn.BatchNorm2d):
        pass

    net = nn.Sequential(nn.BatchNorm2d(2), Own(2)).to("meta")
    with pytest.raises(InputError, match="got Own in 1"), synchronised(net, None, 2):
        pass
    assert type(net[0]) is nn.BatchNorm2d


def test_leading_channels_are_refused():
    norm = nn.SyncBatchNorm(6)
    with pytest.raises(InputError, match="uses whole"):
        batch_norm_act(norm, torch.randn(2, 4, 3, 3), leading=True)
    norm.eval()
    assert batch_norm_act(norm, torch.randn(2, 4, 3, 3), leading=True).shape == (2, 4, 3, 3)
