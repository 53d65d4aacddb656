"""From a trained network to a smaller one in one call: plan, rate, search, assemble, distil."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.calls import Call, Pick, pick_output
from pynas.compress.blockwise import train_units
from pynas.compress.distil import LOSSES
from pynas.compress.distil import distil as distil_model
from pynas.compress.plan import Plan, plan
from pynas.compress.rate import check_loss, default_loss, rate
from pynas.compress.refit import estimate
from pynas.compress.stopping import held_out
from pynas.copies import copy_module
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.rating import Progress, Scores, losses
from pynas.runtimes import Workload
from pynas.search import Entry, best

# Samples that channels are ranked and layers are refitted on, and that paths are rated on.
CALIBRATION, RATING = 512, 256


@dataclass(frozen=True)
class Report:
    """Result of a compression, as plain values.

    limits: as they were given. reference, costs: of the model as it was and as it is, for one sample. loss: name of the loss
    against the model as it was. predicted: by the sum of block scores. actual: measured on the same batches; distilled: after the
    distillation, None without. units: by name, the cut of each. recalibrated: whether statistics of batch norm were estimated anew.
    workload: runtime, device and batch size that latencies were measured in; None without a latency.
    """

    limits: Mapping[str, Any]
    reference: Mapping[str, float]
    costs: Mapping[str, float]
    architecture: str
    loss: str
    predicted: float
    actual: float
    distilled: float | None
    units: Mapping[str, str]
    recalibrated: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    workload: Mapping[str, Any] | None = None


class Compression:
    """A model with the ratings of all its smaller units; any number of networks can be taken from it.

    Args:
        model: any module with residual units; it is not changed. batches: list of batches as the model takes them: channels are
            ranked and layers refitted on the first 512 samples, paths are rated on the next 256, or on the first where there
            are no more.
        latency: also measure the latency of each candidate, in a `pynas.runtimes.Workload`; True for one sample in torch.
        kv: length and batch size for the cost `kv_bytes`.
        train: steps of block-wise training of the candidates on all batches before they are rated (`train_units`).
        loss, labels, pick: as in `pynas.compress.rate`. candidates: arguments of `Plan.supernet`.

    Raises:
        InputError: as `plan` and `rate`.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        *,
        loss: str | Callable[[Tensor, Any], Tensor] | None = None,
        labels: Callable[[Any], Any] | None = None,
        pick: Pick = pick_output,
        latency: bool | Workload = False,
        kv: tuple[int, int] | None = None,
        train: int = 0,
        progress: Callable[[Progress], None] | None = None,
        **candidates: Any,
    ) -> None:
        if not isinstance(batches, Sequence) or not batches:
            raise InputError(f"[compress] expected a list of batches, got {type(batches).__name__} of length 0 or none")
        check_loss(loss, labels)
        self.batches, self._labels, self._pick, self.seconds = batches, labels, pick, dict[str, float]()
        begin = time.perf_counter()
        self.plan: Plan = plan(model, batches[0])
        self.seconds["plan"] = time.perf_counter() - begin
        self.calibration = _first(batches, CALIBRATION, self.plan.model)
        rest = _first(batches[len(self.calibration) :], RATING, self.plan.model)
        self.rating = rest or _first(batches, RATING, self.plan.model)
        self.net = self.plan.supernet(refit=self.calibration, **candidates)
        self.costs: Costs = self.net.costs(latency=latency, kv=kv)
        about = self.costs.metadata
        self._workload = {name: about[name] for name in ("runtime", "device", "batch_size")} if latency else None
        if train:
            begin = time.perf_counter()
            train_units(self.net, batches, train)
            self.seconds["train"] = time.perf_counter() - begin
        self.loss = loss or default_loss(self.plan.model, self.plan.call, pick)
        begin = time.perf_counter()
        self.scores: Scores = rate(self.net, self.rating, self.loss, labels=labels, pick=pick, progress=progress)
        self.seconds["rate"] = time.perf_counter() - begin

    def find(self, limits: Mapping[str, Any], top_k: int = 1) -> Sequence[Entry]:
        """Return the best architectures under limits, proved; limits: `{"madds": "60%", "latency": "12ms", "params": 3e6}`.

        Raises:
            InfeasibleError: no architecture keeps the limits.
        """
        return best(self.scores, self.costs, limits, top_k)

    def at(
        self, limits: Mapping[str, Any], distil: int = 0, folder: str | Path | None = None, **options: Any
    ) -> tuple[nn.Module, Report]:
        """Return the smaller network under limits, and its report.

        distil: steps of distillation on all batches. folder: of the distillation's checkpoints. options: of
        `pynas.compress.distil`; with patience and without validation the last eighth of the batches is held out.
        """
        found = self.find(limits)[0]
        begin = time.perf_counter()
        model = self.net.extract(found.architecture)
        actual, again = self.measure(model), False
        if any(isinstance(part, _BatchNorm) for part in model.modules()):
            other = copy_module(model, where="compress")
            estimate(other, [Call.of(batch, other) for batch in self.calibration])
            if (loss := self.measure(other)) < actual:
                model, actual, again = other, loss, True
        seconds, distilled = {**self.seconds, "assemble": time.perf_counter() - begin}, None
        if distil:
            begin, batches = time.perf_counter(), self.batches
            if options.get("patience") is not None and "validation" not in options:
                batches, options["validation"] = held_out(batches)
            known = "mse" if self.loss == "relative_l1" else self.loss
            kind = known if known in LOSSES else default_loss(self.plan.model, self.plan.call, self._pick)
            kind = options.pop("loss", kind)
            model = distil_model(model, self.plan.model, batches, distil, kind, run=folder, pick=self._pick, **options)
            distilled, seconds["distil"] = self.measure(model), time.perf_counter() - begin
        cuts = {
            parts.unit.name: str(cuts[candidate])
            for block, choice in zip(self.net.blocks, found.architecture)
            for (parts, cuts), candidate in zip(block, choice.path)
        }
        given = {name: limit for name, limit in limits.items() if limit is not None}
        loss_name = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", "own")
        return model, Report(given, self.costs.metadata["reference"], found.costs, str(found.architecture), loss_name,
                             found.score, actual, distilled, cuts, again, seconds, self._workload)  # fmt: skip

    @torch.no_grad()
    def measure(self, model: nn.Module) -> float:
        """Return the loss of a model against the original, the mean over the samples that paths were rated on."""
        loss, total, samples = losses.resolve(self.loss), 0.0, 0
        for batch in self.rating:
            call = Call.of(batch, self.plan.model)
            target = self._pick(call(self.plan.model), call) if self._labels is None else self._labels(batch)
            total += float(loss(self._pick(call(model), call), target, 1)[0]) * call.samples
            samples += call.samples
        return total / samples


def compress(
    model: nn.Module, batches: Sequence[Any], limits: Mapping[str, Any], distil: int = 0, **options: Any
) -> tuple[nn.Module, Report]:
    """Return a smaller network of the same class under limits, and a report; the model itself is not changed.

    Args:
        model, batches: see `Compression`. limits: by cost: "madds", "params", "latency" (ms), "kv_bytes" (with kv=): numbers,
            texts such as "400M" and "12ms", or shares of the model's own cost such as "60%".
        distil: steps of distillation afterwards. options: of `Compression`.

    Raises:
        InputError: bad input, see `plan`. InfeasibleError: no architecture keeps the limits; the least is named.
    """
    return Compression(model, batches, **{"latency": "latency" in limits, **options}).at(limits, distil)


def _first(batches: Sequence[Any], samples: int, model: nn.Module) -> list[Any]:
    """First batches with so many samples in all."""
    some: list[Any] = []
    for batch in batches:
        if samples <= 0:
            break
        some.append(batch)
        samples -= Call.of(batch, model).samples
    return some
