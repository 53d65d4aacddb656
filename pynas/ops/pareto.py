"""Pareto dominance among integer points of (loss, costs): the Pareto front of a set, and of all sums of two sets."""

from __future__ import annotations

import torch

from pynas.ops import _library as native

_CAPACITY = 1 << 20  # pairs that are expected to survive the sieve, or a 32nd of all; if more do, it runs again
_TILE = 2048  # kParetoTile of csrc/common/pareto.h


def _bits(pairs: int, costs: int) -> int:
    """Return log2 of the buckets per cost: few for few pairs; the table takes at most 512 KiB (one cost) or 2 MiB."""
    return min(max(pairs.bit_length() - 4, 2) // costs, (16, 9)[costs - 1])


def pareto_filter(losses: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    """Return the positions `[F]`, ascending, of the points that no other dominates; of equal points the first.

    losses int64 `[N]`, costs int64 `[N, M]`, one or two costs. A point dominates another when its loss and costs are no
    greater and one of them is less. The positions do not depend on the device. Not differentiable.
    """
    return _run_filter(losses, costs)


def pareto_pairs(
    left_losses: torch.Tensor, left_costs: torch.Tensor, right_losses: torch.Tensor, right_costs: torch.Tensor
) -> torch.Tensor:
    """Return the pairs int64 `[F, 2]` of a left and a right point whose sum no other dominates; of equal sums the first.

    losses int64 `[L]` and `[R]`, costs int64 `[L, M]` and `[R, M]`, one or two costs, every sum below 2**62 in
    magnitude. Pairs are in ascending order and do not depend on the device. Most of the L * R sums are discarded before
    those that remain are sorted and filtered. Not differentiable.
    """
    return _run_pairs(left_losses, left_costs, right_losses, right_costs)


def pareto_filter_reference(losses: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    """Return the positions of `pareto_filter`, from a comparison of all points with all."""
    points = torch.cat([losses[:, None], costs], dim=1)
    no_more = (points[:, None] <= points[None]).all(-1)
    less = (points[:, None] < points[None]).any(-1)
    first = torch.arange(len(points))[:, None] < torch.arange(len(points))[None]
    return (~(no_more & (less | first)).any(0)).nonzero()[:, 0]


def pareto_pairs_reference(left_losses, left_costs, right_losses, right_costs) -> torch.Tensor:
    """Return the pairs of `pareto_pairs`, from a comparison of all sums with all."""
    losses = (left_losses[:, None] + right_losses).flatten()
    costs = (left_costs[:, None] + right_costs).flatten(0, 1)
    kept = pareto_filter_reference(losses, costs)
    return torch.stack([kept // len(right_losses), kept % len(right_losses)], dim=1)


def _check(operator: str, side: str, losses: torch.Tensor, costs: torch.Tensor) -> None:
    for name, tensor, dims in ((f"{side}losses", losses, 1), (f"{side}costs", costs, 2)):
        native.require(
            tensor.dtype == torch.int64 and tensor.dim() == dims and tensor.device.type in ("cpu", "cuda", "meta"),
            operator,
            f"{name} int64 with {dims} axes on the CPU or a CUDA device",
            f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}",
        )
    native.require(1 <= costs.shape[1] <= 2, operator, f"one or two {side}costs", costs.shape[1])
    native.require(costs.shape[0] == losses.shape[0], operator, f"{losses.shape[0]} {side}costs", costs.shape[0])
    native.require(losses.device == costs.device, operator, f"{side}costs on {losses.device}", costs.device)


def _check_pairs(left_losses, left_costs, right_losses, right_costs) -> None:
    _check("pareto_pairs", "left_", left_losses, left_costs)
    _check("pareto_pairs", "right_", right_losses, right_costs)
    native.require(
        left_losses.device == right_losses.device,
        "pareto_pairs",
        f"right_losses on {left_losses.device}",
        right_losses.device,
    )
    costs = left_costs.shape[1]
    native.require(costs == right_costs.shape[1], "pareto_pairs", f"{costs} right_costs", right_costs.shape[1])


def _filter(losses: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    _check("pareto_filter", "", losses, costs)
    losses, costs = losses.contiguous(), costs.contiguous()
    if native.backend(losses) == "cuda":
        return _filter_on_device(losses, costs)
    kept, count = torch.empty_like(losses), torch.zeros(1, dtype=torch.int64)
    points, cost_count = costs.shape
    native.run("pareto_filter", loss=losses, cost=costs, kept=kept, count=count, points=points, costs=cost_count)
    return kept[: int(count)].clone()


def _filter_on_device(losses: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    if len(losses) == 0:
        return torch.empty_like(losses)
    ascending, order = losses.sort(stable=True)
    for cost in reversed(costs.unbind(1)):
        order = order[cost[order].argsort(stable=True)]
    loss, sequence = losses[order], None
    if costs.shape[1] == 2:
        loss, sequence = torch.searchsorted(ascending, loss), costs[order, 1].argsort(stable=True)
    dominated = torch.zeros_like(losses, dtype=torch.bool)
    native.call(
        "pareto_dominated",
        losses,
        loss=loss,
        sequence=sequence,
        spare=None if sequence is None else torch.empty_like(sequence),
        partial=losses.new_empty(2 * (len(losses) // _TILE + 1)),
        dominated=dominated,
        points=len(losses),
    )
    return torch.empty_like(dominated).scatter_(0, order, ~dominated).nonzero()[:, 0]


def _pairs(left_losses, left_costs, right_losses, right_costs) -> torch.Tensor:
    _check_pairs(left_losses, left_costs, right_losses, right_costs)
    lefts, rights = left_losses.shape[0], right_losses.shape[0]
    if lefts == 0 or rights == 0:
        return left_losses.new_empty((0, 2))
    # With the right points in order of cost, neighbouring pairs fall into neighbouring buckets.
    order = right_costs[:, 0].argsort(stable=True)
    sides = (left_losses, left_costs, right_losses[order], right_costs[order])
    pairs = _survivors(*(side.contiguous() for side in sides))
    pairs = (pairs - pairs % rights + order[pairs % rights]).sort().values
    left, right = pairs // rights, pairs % rights
    kept = pareto_filter(left_losses[left] + right_losses[right], left_costs[left] + right_costs[right])
    return torch.stack([left[kept], right[kept]], dim=1)


def _survivors(left_losses, left_costs, right_losses, right_costs) -> torch.Tensor:
    """Return left * R + right of the pairs that no bucket of lower cost dominates, in any order."""
    lefts, (rights, costs) = left_losses.shape[0], right_costs.shape
    bits = _bits(lefts * rights, costs)
    least, shifts = _buckets(left_losses, left_costs, right_losses, right_costs, bits)
    floor = left_losses.new_empty(1 << (bits * costs))
    count, capacity = left_losses.new_zeros(1), min(lefts * rights, max(_CAPACITY, min(lefts * rights >> 5, 1 << 25)))
    while True:
        pairs = left_losses.new_empty(capacity)
        native.call(
            "pareto_pairs",
            left_losses,
            left_loss=left_losses,
            left_cost=left_costs,
            right_loss=right_losses,
            right_cost=right_costs,
            floor=floor,
            pairs=pairs,
            count=count,
            lefts=lefts,
            rights=rights,
            capacity=capacity,
            least=least,
            shift=shifts,
            costs=costs,
            bits=bits,
        )
        found = int(count)
        if found <= capacity:
            return pairs[:found]
        capacity = found


def _buckets(left_losses, left_costs, right_losses, right_costs, bits: int) -> tuple[list[int], list[int]]:
    """Return the least sum of each cost, and the shift that maps all sums to 2**bits buckets; two of each."""
    sides = [(left_losses, left_costs), (right_losses, right_costs)]
    extremes = [torch.stack(torch.cat([loss[:, None], cost], dim=1).aminmax(dim=0)) for loss, cost in sides]
    # Per side the least and the greatest of the loss and of each cost. One wait for the device.
    (left_low, left_high), (right_low, right_high) = torch.stack(extremes).tolist()
    least, shifts = [], []
    for low, high, low_2, high_2 in zip(left_low[1:], left_high[1:], right_low[1:], right_high[1:]):
        most = max(high + high_2, -(low + low_2))
        native.require(most < 2**62, "pareto_pairs", "sums of costs below 2**62", most)
        least.append(low + low_2)
        shifts.append(max(0, (high + high_2 - low - low_2).bit_length() - bits))
    most = max(-left_low[0], left_high[0]) + max(-right_low[0], right_high[0])
    native.require(most < 2**62, "pareto_pairs", "sums of losses below 2**62", most)
    padding = [0] * (2 - len(least))
    return least + padding, shifts + padding


def _fake_filter(losses: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
    _check("pareto_filter", "", losses, costs)
    return losses.new_empty((torch.library.get_ctx().new_dynamic_size(),))


def _fake_pairs(left_losses, left_costs, right_losses, right_costs) -> torch.Tensor:
    _check_pairs(left_losses, left_costs, right_losses, right_costs)
    return left_losses.new_empty((torch.library.get_ctx().new_dynamic_size(), 2))


_run_filter = native.define("pareto_filter", "(Tensor losses, Tensor costs) -> Tensor", _filter, _fake_filter)
_run_pairs = native.define(
    "pareto_pairs",
    "(Tensor left_losses, Tensor left_costs, Tensor right_losses, Tensor right_costs) -> Tensor",
    _pairs,
    _fake_pairs,
)
