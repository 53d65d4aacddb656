"""Fixed and forbidden choices, against the enumeration of all architectures and the rule as a plain predicate."""

import re
from dataclasses import dataclass

import numpy as np
import pytest

from pynas.costs import Costs
from pynas.errors import InfeasibleError, InputError
from pynas.rating import Scores, ScoreTable
from pynas.search import Rules, best, front
from pynas.spaces import Cell, Space, get


@dataclass(frozen=True)
class Conv:
    kernel: int
    expand: float = 1.0

    @property
    def label(self):
        return f"MB{self.expand:g} k{self.kernel}"


@dataclass(frozen=True)
class Op:
    op: str


CONVS = tuple(Conv(kernel, expand) for expand in (3.0, 6.0) for kernel in (3, 5))
WIDE = (*CONVS, Conv(7, 3.0))
OPS = (Op("skip_connect"), Op("pool"))
SPACE = Space(
    "small", ((Cell((CONVS,)), Cell((CONVS, WIDE))), (Cell((OPS, WIDE)),), (Cell((OPS,)), Cell((CONVS, CONVS))))
)


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in SPACE.blocks]
    tables[0][1].scores[0, 0] = np.nan
    madds = [[rng.integers(1, 99, cell.counts) for cell in cells] for cells in SPACE.blocks]
    return Scores(SPACE, tables), Costs({"madds": madds}, {"madds": 10}, space=SPACE)


def layers(architecture):
    """(block, layer, candidate) of every layer."""
    for b, choice in enumerate(architecture):
        for n, k in enumerate(choice.path):
            yield b, n, SPACE.blocks[b][choice.cell].layers[n][k]


def kernels(architecture, *places):
    return [c.kernel for b, n, c in layers(architecture) if isinstance(c, Conv) and (not places or (b, n) in places)]


def ops(architecture):
    return [c.op for _, _, c in layers(architecture) if isinstance(c, Op)]


RULES = {
    ("fix", "block 2: cell 1"): lambda a: a[2].cell == 1,
    ("fix", "block 0: cell 1"): lambda a: a[0].cell == 1,
    ("fix", "block 0 layer 1: kernel=7"): lambda a: kernels(a, (0, 1)) == [7],
    ("fix", "Block 2 Layer 0 : expand=6"): lambda a: a[2].cell == 0 or a[2].path[0] >= 2,
    ("fix", "kernel=5"): lambda a: set(kernels(a)) == {5},
    ("fix", "block 1: skip"): lambda a: a[1].path[0] == 0,
    ("fix", "layer 1: candidate 2"): lambda a: all(choice.path[1:] in ((), (2,)) for choice in a),
    ("forbid", "kernel=7"): lambda a: 7 not in kernels(a),
    ("forbid", "block 0: cell 0"): lambda a: a[0].cell != 0,
    ("forbid", "cell 1"): lambda a: all(choice.cell != 1 for choice in a),
    ("forbid", "block 1 layer 0: skip_connect"): lambda a: a[1].path[0] != 0,
    ("forbid", "skip"): lambda a: "skip_connect" not in ops(a),
    ("forbid", "MB6 k5"): lambda a: Conv(5, 6.0) not in [c for _, _, c in layers(a)],
    ("forbid", "block 2 layer 1: kernel=3"): lambda a: 3 not in kernels(a, (2, 1)),
    ("forbid", "layer 0: candidate 1"): lambda a: all(choice.path[0] != 1 for choice in a),
}


def rules_of(*given):
    return Rules(SPACE, *([text for kind, text in given if kind == wanted] for wanted in ("fix", "forbid")))


def expected(scored, *given, most=np.inf):
    scores, costs = scored
    kept = [a for a in SPACE.architectures() if all(RULES[each](a) for each in given)]
    rated = [(scores.of(a), a, costs.of(a)["madds"]) for a in kept if not np.isnan(scores.of(a))]
    return sorted((row for row in rated if row[2] <= most), key=lambda row: row[0])


@pytest.mark.parametrize("rule", RULES, ids=" ".join)
def test_one_rule(scored, rule):
    wanted, unruled = expected(scored, rule, most=130), expected(scored, most=130)
    found = best(*scored, {"madds": 130}, 10_000, allowed=rules_of(rule))
    assert [entry.architecture for entry in found] == [row[1] for row in wanted]
    assert 0 < len(wanted) < len(unruled)
    assert found.certificate.space_size == len(expected(scored, rule)) and found.verify() > 0
    for architecture in SPACE.architectures():
        assert [str(each) for each in rules_of(rule).broken(architecture)] == (
            [] if RULES[rule](architecture) else [f"{rule[0]} {rule[1]!r}"]
        )


