"""The page of a run, from its folder; a stage that has not run yet leaves its section out, and the page says so."""

from __future__ import annotations

import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pynas import costs, search, spaces, tabular
from pynas._version import __version__
from pynas.errors import InputError
from pynas.export import load_subnet
from pynas.files import read_json
from pynas.quantities import show_cost
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.report import sections
from pynas.report.network import chosen_layers, measured_layers
from pynas.report.page import Section, page, paragraph
from pynas.report.training import joined_metrics, read_metrics
from pynas.runs import commands
from pynas.runs.agreement import agreement, describe_agreement
from pynas.runs.correlate import bench_of, bench_scores
from pynas.runs.feature_maps import FILE as FEATURE_MAPS
from pynas.runs.feature_maps import read_feature_maps
from pynas.runs.joined import describe_joined, scores_of_search
from pynas.runs.latency import describe_latency, tables_of
from pynas.runs.rate import stored_members
from pynas.runs.retrain import RETRAINING
from pynas.runs.search import SEARCH
from pynas.runs.settings import Settings, read_settings
from pynas.runs.spent import describe_cost, search_cost
from pynas.runs.truth import read_truth
from pynas.spaces import Architecture, Space
from pynas.supernets import supernet
from pynas.tabular.robustness import sampled_totals


def run_page(folder: Path, truth: Path | None = None) -> tuple[str, str, list[str]]:
    """Return title, HTML and section titles of a run's page.

    Raises:
        InputError: no run, or a damaged file; the message names it.
    """
    results = Results(folder)
    settings = results.settings
    parts = [part for part in (
        results.network(), results.found(), results.agreement(), results.front(), results.latency(), results.histograms(),
        results.ranking(truth), results.training(), results.feature_maps(), results.retraining(), results.repeat(),
    ) if part is not None]  # fmt: skip
    title = f"{settings.method} on {settings.space}, {settings.data}"
    lead = paragraph(results.summary())
    if results.missing:
        lead += paragraph("Not there yet: " + "; ".join(results.missing) + ".", quiet=True)
    return title, page(title, lead, parts), [part.title for part in parts]


