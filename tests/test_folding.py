"""Batch norms of teachers folded into the convolutions before them."""

import copy
from collections import OrderedDict
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from pynas.teachers import Teacher
from pynas.teachers.folding import fold_norms


def randomised(module: nn.Module) -> nn.Module:
    """Give the norms statistics and weights of their own, in float64."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in ((part.running_mean, -1, 1), (part.running_var, 0.5, 2)):
                tensor.uniform_(low, high, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.uniform_(-1, 1, generator=generator)
    return module.double().eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


class Net(nn.Module):
    """A convolution and a norm in one module, a second convolution in a module and its norm outside, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.conv = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False))
        self.norm = nn.BatchNorm2d(8)
        self.last, self.last_norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x, scale=1):
        x = self.inner(x)
        x = x + self.norm(self.conv(x))
        y = self.last(x)
        return scale * (y + self.last_norm(y))


IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("taps", "left"), [
    (["inner"], 1), (["inner.0"], 2), (["norm"], 1), (["conv"], 2), (["inner.2", "last_norm"], 1), (["conv.0", "inner.0"], 3)
])  # fmt: skip
def test_folded_features_are_the_modules(taps, left):
    """A norm stays where its convolution's output is also needed: by a tap, by another layer."""
    net = randomised(Net())
    teacher = Teacher(net, taps)
    folded = fold_norms(net, taps)
    assert norms(folded) == left and norms(net) == 3
    expected: dict[str, torch.Tensor] = {}
    handles = [net.get_submodule(tap).register_forward_hook(lambda _, __, y, tap=tap: expected.update({tap: y.clone()}))
               for tap in taps]  # fmt: skip
    with torch.no_grad():
        net(IMAGES)
    for handle in handles:
        handle.remove()
    for tap, feature in zip(taps, teacher(IMAGES)):
        torch.testing.assert_close(feature, expected[tap], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "tf_efficientnet_b0", "resnet18", "regnety_002", "mobilenetv3_small_100"]
)
def test_all_norms_of_timm_networks_fold(name):
    """With batch norms that apply their activation, and with convolutions of "same" padding."""
    net = randomised(timm.create_model(name))
    folded = fold_norms(net)
    assert norms(folded) == 0
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), net(IMAGES), rtol=1e-8, atol=1e-8)


def test_a_teacher_runs_the_folded_copy_and_follows_its_weights():
    teacher = Teacher(randomised(Net()), ["inner"])
    norm = teacher.module.inner[1]

    def change_weight():
        with torch.no_grad():
            norm.bias.add_(1)

    folded = []
    for change in (lambda: None, change_weight, lambda: norm.running_var.mul_(2), lambda: None):
        change()
        expected = torch.relu(teacher.module.inner[:2](IMAGES))
        torch.testing.assert_close(teacher(IMAGES)[0], expected, rtol=1e-10, atol=1e-10)
        folded.append(teacher._folding(teacher.module))
        assert norms(folded[-1]) == 1
    assert [a is b for a, b in pairwise(folded)] == [False, False, True]
    teacher._folding = lambda _: randomised(nn.Sequential(OrderedDict(inner=nn.Identity())))
    assert torch.equal(teacher(IMAGES)[0], IMAGES)
    assert list(teacher.state_dict()) == [f"module.{name}" for name in teacher.module.state_dict()]


def test_watched_modules_run_themselves():
    """A hook, training mode, statistics of the batch and tensors of inference mode need the module as it is."""
    net = randomised(Net())
    teacher, calls = Teacher(net, ["inner"]), []
    handle = net.inner[1].register_forward_hook(lambda *_: calls.append(1))
    teacher(IMAGES)
    assert calls == [1]
    handle.remove()
    assert teacher._folding(net) is not net
    net.inner.train()
    assert teacher._folding(net) is net
    net.inner.eval()
    batch = Teacher(copy.deepcopy(net), ["norm"], norm="batch")
    with torch.no_grad():
        y = torch.relu(
            nn.functional.batch_norm(net.inner[0](IMAGES), None, None, *net.inner[1].parameters(), training=True)
        )
        y = nn.functional.batch_norm(net.conv(y), None, None, *net.norm.parameters(), training=True)
    torch.testing.assert_close(batch(IMAGES)[0], y, rtol=1e-10, atol=1e-10)
    with torch.inference_mode():
        made = Teacher(randomised(Net()), ["inner"])
        assert made._folding(made.module) is made.module


class Shared(nn.Module):
    """A convolution that runs twice, one whose weight is read elsewhere, and control flow that tracing does not support."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.other, self.other_norm, self.branch = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), branch

    def forward(self, x):
        if self.branch and x.sum() > 0:
            x = -x
        x = self.norm(self.conv(x)) + self.conv(x)
        return self.other_norm(self.other(x)) * self.other.weight.sum()


@pytest.mark.parametrize("branch", [False, True])
def test_what_folding_would_change_stays(branch):
    net = randomised(Shared(branch))
    assert fold_norms(net) is net
    assert fold_norms(nn.Linear(3, 3)).in_features == 3
