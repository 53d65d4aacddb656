"""Searches as people ask for them, on the command line, against the architectures of the space one by one."""

import json
import shutil

import numpy as np
import pytest

from pynas import costs as cost_tables
from pynas.cli.options import limits as read
from pynas.errors import InputError
from pynas.files import write_json
from pynas.rating import Scores
from pynas.runs.commands import search_command
from pynas.runs.further import allowed_of
from pynas.search import Rules, layer_distance
from pynas.spaces import Architecture, get

SPACE = get("mbconv-mini")


@pytest.fixture(scope="module")
def folder(whole_run, tmp_path_factory):
    """A copy of the run for the searches of this file."""
    return shutil.copytree(whole_run, tmp_path_factory.mktemp("searched") / "run")


@pytest.fixture(scope="module")
def counted(folder):
    """Every architecture's blocks as arrays `[P_b]` by name: scores and costs, block after block, and the choices."""
    scores, costs = Scores.load(folder / "scores"), cost_tables.load(folder / "costs.npz")
    blocks = []
    for b in range(len(SPACE)):
        choices = list(SPACE.paths(b))
        values = {name: np.array([costs[name][b][c.cell][c.path] for c in choices]) for name in costs.names}
        blocks.append({"score": np.array([scores[b][c.cell][c.path] for c in choices]), "choices": choices, **values})
    return blocks, costs.fixed


def totals(counted, name):
    """Sums over the blocks for every architecture `[P_1, P_2, ...]`."""
    blocks, fixed = counted
    total = np.zeros(()) + fixed.get(name, 0)
    for block in blocks:
        total = total[..., None] + block[name]
    return total


def best(counted, kept):
    """Name of the architecture of least score among those kept."""
    score = np.where(kept, totals(counted, "score"), np.inf)
    at = np.unravel_index(score.argmin(), score.shape)
    return SPACE.format(Architecture(tuple(block["choices"][i] for block, i in zip(counted[0], at))))


@pytest.mark.parametrize("cost", ["params", "madds", "memory"])
@pytest.mark.parametrize(("text", "low", "high"), [("40%", 0, 0.4), ("50%..60%", 0.5, 0.6), ("55%+-10%", 0.495, 0.605)])
def test_shares_and_ranges_of_every_cost(folder, counted, pynas, cost, text, low, high):
    total = totals(counted, cost)
    kept = (total >= low * total.max()) & (total <= high * total.max())
    found = pynas("search", folder, "--limit", f"{cost}={text}", "--top-k", 1, "--json")["found"]
    assert found[0]["architecture"] == best(counted, kept)


