"""Error rates of whole architectures of a trained supernet, each with batch-norm statistics of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.evaluation.cells import CellPaths, PathNorms
from pynas.evaluation.statistics import Statistics
from pynas.spaces import Architecture
from pynas.supernets import device_of
from pynas.supernets.shapes import blame

Batch = tuple[torch.Tensor, torch.Tensor]
NORMS = ("recalibrate", "batch", "running")
# Architectures that are rated in one pass over the batches; their batch-norm statistics are held meanwhile.
_TOGETHER = 64
# Bytes of one layer's features when architectures are stacked: a CPU's cache, a part of a GPU.
_BYTES = {"cpu": 2**25, "cuda": 2**30}


class ErrorRate:
    """Called with an architecture, returns the share of labels that the supernet misses; lower is better.

    A copy that shares the weights and buffers runs `net(images, architecture)`, in evaluation mode: the supernet is left
    unchanged. An architecture that was rated before is looked up.

    net: its logits `[B, classes, ...]` come from any head, or from the last block.
    batches: (images, labels `[B, ...]`) to rate on. They are read anew for every call of `rating(architecture)`, and once for all
        architectures of a call of `many`; what can be read only once (an iterator) is kept.
    calibration: (training images, anything), or images alone, to re-estimate batch norm on; kept on the device.
    norm: batch-norm statistics: "recalibrate" (re-estimated for every architecture, as the mean over the calibration
        batches, since the stored ones average over many architectures), "batch" (of the rated batch) or "running" (stored).
    stacked: whether `many` stacks architectures in one pass, which only NAS-Bench-201's supernets can; it saves a GPU small
        kernels but costs a CPU more in copies than it shares. None: on a GPU.

    Raises:
        InputError: an unknown mode, nothing to rate or to calibrate on, batch norm inside TorchScript; in a call, an
            architecture outside the space, a net that does not run or whose outputs are no logits for the labels, batch norm
            that cannot be given other statistics.
    """

    def __init__(
        self,
        net: Any,
        batches: Iterable[Batch],
        calibration: Iterable[Batch] | None = None,
        norm: str = "recalibrate",
        stacked: bool | None = None,
    ):
        if norm not in NORMS:
            raise InputError(f"[rate] expected norm to be one of {', '.join(NORMS)}, got {norm!r}")
        device = device_of(net)
        self.net, self.norm = _sharing(net), norm
        self._statistics = None if norm == "running" else Statistics(self.net)
        self.stacked = (
            self.net.space.kind == "nasbench201"
            and norm != "running"
            and (device.type == "cuda" if stacked is None else stacked)
        )
        self.batches = list(batches) if isinstance(batches, Iterator) else batches
        pairs = ((batch,) if isinstance(batch, torch.Tensor) else batch for batch in calibration or ())
        self.calibration = [_placed(images, device) for images, *_ in pairs]
        empty = isinstance(self.batches, Sized) and not len(self.batches)
        if empty or (norm == "recalibrate" and not self.calibration):
            raise InputError("[rate] expected labelled batches, and others to re-estimate batch norm on, got none")
        self.known: dict[Architecture, float] = {}

    def __call__(self, architecture: Architecture) -> float:
        """Error of an architecture, in [0, 1]."""
        if architecture not in self.known:
            self.known |= zip([architecture], self._errors([architecture], lambda share: None))
        return self.known[architecture]

    def many(
        self, architectures: Sequence[Architecture], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Errors of the architectures, `[N]`; progress: called with (done, in all)."""
        fresh = sorted({a for a in architectures if a not in self.known}, key=str)
        before = len(architectures) - len(fresh)
        size = self._chunk() if self.stacked else _TOGETHER
        for start in range(0, len(fresh), size):
            chunk = fresh[start : start + size]

            def report(share: float, done: int = before + start, count: int = len(chunk)) -> None:
                if progress is not None:
                    progress(done + int(share * count), len(architectures))

            self.known |= zip(chunk, (self._stacked_errors if self.stacked else self._errors)(chunk, report))
        return np.array([self.known[architecture] for architecture in architectures])

    def _chunk(self) -> int:
        """Number of architectures in one pass: their widest features must fit the budget."""
        images = len(next(iter(self.batches))[0])
        side, channels = self.net.space.image_size, self.net.space.stem.channels[0]
        budget = _BYTES["cuda" if device_of(self.net).type == "cuda" else "cpu"]
        return max(1, budget // (4 * images * channels * side**2))

    def _labelled(self, report: Callable[[float], None]) -> Iterator[Batch]:
        """Yield the batches on the net's device; report: called with the share that is done."""
        device, number = device_of(self.net), 0
        for number, (images, labels) in enumerate(self.batches, 1):
            yield _placed(images, device), labels.to(device)
            if isinstance(self.batches, Sized):
                report(number / len(self.batches))
        if not number:
            raise InputError(
                "[rate] expected batches that can be read anew for every call, got none; pass them as a list"
            )

    @torch.no_grad()
    def _errors(self, architectures: Sequence[Architecture], report: Callable[[float], None]) -> list[float]:
        """Errors of several architectures, each alone, in one pass over the batches."""
        for architecture in architectures:
            self.net.space.check(architecture)
        means = [self._recalibrated(architecture) for architecture in architectures]
        wrong, count = [0] * len(architectures), 0
        for images, labels in self._labelled(report):
            for number, architecture in enumerate(architectures):
                with self._normed(means[number]):
                    wrong[number] += self._wrong(architecture, images, labels)
            count += labels.numel()
        return [int(each) / count for each in wrong]

    @torch.no_grad()
    def _stacked_errors(self, architectures: Sequence[Architecture], report: Callable[[float], None]) -> list[float]:
        """Errors of several architectures of a NAS-Bench-201 supernet, in one pass."""
        for architecture in architectures:
            self.net.space.check(architecture)
        paths, norms = CellPaths(self.net, architectures), PathNorms("record")
        for images in self.calibration:
            paths.features(images, norms)
        norms.mode = "recorded" if self.norm == "recalibrate" else "batch"
        wrong: Any = 0
        count = 0
        for images, labels in self._labelled(report):
            wrong += (self.net.classifier(paths.features(images, norms)).argmax(2) != labels).sum(1)
            count += len(labels)
        return [int(number) / count for number in wrong]

    def _wrong(self, architecture: Architecture, images: torch.Tensor, labels: torch.Tensor) -> Any:
        """Number of labels that an architecture misses, on the device."""
        logits = self._outputs(architecture, images)
        if not isinstance(logits, torch.Tensor) or logits.ndim < 2 or logits[:, 0].shape != labels.shape:
            got = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise InputError(f"[rate] expected logits with the classes on the second axis for labels {list(labels.shape)} from "
                             f"{architecture}, got {got}; give the net a head that puts out logits")  # fmt: skip
        return (logits.argmax(1) != labels).sum()

    def _outputs(self, architecture: Architecture, images: torch.Tensor) -> Any:
        try:
            return self.net(images, architecture)
        except (torch.OutOfMemoryError, InputError):
            raise
        except Exception as error:  # the net's own code may raise any error
            raise InputError(f"[rate] expected {architecture} to run on images {list(images.shape)}, got "
                             f"{blame(self.net, error)}") from error  # fmt: skip

    def _recalibrated(self, architecture: Architecture) -> Any:
        """Batch-norm statistics of an architecture on the calibration batches; None in the other modes."""
        if self._statistics is None or self.norm != "recalibrate":
            return None
        with self._statistics:
            self._statistics.use("record")
            for images in self.calibration:
                self._outputs(architecture, images)
        return self._statistics.recorded()

    def _normed(self, means: Any) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which batch norm runs with the statistics of the mode; means: those of `_recalibrated`."""
        if self._statistics is None:
            return contextlib.nullcontext()
        self._statistics.use("batch" if means is None else "recorded", means)
        return self._statistics


def _sharing(net: Any) -> Any:
    """Copy a net that shares its tensors, without the wrappers of compilation and of several processes."""
    tensors = [*net.parameters(), *net.buffers()]
    return copy_module(net, {id(tensor): tensor for tensor in tensors}, "rate", plain=True).eval()


def _placed(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return images.to(device, memory_format=torch.channels_last if images.ndim == 4 else torch.preserve_format)
