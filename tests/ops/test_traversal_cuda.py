"""The exact search's CUDA kernels on instances of several tiles: the CPU's answer to the last bit."""

import importlib

import pytest
import torch

from pynas.ops import _library
from pynas.ops.traversal import traverse

MODULE = importlib.import_module("pynas.ops.traversal")
LOSSES = {
    "very correlated": lambda costs, noise: (10**6 - costs.double().mean(1) + 1e4 * noise).long(),
    "correlated": lambda costs, noise: (10**6 - costs.double().mean(1) + 1e5 * noise).long(),
    "free": lambda costs, noise: (1e5 * noise).long(),
    "few": lambda costs, noise: costs.double().mean(1).long() // -200_000,
    "equal": lambda costs, noise: torch.zeros_like(costs[:, 0]),
}


def instance(kind, limits, states=1, sizes=(14,) * 6, tightness=0.5, seed=0):
    """Arguments of traverse up to the states; costs of both signs up to a million."""
    generator = torch.Generator().manual_seed(seed)
    count, blocks = sum(sizes), len(sizes)
    costs = torch.randint(-(10**5), 10**6, (count, limits), generator=generator)
    losses = LOSSES[kind](costs, torch.randn(count, generator=generator))
    least, most = (
        torch.stack([getattr(part, side)(0).values for part in costs.split(list(sizes))]).sum(0)
        for side in ("min", "max")
    )
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    arguments = [offsets, losses, costs, least + ((most - least).double() * tightness).long()]
    if states > 1:
        # Every state is entered and left in each block, the last ends in state 0.
        draws = [torch.randint(0, states, (2, size), generator=generator) for size in sizes]
        for b, draw in enumerate(draws):
            draw[0, :states] = torch.arange(states) if b else 0
            draw[0] = draw[0] if b else 0
            draw[1, :states] = torch.arange(states).flip(0)
            draw[1] = draw[1] if b < blocks - 1 else 0
        arguments += [*torch.cat(draws, dim=1), states]
    else:
        arguments += [None, None, 1]
    return arguments


@pytest.fixture(params=["cuda_host", pytest.param("cuda", marks=pytest.mark.cuda)])
def solve(request, monkeypatch):
    """Runs traverse on the GPU, or through its kernels on the CPU."""
    monkeypatch.setattr(MODULE, "_DEVICE_SUMS", 0)
    if request.param == "cuda":
        return lambda arguments, **more: traverse(*arguments, **more, device="cuda")

    def run(arguments, **more):
        with request.getfixturevalue("call_on")("cuda_host"):
            return traverse(*arguments, **more)

    return run


def check(solve, arguments, **more):
    """Compare with the CPU's answer, and return the counts of both."""
    found, expected = solve(arguments, **more), traverse(*arguments, **more, device="cpu")
    assert torch.equal(found[0], expected[0]) and found[1][0] == expected[1][0]
    assert torch.equal(found[2], expected[2])
    return found[1], expected[1]


@pytest.mark.parametrize("top_k", [1, 10, 1000])
@pytest.mark.parametrize("states", [1, 3])
@pytest.mark.parametrize("limits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", LOSSES)
def test_equals_the_cpu(solve, kind, limits, states, top_k):
    found, expected = check(solve, instance(kind, limits, states), top_k=top_k)
    assert found[0] == top_k and not torch.equal(found, expected)  # nodes are counted in another way


@pytest.mark.parametrize("pairs", [1, 50])
@pytest.mark.parametrize("kind", ["few", "equal"])
@pytest.mark.parametrize("top_k", [1, 10, 300])
def test_more_pairs_than_the_buffer_holds(solve, kind, top_k, pairs, monkeypatch):
    """They are looked for again, in narrower and narrower bounds; many losses are equal, so that the positions decide."""
    monkeypatch.setattr(MODULE, "_DEVICE_PAIRS", pairs)
    check(solve, instance(kind, 2, tightness=0.7), top_k=top_k)


@pytest.mark.parametrize("chunk", [1, 3])
def test_small_chunks(solve, chunk, monkeypatch):
    monkeypatch.setattr(MODULE, "_DEVICE_CHUNK", chunk)
    for top_k in (1, 100):
        check(solve, instance("very correlated", 3, sizes=(10,) * 6), top_k=top_k)


def test_more_tiles_than_a_launch_joins(solve, monkeypatch):
    monkeypatch.setattr(MODULE, "_DEVICE_CHUNK", 1)
    # All choices within the limit are asked for, so that nearly every pair of tiles is needed.
    found, _ = check(solve, instance("few", 1, sizes=(33,) * 4, tightness=0.9), top_k=1_200_000)
    assert 1_000_000 < found[0] < 1_200_000


