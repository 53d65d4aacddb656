"""How many nodes the exact search visits where most partial solutions are dominated."""

import pytest

from bench.search_instances import INSTANCES
from pynas.search import traverse


@pytest.mark.parametrize(
    ("name", "most"), [("12x40 equal losses, 3 limits", 10**6), ("subset sum of 48, 2 limits", 4 * 10**6)]
)
def test_dominated_partial_solutions_are_dropped(name, most):
    """A filter that compares them with the least losses alone leaves lists in which ten times as many are visited."""
    instance = INSTANCES[name]()
    found = traverse(instance.losses, instance.costs, instance.limits, device="cpu")
    assert found.certificate.visited < most
