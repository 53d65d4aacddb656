"""The evaluation engine: walks the tree of paths, so that every prefix is computed once.

A node's feature is kept while its subtree is walked, depth first. Parents are stacked on the batch axis, path-major,
as far as `capacity` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating.norms import PathContext
from pynas.rating.tree import Branch, Node, PathTree

# Called with leaves and their stacked outputs.
Visit = Callable[[Sequence[Node], Tensor], None]


class Candidate:
    """One candidate of one layer: runs it on stacked paths, and keeps it from changing its input for its siblings."""

    def __init__(self, module: nn.Module, context: PathContext) -> None:
        self._module, self._context = module, context
        self._seen: dict[tuple[int, ...], bool] = {}

    def __call__(self, x: Tensor, paths: int) -> Tensor:
        self._context.paths = paths
        shape = tuple(x.shape[1:])
        if shape not in self._seen:
            return self._first(x, shape)
        return self._module(x.clone() if self._seen[shape] else x)

    def _first(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        # Inference tensors count no versions: outside of inference mode a copy tells whether it was written to.
        with torch.inference_mode(False), torch.no_grad():
            guarded = x.clone()
            version = guarded._version
            y = self._module(guarded)
            self._seen[shape] = guarded._version != version
            return y


class Engine:
    """Runs every path of `tree` on a batch, prefix by prefix.

    layers: private copies, with their norms installed on `context`. capacity(depth): parents to stack at a depth.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        tree: PathTree,
        context: PathContext,
        capacity: Callable[[int], int] = lambda depth: 1,
    ) -> None:
        self._layers = [[Candidate(module, context) for module in layer] for layer in layers]
        self._tree, self._capacity = tree, capacity
        self._shapes: list[dict[int, tuple[int, ...]]] = [{} for _ in layers]

    def run(self, x: Tensor, visit: Visit) -> None:
        """Call `visit` with every path's output on the batch `x`, some paths at a time.

        Raises:
            InputError: a candidate that fails on its input, named with its path.
        """
        with torch.inference_mode():
            self._walk(0, [self._tree.root], x, visit)

    def _walk(self, depth: int, nodes: Sequence[Node], x: Tensor, visit: Visit) -> None:
        if depth == len(self._layers):
            visit(nodes, x)
            return
        batch = x.shape[0] // len(nodes)
        step = max(1, self._capacity(depth))
        for first in range(0, len(nodes), step):
            some = nodes[first : first + step]
            self._grow(depth, some, x.narrow(0, first * batch, len(some) * batch), visit)

    def _grow(self, depth: int, nodes: Sequence[Node], x: Tensor, visit: Visit) -> None:
        """Run the candidates of a layer on stacked parents; walk on as soon as enough children are stacked."""
        waiting: list[tuple[Sequence[Node], Tensor]] = []
        count = 0
        leaf = depth + 1 == len(self._layers)
        limit = 0 if leaf else self._capacity(depth + 1)
        for branch in self._tree.branches(depth, nodes):
            y = self._apply(depth, branch, nodes, x)
            full = count + len(branch.children) > limit
            if waiting and (full or y.shape[1:] != waiting[0][1].shape[1:]):
                self._flush(depth + 1, waiting, visit)
                count = 0
            waiting.append((branch.children, y))
            count += len(branch.children)
            del y
        self._flush(depth + 1, waiting, visit)

    def _flush(self, depth: int, waiting: list[tuple[Sequence[Node], Tensor]], visit: Visit) -> None:
        nodes = [node for some, _ in waiting for node in some]
        x = waiting[0][1] if len(waiting) == 1 else torch.cat([y for _, y in waiting])
        waiting.clear()
        self._walk(depth, nodes, x, visit)

    def _apply(self, depth: int, branch: Branch, nodes: Sequence[Node], x: Tensor) -> Tensor:
        batch = x.shape[0] // len(nodes)
        if branch.parents != tuple(range(len(nodes))):
            x = torch.cat([x.narrow(0, parent * batch, batch) for parent in branch.parents])
        paths = len(branch.children)
        try:
            y = self._layers[depth][branch.candidate](x, paths)
        except torch.OutOfMemoryError:
            raise
        except InputError:
            raise
        except Exception as error:
            raise InputError(self._failure(depth, branch, x, f"{type(error).__name__}: {error}")) from error
        if not isinstance(y, Tensor) or y.ndim == 0 or y.shape[0] != x.shape[0]:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise InputError(self._failure(depth, branch, x, f"{got} instead of a tensor with as many rows"))
        self._shapes[depth][branch.candidate] = tuple(y.shape[1:])
        return y

    def _failure(self, depth: int, branch: Branch, x: Tensor, what: str) -> str:
        prefix = self._tree.prefix(branch.children[0], depth)
        message = (
            f"[rate] expected candidate {branch.candidate} of layer {depth} to run after the path {prefix} "
            f"on an input of the shape {tuple(x.shape[1:])} per sample, got {what}"
        )
        shapes = self._shapes[depth - 1] if depth else {}
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"candidate {c}: {shape}" for c, shape in sorted(shapes.items()))
            message += f"; the outputs of layer {depth - 1} disagree in shape: {listed}"
        return message
