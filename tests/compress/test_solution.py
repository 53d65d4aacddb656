"""Solutions of single layers, importance of channels, statistics of batch norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.calls import Call
from pynas.compress.cuts import Cut, Parts, Ranks
from pynas.compress.refit import Refit, Refitter, can_refit, estimate, importance

from .families import prepared
from .test_refit import CASES, seen, unit_of


class Same(nn.Conv2d):
    """Convolution that pads in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class OneConv(nn.Module):
    """Residual unit of one convolution."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
        lambda: nn.Conv2d(4, 6, 3, padding="same", groups=2),
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        lambda: nn.Conv2d(4, 6, (3, 1), stride=2, padding=(2, 0), dilation=2, bias=False),
        lambda: nn.Conv2d(4, 6, 1, stride=2),
        lambda: nn.Conv2d(4, 6, 1, padding=1),
        lambda: Same(4, 4, 2, groups=4),
    ],
    ids=["groups", "same", "reflect", "dilated", "1x1 with stride", "1x1 with padding", "own padding"],
)
@pytest.mark.parametrize("side", [9, 40])
def test_solution_of_outputs_that_a_layer_can_give_is_the_layer(make, side):
    """Another layer of the same options gets the weights of the first one, whichever its padding."""
    torch.manual_seed(0)
    original, narrow = OneConv(make()), OneConv(make())
    calls = [Call((torch.randn(8, 4, side, side),)) for _ in range(3)]
    Refitter(original, calls, 1e-9).refit(narrow, [Refit("conv")])
    for value, expected in zip(narrow.parameters(), original.parameters()):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
    assert [*narrow.state_dict()] == [*original.state_dict()]


def test_every_column_of_a_large_map_counts():
    """Positions of a map whose side divides their step."""
    torch.manual_seed(0)
    original, narrow = OneConv(nn.Conv2d(2, 3, 1)), OneConv(nn.Conv2d(2, 3, 1))
    x = torch.randn(4, 2, 64, 64)
    x[..., ::4] = 0
    Refitter(original, [Call((x,))], 1e-9).refit(narrow, [Refit("conv")])
    torch.testing.assert_close(narrow.conv.weight, original.conv.weight, rtol=1e-3, atol=1e-3)


def test_which_layers_can_be_solved():
    assert can_refit(nn.Linear(8192, 1)) and not can_refit(nn.Linear(8193, 1))
    assert can_refit(nn.Conv2d(4, 4, 3)) and not can_refit(nn.Conv1d(4, 4, 3))


@pytest.mark.parametrize("name", ["MLP", "grouped", "1x1 and batch norm"])
def test_importance(name):
    """RMS of what a channel adds to its reader's outputs: mean square of the input times the squares of its weights."""
    unit, calls = unit_of(CASES[name])
    parts = Parts.of(unit)
    for hidden in parts.hidden:
        (reader,) = hidden.readers
        x, _, layer = seen(unit.module, reader.name, calls)
        x = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
        weight, groups = layer.weight.detach().double().numpy(), getattr(layer, "groups", 1)
        expected = []
        for channel in range(hidden.channels):
            inputs = weight.shape[1]
            some = np.split(weight, groups)[channel // inputs][:, channel % inputs]
            expected.append(np.sqrt(np.square(x[..., channel]).mean() * np.square(some).sum()))
        found = importance(unit.module, [(reader.name, reader.columns)], calls)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
        ranks, summed = Ranks.of(parts, calls), np.square(expected).reshape(hidden.parts, -1).sum(0)
        order = sorted(range(len(summed)), key=lambda position: -summed[position])
        assert list(ranks.positions[hidden.root]) == order
        best, size = sorted(order[:3]), len(summed)
        kept = [part * size + position for part in range(hidden.parts) for position in best]
        assert ranks.channels(hidden, 3 * hidden.parts) == kept
        maker = unit.module.get_submodule(hidden.root)
        sizes = {**parts.sizes(Cut()), f"hidden {hidden.root}": 3 * hidden.parts}
        made = parts.cut(sizes, ranks).get_submodule(hidden.root)
        assert torch.equal(made.weight.flatten(1)[:, 0], maker.weight[kept].flatten(1)[:, 0])


def test_estimate_is_the_mean_over_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()
    prepared(model)
    model[1].momentum = 0.3
    batches = [torch.randn(5, 3, 6, 6) + shift for shift in range(3)]
    estimate(model, [Call((x,)) for x in batches])
    with torch.no_grad():
        means = torch.stack([model[0](x).mean((0, 2, 3)) for x in batches])
        variances = torch.stack([model[0](x).var((0, 2, 3)) for x in batches])
    torch.testing.assert_close(model[1].running_mean, means.mean(0))
    torch.testing.assert_close(model[1].running_var, variances.mean(0))
    assert model[1].momentum == 0.3 and not any(part.training for part in model.modules())
