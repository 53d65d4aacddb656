"""Recordings of walks: when they are made, and the way back to plain runs."""

import itertools

import pytest
import torch

from pynas.rating import graphs
from pynas.rating.graphs import CudaRecorder, Graphs
from pynas.rating.looks import Looks

from .recorders import Recorder


@pytest.fixture
def recorder():
    return Recorder()


def ignore(count):
    pass


def double(streams, targets, count):
    count(len(streams))
    return [x * 2 for x in streams]


def run(made, walk, x, *targets, trials=1, count=ignore):
    return made.run("walk", walk, [x], list(targets), count, trials)[0].clone()


def test_the_run_after_a_known_one_is_recorded_and_later_ones_replay(recorder):
    made, counted = Graphs(recorder, Looks(), 1 << 20), []
    for x in torch.randn(6, 4, 3):
        assert torch.equal(run(made, double, x, count=counted.append), x * 2)
    assert (recorder.rehearsed, recorder.recorded) == (1, 1) and recorder.replayed == 4 + 1  # one to compare
    assert sum(counted) == 6


def test_runs_that_find_something_out_are_not_recorded(recorder):
    looks, counted = Looks(), []
    made = Graphs(recorder, looks, 1 << 20)

    def walk(streams, targets, count):
        count(1)
        if streams[0][0] > 0:
            looks.note()
        return [streams[0] + 1]

    for value in (1, 1, 1, -1):
        run(made, walk, torch.full((1,), value), count=counted.append)
    assert recorder.rehearsed == 0
    before = looks.count
    assert (
        run(made, walk, torch.ones(1), count=counted.append) == 2
    )  # looks again, in the rehearsal: not recorded, ever
    assert looks.count == before + 1 and recorder.recorded == 0
    for _ in range(3):
        run(made, walk, -torch.ones(1), count=counted.append)
    assert recorder.rehearsed == 1 and sum(counted) == 8


def test_shape_layout_type_targets_and_name_have_recordings_of_their_own(recorder):
    made, x = Graphs(recorder, Looks(), 1 << 20), torch.randn(4, 2, 3, 3)
    kinds = [x, x[:2], x.contiguous(memory_format=torch.channels_last), x.double()]
    for _ in range(4):
        for y in kinds:
            assert torch.equal(run(made, double, y), y * 2)
            assert torch.equal(run(made, double, y, None), y * 2)
        assert torch.equal(made.run("other", double, [x], [], ignore)[0], x * 2)
    assert recorder.recorded == 9


@pytest.mark.parametrize("target", [3, "a", (torch.ones(1),), torch.eye(2).to_sparse()])
def test_targets_that_are_not_tensors_are_never_recorded(target, recorder):
    made = Graphs(recorder, Looks(), 1 << 20)
    for _ in range(5):
        assert (
            run(made, lambda streams, targets, count: [streams[0] + (targets[0] is target)], torch.zeros(1), target)
            == 1
        )
    assert recorder.rehearsed == 0


def test_a_walk_that_waits_for_the_device_runs_plainly_for_good(recorder):
    made, counted = Graphs(recorder, Looks(), 1 << 20), []

    def waits(streams, targets, count):
        count(1)
        return [streams[0] * streams[0].sum().item()]

    for _ in range(5):
        assert run(made, waits, torch.full((2,), 2.0), count=counted.append)[0] == 8
        assert run(made, lambda s, t, c: [s[0] + 1], torch.ones(3), None)[0] == 2
    assert recorder.rehearsed == 2 and recorder.recorded == 1 and sum(counted) == 5


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted when stream is capturing"), torch.OutOfMemoryError()]
)
def test_a_broken_recording_ends_all_recording(error, recorder):
    made, recorder.error = Graphs(recorder, Looks(), 1 << 20), error
    for x in torch.randn(5, 4):
        assert torch.equal(run(made, double, x), x * 2)
    recorder.error = None
    for x in torch.randn(5, 3):
        assert torch.equal(run(made, double, x), x * 2)
    assert recorder.rehearsed == 1 and recorder.recorded == 0


def test_when_memory_runs_out_in_a_replay_everything_is_plain(recorder):
    made, counted = Graphs(recorder, Looks(), 1 << 20), []
    for number, x in enumerate(torch.randn(6, 4)):
        recorder.error = torch.OutOfMemoryError() if number == 4 else None
        assert torch.equal(run(made, double, x, count=counted.append), x * 2)
    for x in torch.randn(4, 3):
        assert torch.equal(run(made, double, x), x * 2)
    assert recorder.recorded == 1 and recorder.replayed == 3 and sum(counted) == 6


