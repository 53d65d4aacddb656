"""`pynas compress`: load a model and data, make it smaller, and write the folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pynas import export
from pynas.calls import Call
from pynas.compress.files import SIZES, save
from pynas.compress.hugging_face import CODE, save_pretrained
from pynas.compress.shrink import Compression, Report
from pynas.compress.sources import Source, load_batches, load_source
from pynas.compress.stopping import held_out
from pynas.errors import InfeasibleError, InputError
from pynas.files import header, write_json, write_text
from pynas.report.compress import compression_page
from pynas.runs.processes import choose_device
from pynas.runs.progress import Progress
from pynas.runtimes import Workload

SHARES = (90, 80, 70, 60, 50, 40, 30)
FRONT, PAGE = "front.json", "report.html"
COSTS = ("madds", "params", "latency", "non_embedding_params", "madds_per_token", "kv_bytes")
FORMATS = {"torch-export": (export.write_torch_export, "model.pt2"), "onnx": (export.write_onnx, "model.onnx")}


@dataclass(frozen=True)
class Request:
    """A compression as the command line describes it; limits as `pynas.search.best` takes them.

    front: cost of which networks at 90 to 30 % are made; None for one network under the limits. formats: files that are written
    beside the weights, "torch-export" and "onnx". runtime, threads, latency_batch: the `Workload` that latencies are measured in.
    """

    model: str
    limits: Mapping[str, Any]
    data: str | None = None
    example: Path | None = None
    front: str | None = None
    out: Path | None = None
    distil: int = 0
    loss: str | None = None
    heads: bool = True
    drop: bool = True
    samples: int = 1024
    batch_size: int = 32
    image_size: int | None = None
    length: int = 128
    pretrained: bool = True
    seed: int = 0
    device: str = "auto"
    kv_length: int | None = None
    patience: int | None = None
    formats: Sequence[str] = ()
    train_units: int = 0
    runtime: str = "torch"
    threads: int | None = None
    latency_batch: int = 1

    def __post_init__(self) -> None:
        names = [*self.limits, *([] if self.front is None else [self.front])]
        unknown = [name for name in names if name not in COSTS]
        if unknown:
            raise InputError(f"[compress] expected limits and a front of {', '.join(COSTS)}, got {unknown[0]!r}")
        if "kv_bytes" in names and self.kv_length is None:
            raise InputError("[compress] expected --kv-length for kv_bytes, got none; give the tokens that are kept")
        if "latency" not in names and (self.runtime, self.threads, self.latency_batch) != ("torch", None, 1):
            raise InputError("[compress] expected a latency to measure with --runtime, --threads and --latency-batch, got none; "
                             "give --max-latency or --front latency")  # fmt: skip
        if self.patience is not None and not self.distil:
            raise InputError("[compress] expected --distil with --patience, got no steps")
        if self.front in self.limits:
            raise InputError(f"[compress] expected no limit on {self.front} beside --front {self.front}, which makes networks at "
                             f"{SHARES[0]} to {SHARES[-1]}% of it, got one")  # fmt: skip
        for name in self.formats:
            if name not in FORMATS:
                raise InputError(f"[compress] expected the format {' or '.join(FORMATS)}, got {name!r}")
        if not self.limits and self.front is None:
            raise InputError(
                "[compress] expected a limit, --max-madds, --max-params or --max-latency, or --front, got none"
            )


def run(request: Request, progress: Progress) -> dict[str, Any]:
    """Make a model smaller, write the folder, and return what was found: the reports of one network or of a front.

    Raises:
        InputError: bad input. InfeasibleError: no architecture keeps the limits.
    """
    device = choose_device(request.device)
    workload = Workload(request.runtime, device, request.latency_batch, request.threads)
    source = load_source(request.model, request.pretrained)
    batches = load_batches(
        source, request.data, request.example, samples=request.samples, batch_size=request.batch_size,
        image_size=request.image_size, length=request.length, seed=request.seed
    )  # fmt: skip
    model = source.model.to(device)
    batches = [Call.of(batch, model).to(device) for batch in batches]
    out = request.out or Path("compressed") / re.sub(r"[^\w.-]+", "-", request.model).strip("-")
    if out.is_file():
        raise InputError(f"[compress] expected a folder for the result, got the file {out}")
    if request.patience is not None:
        held_out(batches)  # refuses a single batch before the rating
    count = progress.count()

    compression = Compression(
        model,
        batches,
        loss=request.loss,
        latency="latency" in {*request.limits, request.front} and workload,
        kv=None if request.kv_length is None else (request.kv_length, 1),
        heads=request.heads,
        drop=request.drop,
        train=request.train_units,
        progress=lambda step: count(step.done, step.total or step.done),
    )
    if request.front is not None:
        return _front(compression, request, source, out)
    report, content = _write(compression, request, source, request.limits, out)
    write_text(out / PAGE, compression_page(request.model, compression, {"smaller": report}))
    return {"model": request.model, "folder": str(out), "samples": sum(batch.samples for batch in batches), **content}


def _write(
    compression: Compression, request: Request, source: Source, limits: Mapping[str, Any], folder: Path
) -> tuple[Report, dict[str, Any]]:
    """Write a smaller network, and return its report, also as plain values with what was written."""
    steps = folder / "distil"
    small, report = compression.at(limits, request.distil, steps, patience=request.patience)
    if (folder / SIZES).exists():  # files of a run before stand beside other weights from now on
        for name in (*(file for _, file in FORMATS.values()), CODE, "config.json"):
            (folder / name).unlink(missing_ok=True)
    save(folder, small, compression.net, report.architecture, report)
    shutil.rmtree(steps, ignore_errors=True)
    content, example = asdict(report), compression.plan.call
    if source.kind == "hf":
        try:
            content["hugging_face"] = save_pretrained(folder, small, example, source.tokenizer)
        except InputError as error:  # the folder holds the network all the same
            content["hugging_face"] = {"refused": str(error)}
    return report, content | write_formats(folder, small, example, request.formats)


def write_formats(folder: Path, model: nn.Module, example: Call, formats: Sequence[str]) -> dict[str, Any]:
    """Write a smaller network as torch.export or ONNX.

    The files take any number of samples where torch.export can, else that of the example.

    Returns `torch_export` and `onnx`, the paths; `..._difference`, of the outputs; `..._batch`, "any" or the number of samples.

    Raises:
        InputError: a network that has no such file.
    """
    content: dict[str, Any] = {}
    for name in formats:
        write, file = FORMATS[name]
        batch = f"{name.replace('-', '_')}_batch"
        try:
            content |= write(folder / file, model, example) | {batch: "any"}
        except InputError:
            content |= write(folder / file, model, example, any_batch=False) | {batch: example.samples}
    return content


def _front(compression: Compression, request: Request, source: Source, out: Path) -> dict[str, Any]:
    reports, contents, beyond = dict[str, Report](), dict[str, Any](), list[str]()
    for share in SHARES:
        limits = {**request.limits, str(request.front): f"{share}%"}
        name = f"{request.front}-{share}"
        try:
            reports[name], contents[name] = _write(compression, request, source, limits, out / name)
        except InfeasibleError as error:
            beyond.append(f"{share}%: {error}")
    if not reports:
        raise InfeasibleError(f"[compress] expected a network at {SHARES[0]}% or less, got none: {beyond[0]}")
    content = {
        "model": request.model,
        "folder": str(out),
        "front": request.front,
        "networks": contents,
        "infeasible": beyond,
    }
    write_json(out / FRONT, header("pynas.compress.front") | content)
    write_text(out / PAGE, compression_page(request.model, compression, reports, beyond))
    return content
