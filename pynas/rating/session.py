"""State that `rate` and `rate_population` share: the tree of paths, calibration, partial result, processes, the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pynas.rating import distributed as processes
from pynas.rating.batches import check_calibration
from pynas.rating.copies import check_layers
from pynas.rating.engine import Engine
from pynas.rating.partial import Partial
from pynas.rating.settings import Settings
from pynas.rating.table import ScoreTable
from pynas.rating.tree import build_tree


class Session:
    """One rating of the paths through `layers`, from checked arguments to the table.

    calibration: checked calibration batches. sides: their side inputs. units: this process's share of the tree, as subtrees
    between which it may stop. partial: sums of losses so far, and the file that keeps them.

    norms: norm mode of the layers and of the tail. metadata: what the scores are computed from, beyond what all ratings say.
    others: further modules that the scores depend on.

    Raises:
        InputError: bad layers, paths, norm modes or calibration; a partial result of another rating.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        norms: tuple[str, str],
        calibration: Iterable[Tensor | tuple[Tensor, Any]] | None,
        paths: Iterable[Sequence[int]] | None,
        allowed: Callable[[tuple[int, ...]], bool] | None,
        tail: nn.Module | None,
        settings: Settings,
        metadata: dict[str, Any],
        resume: str | Path | None,
        distributed: bool | None,
        others: Sequence[Any] = (),
    ) -> None:
        self.layers, self.tail, self._settings = check_layers(layers), tail, settings
        self._norms = norms if tail is not None else (norms[0], norms[0])
        self.tree = build_tree([len(layer) for layer in self.layers], paths, allowed)
        self.calibration, self.sides = check_calibration(*self._norms, calibration)
        self._metadata = {**metadata, "norm": norms[0], "calibration": len(self.calibration)}
        self._metadata["dtype"] = str(settings.dtype or "as given")
        self._rank, self.size = processes.rank_and_size(distributed)
        depends = [self.layers, tail, others, self._norms, self.tree.paths, self.calibration, self.sides]
        self.partial = Partial.of(resume, self._rank, self.size, len(self.tree.paths), *depends, self._metadata)
        self.units = self.tree.units(self.tree.share(self._rank, self.size), resume is not None)

    def engine(
        self, layers: Sequence[Sequence[nn.Module]], tail: nn.Module | None, settings: Settings | None = None
    ) -> Engine:
        """Return the engine that runs the tree's paths through `layers` and then `tail`."""
        norm, tail_norm = self._norms
        modes, tree = [norm] * len(layers), self.tree
        if tail is not None:
            layers, modes, tree = [*layers, [tail]], [*modes, tail_norm], tree.extended()
        return Engine(layers, tree, modes, settings or self._settings, len(self.calibration))

    def table(self, device: torch.device) -> ScoreTable:
        """Add up the sums of all processes, remove the partial file, and return the mean scores."""
        sums = processes.add_up(torch.from_numpy(self.partial.sums).to(device), self.size)
        scores = sums.cpu().numpy() / self.partial.samples
        self.partial.remove()
        metadata = {**self._metadata, "samples": self.partial.samples}
        return ScoreTable.of_paths([len(layer) for layer in self.layers], self.tree.paths, scores, metadata)
