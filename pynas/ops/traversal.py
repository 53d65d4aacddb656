"""The exact search, a multiple-choice knapsack in integers: one option per block, least total loss, all limits kept."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch

from pynas import _C
from pynas.ops import _library as native

# On a GPU: from how many sums on a step runs there, pairs that the join writes at a time, and tiles (of 128 entries) of the
# trailing list that a block of threads looks through.
_DEVICE_SUMS, _DEVICE_PAIRS, _DEVICE_CHUNK = 1 << 18, 1 << 20, 128
_DEVICE_LIMITS = range(1, 5)
# Errors of csrc/cuda/knapsack_device.cuh and launch.cuh after which a search that chose the GPU by itself goes to the CPU.
_NO_GPU = "bytes free on the GPU", "CUDA error"
_MOST_LONGEST = 1 << 28


def traverse(
    offsets: torch.Tensor,
    losses: torch.Tensor,
    costs: torch.Tensor,
    limits: torch.Tensor,
    state_in: torch.Tensor | None = None,
    state_out: torch.Tensor | None = None,
    states: int = 1,
    top_k: int = 1,
    longest: int = 1 << 20,
    device: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the `top_k` solutions of least total loss with every total cost <= its limit; ties by the indices in order.

    offsets `[B+1]`: block b has the options offsets[b]..offsets[b+1]-1; losses `[N]`; costs `[N, M]` of either sign;
    limits `[M]`, inclusive; all int64 on the CPU, and every possible total below 2**61 in magnitude. state_in,
    state_out `[N]` in 0..states-1: an option follows one whose state_out equals its state_in; the first block starts
    in state 0 and the last one ends there; some choice through all blocks must use each option. longest: the most
    partial solutions in a list, which bounds the memory (64 bytes each, and a little more per block and limit).

    device: "cpu", or "cuda" or "cuda:N", where lists run on the GPU from the first step with 2**18 sums on; shorter ones,
    blocks that no list takes, and more than four limits or none stay on the CPU. None: "cuda" where there is a GPU, one to
    four limits and a product of the blocks' sizes of at least 2**36, so that both lists may come to such a step; "cpu" where
    the GPU fails or its memory is too small. Only the counts of nodes depend on the device.

    Return indices `[top_k, B]` (-1 in rows past the last solution), counts `[4]` (solutions found, nodes visited, nodes
    pruned, rounds), and float64 `[M+1]`: the Lagrangian multipliers, then the bound they give on the total loss, where
    losses are shifted so that the least of each block is 0. Not differentiable.
    """
    return _run(offsets, losses, costs, limits, state_in, state_out, states, top_k, longest, device)


def _gpu(device: str | None, offsets: torch.Tensor, limits: torch.Tensor) -> int | None:
    """Return the number of the GPU that takes the large steps; None for the CPU."""
    if device is None:
        large = limits.shape[0] in _DEVICE_LIMITS and float(offsets.diff().log2().sum()) >= 36
        return _current_gpu() if large and _C.with_cuda and torch.cuda.is_available() else None
    try:
        place = torch.device(device)
    except RuntimeError:
        native.refuse("traverse", "device cpu, cuda or cuda:N", repr(device))
    native.require(place.type in ("cpu", "cuda"), "traverse", "device cpu, cuda or cuda:N", repr(device))
    if place.type == "cpu":
        return None
    native.require(_C.with_cuda, "traverse", "a build of pynas with CUDA kernels for device cuda",
                   "one without; rebuild where nvcc is on PATH, or use device cpu")  # fmt: skip
    count = torch.cuda.device_count()
    number = _current_gpu() if place.index is None else place.index
    native.require(
        number < count, "traverse", f"a CUDA device for {device!r}", f"{count} on this machine; use device cpu"
    )
    return number


def _current_gpu() -> int:
    """Return the number of the current GPU without starting torch on it: a search may need none."""
    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0


def _check(offsets, losses, costs, limits, state_in, state_out, states: int, top_k: int, longest: int) -> None:
    for name, tensor, dims in (
        ("offsets", offsets, 1),
        ("losses", losses, 1),
        ("costs", costs, 2),
        ("limits", limits, 1),
        ("state_in", state_in, 1),
        ("state_out", state_out, 1),
    ):
        if tensor is None:
            continue
        native.require(
            tensor.dtype == torch.int64 and tensor.device.type in ("cpu", "meta") and tensor.dim() == dims,
            "traverse",
            f"{name} to be an int64 tensor on the CPU with {dims} axes",
            f"{tensor.dtype} on {tensor.device} with {tensor.dim()}",
        )
    count = losses.shape[0]
    native.require(costs.shape[0] == count, "traverse", f"costs of {count} options", costs.shape[0])
    native.require(costs.shape[1] == limits.shape[0], "traverse", f"{costs.shape[1]} limits", limits.shape[0])
    native.require(offsets.shape[0] >= 2, "traverse", "at least one block", offsets.shape[0] - 1)
    native.require(top_k >= 1, "traverse", "top_k of at least 1", top_k)
    native.require(1 <= longest <= _MOST_LONGEST, "traverse", f"longest of 1 to {_MOST_LONGEST}", longest)
    native.require(
        (state_in is None) == (state_out is None), "traverse", "both state_in and state_out, or neither", "one"
    )
    native.require(
        states == 1 or state_in is not None, "traverse", "state_in and state_out with more than one state", states
    )
    for state in (state_in, state_out):
        native.require(
            state is None or state.shape[0] == count, "traverse", f"states of {count} options", "another number"
        )


