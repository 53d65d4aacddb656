"""The page of a run, from its folder; a stage that has not run yet leaves its section out, and the page says so."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import torch

from pynas import costs, export, tabular
from pynas._version import __version__
from pynas.errors import InputError
from pynas.quantities import show_cost
from pynas.report import sections
from pynas.report.network import Layer, chosen_layers, measured_layers
from pynas.report.page import Section, page, paragraph, tiles
from pynas.runs import commands
from pynas.runs.agreement import agreement, describe_agreement
from pynas.runs.correlate import bench_of, bench_scores
from pynas.runs.feature_maps import FILE as FEATURE_MAPS
from pynas.runs.feature_maps import read_feature_maps
from pynas.runs.joined import describe_joined
from pynas.runs.latency import about_latency, describe_latency
from pynas.runs.results import Results
from pynas.runs.spent import describe_cost, search_cost
from pynas.runs.truth import read_truth
from pynas.supernets import supernet
from pynas.tabular.robustness import sampled_totals


def run_page(folder: Path, truth: Path | None = None) -> tuple[str, str, list[str]]:
    """Return title, HTML and section titles of a run's page.

    truth: CSV file of accuracies to rank against; None for the published ones of the space, where there are any.

    Raises:
        InputError: no run, or a damaged file; the message names it.
    """
    results = Results(folder)
    settings = results.settings
    parts = [part for part in (
        network(results), found(results), architectures(results), filtered(results), latency(results), histograms(results),
        agreement_of(results), ranking(results, truth), training(results), feature_maps(results), retraining(results),
        repeat(results),
    ) if part is not None]  # fmt: skip
    title = f"{settings.method} on {settings.space}, {settings.data}"
    lead = tiles(results.tiles()) + paragraph(summary(results))
    if results.missing:
        lead += paragraph("Not there yet: " + "; ".join(results.missing) + ".", quiet=True)
    return title, page(title, lead, parts), [part.title for part in parts]


def summary(results: Results) -> str:
    """Return the result in a sentence or two."""
    text = f"The space {results.space.name} holds {results.space.size:,} architectures."
    if untrained := results.settings.untrained_teacher:
        text += f" The teacher, {untrained}, was untrained: its features are those of random weights."
    if results.exported:
        name = results.space.format(results.space.parse(results.exported["architecture"]))
        text += (f" {name} reaches {results.exported['test_accuracy']:.2%} top-1 on the test images with the "
                 "supernet's weights.")  # fmt: skip
    if drawn := sum(row["kind"] == "random" for row in results.baselines):
        text += (f" It is compared with the largest network of the space, and with the mean of {drawn} drawn at random under the "
                 "same limits, all with weights of the same supernet.")  # fmt: skip
    if cost := search_cost(results.folder):
        text += f" Training and rating took {describe_cost(cost)}."
    return text


def layers_of(results: Results) -> list[Layer]:
    """Return the layers of the exported network, else of the best found, with shapes where the run knows its images."""
    architecture = results.architecture
    assert architecture is not None
    if results.exported:
        return measured_layers(results.space, architecture, results.model, tuple(results.exported["image_shape"]))
    if results.costs is None or "image_shape" not in results.costs.metadata:
        return chosen_layers(results.space, architecture)
    model = export.standalone(results.space, architecture, 2).eval()
    return measured_layers(results.space, architecture, model, tuple(results.costs.metadata["image_shape"]))


def network(results: Results) -> Section | None:
    """Return the section of the exported network, or of the best one found."""
    if results.architecture is None:
        return None
    return sections.network_section(layers_of(results), results.space.format(results.architecture), show_cost)


def found(results: Results) -> Section | None:
    """Return the section with the table of architectures and costs."""
    if results.search is None:
        return None
    names = [name for name in results.search["found"][0] if name not in ("architecture", "score")]
    return sections.found_section(results.search, names, show_cost, describe_joined(results.search))


def architectures(results: Results) -> Section | None:
    """Return the section of scores against costs, with the front."""
    if results.front is None or results.search is None:
        return None
    return sections.architectures_section(results.front[0], results.groups(), results.search["limits"])


def filtered(results: Results) -> Section | None:
    """Return the section in which architectures are filtered by score and costs."""
    if results.front is None:
        return None
    return sections.filter_section([*results.drawn, *results.front[1]])


def agreement_of(results: Results) -> Section | None:
    """Return the section of how far the seeds of the run agree."""
    if len(results.members) < 2:
        return None
    known = results.search if results.search is not None and "agreement" in results.search else None
    content = agreement(results.members) if known is None else known["agreement"]
    names = [f"seed {results.settings.seed + number}" for number in range(len(results.members))]
    lines = describe_agreement(len(results.members), content)
    return sections.agreement_section(names, *sampled_totals(results.members), lines)


def latency(results: Results) -> Section | None:
    """Return the section of the latency tables that were measured."""
    tables = {name: about_latency(table) for name, table in results.latencies.items()}
    notes = {name: describe_latency(about) for name, about in tables.items()}
    return sections.latency_section(tables, notes) if tables else None


def histograms(results: Results) -> Section | None:
    """Return the section with the blocks' histograms of scores."""
    return None if results.scores is None else sections.scores_section(results.scores, results.architecture)


