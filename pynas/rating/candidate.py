"""One candidate of one layer, run on stacked paths with the outputs that each path has alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pynas.errors import InputError
from pynas.rating.copies import name_of
from pynas.rating.examination import Examination, KeepsState
from pynas.rating.function_calls import NormUse, own_forwards
from pynas.rating.fusion import fuse
from pynas.rating.looks import Looks
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs
from pynas.rating.own_copy import OwnCopy
from pynas.rating.sides import call, cloned, tensors_of
from pynas.rating.state import RandomState, changed, facts, sets_attributes
from pynas.rating.thread_copies import Seat, ThreadCopies


@dataclass
class _Known:
    """Facts about a candidate on inputs and sides of one shape, found by running it.

    norms_called: whether it calls batch norm as a function, with statistics that follow the mode. glanced: whether it was
    not examined. mixes_paths: whether paths may meet in a stack. proven: numbers of paths and rows on which a run needs no
    examination.
    """

    contiguous: bool
    changes_input: bool = False
    fused: nn.Module | None = None
    norms_called: bool = False
    glanced: bool = False
    mixes_paths: bool = False
    proven: set[tuple[int, ...]] = field(default_factory=set)


class Candidate:
    """Runs a module on stacked paths; the first runs on each input shape find out how it must be run.

    A module that writes to its input or side gets copies, so that its siblings do not see the change. A module runs on stacked
    paths only where an examination proves that it keeps the paths apart; else path by path. A module that fails on
    channels-last inputs (a `view`) gets contiguous ones. Threads share a fused module, which keeps no state; of any other
    module each thread has a copy.

    copies: copies of all layers, in which `seat` is the candidate's place. mode: its norm mode. norm_use: for calls of batch
    norm. looks: counts the runs that find something out. runs_often: whether so many runs lie ahead that fusing the module's
    batch norms pays. mixing: gets the names of modules that run path by path.
    """

    def __init__(
        self,
        module: nn.Module,
        context: PathContext,
        copies: ThreadCopies,
        seat: Seat,
        mode: str,
        norm_use: NormUse,
        looks: Looks,
        runs_often: bool = True,
        mixing: set[str] | None = None,
    ) -> None:
        self._module, self._context, self._looks = module, context, looks
        self._copy = OwnCopy(module, context, copies, seat, mode, norm_use)
        self._mode, self._runs_often = mode, runs_often
        self._stored_norms, self._mixing = mode == "running", mixing if mixing is not None else set()
        self._known: dict[object, _Known] = {}
        self._examining = threading.Lock()

    def __call__(self, streams: Streams, paths: int) -> Streams:
        shapes = self._context.sides.key, *(tuple(x.shape[1:]) for x in streams)
        known, alone = self._known.get(shapes), None
        if known is None:
            with self._examining:
                if shapes not in self._known:
                    self._looks.note()
                    last = [path_rows(x, paths, paths - 1, 1) for x in streams]
                    self._known[shapes], alone = self._first_look(last)
            known = self._known[shapes]
            if paths == 1 and alone is not None:
                return alone
        if known.changes_input:
            streams = [x.clone() for x in streams]
        rows = tuple(map(len, streams))
        if (paths, *rows) in known.proven:
            return self._run(known, streams, paths)
        each = (1, *(count // paths for count in rows))
        if not (known.mixes_paths and each in known.proven):
            self._looks.note()
        return self._examined(known, streams, paths, alone)

    def _run(self, known: _Known, streams: Streams, paths: int, sides: Sequence[Any] | None = None) -> Streams:
        """Outputs; sides: None for those of the streams, as copies where the module may write to them."""
        module = known.fused or self._copy.module()
        if known.contiguous:
            streams = [x.contiguous() for x in streams]
        if sides is None and known.changes_input:
            sides = cloned(self._context.sides.stacked(paths))
        turns = self._context.turns(streams, paths, sides)
        with self._copy.norm_calls(module) if known.norms_called else contextlib.nullcontext():
            return [call(module, given) for given in turns]

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
                if not bad and not self._agree(known, kept, outputs, paths, alone):
                    bad = "other outputs than each path alone"
                if not bad:
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
            alone = self._run(known, last, 1)
        return same_outputs([path_rows(y, paths, paths - 1, 1) for y in outputs], alone)

    def _alone(self, known: _Known, streams: Streams) -> Streams:
        """Outputs of one path."""
        rows = (1, *map(len, streams))
        if rows in known.proven:
            return self._run(known, streams, 1)
        if known.glanced and not self._copy.private:
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
        module = known.fused or self._copy.module()
        again = [x.clone() for x in streams] if known.changes_input else streams
        drawn, before = RandomState(streams[0].device), {} if known.fused else facts(self._copy.contents(module).parts)
        outputs, examination = self._watch(known, module, streams, paths)
        recalibrated = self._mode == "recalibrate" and bool(own_forwards(module))
        if first and self._mode != "running" and (examination.any_norm or recalibrated):
            known.norms_called = self._learn(known, module, again)
            if known.norms_called:
                outputs, examination = self._watch(known, module, [x.clone() for x in again], paths)
        after = {} if known.fused else facts(self._copy.contents(module).parts)
        if examination.stored_norm and not self._stored_norms:
            self._copy.check_stored_norms(again, self._name)
            self._stored_norms = True
        if examination.state or drawn.moved():
            raise KeepsState(self._name)
        if before != after:
            second = self._watch(known, module, [x.clone() for x in again], paths)[1]
            if second.state or changed(after, facts(self._copy.contents(module).parts)):
                raise KeepsState(self._name)
            self._copy.note(before, after)
            self._copy.settle()
        return outputs, examination

    def _learn(self, known: _Known, module: nn.Module, streams: Streams) -> bool:
        """Find the calls of batch norm; whether any has statistics that follow the mode."""
        calls = self._copy.function_calls(module)
        with calls:
            self._run(known, [x.clone() for x in streams], 1)
        self._copy.learn(module, calls, self._context.sides.first(streams[0]))
        return self._copy.calls_norms(module, calls)

    def _watch(self, known: _Known, module: nn.Module, streams: Streams, paths: int) -> tuple[Streams, Examination]:
        examination = Examination(self._name, list(module.parameters()))
        aliases = examination.inputs(streams)
        sides = examination.sides(cloned(self._context.sides.stacked(paths)), streams)
        try:
            with examination.watching():
                outputs = self._run(known, aliases, paths, sides)
        except Exception:
            if examination.stopped is not None:
                raise examination.stopped from None
            raise
        examination.check(outputs)
        return outputs, examination

    @cached_property
    def _fused(self) -> nn.Module | None:
        return fuse(self._module, bool(self._context.sides))

    @property
    def _name(self) -> str:
        return name_of(self._module)

    def _first_look(self, streams: Streams) -> tuple[_Known, Streams]:
        """Return the facts and the outputs of one path, run on copies of its inputs."""
        scripted = self._copy.contents(self._copy.module()).scripted
        if scripted and sets_attributes(self._module):
            raise KeepsState(self._name)
        seen = None if self._copy.private or scripted else self._glance(streams)
        rows = (1, *map(len, streams))
        if seen is not None:
            known, plain = seen
            if self._runs_often and rows not in known.proven:
                self._glance_again(known, [x.clone() for x in streams])
        else:
            known, plain, examination = self._plain(streams)
            if not examination.open:
                known.proven.add(rows)
            known.changes_input = examination.writes_input
        known.fused = self._fused if self._runs_often else None
        if known.fused is not None:
            try:
                outputs = self._run(known, [x.clone() for x in streams], 1)
            except Exception:  # a trace may have taken a side for one of another structure
                outputs = []
            if same_outputs(outputs, plain):
                return known, outputs
            known.fused = None
        return known, plain

    def _glance(self, streams: Streams, guess: bool = True) -> tuple[_Known, Streams] | None:
        """Run one path and look at what can be seen without an examination.

        guess: calls of batch norm on statistics that are not known yet follow the mode where all others do.

        Returns None where that does not tell whether the module keeps state.
        """
        known, inputs = _Known(False, glanced=True), [x.clone() for x in streams]
        given = self._context.sides.stacked(1)
        with torch.inference_mode(False):  # so that versions show writes of equal values
            sides = cloned(given)
        everything = [*inputs, *tensors_of(sides)]
        try:
            look = self._copy.glance(lambda: self._run(known, inputs, 1, sides), everything, self._name, guess)
        except InputError:  # of statistics that it may have taken for others
            if not guess:
                raise
            return self._glance(streams, guess=False)
        if look is None:
            return None
        outputs, calls, settled = look
        module = self._copy.module()
        if self._copy.learn(module, calls, self._context.sides.first(streams[0])):
            self._copy.put_back()
            return self._glance(streams)
        known.norms_called = self._copy.calls_norms(module, calls)
        same = all(map(torch.equal, everything, [*streams, *tensors_of(given)]))
        known.changes_input = not same or any(x._version for x in tensors_of(sides))
        if settled:
            known.proven.add((1, *map(len, streams)))
        return known, outputs

    def _glance_again(self, known: _Known, streams: Streams) -> Streams:
        """Outputs of one path of a module that changes its attributes, run for the second time."""
        outputs, settled = self._copy.glance_again(lambda: self._run(known, streams, 1), self._name)
        if settled:
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


def path_rows(x: Tensor, paths: int, first: int, count: int) -> Tensor:
    """Rows of the stacked paths `first` to `first + count - 1`."""
    batch = x.shape[0] // paths
    return x.narrow(0, first * batch, count * batch)
