"""Error rates of whole architectures of a trained supernet, each with batch-norm statistics of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.errors import InputError
from pynas.evaluation.cells import CellPaths, PathNorms
from pynas.spaces import Architecture
from pynas.supernets.modes import batch_statistics, device_of, evaluating

Batch = tuple[torch.Tensor, torch.Tensor]
NORMS = ("recalibrate", "batch", "running")
# Bytes of one layer's features when architectures are stacked: a CPU's cache, a part of a GPU.
_BYTES = {"cpu": 2**25, "cuda": 2**30}


class ErrorRate:
    """Called with an architecture, returns the share of images that the supernet classifies wrongly; lower is better.

    The supernet is left unchanged. An architecture that was rated before is looked up.

    batches: labelled images to rate on. calibration: (training images, anything) to re-estimate batch norm on.
    norm: batch-norm statistics: "recalibrate" (re-estimated for every architecture, as the mean over the calibration
        batches, since the stored ones average over many architectures), "batch" (of the rated batch) or "running" (stored).
    stacked: whether `many` stacks architectures in one pass, which only NAS-Bench-201's supernets can; it saves a GPU small
        kernels but costs a CPU more in copies than it shares. None: on a GPU.

    Raises:
        InputError: an unknown mode, nothing to rate or to calibrate on, or an architecture outside the space.
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
        self.net, self.norm = net, norm
        self.stacked = (
            net.space.kind == "nasbench201"
            and norm != "running"
            and (device.type == "cuda" if stacked is None else stacked)
        )
        self.batches = [(_placed(images, device), labels.to(device)) for images, labels in batches]
        self.calibration = [_placed(images, device) for images, _ in calibration or ()]
        if not self.batches or (norm == "recalibrate" and not self.calibration):
            raise InputError("[rate] expected labelled batches, and others to re-estimate batch norm on, got none")
        self.known: dict[Architecture, float] = {}

    @torch.no_grad()
    def __call__(self, architecture: Architecture) -> float:
        """Error of an architecture, in [0, 1]."""
        if architecture not in self.known:
            self.net.space.check(architecture)
            with self._normed(architecture):
                wrong = sum(
                    float((self.net(images, architecture).argmax(1) != labels).sum()) for images, labels in self.batches
                )
            self.known[architecture] = wrong / sum(len(labels) for _, labels in self.batches)
        return self.known[architecture]

    def many(
        self, architectures: Sequence[Architecture], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Errors of the architectures, `[N]`; progress: called with (done, in all)."""
        fresh = sorted({a for a in architectures if a not in self.known}, key=str)
        done = len(architectures) - len(fresh)
        size = self._chunk() if self.stacked else 1
        for start in range(0, len(fresh), size):
            chunk = fresh[start : start + size]
            if self.stacked:
                self.known |= zip(chunk, self._stacked_errors(chunk))
            else:
                self(chunk[0])
            done += len(chunk)
            if progress is not None:
                progress(done, len(architectures))
        return np.array([self.known[architecture] for architecture in architectures])

    def _chunk(self) -> int:
        """Number of architectures in one pass: their widest features must fit the budget."""
        images = max(len(images) for images, _ in self.batches)
        side, channels = self.net.space.image_size, self.net.space.stem.channels[0]
        budget = _BYTES["cuda" if device_of(self.net).type == "cuda" else "cpu"]
        return max(1, budget // (4 * images * channels * side**2))

    @torch.no_grad()
    def _stacked_errors(self, architectures: Sequence[Architecture]) -> list[float]:
        """Errors of several architectures of a NAS-Bench-201 supernet, in one pass."""
        for architecture in architectures:
            self.net.space.check(architecture)
        paths, norms = CellPaths(self.net, architectures), PathNorms("record")
        for images in self.calibration:
            paths.features(images, norms)
        norms.mode = "recorded" if self.norm == "recalibrate" else "batch"
        wrong = sum(
            (self.net.classifier(paths.features(images, norms)).argmax(2) != labels).sum(1)
            for images, labels in self.batches
        )
        count = sum(len(labels) for _, labels in self.batches)
        return [int(number) / count for number in wrong]  # type: ignore[union-attr]

    def _normed(self, architecture: Architecture) -> contextlib.AbstractContextManager[None]:
        if self.norm == "recalibrate":
            return recalibrated(self.net, architecture, self.calibration)
        return batch_statistics(self.net) if self.norm == "batch" else evaluating(self.net)


@contextlib.contextmanager
def recalibrated(net: Any, architecture: Architecture, calibration: Sequence[torch.Tensor]) -> Iterator[None]:
    """Evaluate one architecture with batch-norm statistics of these images inside the `with` block, then restore them."""
    norms = [part for module in net.modules_of(architecture) for part in module.modules() if _tracks(part)]
    stored = [(norm, norm.momentum, {name: value.clone() for name, value in norm.named_buffers()}) for norm in norms]
    with evaluating(net), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            for images in calibration:
                net.features(images, architecture)
            for norm in norms:
                norm.eval()
            yield
        finally:
            for norm, momentum, buffers in stored:
                norm.momentum = momentum
                for name, value in buffers.items():
                    norm.get_buffer(name).copy_(value)


def _tracks(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.track_running_stats


def _placed(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return images.to(device, memory_format=torch.channels_last)
