"""`pynas compress`: load a model and data, make it smaller, and write the folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pynas.calls import Call
from pynas.compress.files import save
from pynas.compress.shrink import Compression, Report
from pynas.compress.sources import load_batches, load_source
from pynas.errors import InfeasibleError, InputError
from pynas.files import header, write_json, write_text
from pynas.report.compress import compression_page
from pynas.runs.processes import choose_device
from pynas.runs.progress import Progress

SHARES = (90, 80, 70, 60, 50, 40, 30)
FRONT, PAGE = "front.json", "report.html"
COSTS = ("madds", "params", "latency", "non_embedding_params", "madds_per_token", "kv_bytes")


@dataclass(frozen=True)
class Request:
    """A compression as the command line describes it; limits as `pynas.search.best` takes them.

    front: cost of which networks at 90 to 30 % are made; None for one network under the limits.
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

    def __post_init__(self) -> None:
        names = [*self.limits, *([] if self.front is None else [self.front])]
        unknown = [name for name in names if name not in COSTS]
        if unknown:
            raise InputError(f"[compress] expected limits and a front of {', '.join(COSTS)}, got {unknown[0]!r}")
        if "kv_bytes" in names and self.kv_length is None:
            raise InputError("[compress] expected --kv-length for kv_bytes, got none; give the tokens that are kept")
        if self.patience is not None and not self.distil:
            raise InputError("[compress] expected --distil with --patience, got no steps")
        if not self.limits and self.front is None:
            raise InputError(
                "[compress] expected a limit, --max-madds, --max-params or --max-latency, or --front, got none"
            )


def run(request: Request, progress: Progress) -> dict[str, Any]:
    """Make a model smaller, write the folder, and return what was found: the reports of one network or of a front.

    Raises:
        InputError: bad input. InfeasibleError: no architecture keeps the limits.
    """
    source = load_source(request.model, request.pretrained)
    batches = load_batches(
        source, request.data, request.example, samples=request.samples, batch_size=request.batch_size,
        image_size=request.image_size, length=request.length, seed=request.seed
    )  # fmt: skip
    device = choose_device(request.device)
    model = source.model.to(device)
    batches = [Call.of(batch, model).to(device) for batch in batches]
    out = request.out or Path("compressed") / re.sub(r"[^\w.-]+", "-", request.model).strip("-")
    count = progress.count()

    compression = Compression(
        model,
        batches,
        loss=request.loss,
        latency="latency" in {*request.limits, request.front},
        kv=None if request.kv_length is None else (request.kv_length, 1),
        heads=request.heads,
        drop=request.drop,
        progress=lambda step: count(step.done, step.total or step.done),
    )
    if request.front is None:
        report = _write(compression, request, request.limits, out)
        write_text(out / PAGE, compression_page(request.model, compression, {"smaller": report}))
        return {
            "model": request.model,
            "folder": str(out),
            "samples": sum(batch.samples for batch in batches),
            **asdict(report),
        }
    return _front(compression, request, out)


def _write(compression: Compression, request: Request, limits: Mapping[str, Any], folder: Path) -> Report:
    small, report = compression.at(
        limits, request.distil, folder / "distil" if request.distil else None, patience=request.patience
    )
    save(folder, small, compression.net, report.architecture, report)
    return report


def _front(compression: Compression, request: Request, out: Path) -> dict[str, Any]:
    reports, beyond = dict[str, Report](), list[str]()
    for share in SHARES:
        limits = {**request.limits, str(request.front): f"{share}%"}
        name = f"{request.front}-{share}"
        try:
            reports[name] = _write(compression, request, limits, out / name)
        except InfeasibleError as error:
            beyond.append(f"{share}%: {error}")
    if not reports:
        raise InfeasibleError(f"[compress] expected a network at {SHARES[0]}% or less, got none: {beyond[0]}")
    content = {
        "model": request.model,
        "folder": str(out),
        "front": request.front,
        "networks": {name: asdict(report) for name, report in reports.items()},
        "infeasible": beyond,
    }
    write_json(out / FRONT, header("pynas.compress.front") | content)
    write_text(out / PAGE, compression_page(request.model, compression, reports, beyond))
    return content
