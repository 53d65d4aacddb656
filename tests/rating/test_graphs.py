"""Replayed runs: when they are recorded, that static buffers do not leak out, and the way back to plain runs.

On the CPU a stand-in records: it runs the module on the static input again and writes to the static output, as a graph does.
"""

import numpy as np
import pytest
import torch
from torch import nn

from pynas.errors import InputError
from pynas.rating import Settings, engine, rate, rate_population
from pynas.rating.graphs import BrokenCapture, Graphs, Recording

from .models import NAIVE_LOSSES, alone, mbconv_layers, some_batches
from .test_population import projector, views


class Recorder:
    """Records as a CUDA graph does: static tensors, and what Python decided stays as it was."""

    def __init__(self):
        self.recorded, self.replayed = 0, 0

    def __call__(self, module, x, pool):
        self.recorded += 1
        static = x.clone()
        output = module(static).clone()

        def replay():
            self.replayed += 1
            output.copy_(module(static))

        return Recording(static, output, replay)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def test_the_second_run_is_recorded_and_later_ones_replay(recorder):
    graphs, module = Graphs(1 << 20, recorder), nn.Linear(3, 2)
    inputs = torch.randn(5, 4, 3)
    outputs = [graphs.run(module, x, 1) for x in inputs]
    assert (recorder.recorded, recorder.replayed) == (1, 4)
    for x, y in zip(inputs, outputs):  # all of them at the end: none is another's buffer
        torch.testing.assert_close(y, module(x))


def test_shape_layout_type_and_paths_have_recordings_of_their_own(recorder):
    graphs, module = Graphs(1 << 20, recorder), nn.ReLU()
    x = torch.randn(4, 2, 3, 3)
    kinds = [(x, 1), (x, 2), (x[:2], 1), (x.contiguous(memory_format=torch.channels_last), 1), (x.double(), 1)]
    for _ in range(3):
        for y, paths in kinds:
            assert torch.equal(graphs.run(module, y, paths), y.clamp(min=0))
    assert (recorder.recorded, recorder.replayed) == (5, 10)


@pytest.mark.parametrize(("error", "attempts"), [(RuntimeError, 2), (BrokenCapture, 1)])
def test_a_module_that_cannot_be_recorded_runs_plainly_for_good(error, attempts):
    """A broken capture ends the recording of other modules too."""
    tried = []

    def fails(module, x, pool):
        tried.append(module)
        raise error("operation not permitted when stream is capturing")

    graphs, modules = Graphs(1 << 20, fails), [nn.Linear(3, 2), nn.Linear(3, 2)]
    for n in (4, 4, 4, 5, 5, 5):
        for module in modules:
            x = torch.randn(n, 3)
            torch.testing.assert_close(graphs.run(module, x, 1), module(x))
    assert len(tried) == attempts


def test_a_replay_that_gives_something_else_is_not_used(recorder):
    class Counts(nn.Module):
        """Python decides anew every time: a recording cannot."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    def frozen(module, x, pool):
        recording = recorder(module, x, pool)
        return Recording(recording.input, recording.output, lambda: None)

    graphs, module = Graphs(1 << 20, frozen), Counts()
    x = torch.ones(2)
    assert [float(graphs.run(module, x, 1)[0]) for _ in range(4)] == [1, 2, 4, 5]  # one call went into the recording


def test_an_error_of_the_module_itself_comes_through(recorder):
    graphs, module = Graphs(1 << 20, recorder), nn.Linear(3, 2)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="shapes"):
            graphs.run(module, torch.randn(2, 4), 1)
    assert recorder.recorded == 0


def test_the_budget_and_large_inputs(recorder, monkeypatch):
    monkeypatch.setattr("pynas.rating.graphs._LARGEST_INPUT", 1000)
    graphs = Graphs(100, recorder)
    modules = [nn.ReLU() for _ in range(4)]
    for x in (torch.randn(4), torch.randn(300)):
        for module in modules * 3:
            assert torch.equal(graphs.run(module, x, 1), x.clamp(min=0))
    assert recorder.recorded == 3  # of 32 bytes each; none of the large ones


def test_after_memory_ran_out_everything_is_plain(recorder):
    graphs, module = Graphs(1 << 20, recorder), nn.ReLU()
    x = torch.randn(4)
    for _ in range(3):
        graphs.run(module, x, 1)
    graphs.clear()
    replayed = recorder.replayed
    for kind in (module, nn.ReLU()):
        for _ in range(3):
            assert torch.equal(graphs.run(kind, x, 1), x.clamp(min=0))
    assert recorder.replayed == replayed and recorder.recorded == 1


@pytest.mark.parametrize("norm", ["batch", "running"])
def test_scores_with_replays_are_those_of_each_path_alone(norm, monkeypatch, recorder):
    given = []

    def graphs_for(device, wanted, max_bytes, re_estimates):
        given.append((wanted, re_estimates))
        return Graphs(max_bytes, recorder)

    monkeypatch.setattr(engine, "graphs_for", graphs_for)
    layers, batches = mbconv_layers(), some_batches()
    with torch.inference_mode(False):
        table = rate(layers, batches, norm=norm, engine=Settings(workers=1, stack="memory", graphs=True))
        expected = alone(layers, batches, NAIVE_LOSSES["relative_l1"], norm)
    np.testing.assert_allclose(table.scores, expected, rtol=2e-5)
    assert given == [(True, False)] and recorder.replayed > 10


def test_statistics_that_are_re_estimated_are_not_replayed(monkeypatch):
    given = []
    monkeypatch.setattr(engine, "graphs_for", lambda *arguments: given.append(arguments[3]))
    with torch.inference_mode(False):
        rate_population(mbconv_layers(depth=1), views((4,)), calibration=[views((4,))[0][0]], tail=projector())
        rate_population(mbconv_layers(depth=1), views((4,)), "batch", tail=projector())
    assert given == [True, False]


def test_graphs_need_a_gpu():
    with torch.inference_mode(False), pytest.raises(InputError, match="CUDA device for graphs=True, got cpu"):
        rate(mbconv_layers(), some_batches(), engine=Settings(graphs=True))


@pytest.mark.cuda
@pytest.mark.parametrize("norm", ["batch", "running", "recalibrate"])
def test_real_graphs_give_the_scores_of_plain_runs(norm):
    with torch.inference_mode(False):
        layers = [[module.cuda() for module in layer] for layer in mbconv_layers()]
        batches = [(x.cuda(), y.cuda()) for x, y in some_batches((4, 4, 4, 4))]
        calibration = [torch.randn(5, 4, 8, 8, device="cuda")]
        found = [
            rate(
                layers, batches, norm=norm, calibration=calibration, engine=Settings(stack=stack, graphs=graphs)
            ).scores
            for stack in ("memory", 3)
            for graphs in (None, False)
        ]
    for scores in found[1:]:
        np.testing.assert_allclose(scores, found[0], rtol=2e-5)


@pytest.mark.cuda
def test_a_real_recording_replays_and_one_that_syncs_falls_back():
    class Syncs(nn.Module):
        def forward(self, x):
            return x * x.sum().item()

    graphs = Graphs(1 << 24, pool=torch.cuda.graph_pool_handle())
    plain, syncs = nn.Linear(3, 2).cuda(), Syncs()
    for _ in range(4):
        x = torch.randn(4, 3, device="cuda")
        torch.testing.assert_close(graphs.run(plain, x, 1), plain(x))
        torch.testing.assert_close(graphs.run(syncs, x, 1), syncs(x))
    assert id(syncs) in graphs._plain and id(plain) not in graphs._plain
