"""Scores of many networks by proxies and their rank aggregates, kept in a file as they come."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pynas.csv_files import read_csv_file
from pynas.errors import InputError
from pynas.files import write_text
from pynas.zero_cost.aggregate import AGGREGATES, aggregate
from pynas.zero_cost.az_nas import measures
from pynas.zero_cost.passes import layers
from pynas.zero_cost.proxies import PROXIES, quiet

# Proxies that one pass gives together.
_TOGETHER = ("expressivity", "progressivity", "trainability")


def kaiming(model: nn.Module) -> None:
    """Draw convolutions and linear layers from Kaiming's normal distribution (fan in), biases 0, as AZ-NAS and VKDNW do."""
    for layer in layers(model):
        nn.init.kaiming_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def score_networks(
    build: Callable[[str], nn.Module],
    architectures: Iterable[str],
    names: Sequence[str],
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    seed: int = 0,
    initialise: Callable[[nn.Module], None] | None = kaiming,
    file: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Scores of networks by each of the names, float64 `[N]`; higher is better, -infinity where a proxy has no finite value.

    build: called with an architecture, returns its network, e.g. `lambda a: pynas.export.standalone(space, a, 10)`. torch's
        generator has the same seed before each network, so that its score does not depend on the others.
    names: of `PROXIES`, and of `AGGREGATES`, whose values rank the networks among each other.
    images, labels: the batch, see `score`; the networks go to its device.
    initialise: draws the weights anew; None to keep those of `build`.
    file: CSV file with a row per network, to which values are added as they come; networks that it has are not scored again.
    progress: called with (networks done, networks).

    Raises:
        InputError: unknown names, no or repeated architectures, images that are not finite, a network that a proxy cannot
            take, a proxy without a finite value for any network, or a file of other settings.
    """
    keys = list(map(str, architectures))
    _check(keys, names, images)
    proxies = list(dict.fromkeys(proxy for name in names for proxy in AGGREGATES.get(name, (name,))))
    record = _Record(file, proxies, _settings(images, labels, seed, initialise))
    for number, key in enumerate(keys, 1):
        if key not in record.values:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = build(key)
                if initialise is not None:
                    initialise(model)
            record.add(key, _values(model.to(images.device), proxies, images, labels, seed))
        if progress is not None:
            progress(number, len(keys))
    found = {proxy: np.array([record.values[key][proxy] for key in keys]) for proxy in proxies}
    for proxy, values in found.items():
        if not np.isfinite(values).any():
            raise InputError(f"[proxy] expected a network with a finite score, got none of {len(keys)} by {proxy}")
    joined = {
        name: aggregate({proxy: found[proxy] for proxy in AGGREGATES[name]}) for name in names if name in AGGREGATES
    }
    return {name: joined[name] if name in joined else found[name] for name in names}


def lowest_for_none(values: np.ndarray) -> np.ndarray:
    """Values with the lowest finite one in place of -infinity, for measures that need finite ones; shape `[N]`."""
    return np.where(np.isfinite(values), values, values[np.isfinite(values)].min())


def write_scores(path: str | Path, scores: Mapping[str, float]) -> None:
    """Write the CSV file of architecture and score that `pynas correlate --scores` reads."""
    rows = [f"{architecture},{float(value)!r}" for architecture, value in scores.items()]
    write_text(path, "\n".join(["architecture,score", *rows]) + "\n")


def _check(keys: list[str], names: Sequence[str], images: torch.Tensor) -> None:
    known = [*PROXIES, *AGGREGATES]
    for name in names:
        if name not in known:
            raise InputError(f"[proxy] expected one of {', '.join(known)}, got {name!r}")
    if not names or not keys:
        raise InputError(f"[proxy] expected proxies and architectures, got {len(names)} and {len(keys)}")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"[proxy] expected each architecture once, got {twice} again")
    if not bool(images.isfinite().all()):
        raise InputError("[proxy] expected finite images, got NaN or infinity")


def _values(model: nn.Module, proxies: list[str], images: torch.Tensor, labels: torch.Tensor | None,
            seed: int) -> dict[str, float]:  # fmt: skip
    """Value of every proxy, -infinity for one that is not finite."""
    values: dict[str, float] = {}
    for proxy in proxies:
        if proxy not in values:
            with quiet(model, seed):
                together = proxy in _TOGETHER
                values |= measures(model, images) if together else {proxy: float(PROXIES[proxy](model, images, labels))}
    return {proxy: values[proxy] if math.isfinite(values[proxy]) else -math.inf for proxy in proxies}


def _settings(images: torch.Tensor, labels: torch.Tensor | None, seed: int, initialise: Callable | None) -> str:
    """Short text that differs where the batch, the seed or the initialisation do."""
    text = hashlib.sha256(f"{seed} {getattr(initialise, '__qualname__', initialise)} {tuple(images.shape)}".encode())
    for tensor in (images, labels):
        text.update(b"" if tensor is None else tensor.detach().cpu().contiguous().numpy().tobytes())
    return text.hexdigest()[:16]


class _Record:
    """Values of the networks scored so far, by architecture, and their file."""

    def __init__(self, file: str | Path | None, proxies: list[str], settings: str) -> None:
        self.path, self.proxies, self.settings = None if file is None else Path(file), proxies, settings
        self.values: dict[str, dict[str, float]] = {}
        if self.path is not None and self.path.exists() and self.path.stat().st_size:
            self._read(self.path)

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        if not content.endswith(b"\n"):  # stopped while it wrote a row
            path.write_bytes(content[: content.rfind(b"\n") + 1])
        columns = ("architecture", *self.proxies, "settings")
        table = read_csv_file("proxy", path, columns)
        if table.columns != list(columns):
            raise InputError(f"[proxy] expected the columns {', '.join(columns)} in {path}, got {', '.join(table.columns)}: "
                             "name another file")  # fmt: skip
        for row in table.rows:
            if row["settings"] != self.settings:
                raise table.refuse("values of this batch, seed and initialisation", "those of others", row,
                                   ": name another file")  # fmt: skip
            try:
                self.values[row["architecture"]] = {proxy: float(row[proxy]) for proxy in self.proxies}
            except ValueError as error:
                raise table.refuse("numbers", str(error), row) from None

    def add(self, key: str, values: dict[str, float]) -> None:
        """Keep a network's values."""
        self.values[key] = values
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(["architecture", *self.proxies, "settings"])
            writer.writerow([key, *(repr(values[proxy]) for proxy in self.proxies), self.settings])