class Results:
    """Files of a run, each read once; None where a stage has not run."""

    def __init__(self, folder: Path):
        self.folder: Path = folder
        self.settings: Settings = read_settings(folder)
        self.space: Space = spaces.get(self.settings.space)
        self.missing: list[str] = []
        self.members = stored_members(folder, self.settings)
        self.scores: Scores | None = combined(self.members) if self.members else None
        self.costs = costs.load(path) if (path := folder / "costs.npz").exists() else None
        self.search = read_json(path, SEARCH) if (path := folder / "search.json").exists() else None
        self.exported: dict[str, Any] = {}
        if (path := folder / "subnet.safetensors").exists():
            self.model, metadata = load_subnet(path, self.space)
            self.exported = dict(metadata)
        # A search by trial rates whole networks: it leaves no scores of paths.
        for there, what, stage in ((self.scores or self.search, "scores", "rate --run"), (self.search, "a search", "search"),
                                   (self.exported, "an exported network", "export --run")):  # fmt: skip
            if not there:
                self.missing.append(f"{what} (pynas {stage} {folder})")

    @property
    def architecture(self) -> Architecture | None:
        """The exported architecture, else the best found."""
        if self.exported:
            return self.space.parse(self.exported["architecture"])
        return self.space.parse(self.search["found"][0]["architecture"]) if self.search else None

    def summary(self) -> str:
        """Return the result in a sentence or two."""
        text = f"The space {self.space.name} holds {self.space.size:,} architectures."
        if untrained := self.settings.untrained_teacher:
            text += f" The teacher, {untrained}, was untrained: its features are those of random weights."
        if self.exported:
            name = self.space.format(self.space.parse(self.exported["architecture"]))
            text += (f" {name} reaches {self.exported['test_accuracy']:.2%} top-1 on the test images with the "
                     "supernet's weights.")  # fmt: skip
        if cost := search_cost(self.folder):
            text += f" Training and rating took {describe_cost(cost)}."
        return text

    def network(self) -> Section | None:
        """Return the section of the exported network, or of the best one's choices."""
        architecture = self.architecture
        if architecture is None:
            return None
        if self.exported:
            layers = measured_layers(self.space, architecture, self.model, tuple(self.exported["image_shape"]))
        else:
            layers = chosen_layers(self.space, architecture)
        return sections.network_section(layers, self.space.format(architecture), show_cost)

    def found(self) -> Section | None:
        """Return the section with the table of architectures and costs."""
        if self.search is None:
            return None
        names = [name for name in self.search["found"][0] if name not in ("architecture", "score")]
        return sections.found_section(self.search, names, show_cost, describe_joined(self.search))

    def agreement(self) -> Section | None:
        """Return the section of how far the seeds of the run agree."""
        if len(self.members) < 2:
            return None
        found = self.search if self.search is not None and "agreement" in self.search else None
        content = agreement(self.members) if found is None else found["agreement"]
        names = [f"seed {self.settings.seed + number}" for number in range(len(self.members))]
        lines = describe_agreement(len(self.members), content)
        return sections.agreement_section(names, *sampled_totals(self.members), lines)

    @cached_property
    def searched(self) -> Scores | None:
        """The scores that the search went by, with its prior or its calibration; those of the rating without a search."""
        if self.scores is None:
            return None
        return scores_of_search(self.folder, self.search, self.scores)

    def front(self) -> Section | None:
        """Return the section of the front that was searched for, else of score and the first limit's cost."""
        if self.search is None or self.searched is None or not isinstance(self.costs, costs.Costs):
            return None
        if "front" in self.search:
            name = self.search["front"]["cost"]
            points = [(entry[name], entry["score"]) for entry in self.search["front"]["architectures"]]
        else:
            name = next((name for name in self.search["limits"] if name in self.costs.names), "madds")
            found = search.front(
                self.searched, self.costs, name, weights=self.search["weights"], join=self.search["join"]
            )
            points = [(entry.costs[name], entry.score) for entry in found]
        chosen = [(entry[name], entry["score"]) for entry in self.search["found"]]
        return sections.front_section(name, points, chosen, self.search["limits"].get(name))

    def latency(self) -> Section | None:
        """Return the section of the latency tables that were measured."""
        tables = tables_of(self.folder)
        notes = {name: describe_latency(about) for name, about in tables.items()}
        return sections.latency_section(tables, notes) if tables else None

    def histograms(self) -> Section | None:
        """Return the section with the blocks' histograms of scores."""
        return None if self.scores is None else sections.scores_section(self.scores, self.architecture)

    def ranking(self, truth: Path | None) -> Section | None:
        """Return the section that ranks against the user's accuracies, or the published ones of the space."""
        if self.searched is None:
            return None
        if truth is not None:
            return self._own_ranking(truth)
        bench = bench_of(self.space)
        if bench is None:
            return None
        total = bench_scores(self.searched, bench)
        rated = ~np.isnan(total)
        if rated.sum() < 3:
            return None
        bench = bench.where(rated)
        baselines = {tabular.LABELS[key]: values for key, values in tabular.baselines(bench).items()}
        madds = tabular.costs(bench)["madds"]
        return sections.ranking_section(total[rated], bench.accuracy, bench.source, baselines, madds)

    def _own_ranking(self, path: Path) -> Section:
        assert self.searched is not None
        truth = read_truth(path, self.space)
        total = self.searched.total(truth)
        rated = ~np.isnan(total)
        if rated.sum() < 3:
            raise InputError(f"[report] expected at least three architectures that the run rated, got {rated.sum()} of "
                             f"{len(truth)} in {path}")  # fmt: skip
        source = path.name if rated.all() else f"{path.name}, of which {rated.sum()} of {len(truth)} were rated"
        baselines = {}
        if self.costs is not None:
            counted = self.costs | costs.log_width(supernet(self.space, 2), self.costs.metadata["image_shape"])
            listed = [counted.of(net) for net, known in zip(truth, rated) if known]
            baselines = {
                tabular.LABELS[name]: np.array([cost[name] for cost in listed])
                for name in ("params", "madds", "log_width")
            }
        madds = baselines.get(tabular.LABELS["madds"])
        baselines[tabular.LABELS["random"]] = np.random.default_rng(0).random(rated.sum())
        accuracy = np.array(list(truth.values()))[rated]
        return sections.ranking_section(total[rated], accuracy, source, baselines, madds)

    def training(self) -> Section | None:
        """Return the section of the training curves, as far as the training has got."""
        # Of a training block by block, each block has its own.
        paths = [self.folder / "metrics.jsonl", *sorted((self.folder / "training").glob("*/metrics.jsonl"))]
        metrics = joined_metrics([read_metrics(path) for path in paths if path.exists()])
        if not metrics:
            self.missing.append(f"training steps (pynas train --run {self.folder})")
            return None
        return sections.training_section(metrics)

    def feature_maps(self) -> Section | None:
        """Return the section of the blocks' feature maps beside the teacher's."""
        path = self.folder / FEATURE_MAPS
        return sections.feature_maps_section(*read_feature_maps(path)) if path.exists() else None

    def retraining(self) -> Section | None:
        """Return the section of every retraining that has finished."""
        done = sorted((self.folder / "retraining").glob("*/report.json"))
        trainings = [(read_json(path, RETRAINING), read_metrics(path.with_name("metrics.jsonl"))) for path in done]
        return sections.retraining_section(trainings) if trainings else None

    def commands(self) -> list[str]:
        """Return the command lines that repeat the run, in a folder of another name."""
        folder = f"{self.folder.name}-again"
        lines = [commands.train_command(self.settings, folder)]
        if self.scores is not None:
            lines.append(commands.rate_command(self.scores.metadata, folder))
        if self.search is not None:
            lines.append(commands.search_command(self.search, folder))
        if self.exported:
            lines.append(commands.export_command(self.exported["architecture"], folder))
        return lines

    def repeat(self) -> Section:
        """Return the section of the commands that repeat the run, and the versions."""
        notes = [f"This page: pynas {__version__}, torch {torch.__version__}, Python {platform.python_version()}."]
        notes += [f"{name}: {self.exported[key]}" for name, key in (("Data", "data"), ("Checkpoint", "checkpoint"))
                  if key in self.exported]  # fmt: skip
        return sections.repeat_section(self.commands(), notes)
