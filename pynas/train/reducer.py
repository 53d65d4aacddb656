"""Averages gradients over processes while the last backward pass of a step still runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Bytes of gradients that travel as one, as in torch's DistributedDataParallel.
_BUCKET = 25 << 20


class Reducer:
    """Averages the gradients of weights over the processes of a group, 0 where a process has none.

    A weight that no process used keeps the gradient None, and nothing of it is sent. torch's DistributedDataParallel sends all of a
    supernet's weights in every step, of which a path uses a few per cent; otherwise this works like it: gradients travel in
    buckets, each as soon as its weights have theirs, in one order in all processes.

    weights: in the order of their use in a forward pass. group: of torch.distributed; None: all processes. size: its processes.
    """

    def __init__(self, weights: Sequence[Tensor], group: Any, size: int) -> None:
        self.weights, self._group, self._size = list(weights), group, size
        # Flags between GPUs take a group of their own on the CPU, so that the host need not wait for the device.
        on_gpu = any(weight.is_cuda for weight in self.weights)
        members = dist.get_process_group_ranks(group) if group is not None else None
        self._control: Any = (
            dist.new_group(members, backend="gloo", use_local_synchronization=True) if on_gpu else group
        )
        self._handles = [weight.register_post_accumulate_grad_hook(partial(self._arrived, number))
                         for number, weight in enumerate(self.weights)]  # fmt: skip
        self._buckets: list[list[int]] = []
        self._pending: list[set[int]] = []
        self._sent: list[tuple[Tensor, Any]] = []
        self._began = False
        self._late: int | None = None

    def begin(self, loss: Tensor | None = None) -> None:
        """Send each gradient as soon as it is final; called before the step's last backward pass, from `loss`.

        loss: None where the passes are over.
        """
        if self._began:
            raise RuntimeError("[fit] expected one last backward pass in a step, got another one")
        self._began = True
        coming = set() if loss is None else _leaves(loss)
        own = [weight.grad is not None or id(weight) in coming for weight in self.weights]
        used = torch.tensor(own, dtype=torch.int32)
        dist.all_reduce(used, dist.ReduceOp.MAX, group=self._control)
        self._buckets = _buckets(self.weights, [number for number, flag in enumerate(used.tolist()) if flag])
        self._pending = [
            {number for number in bucket if id(self.weights[number]) in coming} for bucket in self._buckets
        ]
        self._send()

    def finish(self) -> None:
        """Wait for the gradients of all processes; after the step's last backward pass.

        Raises:
            RuntimeError: a weight got a gradient that its graph does not show (reentrant checkpoints).
        """
        if not self._began:
            self.begin()
        for pending in self._pending:
            pending.clear()  # of weights that the pass did not reach after all
        self._send()
        late, self._late = self._late, None
        for bucket, (flat, work) in zip(self._buckets, self._sent):
            work.wait()
            flat /= self._size
            parts = flat.split([self.weights[number].numel() for number in bucket])
            for number, part in zip(bucket, parts):
                gradient = self._gradient(number)
                gradient.copy_(part.view(gradient.shape))
        self._buckets, self._pending, self._sent, self._began = [], [], [], False
        if late is not None:
            raise RuntimeError(f"[fit] expected gradients of the weights in the loss's graph, got one of weight {late} "
                               f"{list(self.weights[late].shape)} too; use checkpoints with use_reentrant=False")  # fmt: skip

    def close(self) -> None:
        """Take the hooks off the weights."""
        for handle in self._handles:
            handle.remove()

    def _arrived(self, number: int, weight: Tensor) -> None:
        """Note that a weight has its gradient of this pass."""
        if not self._began:
            return
        waiting = [pending for pending in self._pending if number in pending]
        if not waiting:
            self._late = number
            return
        waiting[0].discard(number)
        self._send()

    def _send(self) -> None:
        """Send the next buckets whose gradients are all there."""
        while len(self._sent) < len(self._buckets) and not self._pending[len(self._sent)]:
            gradients = [self._gradient(number) for number in self._buckets[len(self._sent)]]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._sent.append((flat, dist.all_reduce(flat, group=self._group, async_op=True)))

    def _gradient(self, number: int) -> Tensor:
        """Gradient of a weight that some process used."""
        weight = self.weights[number]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        return weight.grad


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
