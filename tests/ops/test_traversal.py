"""The traverse operator: against its reference, on the CPU and through the CUDA kernels, and what it refuses."""

import importlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynas import _C
from pynas.ops.traversal import traverse, traverse_reference

SETTINGS = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def every_step_on_the_gpu(monkeypatch):
    monkeypatch.setattr(importlib.import_module("pynas.ops.traversal"), "_DEVICE_SUMS", 0)


@st.composite
def problems(draw):
    sizes = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 4)))]
    limits = draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count, spread = sum(sizes), draw(st.sampled_from([2, 10, 2**57]))
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    losses = torch.randint(-spread, spread, (count,), generator=generator)
    costs = torch.randint(-spread, spread, (count, limits), generator=generator)
    most = torch.randint(-2 * spread, 2 * spread, (limits,), generator=generator)
    return offsets, losses, costs, most, draw(st.sampled_from([1, 3, 300]))


@given(problem=problems(), longest=st.sampled_from([1, 3, 1 << 20]))
@SETTINGS
def test_equals_reference(device, problem, longest):
    *tensors, top_k = problem
    indices, counts, _ = traverse(*tensors, top_k=top_k, longest=longest, device=device)
    expected = traverse_reference(*tensors, top_k=top_k)
    assert torch.equal(indices, expected)
    assert counts[0] == (expected[:, 0] >= 0).sum()


def example(states=False):
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, 4, 9, 12])
    losses = torch.randint(0, 9, (12,), generator=generator)
    costs = torch.randint(0, 9, (12, 2), generator=generator)
    arguments = [offsets, losses, costs, torch.tensor([14, 12])]
    if states:
        arguments += [
            torch.tensor([0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0]),
            torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0]),
            2,
        ]
    return arguments


@pytest.mark.parametrize("states", [False, True])
def test_states_equal_reference(device, states):
    arguments = example(states)
    for longest in (1, 5, 1 << 20):
        indices, _, _ = traverse(*arguments, top_k=50, longest=longest, device=device)
        assert torch.equal(indices, traverse_reference(*arguments, top_k=50))
    assert (indices[:, 0] >= 0).sum() > 5


@pytest.mark.parametrize("limits", [0, 1, 2, 3])
@pytest.mark.parametrize("top_k", [1, 40])
def test_short_lists_give_the_same(device, limits, top_k):
    generator = torch.Generator().manual_seed(limits)
    sizes = torch.tensor([0, 20, 30, 10, 25])
    costs = torch.randint(0, 1000, (int(sizes.sum()), limits), generator=generator)
    losses = torch.randint(0, 200, (int(sizes.sum()),), generator=generator) - costs.sum(1) // 4
    problem = (sizes.cumsum(0), losses, costs, torch.full((limits,), 1900))
    expected, _, _ = traverse(*problem, top_k=top_k, device=device)
    assert (expected >= 0).all()
    for longest in (1, 15, 200):
        assert torch.equal(traverse(*problem, top_k=top_k, longest=longest, device=device)[0], expected)


@pytest.mark.parametrize("states", [False, True])
def test_opcheck(states):
    arguments = example(states)
    arguments += [5, 99] if states else [None, None, 1, 5, 99]
    torch.library.opcheck(torch.ops.pynas.traverse.default, arguments)


def test_compiles_whole():
    arguments = example()
    compiled = torch.compile(lambda *a: traverse(*a, top_k=3), fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(*arguments), traverse(*arguments, top_k=3)):
        assert torch.equal(got, expected)


def test_exports():
    class Traverse(torch.nn.Module):
        def forward(self, *arguments):
            return traverse(*arguments, top_k=3)

    arguments = tuple(example())
    program = torch.export.export(Traverse(), arguments)
    for got, expected in zip(program.module()(*arguments), traverse(*arguments, top_k=3)):
        assert torch.equal(got, expected)


@st.composite
def any_tensors(draw):
    """Offsets, losses, costs and limits of any shapes, types and strides, mostly the right ones."""
    shapes = ([(4,), (4,), (1,), (0,), (2, 2)], [(12,), (12,), (11,), (12, 1)], [(12, 2), (12, 2), (12,), (12, 0)])
    shapes = (*shapes, [(2,), (2,), (0,), (3,), (2, 1)])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensors = []
    for number, choices in enumerate(shapes):
        shape = draw(st.sampled_from(choices))
        tensor = torch.randint(-9, 30, (*shape[:-1], 2 * shape[-1]), generator=generator)[..., ::2]
        if number == 0 and shape == (4,) and draw(st.integers(0, 9)):
            tensor = torch.tensor([0, 4, 9, 12])
        tensors.append(tensor.to(draw(st.sampled_from([torch.int64] * 6 + [torch.int32, torch.float32]))))
    return tensors


@given(
    tensors=any_tensors(),
    top_k=st.sampled_from([-1, 0, 1, 4, 2000]),
    longest=st.sampled_from([-1, 0, 1, 7, 1 << 20, 1 << 28, 1 << 62]),
)
@SETTINGS
def test_fuzz(device, tensors, top_k, longest):
    """A clear refusal or the right answer, never a crash."""
    try:
        indices, _, _ = traverse(*tensors, top_k=top_k, longest=longest, device=device)
    except ValueError as error:
        assert str(error).startswith("[traverse] expected")
        return
    assert torch.equal(indices, traverse_reference(*tensors, top_k=top_k))


def test_strided_inputs():
    offsets, losses, costs, limits = example()
    wide = torch.stack([losses, losses * 0 - 1], dim=1)[:, 0]
    got = traverse(offsets, wide, costs.t().contiguous().t(), limits, top_k=4)
    assert torch.equal(got[0], traverse(offsets, losses, costs, limits, top_k=4)[0])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, torch.tensor([0, 4, 4, 12]), "offsets that rise from 0 to 12"),
        (0, torch.tensor([0, 4, 9, 11]), "offsets that rise from 0 to 12"),
        (0, torch.tensor([0]), "at least one block"),
        (1, torch.zeros(12), "losses to be an int64 tensor"),
        (1, torch.zeros(11, dtype=torch.int64), "costs of 11 options, got 12"),
        (1, torch.full((12,), 2**60), "losses whose totals stay below"),
        (1, torch.full((12,), -(2**63)), "losses whose totals stay below"),
        (2, torch.full((12, 2), 2**60), "costs whose totals stay below"),
        (3, torch.zeros(3, dtype=torch.int64), "2 limits, got 3"),
        (4, torch.zeros(11, dtype=torch.int64), "states of 12 options"),
        (4, torch.full((12,), 7), "states in 0..1"),
        (4, torch.zeros(12, dtype=torch.int64), "block options to start in the states"),
        (5, torch.ones(12, dtype=torch.int64), "the last block to end in state 0|options to start"),
    ],
)
def test_refuses(at, value, message):
    arguments = example(states=True)
    arguments[at] = value
    with pytest.raises(ValueError, match=r"\[traverse\] expected .*(" + message + ")"):
        traverse(*arguments)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device cpu, cuda or cuda:N, got 'gpu'"),
        ("meta", "device cpu, cuda or cuda:N, got 'meta'"),
        (
            "cuda:99",
            r"a CUDA device for 'cuda:99', got \d+ on this machine; use device cpu"
            if _C.with_cuda
            else "a build of pynas with CUDA kernels for device cuda, got one without; rebuild .*, or use device cpu",
        ),
    ],
)
def test_refuses_the_device(device, message):
    with pytest.raises(ValueError, match=rf"^\[traverse\] expected {message}$"):
        traverse(*example(), device=device)
