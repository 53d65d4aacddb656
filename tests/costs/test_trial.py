"""Modules that do not run on the meta device are run on their own, and nothing of them changes."""

import dataclasses
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas import costs
from pynas.errors import InputError
from pynas.supernets.shapes import output_shape

LAYER = 4 * 4


class Own(nn.Module):
    """A linear layer of 4 features whose `run(layer, x)` does more than the meta device allows."""

    def __init__(self, run):
        super().__init__()
        self.layer, self.run = nn.Linear(4, 4), run
        self.scale, self.many = torch.full((4,), 0.5), {"two": [torch.ones(4)]}

    def forward(self, x):
        return self.run(self, self.layer(x))


RUNS = {
    "plain tensor": lambda own, x: x * own.scale,
    "nested tensors": lambda own, x: x * own.many["two"][0],
    "made in forward": lambda own, x: x + torch.ones(4),
    "fixed device": lambda own, x: x + torch.ones(4, device="cpu"),
    "value": lambda own, x: x * float(x.mean()),
    "branch": lambda own, x: x if x.sum() > 0 else -x,
    "numpy": lambda own, x: x + torch.from_numpy(np.abs(x.numpy())),
    "unique": lambda own, x: x * len(torch.unique(x)),
    "nonzero": lambda own, x: x * len(torch.nonzero(x)),
    "complex": lambda own, x: torch.view_as_real(torch.complex(x, x * own.scale)).sum(-1),
}


@pytest.mark.parametrize("name", RUNS)
def test_modules_that_do_not_run_on_meta(name):
    net = pynas.Supernet([[[[Own(RUNS[name]), nn.Identity()]]]])
    table = costs.count(net, (4,))
    assert table["madds"][0][0].tolist() == [LAYER, 0] and table["params"][0][0].tolist() == [20, 0]
    assert net.block_shapes((4,)) == [(4,)]
    assert (costs.latency(net, (4,), repeats=1, warm_up=0)["latency"][0][0] > 0).all()


def test_a_block_that_does_not_run_on_meta_is_trained(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale = nn.Conv2d(8, 8, 1), torch.full((1, 8, 1, 1), 0.5)

        def forward(self, x):
            return self.conv(x) * self.scale

    net = pynas.Supernet([[[[Scaled(), Scaled()]]]], nn.Conv2d(3, 8, 3, 2, 1))
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Scaled())
    method = pynas.methods.DNA(net, teacher, taps=["1"], image_shape=(3, 8, 8))
    assert method.teacher.feature_shapes((3, 8, 8)) == [(8, 4, 4)] == net.block_shapes((3, 8, 8))


def test_scripted_modules():
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls both of them deprecated
        scripted = [torch.jit.script(layers), torch.jit.trace(layers, torch.zeros(2, 4))]
    for module in scripted:
        counted, shape = costs.count_module(nn.Sequential(module, nn.Linear(4, 2)), (4,))
        assert counted["madds"] == LAYER + 8 and counted["params"] == 20 + 10 and shape == (2,)
        assert counted["memory"] == 4 * (30 + 4 + 2)


def test_nothing_changes():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.cache = nn.Linear(4, 4), nn.BatchNorm1d(4), None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.cache = self.layer(x) + torch.rand(4) + random.random() + np.random.rand()  # noqa: NPY002
            return self.norm(self.cache) * float(x.sum())

    module = Stateful().train()
    module.norm.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    net = pynas.Supernet([[[[module]]]])
    costs.count_module(module, (4,))
    costs.latency(net, (4,), repeats=1, warm_up=0)
    assert net.block_shapes((4,)) == [(4,)]
    assert module.cache is None and module.training and module.layer.training and not module.norm.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_outputs_that_are_no_tensor():
    @dataclasses.dataclass
    class Pair:
        first: torch.Tensor
        second: torch.Tensor

    class Putting(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.form = form

        def forward(self, x):
            return self.form(x)

    for form in (lambda x: (x, x), lambda x: [x, (x,)], lambda x: {"a": x, "b": {"c": x}}, lambda x: Pair(x, x)):
        counted, shape = costs.count_module(Putting(form), (3, 5))
        assert counted == {"params": 0, "madds": 0, "memory": 2 * 4 * 15} and shape == (3, 5)
    with pytest.raises(InputError, match="expected Putting to put out a tensor, got NoneType"):
        costs.count_module(Putting(lambda x: None), (3, 5))


def test_one_sample_is_not_enough():
    class Squeezing(nn.Module):
        """Its shape is right for two samples and more, as are the statistics of its norm; `w` is squared once per batch."""

        def __init__(self):
            super().__init__()
            self.layer, self.w = nn.Linear(4, 1), nn.Linear(3, 3)
            self.norm = nn.BatchNorm1d(1, track_running_stats=False)

        def forward(self, x):
            return self.norm(self.layer(x)).squeeze() * (self.w.weight @ self.w.weight).sum()

    counted, shape = costs.count_module(Squeezing(), (4,))
    assert shape == () and counted["madds"] == 4 + 27
    assert counted["memory"] == 4 * (5 + 2 + 12 + 1 + 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_modules_of_another_type(dtype):
    assert output_shape(nn.Linear(4, 3).to(dtype), (4,)) == (3,)


def test_uninitialised_and_compiled_modules():
    lazy = nn.LazyLinear(3)
    assert costs.count_module(lazy, (4,))[0]["params"] == 15
    assert isinstance(lazy.weight, nn.parameter.UninitializedParameter)
    assert costs.count_module(torch.compile(nn.Linear(4, 3)), (4,))[0]["madds"] == 12


def test_modules_that_run_nowhere_are_named():
    for net in (pynas.Supernet([[[[nn.Linear(3, 2)]]]]), pynas.Supernet([[[[nn.ReLU()]]]], stem=nn.Linear(3, 2))):
        with pytest.raises(
            InputError, match=r"runs on inputs of the shape \[4\], got RuntimeError from Linear: .*mat1"
        ):
            costs.count(net, (4,))
    with pytest.raises(InputError, match=r"keep the batch as first axis, got an output of the shape \[6, 2\]"):
        costs.count_module(Own(lambda own, x: x.reshape(-1, 2)), (4,))


def test_views_of_parameters():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.linear = nn.Parameter(torch.zeros(1, 3, 8)), nn.Linear(8, 8)

        def forward(self, x):
            return torch.cat([self.linear(self.token.expand(x.shape[0], -1, -1)), F.relu(x)], 1)

    for trained in (True, False):
        counted, shape = costs.count_module(Token().requires_grad_(trained), (5, 8))
        assert (counted["madds"], counted["params"], shape) == (192, 96, (8, 8))
