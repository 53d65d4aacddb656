"""Averages gradients over processes while backward passes still run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pynas.rating.distributed import patience

# Bytes of gradients that travel as one, as in torch's DistributedDataParallel.
_BUCKET = 25 << 20


@dataclass
class _Bucket:
    """Gradients that travel as one: numbers of their weights, those that have none yet, and what was sent."""

    numbers: list[int]
    pending: set[int]
    flat: Tensor | None = None
    work: Any = None


class Reducer:
    """Averages the gradients of weights over the processes of a group, 0 where a process has none.

    A weight that no process used keeps the gradient None, and nothing of it is sent. torch's DistributedDataParallel sends all
    weights in every step, of which a supernet's paths use few (a step of DNA on mbconv-dna: 37.5 of 194 MB); otherwise this works
    like it: gradients travel in buckets, each as soon as its weights have theirs, in one order in all processes.

    weights: in the order of their use in a forward pass. group: of torch.distributed; None: all processes. size: its processes.
    """

    def __init__(self, weights: Sequence[Tensor], group: Any, size: int) -> None:
        self.weights, self._group, self._size = list(weights), group, size
        # Flags between GPUs take a group of their own on the CPU, so that the host need not wait for the device.
        on_gpu = any(weight.is_cuda for weight in self.weights)
        members = dist.get_process_group_ranks(group) if group is not None else None
        self._control: Any = (
            dist.new_group(members, backend="gloo", use_local_synchronization=True, **patience()) if on_gpu else group
        )
        self._handles = [weight.register_post_accumulate_grad_hook(partial(self._arrived, number))
                         for number, weight in enumerate(self.weights)]  # fmt: skip
        self._buckets: list[_Bucket] = []
        self._taken: set[int] = set()
        self._sent = 0
        self._late: set[int] = set()

    def begin(self, loss: Tensor) -> None:
        """Send the gradients that the backward pass from `loss`, which comes next, adds to, each as soon as it is final.

        All processes of the group call this for the same passes. A weight that gets a gradient after such a pass, as one that
        several blocks share, is sent again in the end.
        """
        coming = _leaves(loss)
        self._take([id(w) in coming and number not in self._taken for number, w in enumerate(self.weights)], coming)

    def finish(self) -> None:
        """Send what was not sent, and wait for the gradients of all processes; after the step's last backward pass."""
        unsent = [number not in self._taken or number in self._late for number in range(len(self.weights))]
        self._take([weight.grad is not None and flag for weight, flag in zip(self.weights, unsent)], set())
        for bucket in self._buckets:
            bucket.pending.clear()  # of weights that the pass did not reach after all
        self._send()
        for bucket in self._buckets:
            bucket.work.wait()
            assert bucket.flat is not None
            bucket.flat /= self._size
            lay_back(bucket.flat, [self._gradient(number) for number in bucket.numbers])
        self._buckets, self._taken, self._late, self._sent = [], set(), set(), 0

    def close(self) -> None:
        """Take the hooks off the weights."""
        for handle in self._handles:
            handle.remove()

    def _take(self, own: Sequence[bool], coming: set[int]) -> None:
        """Put the weights that some process flags into buckets; coming: identities, see `_leaves`."""
        used = torch.tensor(own, dtype=torch.int32)
        dist.all_reduce(used, dist.ReduceOp.MAX, group=self._control)
        fresh = [number for number, flag in enumerate(used.tolist()) if flag]
        for numbers in _buckets(self.weights, fresh):
            self._buckets.append(_Bucket(numbers, {n for n in numbers if id(self.weights[n]) in coming}))
        self._taken.update(fresh)
        self._send()

    def _arrived(self, number: int, weight: Tensor) -> None:
        """Note that a weight has its gradient of this pass."""
        if number not in self._taken:
            return
        waiting = [bucket for bucket in self._buckets if number in bucket.pending]
        if not waiting:
            self._late.add(number)
            return
        waiting[0].pending.discard(number)
        self._send()

    def _send(self) -> None:
        """Send the next buckets whose gradients are all there."""
        while self._sent < len(self._buckets) and not self._buckets[self._sent].pending:
            bucket = self._buckets[self._sent]
            bucket.flat = laid_together([self._gradient(number) for number in bucket.numbers])
            bucket.work = dist.all_reduce(bucket.flat, group=self._group, async_op=True)
            self._sent += 1

    def _gradient(self, number: int) -> Tensor:
        """Gradient of a weight that some process used."""
        weight = self.weights[number]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        return weight.grad


def laid_together(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors of a type as one, to be sent."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def lay_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy what `laid_together` made back into its tensors."""
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view(tensor.shape))


def _leaves(loss: Tensor) -> set[int]:
    """Identities of the tensors to which a backward pass from `loss` adds gradients."""
    nodes, seen, found = [loss.grad_fn], set(), set()
    while nodes:
        node: Any = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return found


def _buckets(weights: Sequence[Tensor], used: Sequence[int]) -> list[list[int]]:
    """Numbers of weights that travel as one: of one type, from the last weight to the first, as gradients come."""
    buckets: list[list[int]] = []
    size = 0
    for number in reversed(used):
        weight = weights[number]
        alike = buckets and weights[buckets[-1][-1]].dtype == weight.dtype
        if not alike or size + weight.nbytes > _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(number)
        size += weight.nbytes
    return buckets
