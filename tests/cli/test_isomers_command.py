"""Isomers of a trained supernet against networks taken out and measured one by one, and the post-selector (PreNAS, figure 4)."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

import pynas as package
from pynas import costs, export, runs, spaces
from pynas.errors import InputError
from pynas.evaluation import ErrorRate
from pynas.files import read_json
from pynas.runs import isomers, load
from pynas.runs.isomers import Isomers, case_of, measure_isomers
from pynas.tensor_files import read_tensors
from pynas.train.checkpoint import CHECKPOINT, load_weights
from pynas.zero_cost import load_preferred, random_images, saliency, select

pytestmark = pytest.mark.integration
WORDS = ("--method", "prenas", "--epochs", 2, "--batch-size", 16, "--option", "sampling=autoformer")
WORDS += ("--option", "images=2", "--option", "interval=150k")


@pytest.fixture(scope="module")
def redundant(pynas, tmp_path_factory):
    """A run that trained over the whole space and selected afterwards, and its report."""
    folder = tmp_path_factory.mktemp("runs") / "post"
    words = (
        "--data",
        "digits",
        "--limit-images",
        400,
        "--val-fraction",
        0.4,
        "--option",
        "selector=post",
        "--option",
        "normaliser=snip",
        "--run",
        folder,
    )
    return folder, pynas("run", *WORDS, *words, "--json")


def trained_and_fresh(folder):
    """The supernet with the checkpoint's weights, and one with the seed's."""
    run = load(folder, "cpu")
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(package.supernet(run.space, 10))
    method = package.methods.PreNAS(nets[0], sampling="autoformer")
    load_weights(read_tensors(folder / "checkpoints" / "last.safetensors", CHECKPOINT), method)
    return run, *nets


def test_the_post_selector_selects_with_the_trained_weights(redundant):
    folder, report = redundant
    run, trained, fresh = trained_and_fresh(folder)
    table = costs.count(trained, (3, 32, 32))
    wanted, before = (
        select(run.space, saliency(net, random_images(2, 32, 0)), table, interval=150e3, normaliser="snip")
        for net in (trained, fresh)
    )
    found = load_preferred(folder / "preferred.json", run.space)
    assert [one.architecture for one in found.members] == [one.architecture for one in wanted.members]
    assert [one.snip for one in found.members] == pytest.approx([one.snip for one in wanted.members], rel=1e-4)
    assert [one.snip for one in found.members] != pytest.approx([one.snip for one in before.members], rel=1e-2)
    assert found.metadata["normaliser"] == "snip" and found.metadata["checkpoint"] == run.trained_method()[1]
    accuracies = read_json(folder / "scores" / "preferred.json", "pynas.accuracies")["accuracies"]
    assert set(accuracies) == {run.space.format(one.architecture) for one in found.members}
    assert (
        report["search"]["rated"] == len(found)
        and report["exported"]["params"] == report["search"]["found"][0]["params"]
    )


def test_select_reads_the_weights_of_a_run(redundant, pynas, tmp_path):
    folder, _ = redundant
    words = ("--trained", folder, "--interval", "150k", "--images", 2, "--normaliser", "snip", "--json")
    content = pynas("select", *words)
    chosen = read_json(folder / "preferred.json", "pynas.preferred")
    assert content["architectures"] == chosen["architectures"] and content["metadata"] == chosen["metadata"]
    assert (folder / "select" / "preferred.json").exists()
    for wrong in (("--space", "autoformer-mini", *words), words[2:]):
        with pytest.raises(InputError, match="expected one of --space and --trained, got (both|neither)"):
            pynas("select", *wrong, "--run", tmp_path)


def test_post_selection_needs_a_training_over_the_whole_space(pynas, half_images, tmp_path):
    words = ("--data", half_images, "--run", tmp_path / "run", "--option", "selector=post")
    with pytest.raises(InputError, match=r"sampling of autoformer, spos, fairnas for selector=post, .* got 'balanced'"):
        pynas("train", "--method", "prenas", *words)
    with pytest.raises(InputError, match="selector"):
        pynas(
            "train", "--method", "prenas", "--data", half_images, "--option", "selector=after", "--run", tmp_path / "a"
        )
    content = pynas("run", *WORDS, "--data", half_images, "--option", "selector=post", "--dry-run", "--json")
    assert content["rating_madds_per_image"] > 0


def naive_case(run, net, fixed):
    """Architecture by total, for the smallest cell, and each network's accuracy, taken out and run alone."""
    (cell, *_), batches = run.space.blocks[0], list(run.loader("val"))
    groups, accuracy = {}, {}
    for path in cell.paths():
        specs = [layer[c] for layer, c in zip(cell.layers, path)]
        if any(getattr(spec, fixed) != 3 for spec in specs):
            continue
        architecture = spaces.Architecture.of([(0, path)])
        model = export.subnet(net, architecture).eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
        accuracy[architecture] = right / sum(len(labels) for _, labels in batches)
        total = sum(spec.heads if fixed == "ratio" else spec.hidden for spec in specs)
        groups.setdefault(total, []).append(architecture)
    return groups, accuracy


