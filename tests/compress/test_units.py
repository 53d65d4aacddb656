"""Residual units of every family: how many, of which class, which are residual and which follow each other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pynas.calls import Call
from pynas.compress.units import find_units
from pynas.errors import InputError

from .families import FAMILIES, Family, built


def begins(family: Family) -> list[int]:
    """Numbers of the units that begin a stage."""
    return [sum(family.stages[:stage]) for stage in range(len(family.stages))]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=[*FAMILIES])
def test_units_of_every_family(family):
    model, call = built(family)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    units = find_units(model, call)
    assert len(units) == sum(family.stages)
    assert {type(unit.module).__name__ for unit in units} == {family.unit}
    assert all(model.get_submodule(unit.name) is unit.module for unit in units)
    other = {begins(family)[stage] for stage in family.changing}
    assert [unit.residual for unit in units] == [number not in other for number in range(len(units))]
    apart = {0} if family.chained else {*begins(family)}
    assert [unit.follows for unit in units] == [number not in apart for number in range(len(units))]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("name", ["timm resnet18", "timm swin", "BERT classifier", "Llama", "encoder"])
@torch.no_grad()
def test_calls_and_features_are_those_of_the_run(name):
    model, call = built(FAMILIES[name])
    for unit in find_units(model, call):
        seen: list[tuple[Call, object]] = []
        handle = unit.module.register_forward_hook(
            lambda part, args, kwargs, output, seen=seen: seen.append((Call(args, kwargs), output)), with_kwargs=True
        )
        call.head(2)(model)
        handle.remove()
        own, output = seen[0]
        # torch's own layers take another way where they have hooks.
        torch.testing.assert_close(unit.feature(own), unit.feature(unit.call))
        torch.testing.assert_close(unit.pick(output), unit.pick(unit.output))
        torch.testing.assert_close(unit.pick(unit.call(unit.module)), unit.pick(output))
        tensors = [leaf for leaf in own.leaves if isinstance(leaf, Tensor)]
        assert unit.has_side == (len(tensors) > 1)
        with_other = tree_leaves(unit.with_feature(torch.zeros(1)))
        assert [leaf is not None for leaf in with_other] == [at == unit.exit for at in range(len(with_other))]


def test_leaves_with_samples():
    for name in ("BERT", "Llama", "encoder"):
        model, call = built(FAMILIES[name])
        three = call.head(3)
        for unit in find_units(model, call):
            seen: list[Call] = []
            handle = unit.module.register_forward_pre_hook(
                lambda part, args, kwargs, seen=seen: seen.append(Call(args, kwargs)), with_kwargs=True
            )
            three(model)
            handle.remove()
            sizes = [len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else 0 for leaf in seen[0].leaves]
            assert [size == 3 for size in sizes] == list(unit.batched) and any(unit.batched)
            assert name != "Llama" or 1 in sizes  # the rotations of positions are those of all samples


def residual(branch: nn.Module, combine: Callable[[Tensor, Tensor], Tensor] = torch.add) -> nn.Module:
    """Return a module that combines its input with a branch."""

    class Combined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = branch

        def forward(self, x: Tensor) -> Tensor:
            return combine(x, self.branch(x))

    return Combined()


@pytest.mark.parametrize(
    "combine, expected",
    [
        (torch.add, True),
        (torch.sub, True),
        (lambda x, y: torch.relu(x + 0.5 * y), True),
        (lambda x, y: torch.lerp(x, y, 0.5), True),
        (torch.mul, False),
        (lambda x, y: y, False),
        (lambda x, y: y + 1, False),
        (lambda x, y: x.cumsum(1).detach() + y, False),
        (lambda x, y: (x + 1).relu(), False),
        (lambda x, y: x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt(), False),
    ],
    ids=["sum", "difference", "activation", "lerp", "product", "branch", "constant", "detached", "number", "norm"],
)
def test_only_sums_with_the_input_are_residual(combine, expected):
    unit = residual(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), combine)
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(unit, nn.Linear(4, 2)))
    if expected:
        (found,) = find_units(model, Call((torch.randn(2, 4),)))
        assert (found.name, found.residual) == ("1.0", True)
    else:
        with pytest.raises(InputError, match="expected submodules whose output is the sum"):
            find_units(model, Call((torch.randn(2, 4),)))


def test_unit_that_runs_twice_is_none():
    unit = residual(nn.Linear(4, 4))
    with pytest.raises(InputError, match="each called once"):
        find_units(nn.Sequential(unit, nn.ReLU(), unit), Call((torch.randn(2, 4),)))


def test_wrapper_of_one_unit_is_not_the_unit():
    model = nn.Sequential(nn.Sequential(residual(nn.Linear(4, 4))), nn.Linear(4, 2))
    assert [unit.name for unit in find_units(model, Call((torch.randn(2, 4),)))] == ["0.0"]


def test_unit_that_writes_to_its_input():
    def add(x: Tensor, y: Tensor) -> Tensor:
        return x.add_(y)

    model = nn.Sequential(nn.Linear(4, 4), residual(nn.Linear(4, 4), add), residual(nn.Linear(4, 4), add))
    units = find_units(model, Call((torch.randn(2, 4),)))
    assert [unit.name for unit in units] == ["1", "2"] and units[1].follows


def test_feature_that_is_written_to_between_units():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (residual(nn.Linear(4, 4)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.third(self.second(self.first(x).mul_(2)))

    units = find_units(Scaled(), Call((torch.randn(2, 4),)))
    assert [unit.follows for unit in units] == [False, False, True]


def test_example_with_one_sample():
    model, call = built(FAMILIES["timm resnet18"])
    units = find_units(model, call.head(1))
    assert len(units) == 8 and units[0].batched == [True] and len(units[0].feature(units[0].call)) == 2


def test_no_residual_unit():
    model = torchvision.models.vgg11(num_classes=3).eval()
    with pytest.raises(InputError, match=r"expected submodules whose output is the sum .*, got none in VGG"):
        find_units(model, Call((torch.randn(1, 3, 32, 32),)))


def test_model_that_does_not_run():
    model, _ = built(FAMILIES["timm resnet18"])
    with pytest.raises(InputError, match="expected a model that runs on the example, got RuntimeError"):
        find_units(model, Call((torch.randn(1, 4, 32, 32),)))
