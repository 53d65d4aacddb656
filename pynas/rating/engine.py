"""The evaluation engine: private copies of the layers, and workers that walk the tree of paths.

On a CPU several workers walk subtrees at once, each with one thread: no operator waits at a barrier, and each core keeps its
own features in its own cache. A GPU has one worker and large stacks.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor, nn

from pynas.rating import norms
from pynas.rating.copies import private_copy
from pynas.rating.examination import KeepsState
from pynas.rating.graphs import Count, Walk, graphs_for
from pynas.rating.looks import Looks
from pynas.rating.memory import default_max_bytes, keep_freed_pages
from pynas.rating.norms import PathContext, Streams
from pynas.rating.path_alone import PathAlone
from pynas.rating.replacements import replaced
from pynas.rating.settings import Settings
from pynas.rating.sides import Sides, placed
from pynas.rating.stacking import Stacking
from pynas.rating.state import RandomState
from pynas.rating.tree import Node, PathTree
from pynas.rating.walker import Visit, Walker
from pynas.supernets import device_of

# Subtrees per worker, so that all have work until the end.
_SHARES = 4


class Engine:
    """Runs every path of `tree`, prefix by prefix, inside a `with` block.

    layers: any modules. modes: norm mode of each layer.
    calibration: number of streams, the first ones, that only re-estimate batch-norm statistics.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        tree: PathTree,
        modes: Sequence[str],
        settings: Settings,
        calibration: int = 0,
    ) -> None:
        self._tree, self._modes, self._settings = tree, modes, settings
        self._calibration, self._sides = calibration, Sides()
        self.device = device_of(layers)
        self._workers = (settings.workers or torch.get_num_threads()) if self.device.type == "cpu" else 1
        self.max_bytes = settings.max_bytes or default_max_bytes(self.device)
        enough = (depth for depth in range(tree.depth) if tree.width(depth) >= _SHARES * self._workers)
        self._split = next(enough, tree.depth - 1)
        together = any(hasattr(type(module), "run_together") for module in layers[self._split])
        # Parts of a node's children for the workers, where few nodes lead to the last layer.
        self._pieces = 1 if together else -(-_SHARES * self._workers // tree.width(self._split))
        self._layers, self._random = layers, RandomState(self.device)
        self._alone: PathAlone | None = None
        looks = Looks()
        self._graphs = graphs_for(self.device, settings.graphs, self.max_bytes, looks)
        self._walker = self._make_walker(private_copy(layers, settings.dtype), looks)

    def __enter__(self) -> Engine:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(replaced())
        if self.device.type == "cpu":
            self._stack.enter_context(keep_freed_pages())
        if self._workers > 1:
            self._stack.enter_context(_single_threaded())
            self._pool = self._stack.enter_context(
                ThreadPoolExecutor(self._workers, "pynas-rate", torch.set_num_threads, (1,))
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        if self._graphs is not None:
            self._graphs.clear()
        if self._walker.mixing and error[0] is None and self._alone is None:
            names = ", ".join(sorted(self._walker.mixing))
            warnings.warn(
                f"[rate] not known to keep the samples of a batch apart, so paths run one at a time through: {names}",
                stacklevel=3,
            )

    def go_alone(self, found: KeepsState) -> None:
        """Run each path alone from now on, from the modules' state and the random numbers of when the rating began."""
        self._random.restore()
        if self._graphs is not None:
            self._graphs.clear()
        layers = private_copy(self._layers, self._settings.dtype, weights=found.weights)
        context = PathContext(self._calibration, self._sides)
        self._alone = PathAlone(layers, self._modes, self._tree, context, self._random, found.weights)

    @property
    def certain(self) -> bool:
        """Whether no module seen so far could keep state on later inputs."""
        return not self._walker.mixing

    def evaluate(
        self,
        name: Hashable,
        walk: Walk,
        inputs: Streams,
        targets: list[Any],
        count: Count,
        trials: int = 1,
        sides: Sequence[Any] = (),
    ) -> list[Tensor]:
        """Return `walk(streams, targets, count)`, streams being the inputs as `run` takes them.

        On a GPU a replay of a CUDA graph may give the tensors, which the next evaluation of that name then overwrites; with
        sides Python runs the walk.

        name: of the walk. targets: tensors on the engine's device, or anything that no graph can hold. count: called with
        numbers of paths that are done. trials: batches on which a replay is compared with the walk before it is used. sides:
        side inputs, one per input or none; None where an input has none.
        """
        kind = self._settings.dtype
        streams = [self.place(x.to(kind) if kind and x.is_floating_point() else x) for x in inputs]
        self._sides.give([placed(side, self.device, kind) for side in sides], streams)
        if self._graphs is None or self._alone is not None or self._sides:
            return walk(streams, targets, count)
        return self._graphs.run(name, walk, streams, targets, count, trials)

    def run(self, streams: Streams, visit: Visit, node: Node | None = None) -> None:
        """Call `visit` with the outputs of every path on each stream, some paths at a time, from any worker.

        streams: as `evaluate` gives them to a walk. node: run only its rows of the tree's paths.

        Raises:
            InputError: a candidate that fails on its input, named with its path.
            KeepsState: a candidate whose output depends on what it ran on before; `go_alone` then rates it rightly.
        """
        node = node or self._tree.root
        if self._alone is not None:
            self._alone.run(streams, visit, node)
        elif self._workers == 1:
            with torch.inference_mode():
                self._walker.walk(0, [node], streams, visit)
        else:
            self._share_out(node, streams, visit)

    def _share_out(self, node: Node, streams: Streams, visit: Visit) -> None:
        """Walk the first layers in this thread and the subtrees below in the workers; few wait, so that few features are held."""
        room = threading.Semaphore(2 * self._workers)
        futures: list[Future[None]] = []

        def work(nodes: Sequence[Node], features: Streams) -> None:
            try:
                with torch.inference_mode():
                    self._walker.walk(self._split, nodes, features, visit)
            finally:
                room.release()

        def share(nodes: Sequence[Node], features: Streams) -> None:
            if len(nodes) > 1 or self._pieces == 1:
                submit(nodes, features)
            else:
                for piece in self._tree.pieces(nodes[0], self._pieces):
                    submit([piece], features)

        def submit(nodes: Sequence[Node], features: Streams) -> None:
            room.acquire()
            for future in futures:
                if future.done():
                    future.result()
            futures[:] = [future for future in futures if not future.done()]
            futures.append(self._pool.submit(work, nodes, features))

        try:
            with torch.inference_mode():
                self._walker.walk(0, [node], streams, share, until=self._split)
            for future in futures:
                future.result()
        finally:
            wait([future for future in futures if not future.cancel()])

    def _make_walker(self, layers: Sequence[Sequence[nn.Module]], looks: Looks) -> Walker:
        context = PathContext(self._calibration, self._sides)
        for layer, mode in zip(layers, self._modes):
            norms.install(layer, mode, context)
        widths = [self._tree.width(depth) for depth in range(self._tree.depth + 1)]
        share = self.max_bytes // (self._workers + (self._workers > 1))
        stack = self._settings.stack or ("cache" if self.device.type == "cpu" else "memory")
        return Walker(layers, self._modes, self._tree, context, Stacking(widths, share, stack), looks, self._graphs)

    def place(self, x: Tensor) -> Tensor:
        """Return a tensor detached, on the engine's device and in its features' layout."""
        x = x.detach().to(self.device)
        last = self._settings.channels_last
        if last is None:
            last = self.device.type == "cpu" or self._settings.dtype in (torch.bfloat16, torch.float16)
        return x.contiguous(memory_format=torch.channels_last) if last and x.ndim == 4 else x


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