def naive_mean_best_rank(groups, accuracy, score):
    """mBR of appendix A; equal accuracies share their mean rank."""
    above = below = 0.0
    for group in groups.values():
        values = [score(architecture) for architecture in group]
        picked = group[values.index(max(values))]
        better = sum(accuracy[other] > accuracy[picked] for other in group)
        equal = sum(accuracy[other] == accuracy[picked] for other in group)
        above += better + (equal - 1) / 2
        below += len(group) - 1
    return above / below


def test_tables_7_and_8(redundant, pynas):
    folder, _ = redundant
    content = pynas("isomers", "--run", folder, "--images", 2, "--json")
    run, trained, fresh = trained_and_fresh(folder)
    scores = {"trained": saliency(trained, random_images(2, 32, 0)), "fresh": saliency(fresh, random_images(2, 32, 0))}
    for vary, fixed in (("mlp", "heads"), ("heads", "ratio")):
        groups, accuracy = naive_case(run, trained, fixed)
        case = content["cases"][vary]
        assert (case["dim"], case["depth"], case["subnets"]) == (64, 4, 16)
        for architecture, value in accuracy.items():
            assert content["accuracies"][str(architecture)] == pytest.approx(value)
        wanted = {total: group for total, group in sorted(groups.items()) if len(group) > 1}
        assert [group["total"] for group in case["groups"]] == list(wanted)
        assert [group["subnets"] for group in case["groups"]] == [4, 6, 4] == [len(group) for group in wanted.values()]
        for group, members in zip(case["groups"], wanted.values()):
            inside = [accuracy[architecture] for architecture in members]
            assert group["span"] == pytest.approx(100 * (max(inside) - min(inside)))
        for normaliser, by_weights in case["mean_best_rank"].items():
            for weights, value in by_weights.items():
                score = scores[weights].normalised(normaliser).of
                assert value == pytest.approx(naive_mean_best_rank(groups, accuracy, score)), (
                    vary,
                    normaliser,
                    weights,
                )
        assert set(case["mean_best_rank"]) == {"layer", "balance", "snip"}
    assert read_json(folder / "isomers.json", "pynas.isomers") == content
    assert len(set(content["accuracies"].values())) > 5
    shown = " ".join(pynas("isomers", "--run", folder, "--images", 2, "--vary", "heads").split())
    assert "Case 2: the heads vary; dimension 64, depth 4, 16 subnets" in shown and "Case 1" not in shown


def test_figure_3(redundant, pynas):
    folder, _ = redundant
    content = pynas("isomers", "--run", folder, "--images", 2, "--json")
    run, _, fresh = trained_and_fresh(folder)
    scores = saliency(fresh, random_images(2, 32, 0))
    assert content["pictures"] == ["isomers.png", "isomers.svg"]
    drawn, taus = (folder / "isomers.svg").read_text(), set()
    for vary, case in content["cases"].items():
        assert len(case["scores"]) == 16
        for text, each in case["scores"].items():
            architecture = run.space.parse(text)
            assert each["snip"] == pytest.approx(scores.snip.of(architecture))
            assert each["layer"] == pytest.approx(scores.layer.of(architecture))
        # Networks that differ in one layer alone; candidates are (2, 2), (2, 3), (3, 2), (3, 3) heads and MLP ratio.
        for layer, growth in enumerate(case["growth"]):
            more, less = [3] * 4, [3] * 4
            less[layer] = 2 if vary == "mlp" else 1
            more, less = (scores.snip.of(spaces.Architecture.of([(0, path)])) for path in (more, less))
            assert growth == pytest.approx(more - less) and growth > 0
        for group in sorted(case["groups"], key=lambda group: group["subnets"])[-1:]:
            rows = [(one, content["accuracies"][text]) for text, one in case["scores"].items()]
            inside = [(one, accuracy) for one, accuracy in rows if one["total"] == group["total"]]
            assert len(inside) == 6
            for name in ("snip", "layer"):
                tau = kendalltau([one[name] for one, _ in inside], [accuracy for _, accuracy in inside])[0]
                shown = "undefined" if math.isnan(tau) else f"{tau:.2f}"
                taus.add(shown)
                assert re.search(rf"<!-- {group['total']} \w+( \w+)?, 6 subnets: Kendall τ {shown} -->", drawn)
    assert taus != {"undefined"} and (folder / "isomers.png").stat().st_size > 50_000