def test_equality_and_lower_shares(folder, counted, pynas):
    params, madds = totals(counted, "params"), totals(counted, "madds")
    target = int(np.sort(params.ravel())[params.size // 3])
    content = pynas("search", folder, "--limit", f"params=={target}", "--at-least", "madds=10%", "--json")
    kept = (params == target) & (madds >= 0.1 * madds.max())
    assert content["found"][0]["architecture"] == best(counted, kept)
    assert len(content["found"]) == min(5, int(kept.sum()))
    assert content["limits"]["params"] == content["at_least"]["params"] == target


def test_a_latency_takes_shares_too(folder, pynas):
    content = pynas("search", folder, "--limit", "latency=1%..99.9%", "--json")
    share = content["shares"]["limits"]["latency"]
    assert content["limits"]["latency"] == pytest.approx(0.999 * share["whole"])
    assert all(
        content["at_least"]["latency"] <= entry["latency"] <= content["limits"]["latency"] for entry in content["found"]
    )


@pytest.mark.parametrize("text", ["madds=4M..3M", "madds=a..b", "madds==", "madds=3M+-many"])
def test_other_limits_are_refused(text):
    with pytest.raises(InputError, match="expected a limit on madds of 0 or more"):
        read(text)


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """A CSV file with a latency of each candidate in ms, and these as tables."""
    file, rng = tmp_path_factory.mktemp("costs") / "phone.csv", np.random.default_rng(0)
    rows = ["block,cell,layer,candidate,latency"]
    for b, cells in enumerate(SPACE.blocks):
        for c, cell in enumerate(cells):
            rows += [
                f"{b},{c},{n},{k},{rng.uniform(1, 9)}" for n, count in enumerate(cell.counts) for k in range(count)
            ]
    file.write_text("\n".join(rows))
    return file, cost_tables.read_csv(file, SPACE)


def test_costs_of_several_workloads(folder, counted, pynas, phone, tmp_path):
    file, slow = phone
    turned = [[9 * table.ndim - table for table in cells] for cells in slow["latency"]]
    fast = cost_tables.Costs({"latency": turned}, {"latency": 2.0}, {"space": "mbconv-mini"})
    fast.save(tmp_path / "batch-32.npz")
    blocks, _ = counted
    for b, block in enumerate(blocks):
        for name, costs in (("slow", slow), ("fast", fast)):
            block[name] = np.array([costs["latency"][b][c.cell][c.path] for c in block["choices"]])
    both = [totals(counted, "slow"), 2 + totals(counted, "fast")]
    limits = [float(np.quantile(total, 0.3)) for total in both]
    words = ["--costs", f"phone={file}", "--costs", f"32={tmp_path / 'batch-32.npz'}", "--limit",
             f"latency@phone={limits[0]}ms", "--limit", f"latency@32={limits[1] / 1000!r}s"]  # fmt: skip
    content = pynas("search", folder, *words, "--json")
    assert content["found"][0]["architecture"] == best(counted, (both[0] <= limits[0]) & (both[1] <= limits[1]))
    assert content["found"][0]["architecture"] != best(counted, both[0] <= limits[0])
    assert content["costs"] == [f"phone={file}", f"32={tmp_path / 'batch-32.npz'}"]
    assert f"--costs phone={file} --costs 32=" in search_command(content, "r")
    assert "phone" in pynas("search", folder, *words)


def test_costs_that_do_not_fit_are_refused(folder, pynas, phone, tmp_path):
    with pytest.raises(InputError, match="other names than .*latency; rename"):
        pynas("search", folder, "--costs", phone[0], "--costs", phone[0])
    phone[1].metadata["space"] = "another"
    phone[1].save(tmp_path / "other.npz")
    with pytest.raises(InputError, match="costs of mbconv-mini, got those of another"):
        pynas("search", folder, "--costs", f"x={tmp_path / 'other.npz'}")
    with pytest.raises(InputError, match=r"nothing\.csv"):
        pynas("search", folder, "--costs", "x=nothing.csv")


def test_fixed_and_forbidden_choices(folder, counted, pynas):
    blocks, _ = counted
    kernels = [[[SPACE.blocks[b][c.cell].layers[n][k].kernel for n, k in enumerate(c.path)] for c in block["choices"]]
               for b, block in enumerate(blocks)]  # fmt: skip
    ok = [np.array([5 not in each for each in row]) for row in kernels[:2]]
    ok += [np.array([c.cell == 1 and 5 not in each for c, each in zip(blocks[2]["choices"], kernels[2])])]
    ok += [np.array([5 not in each for each in kernels[3]])]
    kept = np.ix_(*ok)
    mask = np.zeros([len(each) for each in ok], bool)
    mask[kept] = True
    words = ["--fix", "block 2: cell 1", "--forbid", "kernel=5", "--front", "madds"]
    content = pynas("search", folder, *words, "--json")
    assert content["found"][0]["architecture"] == best(counted, mask)
    assert content["fix"] == ["block 2: cell 1"] and content["forbid"] == ["kernel=5"]
    last = content["front"]["architectures"][-1]
    assert last["architecture"] == best(counted, mask)
    assert "--fix 'block 2: cell 1' --forbid kernel=5" in search_command(content, "r")
    with pytest.raises(
        InputError, match="got none in block 2 that fix 'block 2: cell 1' leaves beside fix 'block 2: cell 0'"
    ):
        pynas("search", folder, "--fix", "block 2: cell 0", "--fix", "block 2: cell 1")


def test_a_few_architectures_take_rules_too():
    scored = [(Architecture.parse(text), score) for text, score in (("3|00|00|00", 1.0), ("0|00|00|00", 2.0))]
    assert allowed_of(scored, Rules(SPACE, forbid=["block 0: kernel=5"])) == scored[1:]
    assert allowed_of(scored, None) == scored
    with pytest.raises(InputError, match="got none that fix 'block 1: cell 1' leaves"):
        allowed_of(scored, Rules(SPACE, fix=["block 1: cell 1"]))


def test_diverse_architectures(folder, pynas):
    words = ["--max-madds", "60%", "--diverse", 4, "--distance", 4]
    content = pynas("search", folder, *words, "--top-k", 3000, "--json")
    chosen = []
    for entry in content["found"]:  # in the order of their scores
        architecture = SPACE.parse(entry["architecture"])
        if all(layer_distance(SPACE, architecture, other) >= 4 for other in chosen):
            chosen.append(architecture)
    found = content["diverse"]["architectures"]
    assert [SPACE.parse(entry["architecture"]) for entry in found] == chosen[:4] and len(chosen) >= 4
    assert [len(entry["distances"]) for entry in found] == [0, 1, 2, 3]
    assert all(distance >= 4 for entry in found for distance in entry["distances"])
    assert "--diverse 4 --distance 4" in search_command(content, "r")
    assert "differ from all above it in at least 4 layers" in " ".join(pynas("search", folder, *words).split())
    with pytest.raises(InputError, match="both --diverse and --distance"):
        pynas("search", folder, "--diverse", 4)


def test_prices_of_limits(folder, counted, pynas):
    params, madds, score = (totals(counted, name) for name in ("params", "madds", "score"))
    words = ["--max-madds", "40%", "--max-params", "50%", "--prices"]
    content = pynas("search", folder, *words, "--json")
    limits = {"madds": 0.4 * madds.max(), "params": 0.5 * params.max()}

    def least(**moved):
        wanted = limits | moved
        return score[(madds <= wanted["madds"]) & (params <= wanted["params"])].min()

    assert {price["cost"] for price in content["prices"]} == set(limits)
    for price in content["prices"]:
        name = price["cost"]
        expected = [least(**{name: factor * limits[name]}) for factor in (0.95, 1.05)] + [least(**{name: np.inf})]
        assert [*(score for _, score in price["moved"]), price["free"]] == pytest.approx(expected)
    assert any(price["binding"] for price in content["prices"])
    printed = pynas("search", folder, *words)
    assert "What the limits cost" in printed and "--prices" in search_command(content, "r")


def test_explanations(folder, counted, pynas, tmp_path):
    pynas("search", folder, "--max-madds", "40%", "--at-least", "params=10%", "--forbid", "block 0: cell 1")
    madds, params, score = (totals(counted, name) for name in ("madds", "params", "score"))
    allowed = np.array([c.cell == 0 for c in counted[0][0]["choices"]])[:, None, None, None]
    kept = (madds <= 0.4 * madds.max()) & (params >= 0.1 * params.max()) & allowed
    for text in ("0|00|00|00", "1:00|00|00|00", "3|33|33|33"):
        architecture = SPACE.parse(text)
        at = tuple(block["choices"].index(choice) for block, choice in zip(counted[0], architecture))
        content = pynas("explain", folder, text, "--json")
        assert content["score"] == pytest.approx(score[at]) and content["madds"] == madds[at]
        assert content["best"]["architecture"] == best(counted, kept)
        better = int((score[kept] < score[at] - 1e-12).sum())
        assert content["better"] == min(better, 10_000) and content["counted"] == (better <= 10_000)
        assert content["rank"] == (better + 1 if kept[at] and better <= 10_000 else None)
        assert bool(content["rules"]) == (architecture[0].cell == 1)
        assert [each["cost"] for each in content["broken"]] == (
            ["params"] if params[at] < 0.1 * params.max() else []
        ) + (["madds"] if madds[at] > 0.4 * madds.max() else [])
        rivals = (madds <= madds[at]) & (params >= params[at]) & allowed & (score < score[at] - 1e-12)
        if rivals.any():
            assert content["beaten_by"]["architecture"] == best(counted, rivals)
        printed = " ".join(pynas("explain", folder, text).split())
        assert ("It breaks a limit" in printed) == bool(content["broken"]) and "Block by block" in printed
    best_one = pynas("explain", folder, best(counted, kept))
    assert "Rank 1 of" in best_one and "Nothing beats it" in best_one


def test_explanations_that_are_refused(folder, pynas, tmp_path):
    with pytest.raises(InputError, match="expected an architecture of 4 blocks, got 1"):
        pynas("explain", folder, "0")
    shutil.copytree(folder, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "search.json").read_text())
    write_json(tmp_path / "run" / "search.json", content | {"rated": 23, "search": "progressive"})
    with pytest.raises(InputError, match=r"got one of 23 whole networks \(progressive\)"):
        pynas("explain", tmp_path / "run", "0|00|00|00")
    write_json(tmp_path / "run" / "search.json", content | {"generations": [{"folder": "generation_1"}]})
    with pytest.raises(InputError, match="one generation, got all of dna-plus; name .*run/generation_1"):
        pynas("explain", tmp_path / "run", "0|00|00|00")
    (tmp_path / "run" / "search.json").unlink()
    with pytest.raises(InputError, match="expected a search, got no .*; run `pynas search"):
        pynas("explain", tmp_path / "run", "0|00|00|00")
