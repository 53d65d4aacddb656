"""Runs of several seeds: members beside runs of those seeds, going on, more seeds, and what the search says of them."""

import json
from html import escape

import numpy as np
import pytest
import torch
import yaml

from pynas import runs
from pynas.cli import main
from pynas.cli.display import print_found
from pynas.errors import InputError
from pynas.rating import Scores, average, reliability, standardised
from pynas.runs.agreement import ErrorBar, describe_agreement
from pynas.runs.rate import load_members, load_scores, own_scores, scores_folder
from pynas.runs.report import run_page
from pynas.runs.robustness import Variant, rated_variant
from pynas.runs.settings import read_settings
from pynas.search import agreed_weight, with_prior

BARE = {"batch_size": 8, "epochs": 1, "image_size": 16}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def opened(folder, **settings):
    """A run whose small teacher is not trained."""
    run = runs.create(folder, **settings)
    run.rehearsal = True
    return run


def files(folder):
    """Times of all files of a folder, but for those that every stage writes anew."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".safetensors", ".npz")}


class Stopped(Exception):
    pass


def stopping(work):
    """Progress that stops a run at the second step of a work."""

    def log(name):
        def step(report):
            if name == work and report.step == 2:
                raise Stopped

        return step

    return runs.Progress(log=log)


@pytest.fixture(scope="module")
def grown(images, tmp_path_factory):
    """A run of one seed, then of two, whose second was stopped within its training; its folder, and its first scores."""
    folder = tmp_path_factory.mktemp("runs") / "grown"
    run = opened(folder, data=images, seed=3, **BARE)
    run.train()
    first = run.rate()
    before = files(folder)
    more = opened(folder, seeds=2)
    more.progress = stopping("seed_4/train supernet")
    with pytest.raises(Stopped):
        more.train()
    with pytest.raises(
        InputError, match=r"expected the scores of every block, .*seed_4/scores; run `pynas train --run \S*grown`"
    ):
        more.search()
    again = opened(folder)
    assert again.settings.seeds == 2 and again.settings == read_settings(folder)
    again.train()
    again.rate()
    assert {path: files(folder)[path] for path in before} == before
    return folder, first


def same(one, other):
    for cells, theirs in zip(one, other, strict=True):
        for table, table2 in zip(cells, theirs, strict=True):
            np.testing.assert_array_equal(table.scores, table2.scores)


def test_scores_are_the_average_of_runs_of_each_seed(grown, images, tmp_path):
    folder, first = grown
    run = opened(folder)
    single = opened(tmp_path / "single", data=images, seed=4, **BARE)
    single.data, single.named_teacher = run.data, run.teacher()
    single.train()
    second = single.rate()
    members = load_members(run)
    same(members[0], first)
    same(members[1], second)
    with pytest.raises(AssertionError):
        same(first, second)
    same(load_scores(run), average([first, second]))
    same(run.rate(), load_scores(run))
    # By hand: the mean of the two, each centred by block and divided by the deviation of a random network's score.
    for b, cells in enumerate(run.space.blocks):
        for c in range(len(cells)):
            naive = sum(standardised(scores)[b][c].scores for scores in (first, second)) / 2
            np.testing.assert_array_equal(load_scores(run)[b][c].scores, naive)


def test_a_search_says_how_far_the_seeds_agree(grown, capsys):
    folder, _ = grown
    run = opened(folder)
    content = run.search({"madds": "70%"}, top_k=3)
    found = content["found"]
    assert found == json.loads((folder / "search.json").read_text())["found"] and content["seeds"] == 2
    scores, members = load_scores(run), load_members(run)
    assert found[0]["score"] == pytest.approx(scores.of(run.space.parse(found[0]["architecture"])), abs=1e-12)
    agreed = content["agreement"]
    assert agreed["pearson"] == reliability(members) and -1 < agreed["tau"] < 1
    assert agreed["distance"] == pytest.approx(1.96 * np.sqrt(2) * agreed["error"])
    assert agreed["error"] ** 2 == pytest.approx(np.square(agreed["block_errors"]).sum())
    assert agreed["cost"] == "madds" and 1 <= len(agreed["cheapest"]) <= 5
    madds = [entry["madds"] for entry in agreed["cheapest"]]
    assert madds == sorted(madds) and max(madds) <= content["limits"]["madds"]
    print_found(content)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"{agreed['alike']:,} networks within the limits cannot be told apart" in said
        and "averages over 2 seeds" in said
    )
    with pytest.raises(
        InputError, match="expected join sum, as scores averaged over seeds are centred at 0, got product"
    ):
        run.search(join="product")
    _, html, sections = run_page(folder)
    assert (
        "How far the seeds agree" in sections and escape(describe_agreement(2, agreed)[-1], quote=False)[-40:] in html
    )


def test_seeds_and_a_prior_together(grown):
    """The error bar is in the units of the joined scores, and the prior, equal for all seeds, has no error."""
    folder, _ = grown
    run = opened(folder)
    try:
        plain = run.search({"madds": "70%"})["agreement"]
        content = run.search({"madds": "70%"}, prior="params")
        agreed, prior, averaged = content["agreement"], content["prior"], load_scores(run)
        blocks = [np.concatenate([table.rated()[1] for table in cells]) for cells in averaged]
        spread = np.sqrt(sum(values.var() for values in blocks))
        assert agreed["error"] == pytest.approx(plain["error"] / spread) and prior["members"] == 2
        assert prior["weight"] == agreed_weight(load_members(run), run.costs, "params").weight
        joined = with_prior(averaged, run.costs, "params", prior["weight"])
        best, *others = (run.space.parse(entry["architecture"]) for entry in content["found"])
        assert content["found"][0]["score"] == pytest.approx(joined.of(best))
        bar = ErrorBar(load_members(run), [1 / spread] * len(run.space))
        close = [joined.of(other) - joined.of(best) < bar.between(other, best) for other in others]
        assert agreed["alike"] >= 1 + sum(close)
    finally:
        run.search({"madds": "70%"}, top_k=3)


def test_robustness_reuses_the_members(grown):
    folder, _ = grown
    run = opened(folder)
    before, members = files(folder), load_members(run)
    for seed, member in zip((3, 4), members):
        same(rated_variant(run, Variant(seed), None, None), member)
    assert files(folder) == before


def test_members_are_rated_alike(grown, tmp_path):
    folder, _ = grown
    run = opened(folder)
    other = run.variant("seed_4", run.settings)
    scores = own_scores(other)
    try:
        Scores(run.space, scores.tables, {**scores.metadata, "loss": "mse"}).save(scores_folder(other))
        with pytest.raises(InputError, match=r"scores of one loss, got kl in .* and mse in .*seed_4.*rate .* again"):
            run.search()
    finally:
        scores.save(scores_folder(other))


def test_one_seed_says_how_to_get_an_error_bar(images, tmp_path, capsys):
    content = {"space_size": 9, "limits": {}, "at_least": {}, "found": [], "exhausted": False, "seeds": 1, "top_k": 1,
               "visited": 1, "pruned": 1, "lower_bound": 0.0}  # fmt: skip
    print_found(content)
    assert "--seeds 3" in capsys.readouterr().out


def test_a_run_has_as_many_seeds_as_before_or_more(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert runs.create(folder, seeds=2).settings.seeds == 2
    assert runs.create(folder, seeds=2).settings.seeds == runs.create(folder).settings.seeds == 2
    with pytest.raises(InputError, match="expected seeds = 2, .* got 1; name as many or more, or use another folder"):
        runs.create(folder, seeds=1)
    with pytest.raises(InputError, match="expected epochs = 20"):
        runs.create(folder, seeds=3, epochs=3)
    assert read_settings(folder).seeds == 2
    # A run of the time when there were no seeds.
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["seeds"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert runs.load(folder).settings.seeds == 1 and runs.create(folder, seeds=3).settings.seeds == 3
    with pytest.raises(InputError, match="expected seeds to be greater than or equal to 1, got 0"):
        runs.create(tmp_path / "none", seeds=0)
    for command in ("run", "train"):
        monkeypatch.setattr(
            "sys.argv", ["pynas", command, "--method", "spos", "--seeds", "2", "--run", str(tmp_path / "spos")]
        )
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2 and "expected seeds = 1 for spos" in " ".join(capsys.readouterr().err.split())


def test_the_papers_recipe_rates_by_the_papers_loss(grown):
    folder, _ = grown
    run = opened(folder)
    paper = run.variant("paper", run.settings.replace(seeds=1, recipe="paper"))
    paper.train()
    assert paper.rate().metadata["loss"] == "relative_l1" and run.rate().metadata["loss"] == "kl"
    assert paper.rate_alone("cosine", None).metadata["loss"] == "cosine"


@pytest.mark.parametrize("method", [name for name in runs.METHODS if name not in ("dna", "dna-pp", "bossnas")])
def test_methods_that_rate_no_paths_take_one_seed(tmp_path, method):
    with pytest.raises(InputError, match=f"seeds = 1 for {method}, .* averaged for dna, dna-pp, bossnas only, got 3"):
        runs.create(tmp_path / "run", method=method, seeds=3)
    assert not (tmp_path / "run").exists()


SMALL = {
    "dna-pp": ("vit-mini", {}),
    "bossnas": ("mbconv-mini", {"hidden": 8, "dim": 4}),
    "dna": ("mbconv-mini", {"strategy": "progressive-b", "keep": 2}),
}


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("method", SMALL)
def test_other_methods_average_block_by_block(images, tmp_path, method):
    space, options = SMALL[method]
    epochs = 4 if method == "dna" else 1
    run = opened(tmp_path / "run", method=method, space=space, data=images, batch_size=8, epochs=epochs, seeds=2,
                 options=options)  # fmt: skip
    run.train()
    scores = run.rate()
    members = [Scores.load(tmp_path / "run" / name / "scores", run.space) for name in ("", "seed_1")]
    same(scores, average(members))
    content = run.search(top_k=2)
    best = run.space.parse(content["found"][0]["architecture"])
    assert (
        content["found"][0]["score"] == pytest.approx(scores.of(best), abs=1e-12) and content["agreement"]["alike"] >= 1
    )
    again = opened(tmp_path / "run")
    before = files(tmp_path / "run" / "seed_1")
    again.train()
    assert files(tmp_path / "run" / "seed_1") == before
