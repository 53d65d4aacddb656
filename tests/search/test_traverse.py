"""traverse against brute force, and its manners with bad input."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pynas.errors import InfeasibleError, InputError
from pynas.search import traverse
from pynas.search.grid import Grid

from .brute_force import brute_force

pytestmark = pytest.mark.usefixtures("kernels")

# Few distinct values make ties and equal sums; 0.1 multiples make sums that float64 rounds.
LOSSES = st.one_of(st.integers(0, 3).map(float), st.integers(-9, 9).map(lambda n: n * 0.1), st.floats(-5, 5))
FLOAT_COSTS = st.one_of(st.integers(0, 4).map(lambda n: n * 0.1), st.floats(0, 3))


@st.composite
def instances(draw, limits=1, lower=False):
    blocks = draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 5)) for _ in range(blocks)]
    losses = [np.array(draw(st.lists(LOSSES, min_size=n, max_size=n))) for n in sizes]
    whole = draw(st.booleans())
    value = st.integers(0, 6) if whole else FLOAT_COSTS
    dtype = np.int64 if whole else np.float64
    costs = [
        np.array(draw(st.lists(value, min_size=n * limits, max_size=n * limits)), dtype).reshape(n, limits)
        for n in sizes
    ]
    most = [float(sum(block[:, d].max() for block in costs)) for d in range(limits)]
    share = st.floats(0, 1.05)
    upper = [draw(st.one_of(st.none(), share.map(lambda s, d=d: s * most[d]))) for d in range(limits)]
    at_least = (
        [draw(st.one_of(st.none(), share.map(lambda s, d=d: s * most[d] / 2))) for d in range(limits)]
        if lower
        else None
    )
    if not whole and draw(st.booleans()):
        # A limit that some choice meets exactly.
        upper[0] = brute_force(losses, costs, [None] * limits, 1)[0][2][0]
    return losses, costs, upper, at_least, draw(st.sampled_from([1, 1, 2, 5, 1000]))


def check(losses, costs, upper, at_least, top_k):
    expected = brute_force(losses, costs, upper, top_k, at_least)
    if not expected:
        with pytest.raises(InfeasibleError, match="no choice keeps the limits"):
            traverse(losses, costs, upper, top_k, at_least=at_least)
        return
    found = traverse(losses, costs, upper, top_k, at_least=at_least)
    assert found.indices.tolist() == [row[0] for row in expected]
    np.testing.assert_allclose(found.losses, [row[1] for row in expected], rtol=1e-15, atol=1e-17)
    np.testing.assert_allclose(found.costs, np.array([row[2] for row in expected]), rtol=1e-15)
    assert found.exhausted == (len(expected) < top_k)
    assert found.certificate.lower_bound == found.losses[0]
    assert found.certificate.relaxation <= found.losses[0] + 1e-12
    assert found.certificate.gap == 0
    found.verify()


@given(instances())
@settings(max_examples=300, deadline=None)
def test_one_limit_equals_brute_force(instance):
    check(*instance)


@given(instances(limits=2))
@settings(max_examples=150, deadline=None)
def test_two_limits_equal_brute_force(instance):
    check(*instance)


@given(instances(limits=3, lower=True))
@settings(max_examples=150, deadline=None)
def test_three_limits_with_lower_ones_equal_brute_force(instance):
    check(*instance)


@pytest.mark.parametrize("top_k", [1, 7, 3**5])
def test_equal_losses_come_in_index_order(top_k):
    found = traverse([np.full(3, 0.1)] * 5, [np.zeros((3, 1), np.int64)] * 5, [0], top_k)
    assert found.indices.tolist() == [list(np.unravel_index(i, (3,) * 5)) for i in range(top_k)]


@st.composite
def linked_instances(draw):
    losses, costs, upper, _, top_k = draw(instances(limits=draw(st.integers(1, 2))))
    number = st.integers(0, 2)
    state_in, state_out = (
        [np.array(draw(st.lists(number, min_size=len(block), max_size=len(block)))) for block in losses]
        for _ in range(2)
    )
    follows = draw(st.none() | st.lists(st.booleans(), min_size=9, max_size=9).map(lambda v: np.array(v).reshape(3, 3)))
    return losses, costs, upper, top_k, state_in, state_out, follows


@given(linked_instances())
@settings(max_examples=300, deadline=None)
def test_states_equal_brute_force(instance):
    losses, costs, upper, top_k, state_in, state_out, follows = instance
    joins = np.eye(3, dtype=bool) if follows is None else follows
    expected = brute_force(
        losses, costs, upper, top_k, linked=lambda b, i, j: joins[state_out[b][i], state_in[b + 1][j]]
    )
    if not expected:
        with pytest.raises(InfeasibleError, match=r"no choice (keeps the limits|connects)"):
            traverse(losses, costs, upper, top_k, state_in=state_in, state_out=state_out, follows=follows)
        return
    found = traverse(losses, costs, upper, top_k, state_in=state_in, state_out=state_out, follows=follows)
    assert found.indices.tolist() == [row[0] for row in expected]
    found.verify()
    if found.exhausted and upper == [None] * len(upper):
        assert found.certificate.space_size == len(expected)


def random_instance(seed, sizes, limits=1):
    rng = np.random.default_rng(seed)
    costs = [rng.integers(1, 10**6, (n, limits)) for n in sizes]
    losses = [10 - block.sum(1) / 1e6 + rng.normal(0, 0.1, len(block)) for block in costs]
    return losses, costs


@pytest.mark.parametrize("limits", [1, 2])
@pytest.mark.parametrize("top_k", [1, 300])
def test_threads_do_not_matter(top_k, limits):
    losses, costs = random_instance(0, [60] * 6, limits)
    most = [2_500_000] * limits
    threads = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found = traverse(losses, costs, most, top_k)
            answers.append((found.indices.tolist(), found.losses.tolist(), found.certificate))
    finally:
        torch.set_num_threads(threads)
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0][0]) == top_k


def test_space_beyond_64_bits():
    found = traverse([np.arange(50.0)] * 60, [np.arange(50)[::-1].copy()] * 60, 60 * 49)
    assert found.certificate.space_size == 50**60
    assert found.indices.tolist() == [[0] * 60]


BLOCKS = [np.array([1.0, 2.0]), np.array([0.5, 0.25])]
COSTS = [np.array([[3], [1]]), np.array([[2], [4]])]


@pytest.mark.parametrize(
    ("losses", "costs", "limits", "message"),
    [
        ([np.array([1.0, np.nan]), BLOCKS[1]], COSTS, [9], "finite losses, got nan in block 0, option 1"),
        ([BLOCKS[0], np.array([np.inf, 1.0])], COSTS, [9], "finite losses, got inf in block 1, option 0"),
        (BLOCKS, [COSTS[0], np.array([[2], [-4]])], [9], "costs of 0 or more, got -4 in block 1"),
        (BLOCKS, [COSTS[0] * 1.0, np.array([[2], [np.nan]])], [9], "finite costs, got nan in block 1, option 1"),
        (BLOCKS, [np.array([[2**60], [1]])] * 2, [9], "whose sum stays below"),
        ([np.full(2, 1.7e308)] * 2, COSTS, [9], "sum beyond float64"),
        ([BLOCKS[0], np.zeros(0)], COSTS, [9], "at least one, got the shape .0,. in block 1"),
        ([], [], [9], "at least one block"),
        (BLOCKS, COSTS[:1], [9], "costs of 2 blocks, got 1"),
        (BLOCKS, [COSTS[0], COSTS[1][:1]], [9], r"shape \[2, 1\], got \[1, 1\] in block 1"),
        (BLOCKS, COSTS, [9, 9], "limits for 1 costs, got 2"),
        (BLOCKS, COSTS, [float("nan")], "limits that are numbers"),
    ],
)
def test_bad_input(losses, costs, limits, message):
    with pytest.raises(InputError, match=message):
        traverse(losses, costs, limits)


def test_bad_top_k():
    with pytest.raises(InputError, match="top_k of 1 or more, got 0"):
        traverse(BLOCKS, COSTS, [9], 0)


def test_infeasible_says_the_least():
    with pytest.raises(InfeasibleError, match="cost 0 <= 2: the least that can be reached is 3"):
        traverse(BLOCKS, COSTS, [2])


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_infinite_and_huge_limits(dtype):
    costs = [block.astype(dtype) for block in COSTS]
    for limit in (float("inf"), 1e300, 2**70):
        assert traverse(BLOCKS, costs, [limit]).indices.tolist() == [[0, 1]]
        assert traverse(BLOCKS, costs, [None], at_least=[-limit]).indices.tolist() == [[0, 1]]
        for impossible in ({"limits": [-limit]}, {"limits": [None], "at_least": [limit]}):
            with pytest.raises(InfeasibleError, match="that can be reached is [37]"):
                traverse(BLOCKS, costs, **impossible)


def test_infeasible_says_what_clashes():
    costs = [np.array([[0, 5, 1], [5, 0, 1]])] * 2
    with pytest.raises(InfeasibleError, match=r"cannot be kept: cost 0 and cost 1$"):
        traverse([np.zeros(2)] * 2, costs, [4, 4, 9])
    with pytest.raises(InfeasibleError, match=r"cost 2 >= 3: the most that can be reached is 2.*kept: cost 2$"):
        traverse([np.zeros(2)] * 2, costs, [9, 9, 9], at_least=[None, None, 3])


def test_a_bound_beyond_64_bits():
    """A tiny cost at a limit of 0 drives a multiplier, and with it the bound of the relaxation, to such numbers."""
    losses = [np.array([0.0, 0, 1, 0]), np.array([1, 0, -0.1, 0])]
    costs = [np.zeros((4, 2)), np.array([[0.0, 0], [0.1, 0], [0, 0], [2.65981078e-18, 0]])]
    state_in = [np.array([0, 0, 0, 0]), np.array([0, 2, 2, 0])]
    state_out = [np.array([0, 0, 2, 0]), np.array([0, 0, 0, 0])]
    found = traverse(losses, costs, [0.0, None], 2, state_in=state_in, state_out=state_out)
    assert found.indices.tolist() == [[2, 2], [0, 0]] and found.losses.tolist() == [0.9, 1.0]
    assert found.certificate.relaxation <= 0.9
    assert Grid(-58).total(-50742150676455638632) == math.ldexp(-50742150676455638632, -58)
