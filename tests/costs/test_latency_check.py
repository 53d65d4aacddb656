"""Sums of a latency table corrected by whole networks: the formula is found again, and tables add up to it."""

import itertools

import numpy as np
import pytest

from pynas.costs import Correction, Costs, LatencyCheck, LayerCosts, LayerTable, corrected
from pynas.errors import InputError
from pynas.spaces import Architecture, Space

SPACE = Space.from_counts("depths", [[[2, 2], [2, 2, 2]], [[3], [3, 3]]])


def check(formula, count=12, noise=0.0):
    rng = np.random.default_rng(0)
    sums, layers = rng.uniform(1, 3, count), rng.integers(5, 12, count)
    measured = formula(sums, layers) * (1 + noise * rng.standard_normal(count))
    return LatencyCheck((Architecture.parse("0"),) * count, sums, measured, layers, np.zeros(count))


@pytest.mark.parametrize(
    "scale, constant, per_layer", [(0.9, 0.0, 0.0), (0.8, -0.1, 0.0), (0.7, 0.3, -0.02), (1.3, 0.1, 0.01)]
)
def test_the_formula_is_found_again(scale, constant, per_layer):
    found = check(lambda sums, layers: scale * sums + constant + per_layer * layers).correction()
    assert [found.scale, found.constant, found.per_layer] == pytest.approx([scale, constant, per_layer], abs=1e-9)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_a_formula_is_taken_only_where_it_predicts_better():
    honest = check(lambda sums, layers: sums, noise=0.05)
    assert honest.correction().constant == honest.correction().per_layer == 0
    # Latency that has nothing to do with the sum is not corrected to fall with it.
    turned = LatencyCheck(honest.architectures, honest.predicted, 4 - honest.predicted, honest.layers, honest.spread)
    assert turned.correction().scale > 0
    few = check(lambda sums, layers: 0.5 * sums, count=2)
    assert few.correction() == Correction(error=few.error)


def test_the_error_is_that_of_networks_left_out():
    noisy = check(lambda sums, layers: 0.8 * sums - 0.1, noise=0.02)
    found = noisy.correction()
    terms = {(False, False): 1, (True, False): 2, (True, True): 3}[found.constant != 0, found.per_layer != 0]
    columns = np.stack([noisy.predicted, np.ones(12), noisy.layers], 1)[:, :terms]
    errors = []
    for left in range(12):
        kept = [n for n in range(12) if n != left]
        weighted = columns[kept] / noisy.measured[kept, None]
        fitted = np.linalg.solve(weighted.T @ weighted, weighted.T @ np.ones(11))
        errors.append(abs(columns[left] @ fitted / noisy.measured[left] - 1))
    assert found.error == pytest.approx(np.mean(errors), rel=1e-9) and 0 < found.error < 0.05


def table():
    rng = np.random.default_rng(1)
    tables = [[rng.uniform(0.1, 1, cell.counts) for cell in cells] for cells in SPACE.blocks]
    return Costs({"latency": tables, "energy": tables}, {"latency": 0.5, "energy": 2.0}, space=SPACE)


@pytest.mark.parametrize(
    "correction", [Correction(0.9), Correction(0.8, -0.3), Correction(0.9, 0.1, -0.08), Correction(1.1, 0, 0.2)]
)
def test_a_corrected_table_adds_up_to_the_formula(correction):
    before = table()
    after = corrected(before, correction)
    for architecture in SPACE.architectures():
        layers = sum(len(choice.path) for choice in architecture)
        expected = (
            correction.scale * before.of(architecture)["latency"] + correction.constant + correction.per_layer * layers
        )
        assert after.of(architecture)["latency"] == pytest.approx(expected, rel=1e-12)
        assert after.of(architecture)["energy"] == before.of(architecture)["energy"]
    assert min(cell.min() for cell in itertools.chain(*after["latency"])) >= 0 < after.fixed["latency"]


def test_a_corrected_table_by_layers_adds_up_to_the_formula():
    rng = np.random.default_rng(2)
    by_layer = LayerTable([0.5, 0.7], [rng.uniform(0.1, 1, (3, 2)), rng.uniform(0.1, 1, (5, 2))])
    before = LayerCosts({"latency": by_layer})
    after = corrected(before, Correction(0.9, 0.1, -0.05))
    for cell, depth in ((0, 3), (1, 5)):
        for path in itertools.product(range(2), repeat=depth):
            architecture = Architecture.parse(f"{cell}:{''.join(map(str, path))}")
            expected = 0.9 * before.of(architecture)["latency"] + 0.1 - 0.05 * depth
            assert after.of(architecture)["latency"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "costs", [table(), LayerCosts({"latency": LayerTable([0.5], [np.ones((2, 2))])})], ids=["paths", "layers"]
)
def test_a_correction_that_leaves_no_time_is_refused(costs):
    with pytest.raises(InputError, match="leaves every network some time"):
        corrected(costs, Correction(0.1, -3.0))
