"""One candidate of one layer, run on stacked paths with the outputs that each path has alone."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pynas.errors import InputError
from pynas.rating.copies import private_copy
from pynas.rating.examination import Examination, KeepsState
from pynas.rating.fusion import fuse
from pynas.rating.graphs import Graphs
from pynas.rating.norm_calls import NormCalls, following, own_forwards
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs
from pynas.rating.state import Facts, RandomState, changed, facts, sets_attributes
from pynas.rating.thread_copies import Attribute, Seat, ThreadCopies


@dataclass
class _Known:
    """Facts about a candidate on one input shape, found by running it.

    norm_calls: numbers of the calls of batch norm that need statistics of each path, and of all calls in a forward pass.
    mixes_paths: None while it was not compared. proven: numbers of paths and rows on which a run needs no examination.
    """

    contiguous: bool
    changes_input: bool = False
    fused: nn.Module | None = None
    norm_calls: tuple[frozenset[int], int] = (frozenset(), 1)
    mixes_paths: bool | None = None
    proven: set[tuple[int, ...]] = field(default_factory=set)


class Candidate:
    """Runs a module on stacked paths; the first runs on each input shape find out how it must be run.

    A module that writes to its input gets a copy, so that its siblings do not see the change. A module runs on stacked paths
    only where an examination proves that it keeps the paths apart; else path by path. A module that fails on channels-last
    inputs (a `view`) gets contiguous ones. Threads share a fused module, which keeps no state; of any other module each thread
    has a copy.

    copies: copies of all layers, in which `seat` is the candidate's place. mode: its norm mode.
    runs_often: whether so many runs lie ahead that fusing the module's batch norms pays.
    mixing: gets the names of modules that run path by path.
    """

    def __init__(
        self,
        module: nn.Module,
        context: PathContext,
        copies: ThreadCopies,
        seat: Seat,
        mode: str,
        graphs: Graphs | None = None,
        runs_often: bool = True,
        mixing: set[str] | None = None,
    ) -> None:
        self._module, self._context, self._graphs = module, context, graphs
        self._copies, self._seat, self._mode, self._runs_often = copies, seat, mode, runs_often
        self._stored_norms, self._mixing = mode == "running", mixing if mixing is not None else set()
        self._known: dict[tuple[tuple[int, ...], ...], _Known] = {}
        self._examining = threading.Lock()
        self._of_thread: Any = None
        self._changes = set[Attribute]()

    def __call__(self, streams: Streams, paths: int) -> Streams:
        shapes = tuple(tuple(x.shape[1:]) for x in streams)
        known, alone = self._known.get(shapes), None
        if known is None:
            with self._examining:
                if shapes not in self._known:
                    last = [path_rows(x, paths, paths - 1, 1) for x in streams]
                    self._known[shapes], alone = self._first_look(last)
            known = self._known[shapes]
            if paths == 1 and alone is not None:
                return alone
        if known.changes_input:
            streams = [x.clone() for x in streams]
        if (paths, *map(len, streams)) in known.proven:
            return self._run(known, streams, paths)
        return self._examined(known, streams, paths, alone)

    def _run(self, known: _Known, streams: Streams, paths: int, eager: bool = False) -> Streams:
        module = known.fused or self._own()
        if known.contiguous:
            streams = [x.contiguous() for x in streams]
        turns = self._context.turns(streams, paths)
        numbers, count = known.norm_calls
        given = NormCalls(self._context, self._mode, numbers, count) if numbers else contextlib.nullcontext()
        with given:
            if self._graphs is None:
                return [module(x) for x in turns]
            return [self._graphs.run(module, x, paths, eager) for x in turns]

    def _examined(self, known: _Known, streams: Streams, paths: int, alone: Streams | None) -> Streams:
        """Run on numbers of paths and rows that are not proven yet; path by path where paths may meet.

        alone: outputs of the last path, where it ran alone just now.
        """
        if paths == 1:
            return self._alone(known, streams)
        if not known.mixes_paths:
            kept = [x.clone() for x in streams] if known.changes_input else streams
            try:
                outputs, examination = self._watched(known, streams, paths)
                bad = examination.met or examination.open
                if not bad and known.mixes_paths is None and not self._agree(known, kept, outputs, paths, alone):
                    bad = "other outputs than each path alone"
                if not bad:
                    known.mixes_paths = False
                    known.proven.add((paths, *map(len, streams)))
                    return outputs
                self._mixing.add(f"{self._name} ({bad})")
            except (KeepsState, torch.OutOfMemoryError):
                raise
            except Exception:  # one that fails on a path alone, too, is raised below
                self._mixing.add(self._name)
            known.mixes_paths, streams = True, kept
        each = ([path_rows(x, paths, path, 1) for x in streams] for path in range(paths))
        return [torch.cat(parts) for parts in zip(*(self._alone(known, one) for one in each))]

    def _agree(self, known: _Known, streams: Streams, outputs: Streams, paths: int, alone: Streams | None) -> bool:
        """Whether the last of the stacked paths has the outputs that it has alone."""
        if alone is None:
            last = [path_rows(x.clone() if known.changes_input else x, paths, paths - 1, 1) for x in streams]
            alone = self._run(known, last, 1, eager=True)
        return same_outputs([path_rows(y, paths, paths - 1, 1) for y in outputs], alone)

    def _alone(self, known: _Known, streams: Streams) -> Streams:
        """Outputs of one path."""
        rows = (1, *map(len, streams))
        if rows in known.proven:
            return self._run(known, streams, 1)
        outputs, examination = self._watched(known, streams, 1)
        if not examination.open:
            known.proven.add(rows)
        return outputs

    def _watched(
        self, known: _Known, streams: Streams, paths: int, first: bool = False
    ) -> tuple[Streams, Examination]:
        """Run under examination, and again if attributes changed; first: or if batch norm was called as a function.

        Raises:
            KeepsState: the run depends on earlier ones, on random numbers, or leaves what a later one may depend on.
            InputError: batch norm that cannot be given other statistics.
        """
        module = known.fused or self._own()
        again = [x.clone() for x in streams] if known.changes_input else streams
        drawn, before = RandomState(streams[0].device), {} if known.fused else facts(module)
        outputs, examination = self._watch(known, module, streams, paths)
        if first and self._mode != "running" and self._calls_norms(examination, module):
            known.norm_calls = self._norm_calls(module, again)
            outputs, examination = self._watch(known, module, [x.clone() for x in again], paths)
        after = {} if known.fused else facts(module)
        if examination.stored_norm and not self._stored_norms:
            self._check_norms(again)
        if examination.state or drawn.moved():
            raise KeepsState(self._name)
        if before != after:
            second = self._watch(known, module, [x.clone() for x in again], paths)[1]
            if second.state or changed(after, facts(module)):
                raise KeepsState(self._name)
            self._note(before, after)
        return outputs, examination

    def _calls_norms(self, examination: Examination, module: nn.Module) -> bool:
        """Whether batch norm may have been called as a function, or a batch norm has a forward of its own."""
        return examination.any_norm or (self._mode == "recalibrate" and own_forwards(module))

    def _norm_calls(self, module: nn.Module, streams: Streams) -> tuple[frozenset[int], int]:
        calls = NormCalls(self._context, self._mode)
        with calls:
            for x in self._context.turns(streams, 1):
                module(x.clone())
        return following(self._module, module, calls, streams)

    def _note(self, before: Facts, after: Facts) -> None:
        """Note attributes that a run changes; where they cannot be put back for other candidates, have own copies."""
        changes = None if self._of_thread else self._copies.changes(self._seat, before, after)
        if changes is None:
            self._of_thread = self._of_thread or threading.local()
        else:
            self._changes |= changes
            self._copies.note(self._seat, changes)

    def _watch(self, known: _Known, module: nn.Module, streams: Streams, paths: int) -> tuple[Streams, Examination]:
        examination = Examination(self._name, list(module.parameters()), stacked=paths > 1)
        aliases = examination.inputs(streams)
        try:
            with examination.watching():
                outputs = self._run(known, aliases, paths, eager=True)
        except Exception:
            if examination.stopped is not None:
                raise examination.stopped from None
            raise
        examination.check(outputs)
        return outputs, examination

    def _check_norms(self, streams: Streams) -> None:
        """Check that batch norm in operators is meant to use stored statistics: it does so in training mode too.

        Raises:
            InputError: batch norm that follows the mode, or inside TorchScript or a graph, whose mode is fixed.
        """
        fixed = (torch.jit.ScriptModule, fx.GraphModule)
        frozen = any(isinstance(part, fixed) for part in self._module.modules())
        if not frozen:
            copied, drawn = private_copy(self._module, weights=True).train(), RandomState(streams[0].device)
            training = Examination(self._name, ())
            with contextlib.suppress(Exception), training:
                for x in self._context.turns([x.clone() for x in streams], 1):
                    copied(x)
            drawn.restore()
        if frozen or not training.stored_norm:
            raise InputError(
                "[rate] expected batch norms that are modules of their own, for statistics of the batch, got "
                f"{self._name}, which normalises by stored statistics inside its operators (as TorchScript, exported and "
                "functional code does); pass norm='running', or use nn.BatchNorm"
            )
        self._stored_norms = True

    @cached_property
    def _fused(self) -> nn.Module | None:
        return fuse(self._module)

    @property
    def _name(self) -> str:
        return str(getattr(self._module, "original_name", type(self._module).__name__))

    def _own(self) -> nn.Module:
        """This thread's copy, since a forward may keep things on its module."""
        if self._of_thread is None:
            module = self._copies.module(self._seat)
            if self._changes:
                self._copies.note(self._seat, self._changes)
            return module
        if not hasattr(self._of_thread, "module"):
            self._of_thread.module = private_copy(self._module)
        return self._of_thread.module

    def _first_look(self, streams: Streams) -> tuple[_Known, Streams]:
        """Return the facts and the outputs of one path, run on copies of its inputs."""
        if sets_attributes(self._module):
            raise KeepsState(self._name)
        known, plain, examination = self._plain(streams)
        rows = (1, *map(len, streams))
        if not examination.open:
            known.proven.add(rows)
        known.changes_input = examination.writes_input
        known.fused = self._fused if self._runs_often else None
        if known.fused is not None:
            try:
                outputs = self._run(known, [x.clone() for x in streams], 1, eager=True)
            except (RuntimeError, ValueError):
                outputs = []
            if same_outputs(outputs, plain):
                return known, outputs
            known.fused = None
        return known, plain

    def _plain(self, streams: Streams) -> tuple[_Known, Streams, Examination]:
        # Until it is known whether the module writes to its inputs, it gets copies.
        for contiguous in (False, True):
            known = _Known(contiguous, changes_input=True)
            try:
                return known, *self._watched(known, [x.clone() for x in streams], 1, first=True)
            except RuntimeError:
                if contiguous or all(x.is_contiguous() for x in streams):
                    raise
        raise AssertionError


def path_rows(x: Tensor, paths: int, first: int, count: int) -> Tensor:
    """Rows of the stacked paths `first` to `first + count - 1`."""
    batch = x.shape[0] // paths
    return x.narrow(0, first * batch, count * batch)
