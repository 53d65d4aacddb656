"""Candidates of a layer that share weights: their common part is computed once.

A candidate's class may have

    @classmethod
    def run_together(cls, candidates, x): ...     # returns one output per candidate, each equal to `candidate(x)`

and takes `(candidates, x, side)` where batches have side inputs.

Slimmable and weight-entangled layers compute the widest output and slice it, a linear layer's input widths by
accumulation (y_j = y_{j-1} + x[:, k_{j-1}:k_j] W[:, k_{j-1}:k_j]^T), attention heads once for all numbers of heads. The
engine then calls it with all siblings of that class that a parent's paths need. On the first inputs the outputs are compared
with those of every candidate alone, and on inputs of each further shape with those of one candidate in turn; where they
differ, or where an examination does not prove that the paths stay apart, each candidate runs alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from pynas.rating.candidate import path_rows
from pynas.rating.examination import Examination
from pynas.rating.looks import Looks
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs
from pynas.rating.sides import cloned, tensors_of

Run = Callable[[int, Streams, int], Streams]


class SharedWork:
    """Runs the candidates of one layer that share work.

    looks: counts the runs that find something out.
    """

    def __init__(self, layer: Sequence[nn.Module], context: PathContext, looks: Looks) -> None:
        self._layer, self._context, self._looks = layer, context, looks
        self._agrees: dict[tuple[int, ...], dict[object, bool]] = {}
        self._proven: dict[tuple[object, ...], bool] = {}
        self._examining = threading.Lock()

    def family(self, candidate: int) -> type | None:
        """Class of the candidates that a candidate shares work with; None where it shares none."""
        kind = type(self._layer[candidate])
        return kind if hasattr(kind, "run_together") else None

    def __call__(self, candidates: Sequence[int], streams: Streams, paths: int, run: Run) -> list[Streams] | None:
        """Outputs of each candidate; None where they have to run alone.

        run: called with (candidate, streams, paths), runs one candidate alone.
        """
        key, shapes = tuple(candidates), (self._context.sides.key, *(tuple(x.shape[1:]) for x in streams))
        few = min(paths, 2)
        with self._examining:
            agrees = self._agrees.setdefault(key, {})
            if shapes not in agrees:
                self._looks.note()
                some = [path_rows(x, paths, 0, few) for x in streams]
                agrees[shapes], outputs = self._examine(key, len(agrees), some, few, run)
                if few == paths and agrees[shapes]:
                    return outputs
        return self._proved(key, streams, paths) if agrees[shapes] else None

    def _proved(self, candidates: tuple[int, ...], streams: Streams, paths: int) -> list[Streams] | None:
        """Outputs of each candidate, where an examination of such a run finds that the paths stay apart."""
        key = (candidates, paths, self._context.sides.key, *(x.shape for x in streams))
        if key in self._proven:
            return self._all(candidates, streams, paths) if self._proven[key] else None
        self._looks.note()
        modules = [self._layer[candidate] for candidate in candidates]
        weights = [weight for module in modules for weight in module.parameters()]
        examination = Examination(type(modules[0]).__name__, weights)
        sides = examination.sides(cloned(self._context.sides.stacked(paths)), streams)
        with examination.watching():
            outputs = self._all(candidates, examination.inputs(streams), paths, sides)
        for each in outputs:
            examination.check(each)
        bad = examination.met or examination.open or examination.state or examination.writes_input
        self._proven[key] = not bad
        return None if bad else outputs

    def _all(
        self, candidates: Sequence[int], streams: Streams, paths: int, sides: Sequence[Any] | None = None
    ) -> list[Streams]:
        modules = [self._layer[candidate] for candidate in candidates]
        kind = type(modules[0])
        turns = self._context.turns(streams, paths, sides)
        by_stream = [kind.run_together(modules, *given) for given in turns]  # type: ignore[attr-defined]
        return [list(outputs) for outputs in zip(*by_stream)]

    def _examine(
        self, candidates: Sequence[int], seen: int, streams: Streams, paths: int, run: Run
    ) -> tuple[bool, list[Streams]]:
        """Compare with candidates run alone, and return the outputs too; seen: number of other shapes compared before."""
        given = self._context.sides.stacked(paths)
        copies, sides = [x.clone() for x in streams], cloned(given)
        outputs = self._all(candidates, copies, paths, sides)
        unchanged = all(map(torch.equal, [*copies, *tensors_of(sides)], [*streams, *tensors_of(given)]))
        compared = range(len(candidates)) if seen == 0 else [(seen - 1) % len(candidates)]
        agree = (same_outputs(outputs[k], run(candidates[k], streams, paths)) for k in compared)
        return unchanged and len(outputs) == len(candidates) and all(agree), outputs
