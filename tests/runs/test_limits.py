"""Limits of a search: numbers, shares and none, read strictly; without limits every method's search is unlimited."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from pynas import costs, runs, tabular
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.runs.limits import Limits, describe, resolve
from pynas.runs.run import Request
from pynas.runs.search import find_exactly, find_limits
from pynas.search.limits import Share, read_bounds, read_limit


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("400M", 4e8),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        ("0.6", 0.6),
        ("60%", Share(Fraction(60))),
        (" 60.5 % of the largest network ", Share(Fraction("60.5"))),
        ("60% of teacher", Share(Fraction(60), of_teacher=True)),
        ("150% OF THE TEACHER", Share(Fraction(150), of_teacher=True)),
        *((none, None) for none in (None, math.inf, "inf", ".inf", "Infinity", "none", "1e999")),
    ],
)
def test_a_limit_is_read(value, read):
    assert read_limit("madds", value) == read
    assert read_bounds({"madds": value}) == ({} if read is None else {"madds": read}, {})


def test_a_latency_is_a_time():
    assert read_limit("latency", "0.5s") == 500


@pytest.mark.parametrize(
    "value", [-1, math.nan, -math.inf, True, [3], "-5%", "60%%", "60% of pupil", "nan", "%", "many", "60% teacher"]
)
def test_another_limit_is_refused(value):
    with pytest.raises(InputError, match="expected"):
        Request({"madds": value})


def test_a_lower_limit_is_finite():
    with pytest.raises(InputError, match="finite lower limit on madds, got 'inf'"):
        Request(at_least={"madds": "inf"})
    assert Request(at_least={"madds": None}).at_least == {}


def test_shares_become_numbers_and_words():
    request = Request({"madds": "7%", "params": "100%", "memory": "30% of teacher"}, {"madds": "1%", "params": 10})
    limits = resolve(request.limits, request.at_least, lambda name, share: 100_000 if share.of_teacher else 700)
    assert limits.upper == {"madds": 49, "memory": 30_000} and limits.lower == {"madds": 7, "params": 10}
    assert limits.keep({"madds": 49, "memory": 1, "params": 10}) and not limits.keep(
        {"madds": 50, "memory": 1, "params": 10}
    )
    words = describe({"limits": limits.upper, "at_least": limits.lower, "shares": limits.shares})
    assert words == ("madds <= 49 (7% of the largest network's 700), memory <= 30.00k (30% of the teacher's 100.00k), "
                     "madds >= 7 (1% of the largest network's 700), params >= 10")  # fmt: skip
    assert describe({"limits": {}, "at_least": {}}) == "no limits"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("images") / "noise.npz"
    pictures, labels = rng.integers(0, 255, (16, 32, 32), dtype=np.uint8), np.arange(16) % 2
    np.savez(path, x_train=pictures, y_train=labels, x_test=pictures, y_test=labels)
    return str(path)


@pytest.mark.parametrize("method", runs.METHODS)
def test_no_method_has_limits_of_its_own(tmp_path, images, method):
    run = runs.create(tmp_path / "run", method=method, data=images, batch_size=8)
    run.rehearsal = True
    assert find_limits(run, Request(), run.costs) == Limits()
    share = Request({"params": "40% of teacher"})
    if method in ("dna", "dna-plus", "dna-pp"):
        counted, _ = costs.count_module(run.recipe.teacher(run).module, run.data.image_shape)
        assert find_limits(run, share, run.costs).upper == {"params": 0.4 * counted["params"]}
    else:
        with pytest.raises(InputError, match=f"as {method} has no teacher, got 40% of it"):
            find_limits(run, share, run.costs)


@pytest.mark.parametrize("method", ["dna", "dna-pp", "bossnas"])
def test_without_limits_the_exact_search_finds_the_optimum_of_the_space(tmp_path, images, method):
    run = runs.create(tmp_path / "run", method=method, data=images, batch_size=8)
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in run.space.blocks]
    scores = Scores(run.space, tables)
    scores.save(run.folder / "scores")
    for limits in ({}, {"madds": None}, {"madds": math.inf}, {"madds": "100%"}):
        content = find_exactly(run, Request(limits))
        assert content == json.loads((run.folder / "search.json").read_text()) and content["limits"] == {}
        # No boundary states: each block's least score, whatever it costs.
        least = sum(min(table.scores.min() for table in cells) for cells in tables)
        assert content["found"][0]["score"] == pytest.approx(least, rel=1e-14)


def test_without_limits_the_published_best_is_found(tmp_path, images):
    run = runs.create(tmp_path / "run", method="bossnas", space="nats-size", data=images, batch_size=8)
    published = tabular.load_path_scores("nats-size")
    # A block was rated after the best path before it; whatever width it starts from, its paths have these scores.
    Scores(run.space, [[table] * len(cells) for (table,), cells in zip(published, run.space.blocks)]).save(
        run.folder / "scores"
    )
    assert find_exactly(run, Request())["found"][0]["architecture"] == "64:40:48:64:56"
    assert find_exactly(run, Request({"madds": "50%"}))["found"][0]["architecture"] != "64:40:48:64:56"
