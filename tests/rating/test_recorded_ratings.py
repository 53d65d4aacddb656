"""Ratings with replayed walks: their scores are those of plain runs."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from bench.families import FAMILIES
from pynas.errors import InputError
from pynas.rating import Settings, engine, graphs, population, rate, rate_population
from pynas.rating.graphs import CudaRecorder, Graphs
from pynas.rating.sweeps import Sweeps

from .models import NAIVE_LOSSES, alone, mbconv_layers, some_batches
from .recorders import Recorder
from .test_population import projector, views

ALL = (4, 4, 4, 2, 4, 4)  # batch sizes: looked at, known, recorded, of another size, replayed twice


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def standing_in(monkeypatch, recorder):
    """Lets ratings on the CPU record with the stand-in unless graphs=False, with one worker and large stacks."""
    real = graphs.graphs_for

    def graphs_for(device, enabled, max_bytes, looks):
        return real(device, enabled, max_bytes, looks) if enabled is False else Graphs(recorder, looks, 1 << 24)

    monkeypatch.setattr(engine, "graphs_for", graphs_for)
    return Settings(workers=1, stack="memory")


@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
@pytest.mark.parametrize("tail", [False, True])
def test_scores_of_replays_are_those_of_each_path_alone(norm, tail, standing_in, recorder, monkeypatch):
    monkeypatch.setattr("pynas.rating.batches._GROUP", 1)
    layers, batches = mbconv_layers(), some_batches(ALL)
    calibration, progress = [torch.randn(5, 4, 8, 8)], []
    last = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU()) if tail else None
    table = rate(
        layers, batches, norm=norm, calibration=calibration, tail=last, tail_norm=norm, engine=standing_in,
        progress=progress.append,
    )  # fmt: skip
    expected = alone([*layers, [last]] if tail else layers, batches, NAIVE_LOSSES["relative_l1"], norm, calibration)
    np.testing.assert_allclose(table.scores, expected.reshape(table.scores.shape), rtol=2e-5)
    assert recorder.recorded == 1 and recorder.replayed == 3
    assert progress[-1].done == progress[-1].fresh == 64 * 6
    assert all(x.done <= x.total for x in progress)


def test_small_stacks_modules_run_path_by_path_and_changed_inputs(standing_in, recorder):
    class Mixes(nn.Module):
        def forward(self, x):
            return x.add_(1) - x.mean(0)

    layers, batches = [*mbconv_layers(depth=2), [nn.ReLU(inplace=True), Mixes()]], some_batches(ALL)
    for stack in ("memory", 3):
        with pytest.warns(UserWarning, match="Mixes"):
            found = [
                rate(layers, batches, engine=standing_in, stack=stack, graphs=kind).scores for kind in (None, False)
            ]
        np.testing.assert_array_equal(*found)
    assert recorder.recorded == 2 and recorder.replayed == 6


@pytest.mark.parametrize(
    ("loss", "recordings"),
    [
        (lambda y, t: (y - t).square().mean(), 1),
        (lambda y, t: (y - t).square().mean().item(), 0),
        (lambda y, t: float(y.mean() > t.mean()), 0),
        ("cosine", 1),
    ],
)
def test_losses(loss, recordings, standing_in, recorder):
    layers, batches = mbconv_layers(depth=2), some_batches((4,) * 6)
    found = [rate(layers, batches, loss, engine=standing_in, graphs=kind).scores for kind in (None, False)]
    np.testing.assert_array_equal(*found)
    assert recorder.recorded == recordings


@pytest.mark.parametrize("name", ["ofa-layers", "autoformer", "nasbench201-edges", "torch-encoder"])
def test_supernets_of_other_projects(name, standing_in, recorder):
    """Layers that slice their weights, set attributes and call `F.batch_norm`."""
    family = FAMILIES[name]("test")
    x, target = family.batches[0]
    family = dataclasses.replace(family, batches=[(x + 0.1 * torch.randn_like(x), target) for _ in range(6)])
    found = [family.rate("batch", engine=standing_in, graphs=kind).scores for kind in (None, False)]
    np.testing.assert_array_equal(*found)
    assert recorder.recorded == 1 and recorder.replayed >= 3


def test_a_loss_that_reads_what_the_loader_left(standing_in):
    now = {}

    def loader():
        for number, (x, y) in enumerate(some_batches((4,) * 6)):
            now["target"] = y * number
            yield x, None

    found = [
        rate(mbconv_layers(depth=2), loader(), lambda y, _: (y - now["target"]).abs().mean(), engine=standing_in,
             graphs=kind).scores
        for kind in (None, False)
    ]  # fmt: skip
    np.testing.assert_array_equal(*found)


def test_modules_that_draw_random_numbers_are_not_recorded(standing_in, recorder):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    layers = [*mbconv_layers(depth=1), [nn.Identity(), Noise()]]
    found = []
    for kind in (None, False):
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="runs alone"):
            found.append(rate(layers, some_batches((4,) * 5), engine=standing_in, graphs=kind).scores)
    np.testing.assert_array_equal(*found)
    assert recorder.recorded == 0


def test_when_memory_runs_out_in_a_walk_its_recordings_are_freed(standing_in, recorder):
    full = set()

    class Large(nn.Module):
        def forward(self, x):
            if full and len(x) > 2:
                raise torch.OutOfMemoryError
            return x * 2

    def loader():
        for pair in some_batches(ALL):
            full.update({1} if len(pair[0]) == 2 else ())
            yield pair
            full.clear()

    layers = [*mbconv_layers(depth=1), [nn.Identity(), Large()]]
    found = [rate(layers, loader(), engine=standing_in, graphs=kind).scores for kind in (None, False)]
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert (recorder.recorded, recorder.replayed) == (1, 1)


def test_a_score_that_is_not_finite_is_named_after_a_replay(standing_in, recorder):
    layers, batches = mbconv_layers(depth=2), some_batches((4,) * 6)
    batches[5][1][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"finite scores, got nan for the path \(0, 0\)"):
        rate(layers, batches, engine=standing_in)
    assert recorder.replayed == 4


def test_a_resumable_rating_records_its_units(tmp_path, standing_in, recorder):
    layers, batches = mbconv_layers(), some_batches((4,) * 5)
    found = [
        rate(layers, batches, engine=standing_in, resume=tmp_path / f"{kind}", graphs=kind).scores
        for kind in (None, False)
    ]
    np.testing.assert_array_equal(*found)
    assert recorder.recorded == 16


@pytest.mark.parametrize(
    ("max_bytes", "ema", "resumable", "recordings"),
    [(1 << 24, False, False, 1), (1 << 13, False, False, 2), (1 << 24, True, False, 2), (1 << 13, False, True, 32)],
)
def test_populations(max_bytes, ema, resumable, recordings, tmp_path, standing_in, recorder, monkeypatch):
    """One walk where the outputs are held, two where not; each of 16 units has its own recordings."""
    monkeypatch.setattr("pynas.rating.batches._GROUP", 1)
    target = {"target_layers": mbconv_layers(depth=2, seed=9), "target_tail": projector()} if ema else {}
    found = [
        rate_population(
            mbconv_layers(depth=2), views(ALL), calibration=[views((5,))[0][0]], tail=projector(), both_views=True,
            engine=standing_in, max_bytes=max_bytes, graphs=kind, resume=tmp_path / f"{kind}" if resumable else None,
            **target,
        ).scores
        for kind in (None, False)
    ]  # fmt: skip
    np.testing.assert_array_equal(*found)
    assert recorder.recorded == recordings


def test_graphs_need_a_gpu():
    with pytest.raises(InputError, match="CUDA device for graphs=True, got cpu"):
        rate(mbconv_layers(), some_batches(), engine=Settings(graphs=True))


@pytest.fixture
def recordings(monkeypatch):
    """Numbers of recordings and replays on the GPU."""
    made = {"recorded": 0, "replayed": 0}
    record = CudaRecorder.record

    def counting(self, run):
        outputs, replay = record(self, run)
        made["recorded"] += 1

        def counted():
            made["replayed"] += 1
            replay()

        return outputs, counted

    monkeypatch.setattr(CudaRecorder, "record", counting)
    return made


def on_gpu(layers, batches):
    moved = [[module.cuda() for module in layer] for layer in layers]
    return moved, [tuple(x.cuda() if isinstance(x, torch.Tensor) else x for x in pair) for pair in batches]


@pytest.mark.cuda
@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
@pytest.mark.parametrize("stack", ["memory", 3])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_real_graphs_give_the_scores_of_plain_runs(norm, stack, dtype, recordings, monkeypatch):
    monkeypatch.setattr("pynas.rating.batches._GROUP", 1)
    layers, batches = on_gpu(mbconv_layers(), some_batches(ALL))
    calibration, settings = [torch.randn(5, 4, 8, 8, device="cuda")], Settings(stack=stack, dtype=dtype)
    found = [
        rate(layers, batches, norm=norm, calibration=calibration, engine=settings, graphs=kind).scores
        for kind in (None, False)
    ]
    np.testing.assert_allclose(*found, rtol=2e-5 if dtype is None else 2e-2)
    assert recordings == {"recorded": 1, "replayed": 3}


@pytest.mark.cuda
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("tail", [False, True])
def test_real_graphs_of_populations(held, tail, recordings, monkeypatch):
    monkeypatch.setattr("pynas.rating.batches._GROUP", 1)
    if not held:
        monkeypatch.setattr(population, "Sweeps", lambda *arguments: Sweeps(*arguments[:-1], hold_bytes=0))
    layers, pairs = on_gpu(mbconv_layers(depth=2), views(ALL))
    last = projector().cuda() if tail else None
    found = [
        rate_population(layers, pairs, calibration=[pairs[0][0]], tail=last, both_views=True, graphs=kind).scores
        for kind in (None, False)
    ]
    np.testing.assert_allclose(*found, rtol=2e-5)
    assert recordings["recorded"] == (1 if held else 2)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("loss", "target", "recorded"),
    [
        (lambda y, t: (y - t).square().mean(), None, 1),
        (lambda y, t: (y - t).square().mean().item(), None, 0),
        (lambda y, t: 1.0 * y.ndim, None, 0),
        (lambda y, t: y.square().mean() * t, 2, 0),
        (lambda y, t: y.square().mean() * t["a"].cuda(), {"a": torch.ones(())}, 0),
    ],
)
def test_real_losses(loss, target, recorded, recordings):
    layers, batches = on_gpu(mbconv_layers(depth=2), some_batches((4,) * 6))
    if target is not None:
        batches = [(x, target) for x, _ in batches]
    found = [rate(layers, batches, loss, graphs=kind).scores for kind in (None, False)]
    np.testing.assert_allclose(*found, rtol=2e-5)
    assert recordings["recorded"] == recorded


@pytest.mark.cuda
def test_a_real_module_that_draws_random_numbers(recordings):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    layers, batches = on_gpu([*mbconv_layers(depth=1), [nn.Identity(), Noise()]], some_batches((4,) * 5))
    found = []
    for kind in (None, False):
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="runs alone"):
            found.append(rate(layers, batches, graphs=kind).scores)
    np.testing.assert_allclose(*found, rtol=2e-5)
    assert recordings["recorded"] == 0


@pytest.mark.cuda
def test_a_real_module_that_waits_runs_plainly(recordings):
    class Waits(nn.Module):
        def forward(self, x):
            return x * x.new_tensor(x.shape[1:].numel())  # sends a number to the device

    layers, batches = on_gpu([*mbconv_layers(depth=1), [nn.Identity(), Waits()]], some_batches((4,) * 5))
    found = [rate(layers, batches, graphs=kind).scores for kind in (None, False)]
    np.testing.assert_allclose(*found, rtol=2e-5)
    assert recordings["recorded"] == 0