@pytest.mark.slow
@pytest.mark.parametrize("solve", ["cuda_host"], indirect=True)
def test_long_lists_are_sorted_and_filtered(solve):
    """Of 160,000 sums, more counts than a block of threads adds up at once, 799 are undominated: one for each first cost."""
    generator = torch.Generator().manual_seed(0)
    first = torch.cat([torch.randperm(400, generator=generator) for _ in range(3)])
    costs = torch.stack([first, torch.randint(0, 10**6, (1200,), generator=generator)], dim=1)
    found, expected = check(solve, [torch.arange(4) * 400, -first, costs, torch.tensor([600, 1_500_000])])
    assert found[1] > 160_000 and found[2] > 158_000 and expected[2] > 158_000


@pytest.mark.parametrize("longest", [1, 40, 600, 5000])
@pytest.mark.parametrize("top_k", [1, 20])
def test_short_lists(solve, longest, top_k):
    """Several rounds, and blocks between the lists, which the CPU walks."""
    arguments = instance("very correlated", 3, sizes=(25,) * 6, tightness=0.3)
    found, _ = check(solve, arguments, top_k=top_k, longest=longest)
    assert longest == 5000 or found[3] > 1


@pytest.mark.parametrize("sums", [100, 3000, 100_000, 1 << 40])
def test_lists_move_when_they_are_long(solve, sums, monkeypatch):
    monkeypatch.setattr(MODULE, "_DEVICE_SUMS", sums)
    for states in (1, 2):
        check(solve, instance("very correlated", 2, states, sizes=(3, 20, 2, 30, 2, 20)), top_k=7)


@pytest.mark.parametrize("limits", [1, 4])
def test_nothing_keeps_the_limits(solve, limits):
    arguments = instance("free", limits)
    arguments[3] -= 10**9
    found, _ = check(solve, arguments, top_k=5)
    assert found[0] == 0


@pytest.mark.parametrize("limits", [0, 5])
def test_other_numbers_of_limits_stay_on_the_cpu(solve, limits):
    found, expected = check(solve, instance("free", limits), top_k=5)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_choices_of_small_blocks(solve, size):
    found, _ = check(solve, instance("few", 2, sizes=(size,) * 6, tightness=0.6), top_k=1000)
    assert found[0] > 0


def test_losses_and_costs_near_the_greatest(solve):
    arguments = instance("very correlated", 3, sizes=(20,) * 4)
    scaled = [arguments[0], *(tensor << 37 for tensor in arguments[1:4])]
    for top_k in (1, 50):
        check(solve, scaled, top_k=top_k)


def test_too_little_memory(call_on, monkeypatch):
    """One clear line, and the next search runs."""
    monkeypatch.setattr(MODULE, "_DEVICE_SUMS", 0)
    arguments = instance("very correlated", 3)
    with call_on("cuda_host"):
        monkeypatch.setenv("CUDA_HOST_MEMORY", "20000")
        with pytest.raises(
            RuntimeError, match=r"^\[traverse\] expected \d+ bytes free on the GPU .*, got fewer; .*cpu.$"
        ):
            traverse(*arguments)
        monkeypatch.delenv("CUDA_HOST_MEMORY")
        traverse(*arguments)


def test_a_search_that_chose_a_full_gpu_by_itself_goes_to_the_cpu(cuda_host, monkeypatch):
    arguments = instance("very correlated", 3)
    expected = traverse(*arguments, device="cpu")
    monkeypatch.setattr(_library, "_C", cuda_host)
    monkeypatch.setattr(MODULE, "_gpu", lambda device, *_: None if device == "cpu" else 0)
    monkeypatch.setattr(MODULE, "_DEVICE_SUMS", 0)
    found = traverse(*arguments)
    assert torch.equal(found[0], expected[0]) and not torch.equal(found[1], expected[1])
    monkeypatch.setenv("CUDA_HOST_MEMORY", "20000")
    for got, wanted in zip(traverse(*arguments), expected):
        assert torch.equal(got, wanted)
    with pytest.raises(RuntimeError, match="bytes free on the GPU"):
        traverse(*arguments, device="cuda")


def test_large_instances_go_to_the_gpu_by_themselves(monkeypatch):
    """A product of the blocks' sizes of 2**36 is large, where there is a GPU and a build for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(MODULE, "_current_gpu", lambda: 3)
    monkeypatch.setattr(MODULE._C, "with_cuda", True)
    sizes = {count: torch.arange(count + 1) * 2 for count in (35, 36)}
    limits = {count: torch.zeros(count, dtype=torch.int64) for count in (0, 1, 4, 5)}
    assert MODULE._gpu(None, sizes[36], limits[1]) == MODULE._gpu(None, sizes[36], limits[4]) == 3
    for offsets, limit in ((sizes[35], limits[1]), (sizes[36], limits[0]), (sizes[36], limits[5])):
        assert MODULE._gpu(None, offsets, limit) is None
    assert MODULE._gpu("cpu", sizes[36], limits[1]) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert MODULE._gpu(None, sizes[36], limits[1]) is None
