"""Least-squares refit: the solution of the explicit system, and units that come closer to the original."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.calls import Call
from pynas.compress import plan
from pynas.compress.cuts import Cut, Parts, Ranks, Shrinker
from pynas.compress.pieces import captured
from pynas.compress.refit import Moments, Refitter
from pynas.compress.units import Unit, find_units

from .families import FAMILIES, MASK, built, images, tokens


@dataclass(frozen=True)
class Case:
    """A cut of a family's unit. layers: those that are solved, in order, with whether they are fitted to centred values."""

    family: str
    unit: int
    cut: Cut
    layers: tuple[tuple[str, bool], ...]
    sliced: bool


HALF = Cut(0.5)
CASES = {
    "MLP": Case("timm deit", 1, HALF, (("mlp.fc2", True),), True),
    "heads": Case("timm deit", 1, Cut(heads=0.67), (("attn.proj", True),), True),
    "BERT": Case("BERT", 1, Cut(0.5, 0.5), (("attention.output.dense", True), ("output.dense", True)), False),
    "no bias": Case("Llama", 1, HALF, (("mlp.down_proj", False),), True),
    "1x1 and batch norm": Case("timm mobilenetv2", 9, HALF, (("conv_pwl", True),), True),
    "squeezed": Case("timm efficientnet", 6, HALF, (("conv_pwl", True),), False),
    "3x3": Case("timm resnet18", 4, HALF, (("conv2", True),), False),
    "3x3, stride 2": Case("resnet50", 3, HALF, (("conv2", True), ("conv3", True)), False),
    "grouped": Case("timm regnet", 5, HALF, (("conv2.conv", True), ("conv3.conv", True)), False),
    "depthwise": Case("timm efficientnet", 9, Cut(kernel=3), (("conv_dw", True),), False),
    "depthwise with a bias": Case("timm convnext", 1, Cut(kernel=3), (("conv_dw", True),), False),
    "response norm": Case("timm convnextv2", 1, HALF, (("mlp.fc2", True),), False),
}


def unit_of(case: Case) -> tuple[Unit, list[Call]]:
    """Return a unit and its calls on three batches."""
    model, call = built(FAMILIES["timm resnet50" if case.family == "resnet50" else case.family])
    unit = find_units(model, call)[case.unit]
    batches = [tokens()] if isinstance(call.kwargs.get("attention_mask"), Tensor) else None
    if batches is None:
        side = call.tensors[0].shape[-1]
        batches = list(images(side, 12).split(4))
    return unit, [captured(model, [unit], Call.of(batch, model))[0][0] for batch in batches]


