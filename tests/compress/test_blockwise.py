"""Block-wise training of candidates, against a loop over modules cut by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pynas import compress
from pynas.compress import plan
from pynas.compress.blockwise import BlockTraining
from pynas.compress.cuts import Cut
from pynas.compress.pieces import Piece, captured, side_of
from pynas.errors import InputError
from pynas.rating import losses

from .families import FAMILIES, built


def supernet(name: str) -> tuple[Any, Any]:
    model, call = built(FAMILIES[name])
    return plan(model, call).supernet(widths=(1.0, 0.5), heads=(1.0, 0.5), refit=[call]), call


@pytest.mark.parametrize("name", FAMILIES)
def test_candidates_take_slices_of_one_set_of_weights(name: str) -> None:
    """Before any step each candidate equals the unit that is cut without a refit; after a change of the weights too."""
    net, call = supernet(name)
    training = BlockTraining(net)
    for number, (block, shared) in enumerate(zip(net.blocks, training.net)):
        units = [parts.unit for parts, _ in block]
        calls, _, _ = captured(net.model, units, call)
        side = side_of(calls, units, None)
        for at, ((parts, cuts), unit) in enumerate(zip(block, shared)):
            x, ranks = parts.unit.feature(calls[at]), net.ranks(number)[at]
            with torch.no_grad():
                for weight in unit.weights:
                    weight.mul_(1.1).add_(0.01)
            trained = [cut for cut in cuts if not cut.left_out]
            assert unit.count == len(trained)
            for candidate, cut in enumerate(trained):
                weights = {} if cut == Cut() else unit.trained()
                alone = parts.cut(parts.sizes(cut), ranks, weights=weights)
                with torch.no_grad():
                    want, got = Piece(alone, parts.unit, at)(x, side), unit(x, side, candidate)
                torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["timm resnet18", "BERT"])
def test_training_lowers_the_loss_and_leaves_the_model_alone(name: str) -> None:
    net, call = supernet(name)
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    flags = [p.requires_grad for p in net.model.parameters()]
    steps: list[float] = []
    compress.train_units(
        net, [call], 60, learning_rate=3e-3, on_step=lambda step: steps.append(step.losses["relative_l1"])
    )
    assert sum(steps[-10:]) < 0.8 * sum(steps[:10])
    assert all(before[key].equal(value) for key, value in net.model.state_dict().items())
    assert [p.requires_grad for p in net.model.parameters()] == flags
    assert all(p.grad is None for p in net.model.parameters())
    assert net.extract(net.original).state_dict().keys() == before.keys()


def test_candidates_are_cut_from_the_trained_weights() -> None:
    net, _ = supernet("timm resnet18")
    training = BlockTraining(net)
    for block in training.net:
        for unit in block:
            for weight in unit.weights:
                weight.data.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    net.use_weights(training.trained())
    (parts, cuts), *_ = net.blocks[0]
    at = next(number for number, cut in enumerate(cuts) if cut != Cut() and not cut.left_out)
    made, ranks = net.layers(0)[0][at].module, net.ranks(0)[0]
    cut = parts.cut(parts.sizes(cuts[at]), ranks, weights=training.trained()[parts.unit.name])
    refitted = {refit.name for refit in parts.refits(parts.sizes(cuts[at]), ranks)}
    for name, value in cut.named_parameters():
        assert made.get_parameter(name).equal(value) == (name.rpartition(".")[0] not in refitted), name
    assert net.layers(0)[0][0].module is parts.unit.module


def test_loss_is_that_of_the_rating() -> None:
    """Relative L1 against the model's feature, for the path that is drawn."""
    net, call = supernet("timm resnet18")
    training = BlockTraining(net)

    class First:
        def integers(self, count: int) -> int:
            return count - 1

    got = training.training_step(call, torch.zeros(0), First())["relative_l1"]  # type: ignore[arg-type]
    values = []
    for number, block in enumerate(net.blocks):
        units = [parts.unit for parts, _ in block]
        calls, (target,), _ = captured(net.model, units, call)
        x, side = units[0].feature(calls[0]), side_of(calls, units, None)
        for at, (parts, cuts) in enumerate(block):
            cut = [one for one in cuts if not one.left_out][-1]
            x = Piece(parts.cut(parts.sizes(cut), net.ranks(number)[at]), parts.unit, at)(x, side)
        values.append(losses.resolve("relative_l1")(x.detach(), target, 1)[0])
    assert float(got) == pytest.approx(float(torch.stack(values).mean()), rel=1e-3)


def test_no_batches() -> None:
    net, _ = supernet("timm resnet18")
    with pytest.raises(InputError, match=r"\[compress\] expected at least one batch to train units on"):
        compress.train_units(net, [], 3)


class Tabled(torch.nn.Module):
    """Residual unit with a table that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.table = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8), torch.eye(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(self.first(x @ self.table.to(x.dtype)).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_units_in_their_own_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(Tabled(), Tabled()).to(dtype), torch.randn(4, 8, dtype=dtype)
    net = plan(model, x).supernet(widths=(1.0, 0.5), refit=[x])
    (block,), (shared,) = net.blocks, BlockTraining(net).net
    for at, ((parts, cuts), unit) in enumerate(zip(block, shared)):
        want = parts.cut(parts.sizes(cuts[1]), net.ranks(0)[at])(x)
        torch.testing.assert_close(unit(x, None, 1), want)
        assert sum(p.untyped_storage().nbytes() for p in unit._pieces[1][0].parameters()) <= 8 * x.element_size()
