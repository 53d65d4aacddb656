"""Copies of modules that hold tensors with a graph: the value is copied, the original keeps its graph."""

import dataclasses
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from pynas import Supernet, costs, export
from pynas.copies import copy_module, unwrapped
from pynas.errors import InputError
from pynas.methods.ema import frozen_copy
from pynas.rating import rate


@dataclasses.dataclass
class Kept:
    value: torch.Tensor


class Keeps(nn.Module):
    """Keeps its output and loss, in places of many kinds."""

    def __init__(self):
        super().__init__()
        self.conv, self.lock = nn.Conv2d(8, 8, 1), threading.Lock()
        self.register_buffer("running", torch.zeros(()))

    def forward(self, x):
        y = self.conv(x)
        self.running = 0.9 * self.running + y.mean()
        self.aux, self.kept = y.square().mean(), [y, {"a": (y, Kept(2 * y))}]
        return y


def old_norm(name):
    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and widely used
            return nn.Sequential(getattr(nn.utils, name)(nn.Conv2d(8, 8, 3, padding=1)), nn.ReLU())

    return make


KINDS = {
    "weight_norm": old_norm("weight_norm"),
    "spectral_norm": old_norm("spectral_norm"),
    "parametrised": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))),
    "kept": lambda: nn.Sequential(Keeps()),
}


def trained(make):
    torch.manual_seed(0)
    net, x = Supernet([[[[make(), make()], [make(), make()]]]]), torch.randn(4, 8, 6, 6)
    for text in ("01", "10"):
        net(x, net.space.parse(text)).mean().backward()
    return net, x


@pytest.mark.parametrize("kind", KINDS)
def test_right_after_a_training_step(kind):
    """Rated, counted, exported and averaged."""
    net, x = trained(KINDS[kind])
    with torch.no_grad():
        expected = [[float((b.eval()(a.eval()(x)) - x).square().mean()) for b in net.layers(0, 0)[1]]
                    for a in net.layers(0, 0)[0]]  # fmt: skip
    net, x = trained(KINDS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kept running mean is state
        scores = rate(net.layers(0, 0), [(x, x)], "mse", "running").scores
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    assert np.isfinite(costs.count(net, (8, 6, 6))["madds"][0][0]).all()
    plain = export.subnet(net, "01").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(x), net.eval()(x, net.space.parse("01")))
    assert not any(p.requires_grad for p in frozen_copy(net).parameters())


def test_the_original_keeps_its_graph():
    module = nn.Sequential(Keeps(), nn.ReLU())
    module(torch.randn(2, 8, 3, 3))
    copied, original = copy_module(module)[0], module[0]
    assert copied.kept[0] is copied.kept[1]["a"][0] and copied.lock is not original.lock
    for value in (copied.aux, copied.running, copied.kept[0], copied.kept[1]["a"][1].value):
        assert value.grad_fn is None
    assert torch.equal(copied.kept[1]["a"][1].value, original.kept[1]["a"][1].value)
    original.aux.backward()
    assert original.conv.weight.grad is not None and copied.conv.weight.grad is None


def test_a_module_shared_within_stays_shared():
    part = nn.Linear(2, 2)
    first, second = copy_module([part, nn.Sequential(part)])
    assert second[0] is first and first is not part


class Marked(torch.Tensor):
    """A subclass, as image libraries have."""


def kept(tensor):
    module = nn.Module()
    module.kept = tensor
    return copy_module(module).kept


def test_gradients_with_a_graph_nodes_and_subclasses():
    """A leaf whose gradient was made with create_graph, a `grad_fn`, a subclass with and without a graph."""
    leaf = torch.ones(2, requires_grad=True)
    (first,) = torch.autograd.grad(leaf.square().sum(), leaf, create_graph=True)
    leaf.grad = first
    assert torch.equal(kept(leaf), leaf) and kept(leaf).requires_grad and leaf.grad is first
    assert kept(first.grad_fn) is None
    for marked in (torch.ones(2).as_subclass(Marked), leaf.as_subclass(Marked) * 2):
        assert type(kept(marked)) is Marked and torch.equal(kept(marked), marked) and kept(marked).grad_fn is None


def test_tensors_of_inference_mode_become_ordinary():
    with torch.inference_mode():
        module = nn.Linear(2, 2)
        inside = copy_module(module)
    for copied in (inside, copy_module(module)):
        copied(torch.ones(1, 2)).sum().backward()
        assert torch.equal(copied.weight, module.weight) and copied.weight.grad is not None


def test_wrappers_are_left_out_where_plain_modules_are_wanted():
    inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    wrapped = nn.DataParallel(torch.compile(nn.Sequential(inner, torch.compile(inner)), backend="eager"))
    copied = copy_module([wrapped, inner], plain=True)
    assert unwrapped(wrapped) is wrapped.module._orig_mod and unwrapped(inner) is inner
    assert type(copied[0]) is nn.Sequential and copied[0][0] is copied[0][1] is copied[1] and copied[1] is not inner
    net = Supernet([[[[torch.compile(inner, backend="eager")]]]])
    assert list(export.subnet(net, "0").state_dict()) == [f"block_1.0.{name}" for name in inner.state_dict()]


def test_the_average_of_a_retraining_begins_as_a_copy():
    net, _ = trained(KINDS["kept"])
    recipe = dataclasses.replace(export.EFFICIENTNET, ema=0.9, drop=0.0, drop_path=0.0)
    retraining = export.Retraining(net, recipe, num_classes=8, batch_size=2, batches=1)
    assert all(map(torch.equal, retraining.result.parameters(), net.parameters()))


def test_things_that_cannot_be_copied_are_named():
    module = Keeps()
    module.batches = (number for number in range(3))
    with pytest.raises(InputError, match=r"^\[copy\] expected .* got the attribute 'batches' of Keeps"):
        copy_module(nn.Sequential(nn.ReLU(), module))
    with pytest.raises(InputError, match=r"^\[rate\] .*'batches' of Keeps"):
        rate([[module]], [(torch.zeros(1, 8, 2, 2),) * 2], "mse")
