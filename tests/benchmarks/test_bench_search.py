"""bench.search: the literature's knapsacks, every solver against enumeration, answers that differ, limits of time and memory."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import time

import numpy as np
import pytest
import torch

from bench import search
from bench.knapsacks import KINDS, generate
from bench.search_instances import INSTANCES, LITERATURE, Instance
from bench.search_one import children_peak, limited, measure
from bench.search_solvers import SOLVERS


@pytest.mark.parametrize("kind", KINDS)
def test_knapsacks_of_the_literature(kind):
    weights, profits, capacity = generate(kind, 7, 40, 1000)
    again = generate(kind, 7, 40, 1000)
    assert all(map(np.array_equal, weights + profits, again[0] + again[1])) and len(weights) == len(profits) == 7
    assert capacity == (sum(min(w) for w in weights) + sum(max(w) for w in weights)) // 2
    for w, p in zip(weights, profits):
        steps, gains = np.diff(w, prepend=0), np.diff(p, prepend=0)
        if kind == "strongly correlated":  # sums of items of weight w', profit w' + 10, in order
            assert (
                steps.min() >= 1 and steps.max() <= 1000 and (np.diff(steps) >= 0).all() and (gains == steps + 10).all()
            )
            continue
        assert w.dtype == np.int64 and w.min() >= 1 and w.max() <= 1000 and p.min() >= 1
        assert kind == "weakly correlated" or p.max() <= 1000
        assert kind != "weakly correlated" or ((abs(w - p)[w > 10] <= 10).all() and (w != p).any())
        assert kind != "subset sum" or (w == p).all()
        assert kind != "sinha-zoltners" or ((steps >= 0).all() and (gains >= 0).all())
        correlation = np.corrcoef(w, p)[0, 1]
        assert correlation > 0.9 if kind != "uncorrelated" else abs(correlation) < 0.5


def test_names_and_sizes_of_the_literature():
    assert len(LITERATURE) == 5 * 2 * 9
    instance = LITERATURE["sinha-zoltners 100x10 R10000"]()
    assert [len(block) for block in instance.whole] == [10] * 100 and instance.unit == 1
    assert 1000 < max(-block.min() for block in instance.whole) <= 10_000 and all(
        (block < 0).all() for block in instance.whole
    )


def test_losses_are_whole_multiples_of_their_unit():
    instance = INSTANCES["36x50"]()
    for whole, losses in zip(instance.whole, instance.losses):
        assert (losses / instance.unit == whole).all() and losses.min() >= 0 and losses.max() <= 1


def small(limits: int, unit: float, seed: int) -> Instance:
    """Five blocks of four options, with equal losses here and there."""
    rng = np.random.default_rng(seed)
    most = 6 if unit == 1 else 2**40
    costs = [rng.integers(1, 20, (4, limits)) for _ in range(5)]
    middle = [int(limit) for limit in sum((block.min(0) + block.max(0)) // 2 for block in costs)]
    return Instance([-rng.integers(1, most, 4) for _ in range(5)], costs, middle, 1, unit)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("limits", [1, 2])
@pytest.mark.parametrize("unit", [1.0, 2.0**-40])
def test_solvers_find_what_enumeration_finds(name, limits, unit):
    if not importlib.util.find_spec(SOLVERS[name].package):
        pytest.skip(f"{SOLVERS[name].package} is not installed")
    if name == "pynas-cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    for seed in range(5):
        instance = small(limits, unit, seed)
        choice = SOLVERS[name].build(instance, 20.0, 1)()
        if name == "algorithm2" and limits == 2:
            assert choice is None
            continue
        best = min(
            sum(int(block[i]) for block, i in zip(instance.whole, path))
            for path in itertools.product(range(4), repeat=5)
            if all(
                sum(block[i, d] for block, i in zip(instance.costs, path)) <= instance.limits[d] for d in range(limits)
            )
        )
        assert instance.total(choice) == best and instance.over(choice) <= 0


def test_answers_that_differ_are_found():
    # Losses 0, 1, ... of two blocks; the limit allows a total cost of 3.
    costs = [np.array([[3], [2], [1], [0]])] * 2
    best, worse, over = [0, 3], [2, 2], [0, 0]
    for unit in (1.0, 0.5):
        instance = Instance([np.array([0, 1, 2, 3])] * 2, costs, [3], 1, unit)
        answers = {"pynas": best, "cpsat": [3, 0], "highs": best}
        assert search.differing(instance, answers) == {}
        found = search.differing(instance, answers | {"highs": worse, "cpsat": over})
        assert found == {"highs": f"loss {4 * unit!r}, the best is {3 * unit!r}", "cpsat": "breaks a limit by 3"}
        # pynas too is found out.
        assert list(search.differing(instance, {"pynas": worse, "cpsat": best})) == ["pynas"]
    wide = Instance([np.array([10**9, 10**9 + 10])], [np.array([[0], [0]])], [0], 1, 2.0**-40)
    assert search.differing(wide, {"pynas": [0], "highs": [1]}) == {}  # within float64's tolerances
    assert list(search.differing(wide, {"pynas": [1], "highs": [0]})) == ["pynas"]
    assert list(search.differing(Instance(wide.whole, wide.costs, [0]), {"pynas": [0], "highs": [1]})) == ["highs"]


def test_each_solver_runs_in_a_process_of_its_own(capsys):
    record = search.measure("uncorrelated 10x10 R1000", ["pynas", "milp", "algorithm2"], 0.5)
    assert record["equal"] == ["pynas", "milp"] and record["wrong"] == {} and record["space_log10"] == 10
    assert 0 < record["seconds"]["pynas"] < record["seconds"]["algorithm2"] < 5
    assert 0 < record["peak_bytes"]["milp"] < 500e6
    assert "algorithm2 >5" in search.line(record) and search.not_fastest(record).split(":")[0] in (
        "",
        record["instance"],
    )
    assert search.not_fastest({**record, "seconds": {"pynas": 2.0, "milp": 1.0, "algorithm2": 0.1}}).endswith(
        "milp 1,000 ms"
    )
    assert search.alone("pynas", "no-such-instance", 1.0)["choice"] is None
    assert "pynas failed on no-such-instance: [bench.search_one] argument INSTANCE" in capsys.readouterr().out


def test_memory_is_that_of_the_call_and_of_programs_it_starts():
    with children_peak() as found:
        subprocess.run(["dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=20", "status=none"], check=True)
    assert 60e6 < max(found) < 80e6  # the program alone, not the copy of this process that became it
    result = measure("milp", "36x50", 20.0, 1)
    assert 0 < result["peak_bytes"] < 300e6 and result["choice"] is not None and result["build_seconds"] > 0


def test_a_search_without_a_limit_of_its_own_is_ended(monkeypatch):
    from bench import search_one

    monkeypatch.setattr(search_one, "GRACE_S", 0.1)
    hard = INSTANCES["strongly correlated 1000x100 R10000"]()
    start = time.perf_counter()
    seconds, choice = limited(SOLVERS["pynas"].build(hard, 0.2, 1), 0.2)
    assert time.perf_counter() - start < 10
    assert choice is None and 0.2 < seconds < 8
    assert limited(lambda: [1], 0.2)[1] == [1]
    time.sleep(0.4)  # no alarm is left


def test_patterns_name_instances():
    assert search.chosen_instances(["own"]) == search.GROUPS["own"]
    assert search.chosen_instances(["subset sum 10x10 *", "mbconv-dna", "subset sum 10x10 R1000"]) == [
        "subset sum 10x10 R1000", "subset sum 10x10 R10000", "mbconv-dna"]  # fmt: skip
    assert len(search.chosen_instances(["all"])) == len(INSTANCES) == 22 + 90