def seen(unit: nn.Module, name: str, calls: list[Call]) -> tuple[np.ndarray, np.ndarray, nn.Module]:
    """Inputs and outputs of a layer of a unit on some calls, of sequences those of the tokens that are no padding."""
    layer, inputs, outputs = unit.get_submodule(name), [], []

    def note(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        for kept, x in ((inputs, args[0]), (outputs, output)):
            kept.append(x[MASK == 1] if x.shape[:2] == MASK.shape else x.clone())

    handle = layer.register_forward_hook(note)
    with torch.no_grad():
        for call in calls:
            call.mapped(torch.clone)(unit)
    handle.remove()
    return torch.cat(inputs).double().numpy(), torch.cat(outputs).double().numpy(), layer


def rows(layer: nn.Module, x: np.ndarray, y: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Design matrix and targets of one group of a layer, by loops over the positions."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    (high, wide), (stride, _), (padding, _) = layer.kernel_size, layer.stride, layer.padding
    inputs, outputs = layer.weight.shape[1], len(layer.weight) // layer.groups
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    x, y = x[:, group * inputs : (group + 1) * inputs], y[:, group * outputs : (group + 1) * outputs]
    design, targets = [], []
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            design.append(x[:, :, row * stride :, column * stride :][:, :, :high, :wide].reshape(len(x), -1))
            targets.append(y[:, :, row, column])
    return np.concatenate(design), np.concatenate(targets)


def ridge_solution(
    design: np.ndarray, targets: np.ndarray, ridge: float, centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[outputs, columns]` and constants by least squares on augmented rows; the constant is not shrunk."""
    columns = design.shape[1]
    power = design.var(0).mean() if centred else np.square(design).mean()
    shrink = np.sqrt(ridge * power * len(design)) * np.eye(columns)
    if centred:
        design, shrink = np.c_[design, np.ones(len(design))], np.c_[shrink, np.zeros(columns)]
    solution = np.linalg.lstsq(
        np.r_[design, shrink], np.r_[targets, np.zeros((columns, targets.shape[1]))], rcond=None
    )[0]
    return solution[:columns].T, solution[columns] if centred else np.zeros(targets.shape[1])


def norm_after(unit: nn.Module, layer: nn.Module) -> nn.Module | None:
    """Batch norm that stands after a layer in its unit's list of submodules, where the layer has no bias."""
    parts = [part for part in unit.modules() if isinstance(part, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    after = parts[parts.index(layer) + 1 :][:1]
    return after[0] if after and isinstance(after[0], nn.BatchNorm2d) and layer.bias is None else None


def kept_outputs(parts: Parts, name: str, cut: Cut, ranks: Ranks) -> list[int] | slice:
    """Outputs of a layer that stay."""
    for hidden in parts.hidden:
        if name in hidden.makers and cut.width < 1:
            return ranks.channels(hidden, parts.sizes(cut)[f"hidden {hidden.root}"])
    return slice(None)


@pytest.fixture(params=CASES, scope="module")
def case(request):
    """Case, unit, its calls and parts."""
    torch.manual_seed(0)
    unit, calls = unit_of(CASES[request.param])
    return CASES[request.param], unit, calls, Parts.of(unit)


def refitted(unit: Unit, calls: list[Call], parts: Parts, cut: Cut, ridge: float) -> tuple[nn.Module, nn.Module, Ranks]:
    """Return slices of a unit, the same solved anew, and the ranks."""
    ranks = Ranks.of(parts, calls)
    sizes = parts.sizes(cut)
    slices = parts.cut(sizes, ranks)
    narrow = copy.deepcopy(slices)
    Refitter(unit.module, calls, ridge).refit(narrow, parts.refits(sizes, ranks))
    return slices, narrow, ranks


def test_solution_is_that_of_the_explicit_system(case):
    case, unit, calls, parts = case
    ridge = 1e-2
    slices, narrow, ranks = refitted(unit, calls, parts, case.cut, ridge)
    assert [refit.name for refit in parts.refits(parts.sizes(case.cut), ranks)] == [name for name, _ in case.layers]
    for name, centred in case.layers:
        x, _, layer = seen(narrow, name, calls)
        _, y, whole = seen(unit.module, name, calls)
        kept = kept_outputs(parts, name, case.cut, ranks)
        y = y[..., kept] if isinstance(layer, nn.Linear) else y[:, kept]
        groups = getattr(layer, "groups", 1)
        solved = [ridge_solution(*rows(layer, x, y, group), ridge, centred) for group in range(groups)]
        weights = np.concatenate([weights for weights, _ in solved]).reshape(layer.weight.shape)
        constants = np.concatenate([constants for _, constants in solved])
        found = layer.weight.detach().numpy()
        assert np.abs(found - weights).max() <= 2e-3 * np.abs(weights).max()
        assert layer.weight.shape != whole.weight.shape
        norm = norm_after(narrow, layer)
        if norm is not None:
            before = slices.get_submodule(next(n for n, part in narrow.named_modules() if part is norm)).running_mean
            constants = before.numpy() - constants
        offset = layer.bias if norm is None else norm.running_mean
        assert (offset is not None) == centred
        if centred:
            assert np.abs(offset.detach().numpy() - constants).max() <= 2e-3 * (
                np.abs(y).max() + np.abs(constants).max()
            )


def test_only_the_named_layers_change(case):
    case, unit, calls, parts = case
    before = copy.deepcopy(unit.module.state_dict())
    slices, narrow, _ = refitted(unit, calls, parts, case.cut, 1e-4)
    assert all(torch.equal(value, before[name]) for name, value in unit.module.state_dict().items())
    state, other = narrow.state_dict(), slices.state_dict()
    changed = {name for name in state if not torch.equal(state[name], other[name])}
    layers = {name for name, _ in case.layers}
    assert {f"{name}.weight" for name in layers} <= changed
    assert {name.rpartition(".")[0] for name in changed if not name.endswith("running_mean")} == layers
    assert not any(part._forward_hooks for part in [*narrow.modules(), *unit.module.modules()])


@torch.no_grad()
def test_unit_comes_closer(case):
    case, unit, calls, parts = case
    slices, narrow, _ = refitted(unit, calls, parts, case.cut, 1e-4)

    def error(module: nn.Module) -> float:
        total = 0.0
        for call in calls:
            outputs = [unit.pick(call.mapped(torch.clone)(m)) for m in (module, unit.module)]
            total += F.mse_loss(*(y if call.kept is None else y[call.kept] for y in outputs)).item()
        return total

    assert error(narrow) < 0.9 * error(slices)


def test_fast_way_is_the_general_one(case, monkeypatch):
    case, unit, calls, parts = case
    made, sliced = [], Refitter._sliced
    monkeypatch.setattr(Refitter, "_sliced", lambda *args: made.append(sliced(*args)) or made[-1])
    _, fast, _ = refitted(unit, calls, parts, case.cut, 1e-2)
    assert [moments is not None for moments in made][-1] == case.sliced
    monkeypatch.setattr(Refitter, "_sliced", lambda *args: None)
    _, general, _ = refitted(unit, calls, parts, case.cut, 1e-2)
    for (name, value), other in zip(fast.state_dict().items(), general.state_dict().values()):
        assert (value - other).abs().max() <= 1e-3 * other.abs().max(), name


def test_sums_are_shared_by_cuts_of_other_sizes(monkeypatch):
    unit, calls = unit_of(CASES["MLP"])
    parts = Parts.of(unit)
    ranks = Ranks.of(parts, calls)
    refitter = Refitter(unit.module, calls)
    counted, add = [], Moments.add
    monkeypatch.setattr(Moments, "add", lambda *args: counted.append(1) or add(*args))
    for width in (0.75, 0.5, 0.25):
        sizes = parts.sizes(Cut(width))
        narrow, other = parts.cut(sizes, ranks), parts.cut(sizes, ranks)
        refitter.refit(narrow, parts.refits(sizes, ranks))
        assert len(counted) == len(calls)
        monkeypatch.undo()
        Refitter(unit.module, calls).refit(other, parts.refits(sizes, ranks))
        monkeypatch.setattr(Moments, "add", lambda *args: counted.append(1) or add(*args))
        torch.testing.assert_close(narrow.mlp.fc2.weight, other.mlp.fc2.weight)


@pytest.mark.parametrize("name", ["MLP", "1x1 and batch norm"])
def test_inputs_of_the_narrow_unit_may_be_others(name):
    unit, calls = unit_of(CASES[name])
    parts = Parts.of(unit)
    ranks, sizes = Ranks.of(parts, calls), parts.sizes(HALF)
    narrow = parts.cut(sizes, ranks)
    own = [call.mapped(lambda x: x + 0.2 * torch.randn_like(x)) for call in calls]
    Refitter(unit.module, calls, 1e-2).refit(narrow, parts.refits(sizes, ranks), own)
    layer = CASES[name].layers[0][0]
    x, _, part = seen(narrow, layer, own)
    _, y, _ = seen(unit.module, layer, calls)
    weights, _ = ridge_solution(*rows(part, x, y, 0), 1e-2, True)
    assert np.abs(part.weight.detach().flatten(1).numpy() - weights).max() <= 2e-3 * np.abs(weights).max()


@torch.no_grad()
def test_kernels_and_channels_together():
    """Kernels are solved for all channels, readers for the unit's own kernels; the cut has both."""
    unit, calls = unit_of(CASES["depthwise"])
    parts = Parts.of(unit)
    shrinker = Shrinker(parts, calls)
    both, kernel, width = (shrinker.make(cut) for cut in (Cut(0.5, kernel=3), Cut(kernel=3), HALF))
    (hidden,) = parts.hidden
    kept = shrinker.ranks.channels(hidden, parts.sizes(HALF)[f"hidden {hidden.root}"])
    assert torch.equal(both.conv_dw.weight, kernel.conv_dw.weight[kept])
    assert torch.equal(both.bn2.running_mean, kernel.bn2.running_mean[kept])
    assert torch.equal(both.conv_pwl.weight, width.conv_pwl.weight)
    assert torch.equal(both.bn3.running_mean, width.bn3.running_mean)
    assert not torch.equal(both.conv_dw.weight, unit.module.conv_dw.weight[kept][:, :, 1:-1, 1:-1])


@torch.no_grad()
def test_heads_and_channels_together():
    unit, calls = unit_of(CASES["BERT"])
    shrinker = Shrinker(Parts.of(unit), calls)
    both, heads, width = (shrinker.make(cut) for cut in (Cut(0.5, 0.5), Cut(heads=0.5), HALF))
    assert torch.equal(both.attention.output.dense.weight, heads.attention.output.dense.weight)
    assert torch.equal(both.output.dense.weight, width.output.dense.weight)
    parts = Parts.of(unit)
    for made, cut, layer in ((heads, Cut(heads=0.5), "attention.output.dense"), (width, HALF, "output.dense")):
        slices = parts.cut(parts.sizes(cut), shrinker.ranks)
        assert not torch.equal(made.get_parameter(f"{layer}.weight"), slices.get_parameter(f"{layer}.weight"))
    assert shrinker.make(Cut()) is unit.module and shrinker.make(Cut(left_out=True)) is None


def test_without_calls_the_first_channels_stay():
    unit, _ = unit_of(CASES["MLP"])
    made = Shrinker(Parts.of(unit), []).make(HALF)
    assert torch.equal(made.mlp.fc2.weight, unit.module.mlp.fc2.weight[:, :96])
    assert torch.equal(made.mlp.fc1.weight, unit.module.mlp.fc1.weight[:96])


def test_padding_does_not_count() -> None:
    """Ids at padded positions change neither which channels stay nor the solved layers."""
    model, call = built(FAMILIES["BERT"])
    mask = call.kwargs["attention_mask"]
    assert not mask.all()
    other = {**call.kwargs, "input_ids": torch.where(mask == 1, call.kwargs["input_ids"], 7)}
    assert not other["input_ids"].equal(call.kwargs["input_ids"])
    nets = [plan(model, call).supernet(widths=(1.0, 0.5), heads=(1.0, 0.5), refit=[batch]) for batch in (call, other)]
    for block in range(len(nets[0].blocks)):
        for ours, theirs in zip(*([piece for layer in net.layers(block) for piece in layer] for net in nets)):
            for name, value in ours.state_dict().items():
                torch.testing.assert_close(theirs.state_dict()[name], value)
