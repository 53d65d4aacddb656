"""Rating is the same as running each path alone, and leaves the modules as they were."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pynas.errors import InputError
from pynas.rating import Settings, rate

from .models import NAIVE_LOSSES, alone, mbconv_layers, some_batches


@pytest.mark.parametrize("norm", ["batch", "running"])
@pytest.mark.parametrize("loss", ["relative_l1", "mse", "cosine"])
def test_every_path_scores_as_if_it_ran_alone(norm, loss):
    layers, batches = mbconv_layers(), some_batches()
    table = rate(layers, batches, loss=loss, norm=norm)
    assert table.shape == (4, 4, 4) and len(table) == 64
    np.testing.assert_allclose(table.scores, alone(layers, batches, NAIVE_LOSSES[loss], norm), rtol=1e-5)


def test_a_callable_loss_sees_one_path_at_a_time():
    layers, batches = mbconv_layers(depth=2), some_batches()

    def worst(y, target):
        assert y.shape == target.shape
        return (y - target).abs().max()

    np.testing.assert_allclose(rate(layers, batches, worst).scores, alone(layers, batches, worst, "batch"), rtol=1e-5)


def test_listed_and_allowed_paths():
    layers, batches = mbconv_layers(), some_batches()
    full = rate(layers, batches)
    listed = [(3, 1, 2), (0, 0, 0), (3, 1, 0), (3, 1, 2)]
    table = rate(layers, batches, paths=listed)
    assert len(table) == 3
    for path in listed:
        assert table[path] == pytest.approx(full[path], rel=1e-6)
    ascending = rate(layers, batches, allowed=lambda prefix: sorted(prefix) == list(prefix))
    for path in itertools.product(range(4), repeat=3):
        if sorted(path) == list(path):
            assert ascending[path] == pytest.approx(full[path], rel=1e-6)
        else:
            assert np.isnan(ascending[path])
    both = rate(layers, batches, paths=listed, allowed=lambda prefix: prefix[0] == 3)
    assert both.rated()[0].tolist() == [[3, 1, 0], [3, 1, 2]]


def test_a_prefix_is_computed_once():
    layers, batches = mbconv_layers(), some_batches((4,))
    calls = []
    for depth, layer in enumerate(layers):
        for module in layer:
            module.register_forward_hook(lambda module, args, y, depth=depth: calls.append((depth, len(args[0]) // 4)))
    rate(layers, batches, norm="running", engine=Settings(max_bytes=1))
    per_depth = [sum(paths for d, paths in calls if d == depth) for depth in range(3)]
    assert per_depth == [4, 16, 64]


def _state(layers):
    modules = [m for layer in layers for module in layer for m in module.modules()]
    tensors = [t.clone() for layer in layers for module in layer for t in module.state_dict().values()]
    return [m.training for m in modules], [id(m) for m in modules], tensors


@pytest.mark.parametrize("norm", ["batch", "running"])
@pytest.mark.parametrize("fails", [False, True])
def test_modules_are_left_as_they_were(norm, fails):
    layers = mbconv_layers()
    layers[0][1].eval()
    before = _state(layers)
    batches = some_batches()
    if fails:
        batches.append((batches[0][0], batches[0][1][..., :2]))
        with pytest.raises(InputError, match="target"):
            rate(layers, batches, norm=norm)
    else:
        rate(layers, batches, norm=norm)
    after = _state(layers)
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2]))
    assert not any("forward" in vars(m) for layer in layers for module in layer for m in module.modules())


class Shift(nn.Module):
    def __init__(self, by, in_place=False):
        super().__init__()
        self.by, self.in_place = by, in_place

    def forward(self, x):
        return x.add_(self.by) if self.in_place else x + self.by


def test_a_module_that_changes_its_input_does_not_poison_its_siblings():
    layers = [[Shift(1), nn.Identity()], [Shift(2, in_place=True), Shift(4), nn.Sequential(nn.ReLU(inplace=True))]]
    safe = [[Shift(1), nn.Identity()], [Shift(2), Shift(4), nn.ReLU()]]
    x = torch.randn(4, 3)
    kept = x.clone()
    batches = [(x, torch.randn(4, 3)) for _ in range(2)]
    np.testing.assert_array_equal(rate(layers, batches).scores, rate(safe, batches).scores)
    assert torch.equal(x, kept)


def test_modules_shared_between_candidates_and_layers():
    layers, batches = mbconv_layers(depth=3), some_batches()
    shared = nn.BatchNorm2d(6)
    for layer in layers[1:]:
        for module in layer:
            module.bn3 = shared
    layers[2] = layers[1]
    expected = alone(layers, batches, NAIVE_LOSSES["mse"], "batch")
    np.testing.assert_allclose(rate(layers, batches, "mse").scores, expected, rtol=1e-5)


def test_batch_norm_without_stored_statistics_uses_the_batch():
    layers, batches = [[nn.BatchNorm2d(4, track_running_stats=False)], [nn.Identity(), nn.ReLU()]], some_batches()
    batches = [(x, x) for x, _ in batches]
    scores = rate(layers, batches, norm="running").scores
    np.testing.assert_allclose(scores, alone(layers, batches, NAIVE_LOSSES["relative_l1"], "running"), rtol=1e-5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x):
        return self.bn(x), x


class Scale(nn.Module):
    def forward(self, x):
        return x * float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(layers=[]), "at least one layer"),
        (lambda a: a["layers"].insert(1, []), "none in layer 1"),
        (lambda a: a["layers"].insert(1, [torch.relu]), "nn.Module"),
        (lambda a: a.update(batches=[]), "at least one batch"),
        (lambda a: a.update(batches=[a["batches"][0][0]]), "input tensor, target"),
        (lambda a: a.update(batches=[(torch.zeros(0, 4, 8, 8), None)]), "samples"),
        (lambda a: a.update(loss="l7"), "'l7'"),
        (lambda a: a.update(norm="none"), "'none'"),
        (
            lambda a: a.update(engine=Settings(stack=0)),
            "stack to be 'memory', 'cache' or a number of at least 1, got 0",
        ),
        (lambda a: a.update(engine=Settings(stack="measure")), "got 'measure'"),
        (lambda a: a.update(engine=Settings(workers=0)), "workers to be greater than or equal to 1, got 0"),
        (lambda a: a.update(engine=Settings(max_bytes="much")), "max_bytes to be a valid integer"),
        (lambda a: a.update(norm="recalibrate"), "calibration"),
        (lambda a: a.update(distributed=True), "process group"),
        (lambda a: a.update(paths=[(0, 0)]), r"\(0, 0\)"),
        (lambda a: a.update(paths=[(0, 0, 4)]), r"\(0, 0, 4\)"),
        (lambda a: a.update(paths=[]), "at least one path"),
        (lambda a: a.update(allowed=lambda prefix: len(prefix) < 2), "at least one path"),
        (lambda a: a["layers"][1].append(nn.Conv2d(6, 5, 1)), r"candidate 4: \(5, 4, 4\)"),
        (lambda a: a["layers"][2].append(nn.Conv2d(6, 5, 1)), r"\(in the loss after the path \(0, 0, 4\)\)"),
        (
            lambda a: a.update(loss=lambda y, t: (y[:, :3] - t).sum()),
            r"expected the loss after the path \(0, 0, 0\) to run .*RuntimeError",
        ),
        (
            lambda a: a.update(tail=nn.Conv2d(5, 6, 1)),
            r"expected the tail after the path \(0, 0, 0\) to run .*\(6, 4, 4\) per",
        ),
        (lambda a: a.update(tail=nn.Flatten(0)), r"the tail after the path \(0, 0, 0\) .*as many rows"),
        (lambda a: a.update(tail=Pair()), "the tail after .*got tuple"),
        (lambda a: a["layers"][2].append(nn.Conv2d(5, 6, 1)), "candidate 4 of layer 2"),
        (lambda a: a["layers"][2].append(nn.Flatten(0)), "as many rows"),
        (lambda a: a["layers"][2].append(Pair()), "got tuple"),
        (lambda a: a["layers"][2].append(Scale()), r"nan for the path \(0, 0, 4\) \(16 of 80"),
        (lambda a: a.update(loss=lambda y, t: y), "one number"),
        (lambda a: a.update(batches=[(x[:1, :, :1, :1], t[:1, :, :1, :1]) for x, t in a["batches"]]), "more than one"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"layers": mbconv_layers(), "batches": some_batches()}
    with pytest.raises(InputError, match=message) as caught:
        change(arguments)
        rate(**arguments)
    assert str(caught.value).startswith("[rate] expected")


def test_a_saved_table_says_what_it_was_made_from(tmp_path):
    layers, batches = mbconv_layers(depth=2), some_batches()
    table = rate(layers, batches)
    table.save(tmp_path / "block.npz")
    loaded = type(table).load(tmp_path / "block.npz")
    np.testing.assert_array_equal(loaded.scores, table.scores)
    assert loaded.metadata["loss"] == "relative_l1" and loaded.metadata["samples"] == 10
    assert copy.deepcopy(loaded.metadata) == loaded.metadata
