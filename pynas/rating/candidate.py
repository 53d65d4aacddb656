"""One candidate of one layer, run on stacked paths with the outputs that each path has alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pynas.errors import InputError
from pynas.rating.copies import private_copy
from pynas.rating.examination import Examination, KeepsState
from pynas.rating.function_calls import FunctionCalls, NormUse, WritesWeights, memory, own_forwards
from pynas.rating.fusion import fuse
from pynas.rating.graphs import Graphs
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs
from pynas.rating.state import Facts, RandomState, attributes_set, changed, facts, sets_attributes
from pynas.rating.thread_copies import Attribute, Contents, Seat, ThreadCopies


@dataclass
class _Known:
    """Facts about a candidate on one input shape, found by running it.

    norms_called: whether it calls batch norm as a function, with statistics that follow the mode. glanced: whether it was
    not examined. mixes_paths: None while it was not compared. proven: numbers of paths and rows on which a run needs no
    examination.
    """

    contiguous: bool
    changes_input: bool = False
    fused: nn.Module | None = None
    norms_called: bool = False
    glanced: bool = False
    mixes_paths: bool | None = None
    proven: set[tuple[int, ...]] = field(default_factory=set)


class Candidate:
    """Runs a module on stacked paths; the first runs on each input shape find out how it must be run.

    A module that writes to its input gets a copy, so that its siblings do not see the change. A module runs on stacked paths
    only where an examination proves that it keeps the paths apart; else path by path. A module that fails on channels-last
    inputs (a `view`) gets contiguous ones. Threads share a fused module, which keeps no state; of any other module each thread
    has a copy.

    copies: copies of all layers, in which `seat` is the candidate's place. mode: its norm mode. norm_use: for calls of batch
    norm. runs_often: whether so many runs lie ahead that fusing the module's batch norms and examining a single path pay.
    mixing: gets the names of modules that run path by path.
    """

    def __init__(
        self,
        module: nn.Module,
        context: PathContext,
        copies: ThreadCopies,
        seat: Seat,
        mode: str,
        norm_use: NormUse,
        graphs: Graphs | None = None,
        runs_often: bool = True,
        mixing: set[str] | None = None,
    ) -> None:
        self._module, self._context, self._graphs = module, context, graphs
        self._copies, self._seat, self._mode, self._norm_use = copies, seat, mode, norm_use
        self._runs_often = runs_often
        self._stored_norms, self._mixing = mode == "running", mixing if mixing is not None else set()
        self._known: dict[tuple[tuple[int, ...], ...], _Known] = {}
        self._examining = threading.Lock()
        self._of_thread: Any = None
        # Attributes that a run changes, and those of them that a second run leaves alone.
        self._changes, self._settled = set[Attribute](), set[Attribute]()

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
        with self._function_calls(module) if known.norms_called else contextlib.nullcontext():
            if self._graphs is None:
                return [module(x) for x in turns]
            return [self._graphs.run(module, x, paths, eager) for x in turns]

    def _function_calls(self, module: nn.Module, guarded: bool = False) -> FunctionCalls:
        contents = self._contents(module)
        follow = self._norm_use.follow(contents.statistics)
        return FunctionCalls(self._context, self._mode, follow, contents.weights if guarded else ())

    def _contents(self, module: nn.Module) -> Contents:
        if self._of_thread is None and module is self._copies.module(self._seat):
            return self._copies.contents(self._seat)
        return Contents.of(module, self._module, {})

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
        if known.glanced and self._of_thread is None:
            return self._glance_again(known, streams)
        outputs, examination = self._watched(known, streams, 1)
        if not examination.open:
            known.proven.add(rows)
        return outputs

    def _watched(self, known: _Known, streams: Streams, paths: int, first: bool = False) -> tuple[Streams, Examination]:
        """Run under examination, and again if attributes changed; first: or if batch norm was called as a function.

        Raises:
            KeepsState: the run depends on earlier ones, on random numbers, or leaves what a later one may depend on.
            InputError: batch norm that cannot be given other statistics.
        """
        module = known.fused or self._own()
        again = [x.clone() for x in streams] if known.changes_input else streams
        drawn, before = RandomState(streams[0].device), {} if known.fused else facts(self._contents(module).parts)
        outputs, examination = self._watch(known, module, streams, paths)
        if first and self._mode != "running" and (examination.any_norm or self._own_norms(module)):
            known.norms_called = self._learn(known, module, again)
            if known.norms_called:
                outputs, examination = self._watch(known, module, [x.clone() for x in again], paths)
        after = {} if known.fused else facts(self._contents(module).parts)
        if examination.stored_norm and not self._stored_norms:
            self._check_norms(again)
        if examination.state or drawn.moved():
            raise KeepsState(self._name)
        if before != after:
            second = self._watch(known, module, [x.clone() for x in again], paths)[1]
            if second.state or changed(after, facts(self._contents(module).parts)):
                raise KeepsState(self._name)
            self._note(before, after)
            self._settled |= self._changes
        return outputs, examination

    def _own_norms(self, module: nn.Module) -> bool:
        return self._mode == "recalibrate" and bool(own_forwards(module))

    def _learn(self, known: _Known, module: nn.Module, streams: Streams) -> bool:
        """Find the calls of batch norm; whether any has statistics that follow the mode."""
        calls = self._function_calls(module)
        with calls:
            self._run(known, [x.clone() for x in streams], 1, eager=True)
        self._norm_use.learn(self._module, module, self._contents(module).statistics, calls, streams[0])
        return self._calls_norms(module, calls)

    def _calls_norms(self, module: nn.Module, calls: FunctionCalls) -> bool:
        follow = self._norm_use.follow(self._contents(module).statistics)
        return self._mode != "running" and not follow.isdisjoint(calls.stored)

    def _note(self, before: Facts, after: Facts, written: Iterable[int] = ()) -> bool:
        """Note attributes that a run changes; where they cannot be put back for other candidates, have own copies.

        Returns whether it is not known that a second run leaves them alone.
        """
        changes = None if self._of_thread else self._copies.changes(self._seat, before, after, written)
        if changes is None:
            self._of_thread = self._of_thread or threading.local()
            return True
        self._changes |= changes
        self._copies.note(self._seat, changes, leaves=True)
        return not changes <= self._settled

    def _watch(self, known: _Known, module: nn.Module, streams: Streams, paths: int) -> tuple[Streams, Examination]:
        examination = Examination(self._name, list(module.parameters()))
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
        scripted = self._contents(self._own()).scripted
        if scripted and sets_attributes(self._module):
            raise KeepsState(self._name)
        seen = None if self._runs_often or self._of_thread or scripted else self._glance(streams)
        if seen is not None:
            return seen
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

    def _glance(self, streams: Streams) -> tuple[_Known, Streams] | None:
        """Run one path and look at what can be seen without an examination, for a module that runs few times.

        Returns None where that does not tell whether the module keeps state.
        """
        known, module, inputs = _Known(False, glanced=True), self._own(), [x.clone() for x in streams]
        contents, drawn = self._contents(module), RandomState(streams[0].device)
        before, versions = facts(contents.watched), _versions(contents.buffers)
        calls = self._function_calls(module, guarded=True)
        try:
            with attributes_set() as written, calls:
                outputs = self._run(known, inputs, 1, eager=True)
        except (RuntimeError, WritesWeights):
            self._copies.forget()
            return None
        after = facts(contents.watched)
        if calls.reads or versions != _versions(contents.buffers):
            self._copies.forget()
            return None
        if drawn.moved():
            raise KeepsState(self._name)
        news = self._note(before, after, written)
        if self._of_thread or self._copies.keeps_results(self._seat, self._changes):
            self._copies.forget()
            return None
        if self._norm_use.learn(self._module, module, contents.statistics, calls, streams[0]):
            self._copies.put_back(self._seat)
            return self._glance(streams)
        known.norms_called = self._calls_norms(module, calls)
        known.changes_input = not all(map(torch.equal, inputs, streams))
        if not news:
            known.proven.add((1, *map(len, streams)))
        return known, outputs

    def _glance_again(self, known: _Known, streams: Streams) -> Streams:
        """Outputs of one path of a module that changes its attributes, run for the second time: it must not change them on.

        Raises:
            KeepsState: a module that does.
        """
        module = self._own()
        watching, second = self._contents(module).watched, self._copies.leave(self._seat)
        before = facts(watching)
        with attributes_set() as written:
            outputs = self._run(known, streams, 1)
        after = facts(watching)
        if not second:  # another thread's copy, on which it did not run yet
            self._note(before, after, written)
            return outputs
        changes = self._copies.changes(self._seat, {}, {}, written)
        if changed(before, after) or not self._copies.kept(self._seat, changes or ()):
            raise KeepsState(self._name)
        self._settled |= self._changes
        known.proven.add((1, *map(len, streams)))
        return outputs

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


def _versions(buffers: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Numbers that change when buffers are written to."""
    return [(x._version, memory(x)) for x in buffers]


def path_rows(x: Tensor, paths: int, first: int, count: int) -> Tensor:
    """Rows of the stacked paths `first` to `first + count - 1`."""
    batch = x.shape[0] // paths
    return x.narrow(0, first * batch, count * batch)
