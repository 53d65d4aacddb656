"""Files of a run, as its page shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pynas import costs, search, spaces
from pynas.export import load_subnet
from pynas.files import read_json
from pynas.quantities import show, show_cost
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.report.charts import Point
from pynas.report.page import Tile
from pynas.report.training import joined_metrics, read_metrics
from pynas.runs.baselines import read_baselines
from pynas.runs.joined import scores_of_search
from pynas.runs.latency import about_latency, latency_files
from pynas.runs.limits import describe
from pynas.runs.rate import stored_members
from pynas.runs.retrain import RETRAINING
from pynas.runs.search import SEARCH
from pynas.runs.settings import Settings, read_settings
from pynas.runs.truth import RATINGS, read_ratings
from pynas.runtimes import RUNTIMES
from pynas.spaces import Architecture, Space

# Architectures drawn at random for the charts.
_DRAWN = 500


class Results:
    """Files of a run, each read once; None, or empty, where a stage has not run.

    missing: what is not there yet, with the command that makes it.
    """

    def __init__(self, folder: Path):
        self.folder: Path = folder
        self.settings: Settings = read_settings(folder)
        self.space: Space = spaces.get(self.settings.space)
        self.missing: list[str] = []
        self.members = stored_members(folder, self.settings)
        self.scores: Scores | None = combined(self.members) if self.members else None
        self.costs = costs.load(path) if (path := folder / "costs.npz").exists() else None
        self.latencies = {name: costs.load(path) for name, path in latency_files(folder).items()}
        self.search = read_json(path, SEARCH) if (path := folder / "search.json").exists() else None
        self.baselines = read_baselines(folder)
        self.ratings = read_ratings(path, self.space) if (path := folder / RATINGS).exists() else {}
        self.exported: dict[str, Any] = {}
        if (path := folder / "subnet.safetensors").exists():
            self.model, metadata = load_subnet(path, self.space)
            self.exported = dict(metadata)
        # Of a training block by block, each block has its own.
        paths = [folder / "metrics.jsonl", *sorted((folder / "training").glob("*/metrics.jsonl"))]
        self.metrics = joined_metrics([read_metrics(path) for path in paths if path.exists()])
        done = sorted((folder / "retraining").glob("*/report.json"))
        self.retrainings = [
            (read_json(path, RETRAINING), read_metrics(path.with_name("metrics.jsonl"))) for path in done
        ]
        # A search by trial rates whole networks: it leaves no scores of paths.
        for there, what, stage in ((self.scores or self.search, "scores", "rate --run"), (self.search, "a search", "search"),
                                   (self.exported, "an exported network", "export --run"),
                                   (self.metrics, "training steps", "train --run")):  # fmt: skip
            if not there:
                self.missing.append(f"{what} (pynas {stage} {folder})")

    @property
    def architecture(self) -> Architecture | None:
        """The exported architecture, else the best found."""
        if self.exported:
            return self.space.parse(self.exported["architecture"])
        return self.space.parse(self.search["found"][0]["architecture"]) if self.search else None

    @cached_property
    def searched(self) -> Scores | None:
        """The scores that the search went by, with its prior or its calibration; those of the rating without a search."""
        return None if self.scores is None else scores_of_search(self.folder, self.search, self.scores)

    def totals(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """Return the scores of architectures `[N]`, joined as the search joined them; NaN where a path was not rated."""
        assert self.searched is not None
        blocks, asked = self.searched.by_block(architectures), self.search or {"weights": None, "join": "sum"}
        weights = np.ones(blocks.shape[1]) if asked["weights"] is None else np.asarray(asked["weights"])
        return np.exp(np.log(blocks) @ weights) if asked["join"] == "product" else blocks @ weights

    def costs_of(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs of an architecture: counted ones, and the latency by every table of the run, `latency@TABLE`."""
        counted = {} if self.costs is None else self.costs.of(architecture)
        return counted | {f"latency@{name}": next(iter(table.of(architecture).values()))
                          for name, table in self.latencies.items()}  # fmt: skip

    def point(self, architecture: Architecture, score: float) -> Point:
        """Return an architecture with its score and costs."""
        return Point(self.space.format(architecture), score, self.costs_of(architecture))

    @cached_property
    def drawn(self) -> list[Point]:
        """Rated architectures, drawn at random; of a search by trial, all that it rated."""
        if self.searched is None:
            return [self.point(*rated) for rated in self.ratings.items()]
        rng = np.random.default_rng(0)
        drawn = list(dict.fromkeys(self.space.sample(rng) for _ in range(_DRAWN)))
        return [self.point(*rated) for rated in zip(drawn, self.totals(drawn).tolist()) if not np.isnan(rated[1])]

    @cached_property
    def front(self) -> tuple[str, list[Point]] | None:
        """The cost and the points of the front that was searched for, else of score and the first limit's cost."""
        if self.search is None or self.costs is None:
            return None
        asked = self.search["front"]["cost"] if "front" in self.search else None
        name = next((name for name in (asked, *self.search["limits"]) if name in self.costs.names), "madds")
        if self.searched is None:
            return (name, _lowest(self.drawn, name)) if self.drawn else None
        if not isinstance(self.costs, costs.Costs):
            return None
        if name == asked:
            return name, self._entries(self.search["front"]["architectures"])
        found = search.front(self.searched, self.costs, name, weights=self.search["weights"], join=self.search["join"])
        return name, [self.point(entry.architecture, entry.score) for entry in found]

    def groups(self) -> dict[str, list[Point]]:
        """Return the points of the chart of scores and costs, by what they are."""
        assert self.front is not None and self.search is not None
        name, front = self.front
        largest = [self.space.parse(row["architecture"]) for row in self.baselines if row["kind"] == "largest"]
        totals = [] if self.searched is None else self.totals(largest).tolist()
        groups = {
            "rated architectures" if self.searched is None else "random architectures": self.drawn,
            f"front of {costs.cost_heading(name)} ({len(front):,})": front,
            "largest": [self.point(*rated) for rated in zip(largest, totals) if not np.isnan(rated[1])],
            "found": self._entries(self.search["found"]),
        }
        return {title: points for title, points in groups.items() if points}

    def _entries(self, entries: Sequence[Mapping[str, Any]]) -> list[Point]:
        """Return the points of architectures of search.json."""
        return [self.point(self.space.parse(entry["architecture"]), entry["score"]) for entry in entries]

    def tiles(self) -> list[Tile]:
        """Return the answer at a glance: accuracy and costs of the network, and how they compare with others."""
        if self.architecture is None:
            return []
        own = self.costs_of(self.architecture)
        shown = [*self._accuracy(), *(self._cost(name, value) for name, value in own.items() if name != "memory")]
        if self.search is not None:
            size = show(self.space.size) if self.space.size < 10**12 else f"{self.space.size:.2g}"
            rated = self.search.get("rated")
            note = "proven: none of a lower score" if rated is None else f"the best of {rated:,} that were rated"
            shown.append(Tile("Architectures", size, [f"{describe(self.search)}; {note}"]))
        return shown

    def _accuracy(self) -> Iterator[Tile]:
        architecture = self.architecture
        trained = [report for report, _ in self.retrainings if self.space.parse(report["architecture"]) == architecture]
        if trained:
            best = max(trained, key=lambda report: report["top1"])
            yield Tile(
                "Top-1, trained alone", f"{best['top1']:.2%}", [f"top-5 {best['top5']:.2%}", f"{best['epochs']} epochs"]
            )
        if "test_accuracy" in self.exported:
            own = self.exported["test_accuracy"]
            notes = self._beside("test_accuracy", lambda other: f"{100 * (own - other):+.1f} points ({other:.2%})")
            yield Tile("Top-1, inherited weights", f"{own:.2%}", notes)

    def _cost(self, name: str, value: float) -> Tile:
        cost, _, table = name.partition("@")
        title = {"params": "Parameters", "madds": "MAdds", "latency": "Latency"}.get(cost, costs.cost_heading(name))
        notes = self._beside(name, lambda other: f"{value / other - 1:+.0%} ({show_cost(name, other)})")
        if table:
            about = about_latency(self.latencies[table])
            notes = [f"{RUNTIMES[about['runtime']].title}, batch of {about['batch_size']}", *notes]
            title += f", {table}"
        return Tile(title, show_cost(name, value), notes)

    def _beside(self, name: str, compare: Callable[[float], str]) -> list[str]:
        """Return how the network compares with the largest one, and with the mean of the random ones."""
        notes = []
        for kind in ("largest", "random"):
            rows = [row for row in self.baselines if row["kind"] == kind]
            facts = [row | self.costs_of(self.space.parse(row["architecture"])) for row in rows]
            if facts and name in facts[0]:
                notes.append(f"vs {kind}: {compare(float(np.mean([each[name] for each in facts])))}")
        return notes


def _lowest(points: Sequence[Point], name: str) -> list[Point]:
    """Return the points that no other one beats in both score and a cost, from the least cost on."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.costs[name], point.score)):
        if not kept or point.score < kept[-1].score:
            kept.append(point)
    return kept