@pytest.mark.parametrize(
    ("calls", "trials", "expected"), [(2, 1, [0, 0, 1, 1]), (3, 2, [0, 0, 1, 1]), (3, 1, [0, 0, 0, 0])]
)
def test_python_that_decides_anew_is_found_by_comparing(calls, trials, expected, recorder):
    """Runs by Python: a first one, the rehearsal, the recording, and with two trials one more."""
    made, steps = Graphs(recorder, Looks(), 1 << 20), itertools.count(1)

    def walk(streams, targets, count):
        return [streams[0] * (next(steps) > calls)]

    assert [run(made, walk, torch.ones(1), trials=trials).item() for _ in range(4)] == expected
    assert recorder.recorded == 1


def test_a_walk_that_writes_to_an_older_tensor_is_not_recorded(recorder):
    made, centre = Graphs(recorder, Looks(), 1 << 20), torch.zeros(2)

    def walk(streams, targets, count):
        centre.mul_(0.5).add_(streams[0])
        return [streams[0] - centre]

    found = [run(made, walk, x) for x in torch.ones(5, 2)]
    expected, value = [], 0
    for _ in range(5):
        value = value / 2 + 1
        expected.append(1 - value)
    assert [x[0].item() for x in found] == expected and recorder.recorded == 0


def test_tensors_that_a_recording_reads_stay_alive(recorder):
    made, kept = Graphs(recorder, Looks(), 1 << 20), [torch.full((2,), 3.0)]
    for _ in range(4):
        run(made, lambda streams, targets, count: [streams[0] + kept[0] + torch.ones(2)], torch.ones(2))
    (recording,) = made._recordings.values()
    (read,) = [x for x in recording.read if x is not recording.inputs[0]]
    assert read is kept[0]


def test_the_budget_and_the_number_of_operators(monkeypatch, recorder):
    made = Graphs(recorder, Looks(), 250)
    for x in [torch.randn(n) for n in range(1, 5)] * 4:
        run(made, double, x)
    assert recorder.recorded == 2  # each of 100 bytes, and its input
    small = Graphs(recorder, Looks(), 99)
    for x in torch.randn(5, 4):
        run(small, double, x)
    monkeypatch.setattr(graphs, "_MOST_OPERATORS", 1)
    many = Graphs(recorder, Looks(), 1 << 20)
    for x in torch.randn(5, 4):
        assert torch.equal(run(many, lambda s, t, c: [s[0] * 2 * 2], x), x * 4)
    assert recorder.recorded == 2


@pytest.mark.cuda
@pytest.mark.parametrize("rehearsed", [False, True])
def test_a_real_walk_that_waits_for_the_device(rehearsed, monkeypatch):
    """Its rehearsal finds it; without one its capture breaks, and all else goes on."""
    if not rehearsed:
        monkeypatch.setattr(CudaRecorder, "rehearse", lambda self, run: run())
    device, looks = torch.device("cuda", torch.cuda.current_device()), Looks()
    made, stream = Graphs(CudaRecorder(device), looks, 1 << 24), torch.cuda.current_stream()
    for x in torch.randn(6, 100, device=device):
        assert torch.equal(run(made, lambda s, t, c: [s[0] * s[0].sum().item()], x), x * x.sum().item())
        assert torch.equal(run(made, double, x[:50]), x[:50] * 2)
    assert len(made._recordings) == rehearsed and made._ended != rehearsed
    assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
    assert torch.cuda.get_sync_debug_mode() == 0


@pytest.mark.cuda
def test_a_real_recording_keeps_what_it_reads():
    device, kept = torch.device("cuda", torch.cuda.current_device()), []
    made = Graphs(CudaRecorder(device), Looks(), 1 << 24)
    kept.append(torch.full((1 << 20,), 3.0, device=device))
    for value in range(6):
        if value == 3:  # recorded by now; memory that were free would be used again
            kept[0] = None
            other = [torch.full((1 << 20,), 7.0, device=device) for _ in range(4)]
        x = torch.full((1 << 20,), float(value), device=device)
        assert run(made, lambda s, t, c: [s[0] + kept[0]], x)[0] == value + 3
    assert len(other) == 4
