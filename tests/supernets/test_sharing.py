"""A module without `extract` may share parameters that it reads whole; one that reads a part of them is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import pynas
from pynas import costs, export
from pynas.errors import InputError
from pynas.supernets.reads import partly_read


class Reads(nn.Module):
    """Multiplies by what a function makes of a shared 4 x 4 weight."""

    def __init__(self, shared, function):
        super().__init__()
        self.shared, self.function = shared, function

    def forward(self, x):
        return self.function(x, self.shared.weight)


INDEX = torch.tensor([[0, 1], [2, 3]])
WHOLE = {
    "as it is": lambda x, w: x @ w,
    "by its transpose, view and detached copy": lambda x, w: x @ w.T.contiguous().detach().view(4, 4),
    "in halves": lambda x, w: x + torch.cat([x @ w[:, :2], x @ w[:, 2:]], 1),
    "in rows": lambda x, w: x + sum(row * x for row in w),
    "masked": lambda x, w: x @ (w * torch.tensor([1.0, 1.0, 0.0, 0.0], device=w.device)),
    "written into another": lambda x, w: x @ torch.zeros_like(w).copy_(w),
    "added in place": lambda x, w: x @ torch.zeros(4, 4, device=w.device).add_(w),
    "by a table of positions": lambda x, w: x + x @ w[INDEX].sum((0, 1)).diag(),
    "standardised": lambda x, w: x @ ((w - w.mean()) / w.std()),
    "through values": lambda x, w: x @ w if float(w.sum()) < 1e9 else x,
    "in both views": lambda x, w: x @ w[:2].T @ w[:2] + x @ w[2:].T @ w[2:],
}
PART = {
    "a slice": lambda x, w: x @ w[:, :2] @ w[:, :2].T,
    "the middle": lambda x, w: x + x[:, 1:3] @ w[1:3],
    "every other row": lambda x, w: x + x[:, ::2] @ w[::2],
    "a slice of a copy": lambda x, w: x + x[:, :3] @ w.double().to(x)[:3],
    "a slice of scaled weights": lambda x, w: x + x[:, :3] @ (w * 2 + 1)[:3].contiguous(),
    "narrowed and expanded": lambda x, w: x + w.narrow(0, 0, 1).expand(4, 4).sum(0),
    "a split": lambda x, w: x + x[:, :2] @ w.split(2)[0],
    "chosen rows": lambda x, w: x + x[:, :3] @ w[torch.tensor([0, 1, 3])],
    "an embedding": lambda x, w: x + F.embedding(torch.tensor([0, 1]), w).sum(0),
    "index_select": lambda x, w: x + w.index_select(0, torch.tensor([2])).squeeze(0),
    "only its shape": lambda x, w: x @ torch.zeros_like(w),
    "nothing": lambda x, w: x * 1,
    "the upper triangle by values": lambda x, w: x + w[torch.ones(4, 4).triu().bool()].sum(),
}


@pytest.mark.parametrize("use", WHOLE)
def test_a_whole_read(use):
    shared = nn.Linear(4, 4, bias=False)
    assert partly_read(Reads(shared, WHOLE[use]), (4,), {id(shared.weight)}) is None


@pytest.mark.parametrize("use", PART)
def test_a_read_of_a_part(use):
    shared = nn.Linear(4, 4, bias=False)
    assert partly_read(Reads(shared, PART[use]), (4,), {id(shared.weight)}) == "shared.weight"
    net = pynas.Supernet([[[[Reads(shared, PART[use]), Reads(shared, WHOLE["as it is"])]]]])
    for call in (lambda: costs.count(net, (4,)), lambda: export.subnet(net, "0", (4,))):
        with pytest.raises(InputError, match=r"got Reads, which reads a part of 'shared.weight' that another module holds too; "
                           r"pass extract=.* \(in candidate 0 of layer 0 of cell 0 of block 0\)$"):  # fmt: skip
            call()


@pytest.mark.parametrize("blocks, stem, place", [
    (lambda a, part: [[[[a], [part]]]], None, "candidate 0 of layer 1 of cell 0 of block 0"),
    (lambda a, part: [[[[a, nn.Identity()]]], [[[nn.Identity(), part]]]], None, "candidate 1 of layer 0 of cell 0 of block 1"),
    (lambda a, part: [[[[nn.Identity(), a]]]], "part", "the stem"),
])  # fmt: skip
def test_parts_of_what_other_layers_hold(blocks, stem, place):
    shared = nn.Linear(4, 4, bias=False)
    part = Reads(shared, PART["a slice"])
    with pytest.raises(InputError, match=rf"reads a part of 'shared.weight'.*\(in {place}\)$"):
        costs.count(pynas.Supernet(blocks(shared, part), stem=part if stem else None), (4,))


def test_wholly_shared_modules_and_unused_parameters_of_ones_own_are_counted():
    shared, own = nn.Linear(4, 4, bias=False), Reads(nn.Linear(4, 4, bias=False), PART["a slice"])
    layer = [Reads(shared, WHOLE["as it is"]), Reads(shared, WHOLE["in rows"]), own]
    net = pynas.Supernet([[[layer, [own, nn.Identity()]]]])
    assert costs.count(net, (4,))["params"][0][0].tolist() == [[32, 16], [32, 16], [16, 16]]
    for architecture in net.space.architectures():
        plain = export.subnet(net, architecture, (4,))
        assert costs.count_module(plain, (4,))[0] == costs.count(net, (4,)).of(architecture)


class Holds(nn.Module):
    """Runs one layer of a net that it holds."""

    def __init__(self, net, number):
        super().__init__()
        self.net, self.number = net, number

    def forward(self, x):
        return self.net[self.number](x)


def test_candidates_that_hold_the_whole_net_are_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(
        InputError, match="got Holds, which reads a part of 'net.1.weight' that another module holds too"
    ):
        costs.count(pynas.Supernet([[[[Holds(net, 0), Holds(net, 1)]]]]), (4,))


def test_a_norm_of_slices_and_a_parametrised_weight():
    norm = nn.BatchNorm1d(4)

    def narrow(x, w):
        return torch.cat([F.batch_norm(x[:, :2], norm.running_mean[:2], norm.running_var[:2], w[:2]), x[:, 2:]], 1)

    assert partly_read(Reads(norm, narrow), (4,), {id(norm.weight)}) == "shared.weight"
    shared = parametrizations.weight_norm(nn.Linear(4, 4, bias=False))
    watched = set(map(id, shared.parameters()))
    assert partly_read(Reads(shared, WHOLE["as it is"]), (4,), watched) is None


def test_a_module_that_extracts_may_share_anything():
    class Half(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.shared = shared

        def forward(self, x):
            return torch.cat([F.linear(x, self.shared.weight[:2]), x[:, 2:]], 1)

        def extract(self, shape):
            return Own(self.shared.weight[:2].detach().clone())

    class Own(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x):
            return torch.cat([F.linear(x, self.weight), x[:, 2:]], 1)

    shared = nn.Linear(4, 4, bias=False)
    net = pynas.Supernet([[[[Half(shared), shared]]]])
    assert costs.count(net, (4,))["params"][0][0].tolist() == [8, 16]


def test_fewer_levels_of_lists_than_a_supernet_has():
    with pytest.raises(InputError, match=r"blocks\[block\]\[cell\]\[layer\]\[candidate\], got fewer levels"):
        pynas.Supernet([[[nn.Identity()]]])