def _check_values(offsets, losses, costs, state_in, state_out, states: int) -> None:
    """Check the values of the tensors, which the kernel trusts."""
    count = losses.shape[0]
    sizes = offsets.diff()
    native.require(
        bool(offsets[0] == 0) and bool(offsets[-1] == count) and bool((sizes > 0).all()),
        "traverse",
        f"offsets that rise from 0 to {count}, a block at least one option",
        offsets.tolist(),
    )
    native.require(int(sizes.max()) < 2**31, "traverse", "fewer than 2**31 options in a block", int(sizes.max()))
    starts = offsets.numpy()[:-1]
    for name, tensor in (("losses", losses[:, None]), ("costs", costs)):
        least, most = (extreme.reduceat(tensor.numpy(), starts, axis=0) for extreme in (np.minimum, np.maximum))
        total = np.maximum(-least.astype(np.float64), most).sum(axis=0).max(initial=0)
        native.require(total < 2.0**61, "traverse", f"{name} whose totals stay below 2**61", total)
    if state_in is None:
        return
    for state in (state_in, state_out):
        native.require(
            bool(((state >= 0) & (state < states)).all()), "traverse", f"states in 0..{states - 1}", "others"
        )
    before = torch.tensor([0])
    for begin, end in itertools.pairwise(offsets.tolist()):
        native.require(
            torch.equal(before, state_in[begin:end].unique()),
            "traverse",
            f"block options to start in the states {before.tolist()} that the block before ends in",
            state_in[begin:end].unique().tolist(),
        )
        before = state_out[begin:end].unique()
    native.require(before.tolist() == [0], "traverse", "the last block to end in state 0", before.tolist())


def _traverse(offsets, losses, costs, limits, state_in, state_out, states, top_k, longest, device=None):
    _check(offsets, losses, costs, limits, state_in, state_out, states, top_k, longest)
    _check_values(offsets, losses, costs, state_in, state_out, states)
    gpu = _gpu(device, offsets, limits)
    offsets, losses, costs, limits = (t.contiguous() for t in (offsets, losses, costs, limits))
    if states == 1:
        state_in = state_out = None
    if state_in is not None:
        state_in, state_out = state_in.contiguous(), state_out.contiguous()
    block_count, limit_count = offsets.shape[0] - 1, limits.shape[0]
    indices = torch.full((top_k, block_count), -1, dtype=torch.int64)
    counts = torch.zeros(4, dtype=torch.int64)
    multipliers = torch.zeros(limit_count + 1, dtype=torch.float64)
    run = functools.partial(
        native.run,
        "traverse",
        offsets=offsets,
        losses=losses,
        costs=costs,
        limits=limits,
        state_in=state_in,
        state_out=state_out,
        indices=indices,
        counts=counts,
        multipliers=multipliers,
        block_count=block_count,
        limit_count=limit_count,
        states=states,
        top_k=top_k,
        longest=longest,
        device=gpu or 0,
        device_sums=_DEVICE_SUMS,
        device_pairs=_DEVICE_PAIRS,
        device_chunk=_DEVICE_CHUNK,
        threads=native.threads(),
    )
    try:
        # Its data are the CPU's, so it need not wait for what torch has under way on a stream.
        run(stream=native.stream(offsets) if gpu is None else 0)
    except RuntimeError as error:
        if device is not None or gpu is None or not any(reason in str(error) for reason in _NO_GPU):
            raise
        return _traverse(offsets, losses, costs, limits, state_in, state_out, states, top_k, longest, "cpu")
    return indices, counts, multipliers


def _fake(offsets, losses, costs, limits, state_in, state_out, states, top_k, longest, device=None):
    _check(offsets, losses, costs, limits, state_in, state_out, states, top_k, longest)
    return (
        offsets.new_empty((top_k, offsets.shape[0] - 1)),
        offsets.new_empty(4),
        offsets.new_empty(limits.shape[0] + 1, dtype=torch.float64),
    )


_run = native.define(
    "traverse",
    "(Tensor offsets, Tensor losses, Tensor costs, Tensor limits, Tensor? state_in, Tensor? state_out, "
    "int states, int top_k, int longest, str? device=None) -> (Tensor, Tensor, Tensor)",
    _traverse,
    _fake,
)


def traverse_reference(offsets, losses, costs, limits, state_in=None, state_out=None, states=1, top_k=1, longest=0):
    """Return the indices of `traverse`, from an enumeration of every choice of one option per block."""
    blocks = [range(begin, end) for begin, end in itertools.pairwise(offsets.tolist())]
    rows = []
    for choice in itertools.product(*blocks):
        total = costs[list(choice)].sum(0)
        joined = state_in is None or all(state_out[i] == state_in[j] for i, j in itertools.pairwise(choice))
        if joined and bool((total <= limits).all()):
            rows.append((int(losses[list(choice)].sum()), [i - block[0] for i, block in zip(choice, blocks)]))
    rows.sort()
    padding = [[-1] * len(blocks)] * (top_k - len(rows))
    return torch.tensor([indices for _, indices in rows[:top_k]] + padding, dtype=torch.int64)
