"""Rating without shared prefixes: every path alone, from the state that its modules had when the rating began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.rating import norms
from pynas.rating.copies import private_copy
from pynas.rating.failure import failure, misfit
from pynas.rating.function_calls import FunctionCalls, NormUse, statistics_of
from pynas.rating.norms import PathContext, Streams
from pynas.rating.sides import Arguments, call, cloned
from pynas.rating.state import RandomState
from pynas.rating.tree import Node, Path, PathTree
from pynas.rating.walker import Visit


class PathAlone:
    """Runs whole paths, one after the other, each with fresh copies of its modules, for modules that keep state.

    A path takes the batches in turn, so state passes from batch to batch as it does in a loop over the batches.

    layers: private copies. modes: norm mode of each layer. context: with the number of calibration batches, and the sides.
    random: random numbers from which every path starts. weights: copy the weights too.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        modes: Sequence[str],
        tree: PathTree,
        context: PathContext,
        random: RandomState,
        weights: bool,
    ) -> None:
        self._layers, self._tree, self._random, self._weights = layers, tree, random, weights
        self._context, self._modes = context, modes
        self._norm_use, self._looked_at = NormUse(), set[tuple[object, ...]]()
        for layer, mode in zip(layers, modes):
            norms.install(layer, mode, self._context)

    def run(self, streams: Streams, visit: Visit, node: Node) -> None:
        """Call `visit` with the outputs of every path below `node` on each stream, one path at a time.

        Raises:
            InputError: a candidate that fails on its input, named with its path.
        """
        here = RandomState(streams[0].device)
        try:
            for row in range(node.start, node.stop):
                leaf = Node(row, row + 1)
                self._random.restore()
                with torch.inference_mode():
                    visit([leaf], self._outputs(self._tree.prefix(leaf, self._tree.depth), streams))
        finally:
            here.restore()

    def _outputs(self, path: Path, streams: Streams) -> Streams:
        modules = private_copy([layer[choice] for layer, choice in zip(self._layers, path)], weights=self._weights)
        outputs = []
        for x, *side in self._context.turns(streams, 1):
            y = x.clone(memory_format=torch.contiguous_format)  # a module may write to its input
            for depth, module in enumerate(modules):
                y = self._output(module, y, cloned(side), depth, path)
            outputs.append(y)
        return outputs

    def _output(self, module: nn.Module, x: Tensor, side: Sequence[Any], depth: int, path: Path) -> Tensor:
        try:
            x = x.contiguous()
            with self._calls(module, (x, *side), depth, path[depth]):
                y = call(module, (x, *side))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise failure(self._tree.place(path, depth), x, error) from error
        if wrong := misfit(x, y):
            raise failure(self._tree.place(path, depth), x, wrong)
        return y

    def _calls(self, module: nn.Module, given: Arguments, depth: int, choice: int) -> FunctionCalls:
        """Context that gives calls of batch norm the statistics of each path."""
        template, mode = self._layers[depth][choice], self._modes[depth]
        x = given[0]
        key = depth, choice, x.shape[1:], len(given)
        if key not in self._looked_at and mode != "running":
            self._looked_at.add(key)
            run, drawn = private_copy(template, weights=True), RandomState(x.device)
            calls = FunctionCalls(self._context, mode)
            with calls:
                call(run, cloned(given))
            drawn.restore()
            self._norm_use.learn(template, run, statistics_of(template, run), calls, given)
        return FunctionCalls(self._context, mode, self._norm_use.follow(statistics_of(template, module)))
