"""verify accepts what the search says, and refuses every kind of wrong answer."""

import dataclasses

import numpy as np
import pytest

from pynas.search import VerificationError, traverse


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    costs = [rng.integers(1, 100, (8, 2)) for _ in range(4)]
    return traverse([rng.uniform(0, 1, 8) for _ in range(4)], costs, [200, 180], 20)


def test_accepts(found):
    assert found.verify() > 20


def test_refuses_a_missing_choice(found):
    for lost in (0, 10):
        indices = np.delete(found.indices, lost, axis=0)
        with pytest.raises(VerificationError, match="19 choices up to the last one found, got 20"):
            dataclasses.replace(found, indices=indices).verify()


def test_refuses_another_order(found):
    with pytest.raises(VerificationError, match="in order of loss"):
        dataclasses.replace(found, indices=found.indices[::-1]).verify()


def test_refuses_a_repeated_choice(found):
    with pytest.raises(VerificationError, match="different choices"):
        dataclasses.replace(found, indices=np.repeat(found.indices, 2, axis=0)).verify()


def test_refuses_a_broken_limit(found):
    free = traverse(
        np.split(found.problem.losses.astype(float), 4),
        [c[:, None] for c in np.split(found.problem.columns[0].whole, 4)],
        999,
    )
    with pytest.raises(VerificationError, match="within the limits"):
        dataclasses.replace(found, indices=free.indices).verify()


def test_refuses_a_false_claim_to_be_all(found):
    with pytest.raises(VerificationError, match="20 choices up to the last one found, got"):
        dataclasses.replace(found, exhausted=True).verify()


def test_equal_losses_do_not_explode():
    found = traverse([np.ones(200)] * 8, [np.arange(200)[::-1].copy()] * 8, 900, 3)
    assert found.verify() < 100_000
