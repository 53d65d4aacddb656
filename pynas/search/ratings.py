"""Ratings of a search by trial, in order, kept in a file from which a killed search resumes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pynas.costs.table import Costs
from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.search.feasible import draw_within
from pynas.search.limits import check_limits, keeps
from pynas.search.pools import Entry
from pynas.spaces import Architecture, Space

RATINGS = "pynas.ratings"
# Scores an architecture. One that has `many(architectures) -> scores`, as `ErrorRate`, gets several in one call.
Rate = Callable[[Architecture], float]

# Seconds between two writes of the file, and random samples in a row that may not be rated before others are looked for:
# without limits and with.
_SAVE_EVERY, _TRIES, _TRIES_WITHIN = 5.0, 10_000, 1_000
# Architectures that wait at most, and that one call of `many` rates; a search that is killed loses as many ratings.
_TOGETHER = 16


@dataclass(frozen=True)
class History:
    """Distinct architectures and their scores `[N]` (lower is better), in the order of rating.

    exhausted: the search ended before its budget, with no architecture left to rate.
    """

    architectures: tuple[Architecture, ...]
    scores: np.ndarray
    costs: Costs | None = None
    exhausted: bool = False

    def __len__(self) -> int:
        return len(self.architectures)

    @property
    def best_so_far(self) -> np.ndarray:
        """Least score after 1, 2, ... ratings, `[N]`."""
        return np.minimum.accumulate(self.scores)

    def top(self, k: int = 1) -> list[Entry]:
        """Return the k best, best first; equal scores in the order of rating."""
        return [
            Entry(
                self.architectures[i], float(self.scores[i]), self.costs.of(self.architectures[i]) if self.costs else {}
            )
            for i in np.argsort(self.scores, kind="stable")[:k]
        ]


class Ratings:
    """Rates architectures up to a budget, each once, inside a `with` block.

    architectures: those chosen so far. scores: theirs, without those of the last ones that `settle` has yet to rate.
    file: JSON file of the ratings. A search whose choices depend only on its seed and on earlier ratings resumes by running
        again: ratings that the file holds are read from it.
    progress: called with (ratings done, budget). metadata: description of the search; a file of another search is refused.

    Raises:
        InputError: limits without costs or on unknown costs, a budget below 1, or a file of another search.
    """

    def __init__(
        self,
        space: Space,
        rate: Rate,
        budget: int,
        costs: Costs | None = None,
        limits: Mapping[str, Any] | None = None,
        at_least: Mapping[str, Any] | None = None,
        file: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        **metadata: Any,
    ) -> None:
        if budget < 1:
            raise InputError(f"[search] expected a budget of at least 1 rating, got {budget}")
        known = () if costs is None else costs.names
        self._upper, self._lower = check_limits("search", limits, at_least, known)
        self.space, self.architectures, self.scores = space, list[Architecture](), list[float]()
        self._rate, self._budget, self._costs = rate, budget, costs
        self._file, self._saved, self._progress = file, time.monotonic(), progress
        self._seen: set[Architecture] = set()
        lower = {"at_least": self._lower} if self._lower else {}
        self._metadata = {"space": space.name, "limits": self._upper, **lower, **metadata}
        self._recorded = self._read()
        self._exhausted = self._rare = False

    def __enter__(self) -> Ratings:
        return self

    def __exit__(self, *error: object) -> None:
        self._save()

    @property
    def left(self) -> int:
        """Ratings that the budget still allows; 0 when no architecture is left."""
        return 0 if self._exhausted else self._budget - len(self.architectures)

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._upper or self._lower)

    def may_rate(self, architecture: Architecture) -> bool:
        """Whether an architecture is new and keeps the limits."""
        if architecture in self._seen:
            return False
        if not self.limited:
            return True
        assert self._costs is not None
        return keeps(self._costs.of(architecture), self._upper, self._lower)

    def sample(self, rng: np.random.Generator) -> Architecture | None:
        """Draw an architecture that may be rated; None ends the search, as none is left.

        Uniformly, unless 1,000 random ones in a row may not be rated under the limits: from then on by `draw_within`.

        Raises:
            InfeasibleError: no architecture keeps the limits.
        """
        if len(self._seen) < self.space.size and not self._rare:
            for _ in range(_TRIES_WITHIN if self.limited else _TRIES):
                architecture = self.space.sample(rng)
                if self.may_rate(architecture):
                    return architecture
            self._rare = self.limited
        if self._rare:
            assert self._costs is not None
            # One more than is rated: one of them is new, or none is left.
            drawn = draw_within(self.space, self._costs, self._upper, self._lower, rng, len(self._seen) + 1)
            new = next((architecture for architecture in drawn if self.may_rate(architecture)), None)
            if new is not None:
                return new
        self._exhausted = True
        return None

    def add(self, architecture: Architecture) -> None:
        """Choose an architecture, to be rated with those that follow it, at the latest by `settle`; raises as `settle`."""
        self._seen.add(architecture)
        self.architectures.append(architecture)
        if len(self.architectures) - len(self.scores) == _TOGETHER:
            self.settle()

    def settle(self) -> None:
        """Rate all that are chosen, from the file or now.

        Raises:
            InputError: a score that is not finite, or a file whose next rating is of another architecture.
        """
        waiting = self.architectures[len(self.scores) :]
        recorded = self._recorded[len(self.scores) :][: len(waiting)]
        for number, (architecture, (text, _)) in enumerate(zip(waiting, recorded), len(self.scores)):
            if text != str(architecture):
                raise InputError(f"[search] expected {str(architecture)!r} as rating {number} of {self._file}, "
                                 f"got {text!r}; it is of another search or version: use another file")  # fmt: skip
        self.scores += [score for _, score in recorded]
        fresh = waiting[len(recorded) :]
        many = getattr(self._rate, "many", None)
        for architecture, score in zip(fresh, many(fresh) if many and fresh else map(self._rate, fresh)):
            if not math.isfinite(score):
                raise InputError(f"[search] expected a finite score, got {score} for {str(architecture)!r}")
            self.scores.append(float(score))
            if self._progress is not None:
                self._progress(len(self.scores), self._budget)
            if time.monotonic() - self._saved > _SAVE_EVERY:
                self._save()

    def history(self) -> History:
        """Return all ratings so far, the waiting ones rated."""
        self.settle()
        return History(tuple(self.architectures), np.array(self.scores), self._costs, self._exhausted)

    def _read(self) -> list[tuple[str, float]]:
        if self._file is None or not Path(self._file).exists():
            return []
        content = read_json(self._file, RATINGS)
        if content["metadata"] != self._metadata:
            raise InputError(f"[search] expected a file of this search, {self._metadata}, "
                             f"got one of {content['metadata']} in {self._file}")  # fmt: skip
        texts, scores = content.get("architectures"), content.get("scores")
        if not (isinstance(texts, list) and isinstance(scores, list) and len(texts) == len(scores)):
            raise InputError(f"[search] expected as many scores as architectures in {self._file}, got a damaged file")
        return list(zip(texts, scores))

    def _save(self) -> None:
        if self._file is None or len(self.scores) <= len(self._recorded):
            return
        texts = [str(architecture) for architecture in self.architectures[: len(self.scores)]]
        write_json(self._file, header(RATINGS, **self._metadata) | {"architectures": texts, "scores": self.scores})
        self._recorded = list(zip(texts, self.scores))
        self._saved = time.monotonic()
