"""Sharing beyond prefixes: candidates that compute their common part once.

A candidate's class may have

    @classmethod
    def run_together(cls, candidates, x): ...     # -> one output per candidate, each as `candidate(x)` would give it

Slimmable and weight-entangled layers compute the widest output and slice it, a linear layer's input widths by
accumulation (y_j = y_{j-1} + x[:, k_{j-1}:k_j] W[:, k_{j-1}:k_j]^T), attention heads once for all numbers of heads. The
engine then calls it with all siblings of that class that a parent's paths need. The first time, the outputs are compared
with those of each candidate alone, on inputs of another shape with those of one of them in turn; where they differ,
each runs alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from torch import nn

from pynas.rating.candidate import path_rows
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs

Run = Callable[[int, Streams, int], Streams]


class Together:
    """Runs the candidates of a layer that share work. run(candidate, streams, paths): runs one of them alone."""

    def __init__(self, layer: Sequence[nn.Module], context: PathContext, run: Run) -> None:
        self._layer, self._context, self._run = layer, context, run
        self._agrees: dict[tuple[int, ...], dict[object, bool]] = {}
        self._examining = threading.Lock()

    def family(self, candidate: int) -> type | None:
        """The class that a candidate shares work with, if any."""
        kind = type(self._layer[candidate])
        return kind if hasattr(kind, "run_together") else None

    def __call__(self, candidates: Sequence[int], streams: Streams, paths: int) -> list[Streams] | None:
        """The outputs of each candidate; None if they have to run alone."""
        key, shapes = tuple(candidates), tuple(tuple(x.shape[1:]) for x in streams)
        few = min(paths, 2)
        with self._examining:
            agrees = self._agrees.setdefault(key, {})
            if shapes not in agrees:
                some = [path_rows(x, paths, 0, few) for x in streams]
                agrees[shapes], outputs = self._examine(key, len(agrees), some, few)
                if few == paths and agrees[shapes]:
                    return outputs
        return self._all(key, streams, paths) if agrees[shapes] else None

    def _all(self, candidates: Sequence[int], streams: Streams, paths: int) -> list[Streams]:
        modules = [self._layer[candidate] for candidate in candidates]
        kind = type(modules[0])
        by_stream = [kind.run_together(modules, x) for x in self._context.turns(streams, paths)]  # type: ignore[attr-defined]
        return [list(outputs) for outputs in zip(*by_stream)]

    def _examine(
        self, candidates: Sequence[int], seen: int, streams: Streams, paths: int
    ) -> tuple[bool, list[Streams]]:
        """Whether they agree, and the outputs; seen: the number of other shapes examined."""
        copies = [x.clone() for x in streams]
        together = self._all(candidates, copies, paths)
        kept = all((a == b).all() for a, b in zip(copies, streams))
        looked_at = range(len(candidates)) if seen == 0 else [(seen - 1) % len(candidates)]
        agree = (same_outputs(together[k], self._run(candidates[k], streams, paths)) for k in looked_at)
        return kept and len(together) == len(candidates) and all(agree), together
