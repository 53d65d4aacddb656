"""Depth-first walk of the tree of paths, which computes every prefix once.

A node's feature is kept while its subtree is walked. Parents are stacked path-major on the batch axis, as many as `Stacking`
allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating.candidate import Candidate, path_rows
from pynas.rating.examination import KeepsState
from pynas.rating.failure import failure, misfit
from pynas.rating.function_calls import NormUse
from pynas.rating.graphs import Graphs
from pynas.rating.looks import Looks
from pynas.rating.norms import PathContext, Streams
from pynas.rating.shared_work import SharedWork
from pynas.rating.stacking import Stacking
from pynas.rating.thread_copies import ThreadCopies
from pynas.rating.tree import Branch, Node, PathTree

# Called with leaves and their stacked outputs, one tensor per stream.
Visit = Callable[[Sequence[Node], Streams], None]
# A candidate with fewer runs per batch is not worth the time to trace it.
_OFTEN = 8
# Nodes with their stacked features; every entry has one shape.
Waiting = list[tuple[Sequence[Node], Streams]]


class Walker:
    """Walks subtrees, on any number of threads at once.

    layers: private copies, with their norms installed on `context` for the norm mode of each layer. looks: counts the runs that
    find something out. graphs: recordings, freed when memory runs out. mixing: names of the modules that run path by path.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        modes: Sequence[str],
        tree: PathTree,
        context: PathContext,
        stacking: Stacking,
        looks: Looks,
        graphs: Graphs | None = None,
    ) -> None:
        self._looks, self._graphs, self._sides, self.mixing = looks, graphs, context.sides, set[str]()
        copies, norm_use = ThreadCopies(layers), NormUse()
        self._layers = [
            [
                Candidate(module, context, copies, (depth, k), mode, norm_use, looks, runs[k] >= _OFTEN, self.mixing)
                for k, module in enumerate(layer)
            ]
            for depth, (layer, mode) in enumerate(zip(layers, modes))
            for runs in [tree.runs(depth, len(layer))]
        ]
        self._shared = [SharedWork(layer, context, looks) for layer in layers]
        self._tree, self._stacking = tree, stacking
        # Most outputs of any linear layer or convolution inside the candidates of each layer.
        weights = [[x for module in layer for x in module.parameters() if x.ndim > 1] for layer in layers]
        self._widest = [max((len(x) for x in some), default=1) for some in weights]
        self._shapes: list[dict[int, tuple[int, ...]]] = [{} for _ in layers]

    def walk(self, depth: int, nodes: Sequence[Node], streams: Streams, visit: Visit, until: int | None = None) -> None:
        """Call `visit` with all leaves below `nodes`, or with all nodes of the depth `until`, some at a time.

        Raises:
            InputError: a candidate that fails on its input, named with its path.
            KeepsState: a candidate whose output depends on what it ran on before.
        """
        self._walk(depth, [(nodes, streams)], visit, until)

    def _walk(self, depth: int, groups: Waiting, visit: Visit, until: int | None) -> None:
        """Walk groups of nodes, each with features of one shape; children of equal shape are stacked across the groups."""
        if depth == (len(self._layers) if until is None else until):
            for nodes, streams in groups:
                visit(nodes, streams)
            return
        waiting: Waiting = []
        for nodes, streams in groups:
            first = 0
            while first < len(nodes):
                some = nodes[first : first + self._limit(depth, streams[-1], _size(streams, len(nodes)))]
                parents = [path_rows(x, len(nodes), first, len(some)) for x in streams]
                self._step(depth, some, parents, waiting, visit, until)
                first += len(some)
        self._flush(depth + 1, waiting, visit, until)

    def _step(
        self, depth: int, nodes: Sequence[Node], streams: Streams, waiting: Waiting, visit: Visit, until: int | None
    ) -> None:
        """Run the candidates of a layer on stacked parents; walk on whenever the waiting children fill a stack."""
        for branches in self._families(depth, nodes):
            new = sum(len(branch.children) for branch in branches)
            if waiting and not self._has_room(depth + 1, waiting, new):
                self._flush(depth + 1, waiting, visit, until)
            outputs_of = self._apply(depth, branches, nodes, streams)
            for branch in branches:
                outputs = outputs_of.pop(0)
                size = _size(outputs, len(branch.children))
                if waiting and not self._has_room(depth + 1, waiting, len(branch.children), size):
                    self._flush(depth + 1, waiting, visit, until)
                waiting.append((branch.children, outputs))
                del outputs

    def _has_room(self, depth: int, waiting: Waiting, new: int, size: int = 0) -> bool:
        """Whether `new` more children of `size` bytes (0: of the largest size so far) may wait; leaves do not wait."""
        if depth == len(self._layers):
            return False
        held = [(len(nodes), _size(streams, len(nodes))) for nodes, streams in waiting]
        largest = max(size, *(each for _, each in held))
        total = sum(count * each for count, each in held) + new * (size or largest)
        return total <= largest * self._limit(depth, waiting[0][1][-1], largest)

    def _limit(self, depth: int, x: Tensor, size: int) -> int:
        """Parents to stack whose features, like x, take `size` bytes each."""
        channels = x.shape[-1 if x.ndim == 3 else min(1, x.ndim - 1)]
        return self._stacking.limit(depth, size, self._widest[depth] / max(channels, 1))

    def _flush(self, depth: int, waiting: Waiting, visit: Visit, until: int | None) -> None:
        """Stack the waiting children by shape, and walk on."""
        by_shape: dict[object, Waiting] = {}
        for nodes, streams in waiting:
            by_shape.setdefault(tuple(x.shape[1:] for x in streams), []).append((nodes, streams))
        waiting.clear()
        groups: Waiting = []
        while by_shape:
            _, parts = by_shape.popitem()
            nodes = [node for some, _ in parts for node in some]
            stacked = zip(*(streams for _, streams in parts))
            groups.insert(0, (nodes, [x[0] if len(x) == 1 else torch.cat(x) for x in stacked]))
        if groups:
            self._walk(depth, groups, visit, until)

    def _families(self, depth: int, nodes: Sequence[Node]) -> Iterator[list[Branch]]:
        """Branches of a layer in lists: those of one list share work and start from the same parents."""
        families: dict[object, list[Branch]] = {}
        for branch in self._tree.branches(depth, nodes):
            family = self._shared[depth].family(branch.candidate)
            families.setdefault((family, branch.parents) if family else branch.candidate, []).append(branch)
        yield from families.values()

    def _apply(self, depth: int, branches: Sequence[Branch], nodes: Sequence[Node], streams: Streams) -> list[Streams]:
        """Outputs of each branch; the branches start from the same parents."""
        parents = branches[0].parents
        if parents != tuple(range(len(nodes))):
            streams = [torch.cat([path_rows(x, len(nodes), parent, 1) for parent in parents]) for x in streams]
        every = self._share(depth, branches, streams) if len(branches) > 1 else None
        if every is None:
            every = [self._alone(depth, branch, streams) for branch in branches]
        for branch, outputs in zip(branches, every):
            self._check(depth, branch, streams, outputs)
        return every

    def _share(self, depth: int, branches: Sequence[Branch], streams: Streams) -> list[Streams] | None:
        """Outputs of all branches from one shared run; None where that fails, and running each alone then names the error."""
        try:
            candidates, paths = [branch.candidate for branch in branches], len(branches[0].children)
            return self._shared[depth](candidates, streams, paths, partial(self._run, depth))
        except KeepsState:
            raise
        except Exception:
            return None

    def _alone(self, depth: int, branch: Branch, streams: Streams) -> Streams:
        try:
            return self._run(depth, branch.candidate, streams, len(branch.children))
        except (torch.OutOfMemoryError, KeepsState):
            raise
        except Exception as error:
            raise self._failure(depth, branch, streams, error) from error

    def _check(self, depth: int, branch: Branch, streams: Streams, outputs: Streams) -> None:
        for x, y in zip(streams, outputs):
            if wrong := misfit(x, y):
                raise self._failure(depth, branch, streams, wrong)
        self._shapes[depth][branch.candidate] = tuple(outputs[-1].shape[1:])

    def _run(self, depth: int, candidate: int, streams: Streams, paths: int) -> Streams:
        """Run a candidate; when memory runs out, run it in halves, and stack less from then on."""
        try:
            return self._layers[depth][candidate](streams, paths)
        except torch.OutOfMemoryError:
            if paths == 1 or self._looks.refusing:
                raise
        # Outside of the handler, so that the failed run's tensors are free by now.
        self._stacking.too_large(depth, paths)
        self._sides.forget()
        if self._graphs is not None:
            self._graphs.clear()
        half = paths // 2
        parts = [
            self._run(depth, candidate, [path_rows(x, paths, first, count) for x in streams], count)
            for first, count in ((0, half), (half, paths - half))
        ]
        return [torch.cat(pair) for pair in zip(*parts)]

    def _failure(self, depth: int, branch: Branch, streams: Streams, error: Exception | str) -> InputError:
        place = self._tree.place(self._tree.prefix(branch.children[0], depth + 1), depth)
        failed, shapes = failure(place, streams[-1], error), self._shapes[depth - 1] if depth else {}
        if isinstance(error, InputError) or len(set(shapes.values())) < 2:
            return failed
        listed = ", ".join(f"candidate {c}: {shape}" for c, shape in sorted(shapes.items()))
        return InputError(f"{failed}; the outputs of layer {depth - 1} disagree in shape: {listed}")


def _size(streams: Streams, paths: int) -> int:
    """Bytes of one path's features."""
    return sum(x.nbytes for x in streams) // paths
