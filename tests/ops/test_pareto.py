"""The Pareto operators against their references, on the CPU and through the CUDA kernels."""

import importlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynas.ops.pareto import pareto_filter, pareto_filter_reference, pareto_pairs, pareto_pairs_reference

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def points(seed, count, costs, spread, correlated=False):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randint(-spread, spread, (count, costs), generator=generator)
    loss = torch.randint(-spread, spread, (count,), generator=generator)
    return (loss // 8 - cost.sum(1) // 2 if correlated else loss), cost


CASES = st.tuples(
    st.integers(0, 2**32),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 2),
    st.sampled_from([1, 3, 50, 10**6, 2**58]),
    st.booleans(),
)


@given(case=CASES)
@SETTINGS
def test_filter(device, case):
    seed, count, _, costs, spread, correlated = case
    losses, cost = points(seed, 3 * count, costs, spread, correlated)
    found = pareto_filter(losses.to(device), cost.to(device))
    assert torch.equal(found.cpu(), pareto_filter_reference(losses, cost))


@pytest.mark.parametrize("costs", [1, 2])
@pytest.mark.parametrize("count", [2047, 2048, 2049, 4500])
@pytest.mark.parametrize("spread", [20, 10**6])
def test_filter_of_several_tiles(device, count, costs, spread):
    losses, cost = points(count, count, costs, spread)
    losses = losses // 8 - cost.sum(1)
    found = pareto_filter(losses.to(device), cost.to(device))
    assert len(found) > 5 and torch.equal(found.cpu(), pareto_filter_reference(losses, cost))


@given(case=CASES)
@SETTINGS
def test_pairs(device, case):
    seed, lefts, rights, costs, spread, correlated = case
    left, right = points(seed, lefts, costs, spread, correlated), points(seed + 1, rights, costs, spread, correlated)
    found = pareto_pairs(*(t.to(device) for t in (*left, *right)))
    assert torch.equal(found.cpu(), pareto_pairs_reference(*left, *right))


@pytest.mark.parametrize("costs", [1, 2])
def test_more_survivors_than_the_buffer_holds(device, costs, monkeypatch):
    monkeypatch.setattr(importlib.import_module("pynas.ops.pareto"), "_CAPACITY", 8)
    left, right = points(0, 30, costs, 10**6, True), points(1, 40, costs, 10**6, True)
    found = pareto_pairs(*(t.to(device) for t in (*left, *right)))
    assert len(found) > 8 and torch.equal(found.cpu(), pareto_pairs_reference(*left, *right))


def test_more_survivors_than_expected():
    # Every sum is undominated: 1,100 * 1,000 of them, more than the first buffer holds.
    left, right = torch.arange(1100) * 1000, torch.arange(1000)
    found = pareto_pairs(-left, left[:, None], -right, right[:, None])
    assert torch.equal(found, torch.cartesian_prod(torch.arange(1100), torch.arange(1000)))


@pytest.mark.parametrize("costs", [1, 2])
def test_opcheck(device, costs):
    left, right = ([t.to(device) for t in points(seed, 20 + seed, costs, 30)] for seed in (0, 1))
    torch.library.opcheck(torch.ops.pynas.pareto_filter.default, left)
    torch.library.opcheck(torch.ops.pynas.pareto_pairs.default, (*left, *right))


def test_compiles_whole():
    left, right = points(0, 20, 2, 30), points(1, 30, 2, 30)
    compiled = torch.compile(pareto_pairs, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*left, *right), pareto_pairs(*left, *right))


def test_exports():
    class Pairs(torch.nn.Module):
        def forward(self, *arguments):
            return pareto_pairs(*arguments)

    left, right = points(0, 20, 2, 30), points(1, 30, 2, 30)
    program = torch.export.export(Pairs(), (*left, *right))
    assert torch.equal(program.module()(*left, *right), pareto_pairs(*left, *right))


@st.composite
def any_tensors(draw):
    """Losses and costs of two sides, of any shapes, types and strides, mostly the right ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensors = []
    for count, axes in ((4, [(), (2,)]), (4, [(2,), (1,)]), (7, [(), (1,)]), (7, [(2,), (1,)])):
        shape = (
            draw(st.sampled_from([count] * 6 + [0, 5])),
            *draw(st.sampled_from([*axes[:1] * 8, axes[1], (3,), (2, 2)])),
        )
        tensor = torch.randint(-9, 9, (*shape[:-1], 3 * shape[-1]), generator=generator)[..., ::3]
        tensors.append(tensor.to(draw(st.sampled_from([torch.int64] * 9 + [torch.int32, torch.float64]))))
    return tensors


@given(arguments=any_tensors())
@settings(SETTINGS, max_examples=200)
def test_fuzz(device, arguments):
    """A clear refusal or the right answer, never a crash."""
    try:
        found = pareto_pairs(*(argument.to(device) for argument in arguments))
    except ValueError as error:
        assert str(error).startswith("[pareto_pairs] expected")
        return
    assert torch.equal(found.cpu(), pareto_pairs_reference(*arguments))


def test_strided_inputs():
    (loss, cost), right = points(0, 20, 2, 30), points(1, 30, 2, 30)
    wide = torch.stack([loss, loss], dim=1)[:, 0]
    assert torch.equal(pareto_pairs(wide, cost.T.contiguous().T, *right), pareto_pairs(loss, cost, *right))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, torch.zeros(20), "left_losses int64 with 1 axes"),
        (0, torch.zeros(19, dtype=torch.int64), "19 left_costs, got 20"),
        (1, torch.zeros(20, 3, dtype=torch.int64), "one or two left_costs, got 3"),
        (1, torch.zeros(20, dtype=torch.int64), "left_costs int64 with 2 axes"),
        (3, torch.zeros(30, 1, dtype=torch.int64), "2 right_costs, got 1"),
        (1, torch.full((20, 2), 2**62), "sums of costs below"),
        (0, torch.full((20,), -(2**63)), "sums of losses below"),
    ],
)
def test_refuses(at, value, message):
    arguments = [*points(0, 20, 2, 30), *points(1, 30, 2, 30)]
    arguments[at] = value
    with pytest.raises(ValueError, match=r"\[pareto_pairs\] expected " + message):
        pareto_pairs(*arguments)