def ranking(results: Results, truth: Path | None) -> Section | None:
    """Return the section that ranks against the user's accuracies, or the published ones of the space."""
    if results.searched is None:
        return None
    if truth is not None:
        return _own_ranking(results, truth)
    bench = bench_of(results.space)
    if bench is None:
        return None
    total = bench_scores(results.searched, bench)
    rated = ~np.isnan(total)
    if rated.sum() < 3:
        return None
    bench = bench.where(rated)
    baselines = {tabular.LABELS[key]: values for key, values in tabular.baselines(bench).items()}
    madds = tabular.costs(bench)["madds"]
    return sections.ranking_section(total[rated], bench.accuracy, bench.architectures, bench.source, baselines, madds)


def _own_ranking(results: Results, path: Path) -> Section:
    assert results.searched is not None
    truth = read_truth(path, results.space)
    total = results.searched.total(truth)
    rated = ~np.isnan(total)
    if rated.sum() < 3:
        raise InputError(f"[report] expected at least three architectures that the run rated, got {rated.sum()} of "
                         f"{len(truth)} in {path}")  # fmt: skip
    source = path.name if rated.all() else f"{path.name}, of which {rated.sum()} of {len(truth)} were rated"
    kept = [net for net, known in zip(truth, rated) if known]
    baselines = {}
    if results.costs is not None:
        counted = results.costs | costs.log_width(supernet(results.space, 2), results.costs.metadata["image_shape"])
        listed = [counted.of(net) for net in kept]
        baselines = {
            tabular.LABELS[name]: np.array([cost[name] for cost in listed]) for name in ("params", "madds", "log_width")
        }
    madds = baselines.get(tabular.LABELS["madds"])
    baselines[tabular.LABELS["random"]] = np.random.default_rng(0).random(rated.sum())
    accuracy = np.array(list(truth.values()))[rated]
    names = list(map(results.space.format, kept))
    return sections.ranking_section(total[rated], accuracy, names, source, baselines, madds)


def training(results: Results) -> Section | None:
    """Return the section of the training curves, as far as the training has got."""
    return sections.training_section(results.metrics) if results.metrics else None


def feature_maps(results: Results) -> Section | None:
    """Return the section of the blocks' feature maps beside the teacher's."""
    path = results.folder / FEATURE_MAPS
    return sections.feature_maps_section(*read_feature_maps(path)) if path.exists() else None


def retraining(results: Results) -> Section | None:
    """Return the section of every retraining that has finished."""
    return sections.retraining_section(results.retrainings) if results.retrainings else None


def command_lines(results: Results) -> list[str]:
    """Return the command lines that repeat the run, in a folder of another name."""
    folder = f"{results.folder.name}-again"
    lines = [commands.train_command(results.settings, folder)]
    if results.scores is not None:
        lines.append(commands.rate_command(results.scores.metadata, folder))
    if results.search is not None:
        lines.append(commands.search_command(results.search, folder))
    if results.exported:
        lines.append(commands.export_command(results.exported["architecture"], folder))
    return lines


def repeat(results: Results) -> Section:
    """Return the section of the commands that repeat the run, and the versions."""
    notes = [f"This page: pynas {__version__}, torch {torch.__version__}, Python {platform.python_version()}."]
    notes += [f"{name}: {results.exported[key]}" for name, key in (("Data", "data"), ("Checkpoint", "checkpoint"))
              if key in results.exported]  # fmt: skip
    return sections.repeat_section(command_lines(results), notes)
