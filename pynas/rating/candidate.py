"""One candidate of one layer, run on stacked paths with the outputs that each path has alone."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from pynas.errors import InputError
from pynas.rating.copies import private_copy
from pynas.rating.examination import Examination, KeepsState
from pynas.rating.fusion import fuse
from pynas.rating.graphs import Graphs
from pynas.rating.norms import PathContext, Streams
from pynas.rating.outputs import same_outputs
from pynas.rating.state import RandomState, changed, facts, sets_attributes


@dataclass
class _Known:
    """Facts about a candidate on one input shape, found by running it.

    mixes_paths: None while it was not compared. proven: numbers of paths and rows on which a run needs no examination.
    """

    contiguous: bool
    changes_input: bool = False
    fused: nn.Module | None = None
    mixes_paths: bool | None = None
    proven: set[tuple[int, ...]] = field(default_factory=set)


class Candidate:
    """Runs a module on stacked paths; the first runs on each input shape find out how it must be run.

    A module that writes to its input gets a copy, so that its siblings do not see the change. A module runs on stacked paths
    only where an examination proves that it keeps the paths apart; else path by path. A module that fails on channels-last
    inputs (a `view`) gets contiguous ones. Threads share a fused module, which keeps no state; of any other module each thread
    has a copy.

    stored_norms: whether a batch norm inside the module's operators may use its stored statistics.
    mixing: gets the names of modules that run path by path.
    """

    def __init__(
        self,
        module: nn.Module,
        context: PathContext,
        graphs: Graphs | None = None,
        stored_norms: bool = True,
        mixing: set[str] | None = None,
    ) -> None:
        self._module, self._context, self._graphs = module, context, graphs
        self._stored_norms, self._mixing = stored_norms, mixing if mixing is not None else set()
        self._known: dict[tuple[tuple[int, ...], ...], _Known] = {}
        self._examining = threading.Lock()
        self._of_thread = threading.local()

    def __call__(self, streams: Streams, paths: int) -> Streams:
        shapes = tuple(tuple(x.shape[1:]) for x in streams)
        known, outputs = self._known.get(shapes), None
        if known is None:
            with self._examining:
                if shapes not in self._known:
                    self._known[shapes], outputs = self._first_look([path_rows(x, paths, 0, 1) for x in streams])
            known = self._known[shapes]
            if paths == 1 and outputs is not None:
                return outputs
        if known.changes_input:
            streams = [x.clone() for x in streams]
        if (paths, *map(len, streams)) in known.proven:
            return self._run(known, streams, paths)
        return self._examined(known, streams, paths)

    def _run(self, known: _Known, streams: Streams, paths: int, eager: bool = False) -> Streams:
        module = known.fused or self._own()
        if known.contiguous:
            streams = [x.contiguous() for x in streams]
        turns = self._context.turns(streams, paths)
        if self._graphs is None:
            return [module(x) for x in turns]
        return [self._graphs.run(module, x, paths, eager) for x in turns]

    def _examined(self, known: _Known, streams: Streams, paths: int) -> Streams:
        """Run on numbers of paths and rows that are not proven yet; path by path where paths may meet."""
        if paths > 1 and known.mixes_paths is None:
            known.mixes_paths = self._mixes(known, [path_rows(x, paths, 0, 2) for x in streams])
            if known.mixes_paths:
                self._mixing.add(self._name)
        if paths > 1 and not known.mixes_paths:
            kept = [x.clone() for x in streams] if known.changes_input else streams
            try:
                outputs, examination = self._watched(known, streams, paths)
                if not examination.met and not examination.open:
                    known.proven.add((paths, *map(len, streams)))
                    return outputs
                self._mixing.add(f"{self._name} ({examination.met or examination.open})")
            except (KeepsState, torch.OutOfMemoryError):
                raise
            except Exception:  # one that fails on a path alone, too, is raised below
                self._mixing.add(self._name)
            known.mixes_paths, streams = True, kept
        if paths > 1:
            alone = [[path_rows(x, paths, path, 1) for x in streams] for path in range(paths)]
            return [torch.cat(parts) for parts in zip(*(self._alone(known, one) for one in alone))]
        return self._alone(known, streams)

    def _alone(self, known: _Known, streams: Streams) -> Streams:
        """Outputs of one path."""
        rows = (1, *map(len, streams))
        if rows in known.proven:
            return self._run(known, streams, 1)
        outputs, examination = self._watched(known, streams, 1)
        if not examination.open:
            known.proven.add(rows)
        return outputs

    def _watched(self, known: _Known, streams: Streams, paths: int) -> tuple[Streams, Examination]:
        """Run under examination, and again if attributes changed.

        Raises:
            KeepsState: the run depends on earlier ones, on random numbers, or leaves what a later one may depend on.
            InputError: batch norm that cannot be given other statistics.
        """
        module = known.fused or self._own()
        again = [x.clone() for x in streams] if known.changes_input else streams
        drawn, before = RandomState(streams[0].device), {} if known.fused else facts(module)
        outputs, examination = self._watch(known, module, streams, paths)
        after = {} if known.fused else facts(module)
        if examination.stored_norm and not self._stored_norms:
            self._check_norms(again)
        if examination.state or drawn.moved():
            raise KeepsState(self._name)
        if before != after:
            second = self._watch(known, module, [x.clone() for x in again], paths)[1]
            if second.state or changed(after, facts(module)):
                raise KeepsState(self._name)
        return outputs, examination

    def _watch(self, known: _Known, module: nn.Module, streams: Streams, paths: int) -> tuple[Streams, Examination]:
        examination = Examination(self._name, list(module.parameters()))
        aliases = examination.inputs(streams)
        try:
            with examination:
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
        known.fused = self._fused
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
                return known, *self._watched(known, [x.clone() for x in streams], 1)
            except RuntimeError:
                if contiguous or all(x.is_contiguous() for x in streams):
                    raise
        raise AssertionError

    def _mixes(self, known: _Known, streams: Streams) -> bool:
        """Whether two stacked paths give other outputs than one by one, or fail."""
        alone = [
            self._run(known, [path_rows(x.clone(), 2, path, 1) for x in streams], 1, eager=True) for path in range(2)
        ]
        try:
            stacked = self._run(known, [x.clone() for x in streams], 2, eager=True)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return True
        return not same_outputs(stacked, [torch.cat(parts) for parts in zip(*alone)])


def path_rows(x: Tensor, paths: int, first: int, count: int) -> Tensor:
    """Rows of the stacked paths `first` to `first + count - 1`."""
    batch = x.shape[0] // paths
    return x.narrow(0, first * batch, count * batch)
