"""FeatureQueue against a plain list."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pynas.errors import InputError
from pynas.nn.feature_queue import FeatureQueue
from pynas.ops import queue_nce


def test_starts_with_unit_vectors_that_a_generator_decides():
    first, second = (FeatureQueue(5, 3, torch.Generator().manual_seed(1)).features for _ in range(2))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(5))
    assert torch.equal(first, second)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.lists(st.integers(0, 17), max_size=6))
def test_holds_the_last_vectors(size, batches):
    queue = FeatureQueue(size, 2)
    kept = queue.features.tolist()
    for number, batch in enumerate(batches):
        vectors = torch.arange(batch * 2).view(batch, 2) + 100.0 * number
        queue.push(vectors)
        kept = [*kept, *vectors.tolist()][-size:]
    oldest = int(queue.position)
    assert queue.features.roll(-oldest, 0).tolist() == kept


def test_state_dict_round_trip():
    queue, other = FeatureQueue(4, 2), FeatureQueue(4, 2)
    queue.push(torch.ones(3, 2))
    other.load_state_dict(queue.state_dict())
    queue.push(torch.zeros(2, 2))
    other.push(torch.zeros(2, 2))
    assert torch.equal(queue.features, other.features) and torch.equal(queue.position, other.position)


def test_a_push_before_the_backward_pass():
    queue = FeatureQueue(32, 4)
    query, key = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(queue_nce(query, key, queue.features.clone(), 0.2).sum(), query)
    loss = queue_nce(query, key, queue.features, 0.2)
    queue.push(key)
    assert not queue.features.requires_grad
    (gradient,) = torch.autograd.grad(loss.sum(), query)
    assert torch.equal(gradient, expected)


def test_bad_input():
    with pytest.raises(InputError, match=r"\[FeatureQueue\] expected a positive size and dim, got 0 and 3"):
        FeatureQueue(0, 3)
    for vectors in (torch.zeros(3), torch.zeros(2, 4)):
        with pytest.raises(InputError, match=r"\[FeatureQueue.push\] expected vectors of shape \[B, 3\]"):
            FeatureQueue(4, 3).push(vectors)
