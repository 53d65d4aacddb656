"""This thread's copy of a candidate: the attributes that it changes, and its calls of batch norm."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, fx, nn

from pynas.errors import InputError
from pynas.rating.copies import private_copy
from pynas.rating.examination import Examination, KeepsState
from pynas.rating.function_calls import FunctionCalls, NormUse, WritesWeights
from pynas.rating.norms import PathContext, Streams
from pynas.rating.places import memory
from pynas.rating.replacements import attributes_set
from pynas.rating.sides import Arguments, cloned
from pynas.rating.state import Facts, RandomState, changed, facts
from pynas.rating.thread_copies import Attribute, Contents, Seat, ThreadCopies


class OwnCopy:
    """Gives each thread a copy of a candidate; candidates that hold one module share its copy as long as that can be undone.

    template: not run itself. copies: copies of all layers, in which `seat` is the candidate's place.

    private: whether the candidate has copies of its own, as what it changes cannot be put back for others.
    """

    def __init__(
        self, template: nn.Module, context: PathContext, copies: ThreadCopies, seat: Seat, mode: str, norm_use: NormUse
    ) -> None:
        self._template, self._context, self._copies, self._seat = template, context, copies, seat
        self._mode, self._norm_use = mode, norm_use
        self.private, self._of_thread = False, threading.local()
        self._direct = False  # whether it calls `torch.batch_norm` itself, perhaps by a name of its own
        # Attributes that a run changes, and those of them that a second run leaves alone.
        self._changes, self._settled = set[Attribute](), set[Attribute]()

    def module(self) -> nn.Module:
        """Return this thread's copy, since a forward may keep things on its module."""
        if not self.private:
            module = self._copies.module(self._seat)
            if self._changes:
                self._copies.note(self._seat, self._changes)
            return module
        if not hasattr(self._of_thread, "module"):
            self._of_thread.module = private_copy(self._template)
        return self._of_thread.module

    def contents(self, module: nn.Module) -> Contents:
        """Contents of a copy: this thread's, or a fused one."""
        if not self.private and module is self._copies.module(self._seat):
            return self._copies.contents(self._seat)
        return Contents.of(module, self._template, {})

    def function_calls(self, module: nn.Module, guarded: bool = False, guess: bool = False) -> FunctionCalls:
        """Context that gives calls of batch norm the statistics of each path; guarded: and refuses writes to weights.

        guess: statistics that are not known are taken to follow the mode where all others do.
        """
        contents = self.contents(module)
        follow = self._norm_use.follow(contents.statistics, guess)
        return FunctionCalls(self._context, self._mode, follow, contents.weights if guarded else ())

    def norm_calls(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Context as `function_calls`, for a module that was looked at: only its calls of batch norm need be seen."""
        calls = self.function_calls(module)
        return calls if self._direct else calls.norms()

    def learn(self, module: nn.Module, calls: FunctionCalls, given: Arguments) -> bool:
        """Find which statistics of these calls follow the mode; see `NormUse.learn`."""
        self._direct |= calls.direct
        return self._norm_use.learn(self._template, module, self.contents(module).statistics, calls, given)

    def calls_norms(self, module: nn.Module, calls: FunctionCalls) -> bool:
        """Whether any of these calls of batch norm has statistics that follow the mode."""
        follow = self._norm_use.follow(self.contents(module).statistics)
        return self._mode != "running" and not follow.isdisjoint(calls.stored)

    def note(self, before: Facts, after: Facts, written: Iterable[tuple[int, str]] = ()) -> bool:
        """Note attributes that a run changes; whether a second run is known to leave them alone."""
        changes = None if self.private else self._copies.changes(self._seat, before, after, written)
        if changes is None:
            self.private = True
            return False
        self._changes |= changes
        self._copies.note(self._seat, changes, leaves=True)
        return changes <= self._settled

    def settle(self) -> None:
        """Note that a second run left the changed attributes alone."""
        self._settled |= self._changes

    def put_back(self) -> None:
        """Put back what the candidate changed."""
        self._copies.put_back(self._seat)

    def glance(
        self, run: Callable[[], Streams], inputs: Streams, name: str, guess: bool
    ) -> tuple[Streams, FunctionCalls, bool] | None:
        """Run and look at attributes, buffers, random numbers and calls of functions, which takes less than an examination.

        Returns the outputs, the calls, and whether the module is known to keep no state; None where that cannot be told.

        Raises:
            KeepsState: a module that draws random numbers.
            InputError: a batch of one value per channel.
        """
        module = self.module()
        contents, drawn = self.contents(module), RandomState(inputs[0].device)
        before, versions = facts(contents.watched), _versions(contents.buffers)
        calls = self.function_calls(module, guarded=True, guess=guess)
        calls.inputs(inputs)
        try:
            with attributes_set() as written, calls:
                outputs = run()
        except (RuntimeError, WritesWeights):
            self._copies.forget()
            return None
        except InputError:
            self._copies.forget()
            raise
        after = facts(contents.watched)
        unsure = calls.reads or versions != _versions(contents.buffers)
        if not unsure and drawn.moved():
            raise KeepsState(name)
        settled = not unsure and self.note(before, after, written)
        # A result of the inputs that is kept may be read by a later run.
        if unsure or self.private or any(map(calls.of_input, self._copies.left_tensors(self._seat, self._changes))):
            self._copies.forget()
            return None
        return outputs, calls, settled

    def glance_again(self, run: Callable[[], Streams], name: str) -> tuple[Streams, bool]:
        """Run for the second time, with the attributes that the first run left.

        Returns the outputs, and whether the module is known to keep no state.

        Raises:
            KeepsState: a module that changes its attributes on.
        """
        watching, second = self.contents(self.module()).watched, self._copies.leave(self._seat)
        before = facts(watching)
        with attributes_set() as written:
            outputs = run()
        after = facts(watching)
        if not second:  # another thread's copy, on which it did not run yet
            self.note(before, after, written)
            return outputs, False
        changes = self._copies.changes(self._seat, {}, {}, written)
        if changed(before, after) or not self._copies.kept(self._seat, changes or ()):
            raise KeepsState(name)
        self.settle()
        return outputs, True

    def check_stored_norms(self, streams: Streams, name: str) -> None:
        """Check that batch norm in operators is meant to use stored statistics: it does so in training mode too.

        Raises:
            InputError: batch norm that follows the mode, or inside TorchScript or a graph, whose mode is fixed.
        """
        fixed = (torch.jit.ScriptModule, fx.GraphModule)
        frozen = any(isinstance(part, fixed) for part in self._template.modules())
        if not frozen:
            copied, drawn = private_copy(self._template, weights=True).train(), RandomState(streams[0].device)
            training = Examination(name, ())
            with contextlib.suppress(Exception), training:
                for given in self._context.turns(streams, 1):
                    copied(*cloned(given))
            drawn.restore()
        if frozen or not training.stored_norm:
            raise InputError(
                "[rate] expected batch norms that are modules of their own, for statistics of the batch, got "
                f"{name}, which normalises by stored statistics inside its operators (as TorchScript, exported and "
                "functional code does); pass norm='running', or use nn.BatchNorm"
            )


def _versions(buffers: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Numbers that change when buffers are written to."""
    return [(x._version, memory(x)) for x in buffers]
