"""A frozen module and its feature taps."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pynas.calls import Call, hidden_leaf, pick_output
from pynas.errors import InputError
from pynas.supernets.shapes import is_shape, trial
from pynas.teachers.folding import Folding
from pynas.teachers.tail import Tail

NORMS = ("running", "batch")
# Random images that a tail is checked on.
_PROBE = 4


class Teacher(nn.Module):
    """A frozen module whose features at the named submodules (taps) supervise the blocks of a supernet.

    taps: names as in `module.named_modules()`, in order, one per block.
    norm: "running" normalises by batch norm's stored statistics, "batch" by those of each batch (as DNA's released code
        does when it rates); the stored statistics never change.
    metadata: the teacher's origin, kept in files.

    Raises:
        InputError: an unknown or repeated tap, an unknown norm.
    """

    def __init__(
        self, module: nn.Module, taps: Sequence[str], norm: str = "running", metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        names = [name for name, _ in module.named_modules() if name]
        for tap in taps:
            if tap not in names:
                near = difflib.get_close_matches(tap, names, n=5, cutoff=0.3) or names[:5]
                raise InputError(
                    f"[teacher] expected taps among the module's names, got {tap!r}; near: {', '.join(near)}"
                )
        if not taps or len(set(taps)) != len(taps):
            raise InputError(f"[teacher] expected one or more different taps, got {list(taps)}")
        if norm not in NORMS:
            raise InputError(f"[teacher] expected a norm of {', '.join(NORMS)}, got {norm!r}")
        self.module = module.eval().requires_grad_(False)
        self.taps, self.norm, self.metadata = tuple(taps), norm, {} if metadata is None else metadata
        self._folding = Folding(taps)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, also where the method that holds the teacher is set to training."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Any) -> list[Tensor]:
        """Features at the taps; modules after the last tap do not run.

        images: `[B, 3, H, W]`, or a batch as the module takes it: a tensor, a tuple or a mapping of arguments.

        Raises:
            InputError: a tap that does not run, gives no tensor, or whose output a later module changes in place.
        """
        return self._run(images, stop=True)[0]

    @torch.no_grad()
    def features_and_logits(self, images: Any) -> tuple[list[Tensor], Tensor | None]:
        """Features at the taps and the module's logits, in one pass; None for an output that is not `[B, classes]`."""
        features, output = self._run(images, stop=False)
        output = classes_of(output)
        return features, output if isinstance(output, Tensor) and output.ndim == 2 else None

    @torch.no_grad()
    def logits(self, images: Any) -> Any:
        """Output of the whole module."""
        with self._norm_mode():
            return Call.of(images, self.module)(self.module)

    def feature_shapes(self, example: Any) -> list[tuple[int, ...]]:
        """Shape of each feature without the batch, mostly (C, H, W).

        example: shape (3, H, W) of the images, or a batch as the module takes it.

        Raises:
            InputError: as `forward`, or a module that does not run on such images.
        """
        if not is_shape(example):
            return [tuple(feature.shape[1:]) for feature in self(example)]
        return trial(self, tuple(example), lambda teacher, x: [tuple(f.shape[1:]) for f in teacher(x)])

    def tail(self, tap: int, example: Any) -> Tail:
        """Return the part of the module after a tap, as a differentiable module from the tap's feature to the output.

        example: shape (3, H, W) of the images, for logits `[B, classes]`; or a batch of two samples or more as the module takes
            it, for the output that `pynas.calls.pick_output` takes. Then the tail may need the inputs of each batch.

        Raises:
            InputError: an output that is not `[B, classes]`, where a shape is given; all that `Tail` refuses.
        """
        if not is_shape(example):
            return Tail(self.module, self.taps[tap], Call.of(example, self.module), pick_output,
                        batch_statistics=self.norm == "batch", own_inputs=True)  # fmt: skip
        like = next(self.module.parameters(), torch.empty(0))
        images = torch.rand((_PROBE, *example), generator=torch.Generator().manual_seed(0)).to(like)
        return Tail(self.module, self.taps[tap], Call((images,)), _logits, batch_statistics=self.norm == "batch")

    def _run(self, images: Any, stop: bool) -> tuple[list[Tensor], Any]:
        features: dict[str, Tensor] = {}
        versions: dict[str, int] = {}

        def keep(tap: str, output: Any) -> None:
            found = hidden_leaf(output)
            if found is None:
                raise InputError(f"[teacher] expected a tensor at the tap {tap!r}, got {type(output).__name__}")
            features[tap], versions[tap] = found[1], found[1]._version
            if stop and len(features) == len(self.taps):
                raise _Done

        output, call = None, Call.of(images, self.module)
        single = len(call.args) == 1 and not call.kwargs
        module = self._folding(self.module) if single and self.norm == "running" else self.module
        with self._hooks(module, keep), self._norm_mode(), suppress(_Done):
            output = call(module)
        for tap in self.taps:
            if tap not in features:
                raise InputError(f"[teacher] expected every tap to run, got nothing at {tap!r}; name other taps")
            if features[tap]._version != versions[tap]:
                raise InputError(
                    f"[teacher] expected features that stay unchanged, got {tap!r} changed in place; tap the module that "
                    "changes it"
                )
        return [features[tap] for tap in self.taps], output

    @contextmanager
    def _hooks(self, folded: nn.Module, keep: Callable[[str, Any], None]) -> Iterator[None]:
        def call(tap: str, module: nn.Module, inputs: Any, output: Any) -> None:
            keep(tap, output)

        handles = [folded.get_submodule(tap).register_forward_hook(partial(call, tap)) for tap in self.taps]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _norm_mode(self) -> Iterator[None]:
        """Where `norm` is "batch", let batch norms use batch statistics for a while, and keep the stored ones unchanged."""
        norms = [m for m in self.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        tracked = [(norm, norm.track_running_stats) for norm in norms if self.norm == "batch"]
        for norm, _ in tracked:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            for norm, track in tracked:
                norm.training, norm.track_running_stats = False, track


def classes_of(output: Any) -> Any:
    """Return the logits of an output that names its parts, as those of transformers; any other output as it is."""
    return output.get("logits") if isinstance(output, Mapping) else output


def _logits(output: Any, call: Call) -> Tensor:
    output = classes_of(output)
    if not isinstance(output, Tensor) or output.ndim != 2:
        raise InputError("[teacher] expected logits [B, classes] of the whole module, got another output; use a module "
                         "with its classifier, or a loss of its features")  # fmt: skip
    return output


class _Done(Exception):
    """Raised at the last tap, to stop the forward pass."""
