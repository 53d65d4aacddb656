"""Candidates that put out different widths: each path scores as alone, however paths are stacked."""

import numpy as np
import pytest
import torch
from torch import nn

from pynas.errors import InputError
from pynas.nn import AtWidth, Switchable
from pynas.nn.nats import SlimmableNATSCell, SlimmableNATSResidual, SlimmableNATSStem
from pynas.rating import Settings, rate, rate_population

from .models import NAIVE_LOSSES, alone, norms_of
from .test_population import naive, views

WIDTHS = (2, 4, 6)


@pytest.fixture
def layers():
    torch.manual_seed(0)
    slimmable = [SlimmableNATSStem(WIDTHS), SlimmableNATSResidual(WIDTHS, 6), SlimmableNATSCell(WIDTHS, 6)]
    layers = [[AtWidth(layer, width) for width in WIDTHS] for layer in slimmable]
    for norm in norms_of(layers):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    return layers


def fix_and_project():
    """BossNAS's end of a block: a 1x1 convolution with batch norm of its own for each width, then the projection."""
    torch.manual_seed(4)
    fix = Switchable(WIDTHS, lambda width: nn.Sequential(nn.Conv2d(width, 6, 1, bias=False), nn.BatchNorm2d(6)))
    return nn.Sequential(fix, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
                         nn.Linear(8, 5))  # fmt: skip


def some_batches(sizes=(4, 3)):
    torch.manual_seed(1)
    return [(torch.randn(n, 3, 8, 8), torch.randn(n, 5)) for n in sizes]


@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
@pytest.mark.parametrize(("workers", "stack"), [(1, "memory"), (2, 2), (1, "cache")])
def test_scores_are_those_of_each_path_alone(layers, norm, workers, stack):
    batches, tail = some_batches(), fix_and_project()
    calibration = [torch.randn(5, 3, 8, 8)]
    table = rate(
        layers,
        batches,
        "mse",
        norm,
        calibration=calibration,
        tail=tail,
        tail_norm=norm,
        engine=Settings(workers=workers, stack=stack),
    )
    expected = alone([*layers, [tail]], batches, NAIVE_LOSSES["mse"], norm, calibration)[..., 0]
    np.testing.assert_allclose(table.scores, expected, rtol=1e-4)


@pytest.mark.parametrize(("norm", "max_bytes"), [("recalibrate", None), ("batch", 2000)])
def test_distance_to_the_centre_of_all_widths(layers, norm, max_bytes):
    tail, pairs = fix_and_project(), views((4,), inputs=3)
    calibration = [torch.randn(6, 3, 8, 8)]
    table = rate_population(
        layers[:2], pairs, norm, calibration=calibration, tail=tail, engine=Settings(max_bytes=max_bytes)
    )
    expected = naive(layers[:2], tail, layers[:2], tail, pairs, norm, calibration, True, False, False)
    np.testing.assert_allclose(table.scores, expected, rtol=1e-4)


def test_a_cell_of_one_input_width(layers):
    torch.manual_seed(2)
    batches = [(torch.randn(4, 4, 8, 8), torch.randn(4, 5))]
    tail = fix_and_project()
    table = rate(layers[1:], batches, "mse", tail=tail, tail_norm="batch")
    np.testing.assert_allclose(
        table.scores, alone([*layers[1:], [tail]], batches, NAIVE_LOSSES["mse"], "batch")[..., 0], rtol=1e-4
    )


def test_siblings_run_the_common_part_once_for_every_shape(layers, monkeypatch):
    """Whether running together agrees is seen for each input shape, since a candidate may do another thing on it."""
    calls = []
    together = AtWidth.run_together.__func__

    def wrong_on_four_channels(cls, candidates, x):
        calls.append((x.shape[1], len(candidates)))
        return [y * (2 if x.shape[1] == 4 else 1) for y in together(cls, candidates, x)]

    monkeypatch.setattr(AtWidth, "run_together", classmethod(wrong_on_four_channels))
    batches, tail = some_batches((4,)), fix_and_project()
    table = rate(layers, batches, "mse", "running", tail=tail, engine=Settings(workers=1, stack="memory"))
    expected = alone([*layers, [tail]], batches, NAIVE_LOSSES["mse"], "running")[..., 0]
    np.testing.assert_allclose(table.scores, expected, rtol=1e-4)
    assert {width for width, _ in calls} == {3, 2, 4, 6} and {count for _, count in calls} == {3}


def test_a_width_that_the_tail_lacks_is_named(layers):
    layers[2][1] = nn.Conv2d(4, 5, 1)
    with pytest.raises(InputError, match=r"expected an input of 2, 4, 6 channels, got 5 .*after the path \(0, 1, 1\)"):
        rate(layers, some_batches(), "mse", tail=fix_and_project(), paths=[(0, 1, 0), (0, 1, 1)])


def test_nodes_of_one_width_are_stacked_whatever_they_come_from(layers):
    tail, rows = fix_and_project(), []
    tail.register_forward_hook(lambda module, args, y: rows.append((args[0].shape[1], len(y) // 4)))
    rate(layers[:2], some_batches((4, 4)), "mse", "running", tail=tail, engine=Settings(workers=1, stack="memory"))
    assert rows[-3:] == [(2, 3), (4, 3), (6, 3)]