def test_several_rules_and_the_front(scored):
    given = [("fix", "block 0: cell 1"), ("forbid", "kernel=7"), ("forbid", "MB6 k5"), ("fix", "block 1: skip")]
    wanted = expected(scored, *given)
    assert [entry.architecture for entry in best(*scored, top_k=7, allowed=rules_of(*given))] == [
        row[1] for row in wanted[:7]
    ]
    points = {(row[2], row[0]) for row in wanted}
    undominated = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    found = [(entry.costs["madds"], entry.score) for entry in front(*scored, "madds", allowed=rules_of(*given))]
    assert np.allclose(found, sorted(undominated)) and len(found) == len(undominated) > 1


def test_masks_instead_of_rules(scored):
    masks = [[np.ones(cell.counts, bool) for cell in cells] for cells in SPACE.blocks]
    masks[0][0][:] = False
    wanted = expected(scored, ("fix", "block 0: cell 1"))
    assert [entry.architecture for entry in best(*scored, top_k=9, allowed=masks)] == [row[1] for row in wanted[:9]]
    with pytest.raises(InputError, match="allowed paths of the shapes"):
        best(*scored, allowed=masks[:2])
    masks[0][1][:] = False
    with pytest.raises(InputError, match="got none in block 0 that allowed leaves"):
        best(*scored, allowed=masks)


def test_the_least_is_that_of_the_allowed_paths(scored):
    given = ("fix", "kernel=5")
    least = min(row[2] for row in expected(scored, given))
    assert least > min(row[2] for row in expected(scored))
    with pytest.raises(InfeasibleError, match=f"the least that can be reached is {least}"):
        best(*scored, {"madds": least - 1}, allowed=rules_of(given))


def test_a_rule_that_leaves_nothing_is_named(scored):
    with pytest.raises(InputError) as refusal:
        best(
            *scored,
            allowed=rules_of(("fix", "block 0: cell 0"), ("forbid", "block 0: cell 0"), ("fix", "block 1: skip")),
        )
    assert str(refusal.value) == (
        "[best] expected rules that leave a path in every block, got none in block 0 that forbid 'block 0: cell 0' leaves beside "
        "fix 'block 0: cell 0'; drop or change it"
    )
    with pytest.raises(InputError, match="got none in block 1 that fix 'kernel=9' leaves|kernel to be one of 3, 5, 7"):
        rules_of(("fix", "kernel=9"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("block 3: cell 0", "a block from 0 to 2"),
        ("block 1: cell 1", "a cell from 0 to 0"),
        ("layer 2: kernel=3", "a layer from 0 to 1"),
        ("block 0 layer 0: kernel=7", "kernel to be one of 3, 5 in small"),
        ("block 0: candidate 5", "a candidate from 0 to 4"),
        ("width=3", "the fields expand, kernel, op, or one of mb3 k3"),
        ("block 1: conv", "or one of .*pool"),
        ("block x: kernel=3", "cell C, candidate K"),
        ("", "a rule like"),
    ],
)
def test_other_rules_are_refused_in_one_line(text, wanted):
    with pytest.raises(InputError, match=rf"^\[rules\] expected .*{wanted}.*got {re.escape(repr(text))}") as refusal:
        Rules(SPACE, forbid=[text])
    assert "\n" not in str(refusal.value)


def test_rules_of_another_space_are_refused(scored):
    with pytest.raises(InputError, match="expected rules of small, got some of mbconv-mini"):
        best(*scored, allowed=Rules(get("mbconv-mini"), forbid=["kernel=5"]))


def test_boundary_states():
    """nats-size has a copy of a block's cell for every width before it."""
    space, rng = get("nats-size"), np.random.default_rng(0)
    scores = Scores(space, [[ScoreTable(rng.random(cell.counts)) for cell in cells] for cells in space.blocks])
    costs = Costs(
        {"madds": [[rng.integers(1, 9, cell.counts) for cell in cells] for cells in space.blocks]}, {"madds": 0}
    )
    found = best(scores, costs, allowed=Rules(space, ["block 1 layer 0: channels=8"], ["channels=64"]))[0].architecture
    widths = [[int(w) for w in space.format(a).split(":")] for a in space.architectures()]
    rows = [(scores.of(a), a) for a, w in zip(space.architectures(), widths) if w[2] == 8 and 64 not in w]
    assert found == min(rows, key=lambda row: row[0])[1]