def test_a_stopped_measurement_goes_on(redundant, monkeypatch):
    folder, _ = redundant
    (folder / "isomers.json").unlink(missing_ok=True)
    run, rated = load(folder, "cpu"), []

    def counted(rating, architectures, progress=None):
        if len(rated) == 10:
            raise KeyboardInterrupt
        rated.extend(architectures)
        return np.full(len(architectures), 0.25)

    monkeypatch.setattr(isomers, "_BETWEEN_WRITES", 5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ErrorRate, "many", counted)
        measure_isomers(run, Isomers(vary="mlp", images=2))
    kept = json.loads((folder / "isomers.json").read_text())
    assert "cases" not in kept and len(kept["accuracies"]) == 10
    fresh, measure = [], ErrorRate.many
    monkeypatch.setattr(
        ErrorRate, "many", lambda rating, some, progress=None: fresh.extend(some) or measure(rating, some)
    )
    content = measure_isomers(run, Isomers(vary="mlp", images=2))
    assert len(fresh) == 6 and not set(fresh) & set(rated) and content["cases"]["mlp"]["subnets"] == 16
    assert sum(value == 0.75 for value in content["accuracies"].values()) >= 10
    # Accuracies of other weights are measured anew.
    kept["metadata"]["checkpoint"] = "other"
    (folder / "isomers.json").write_text(json.dumps(kept))
    fresh.clear()
    assert len(measure_isomers(run, Isomers(vary="mlp", images=2))["accuracies"]) == len(fresh) == 16


@pytest.mark.parametrize("vary", ["mlp", "heads"])
def test_groups_of_the_papers_space(vary):
    """Table 7: 12 layers of dimension 192, numbers of subnets by how many layers have the larger choice."""
    space = spaces.get("autoformer-tiny")
    case = case_of(space, vary, Isomers(dim=192, depth=12), 0)
    counts = [count for _, count in sorted(Counter(case.totals.tolist()).items())]
    assert counts == [1, 12, 66, 220, 495, 792, 924, 792, 495, 220, 66, 12, 1]
    assert case.cell == case_of(space, vary, Isomers(), 0).cell == 0
    unit = 1 if vary == "heads" else 96
    assert sorted(set(np.diff(sorted(set(case.totals.tolist()))).tolist())) == [unit]
    for architecture in case.architectures[::500]:
        described = space.describe(space, architecture)
        assert (described["dim"], described["depth"]) == (192, 12)
        assert set(described["heads"] if vary == "mlp" else described["ratios"]) == {4}


def test_samples_do_not_repeat():
    space = spaces.get("autoformer-small")
    case = case_of(space, "heads", Isomers(dim=384, depth=14, sample=500), 3)
    assert case.paths.shape == (500, 14) and len({tuple(path) for path in case.paths.tolist()}) == 500
    assert all(architecture in space for architecture in case.architectures)
    assert set(case.paths.ravel().tolist()) == {2, 5, 8}  # 5, 6 and 7 heads, MLP ratio 4
    # A sum of 14 draws from 5, 6, 7: mean 84, standard deviation sqrt(14 * 2 / 3); the mean of 500 is within four of its own.
    assert abs(case.totals.mean() - 84) < 4 * math.sqrt(14 * 2 / 3 / 500)
    again = case_of(space, "heads", Isomers(dim=384, depth=14, sample=500), 3)
    other = case_of(space, "heads", Isomers(dim=384, depth=14, sample=500), 4)
    assert np.array_equal(case.paths, again.paths) and not np.array_equal(case.paths, other.paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 65}, "dim of 64, 96 in autoformer-mini, got 65"),
        ({"depth": 7}, "depth of 4, 5, 6 in autoformer-mini, got 7"),
        ({"sample": 1}, "subnets of equal size that differ in heads, got none among 1"),
    ],
)
def test_bad_requests_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        case_of(spaces.get("autoformer-mini"), "heads", Isomers(**changes), 0)


def test_other_runs_and_words_are_named(pynas, tmp_path):
    for name, space in (("own", "mbconv-mini"), ("untrained", "autoformer-mini")):
        runs.create(tmp_path / name, method="dna" if name == "own" else "prenas", space=space)
    with pytest.raises(InputError, match="run in a space of AutoFormer, got one in mbconv-mini"):
        pynas("isomers", "--run", tmp_path / "own")
    with pytest.raises(InputError, match="expected a trained supernet"):
        pynas("isomers", "--run", tmp_path / "untrained")
    with pytest.raises(InputError, match="'mlp', 'heads' or 'both', got 'depth'"):
        pynas("isomers", "--run", tmp_path / "untrained", "--vary", "depth")
