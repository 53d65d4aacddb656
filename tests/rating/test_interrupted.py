"""Ratings that are killed and go on, that report, and that several processes share."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from pynas.errors import InputError
from pynas.rating import Settings, partial, rate, rate_population
from pynas.rating.sweeps import CentreDistance

from .models import mbconv_layers, some_batches
from .test_population import naive, projector, views


class Killed(Exception):
    pass


def killer(after):
    """A loss that is interrupted after so many paths, and the number it was asked for."""
    count = [0]

    def loss(y, target):
        count[0] += 1
        if count[0] > after:
            raise Killed
        return (y - target).abs().mean() / target.std()

    return loss, count


@pytest.mark.parametrize("after", [10, 70, 150])
def test_a_killed_rating_goes_on(tmp_path, monkeypatch, after):
    monkeypatch.setattr(partial.Partial.__init__, "__defaults__", (0.0,))
    layers, batches = mbconv_layers(), some_batches()
    whole = rate(layers, batches, killer(1000)[0])
    with pytest.raises(Killed):
        rate(layers, batches, killer(after)[0], resume=tmp_path / "p.npz", engine=Settings(workers=2))
    loss, count = killer(1000)
    reports = []
    table = rate(layers, batches, loss, resume=tmp_path / "p.npz", progress=reports.append)
    np.testing.assert_allclose(table.scores, whole.scores, rtol=1e-6)
    assert table.metadata["samples"] == whole.metadata["samples"]
    assert count[0] <= 3 * 64 - (after // 4) * 4 + 8  # four paths to a subtree; two of them were under way
    assert reports[-1].done == reports[-1].total == 3 * 64 and reports[-1].fresh == count[0]
    assert not (tmp_path / "p.npz").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["layers"][0][0].bn1.running_mean.add_(1), "another one"),
        (lambda a: a.update(norm="running"), "another one"),
        (lambda a: a.update(batches=some_batches(seed=5)), "loader that repeats itself"),
    ],
)
def test_a_partial_rating_of_something_else_is_refused(tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(partial.Partial.__init__, "__defaults__", (0.0,))
    arguments = {"layers": mbconv_layers(), "batches": some_batches(), "resume": tmp_path / "p.npz"}
    with pytest.raises(Killed):
        rate(**arguments, loss=killer(70)[0])
    change(arguments)
    with pytest.raises(InputError, match=message):
        rate(**arguments, loss=killer(1000)[0])


def test_progress_without_a_known_length(monkeypatch):
    monkeypatch.setattr("pynas.rating.progress.Meter.__init__.__defaults__", (0.0,))
    reports = []
    rate(mbconv_layers(depth=2), iter(some_batches()), progress=reports.append)
    assert [r.done for r in reports] == sorted(r.done for r in reports)
    assert reports[0].total is None
    assert reports[-1].total == 48 and reports[-1].rate > 0


FEATURES = CentreDistance.features


def interrupted_features(after=10**6):
    """`CentreDistance.features` that is killed after so many calls, and the number of calls."""
    count = [0]

    def counted(self, y, paths):
        count[0] += 1
        if count[0] > after:
            raise Killed
        return FEATURES(self, y, paths)

    return counted, count


@pytest.mark.parametrize(
    ("max_bytes", "after"), [(1 << 30, 20), (1 << 30, 50), (4000, 20), (4000, 50), (4000, 80), (4000, 110)]
)
def test_a_killed_population_rating_goes_on(tmp_path, monkeypatch, max_bytes, after):
    """16 units of one path; two batches of two views: 32 calls for each batch, and again where nothing can be held."""
    monkeypatch.setattr(partial.Partial.__init__, "__defaults__", (0.0,))
    layers, tail, pairs = mbconv_layers(depth=2), projector(), views((4, 3))
    arguments = {"tail": tail, "engine": Settings(max_bytes=max_bytes, workers=1, stack=1), "norm": "batch"}
    counted, total = interrupted_features()
    monkeypatch.setattr(CentreDistance, "features", counted)
    whole = rate_population(layers, pairs, **arguments)
    expected = naive(layers, tail, layers, tail, pairs, "batch", [], True, False, False)
    np.testing.assert_allclose(whole.scores, expected, rtol=2e-5)
    assert total[0] == (128 if max_bytes == 4000 else 64)
    monkeypatch.setattr(CentreDistance, "features", interrupted_features(after)[0])
    with pytest.raises(Killed):
        rate_population(layers, pairs, **arguments, resume=tmp_path / "p.npz")
    counted, count = interrupted_features()
    monkeypatch.setattr(CentreDistance, "features", counted)
    reports = []
    table = rate_population(layers, pairs, **arguments, resume=tmp_path / "p.npz", progress=reports.append)
    np.testing.assert_allclose(table.scores, whole.scores, rtol=1e-9)
    assert table.metadata == whole.metadata
    again = after % 32 if max_bytes > 4000 else 0  # held outputs are gone with the process that held them
    assert count[0] <= total[0] - after + again + 2
    assert reports[-1].done == reports[-1].total == 2 * 16
    assert not (tmp_path / "p.npz").exists()


def test_a_partial_population_rating_of_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(partial.Partial.__init__, "__defaults__", (0.0,))
    layers, file = mbconv_layers(depth=2), tmp_path / "p.npz"
    with monkeypatch.context() as patched:
        patched.setattr(CentreDistance, "features", interrupted_features(20)[0])
        with pytest.raises(Killed):
            rate_population(layers, views((4, 3)), "batch", resume=file, engine=Settings(workers=1))
    with pytest.raises(InputError, match="loader that repeats itself"):
        rate_population(layers, [(b, a) for a, b in views((4, 3))], "batch", resume=file, engine=Settings(workers=1))
    with pytest.raises(InputError, match="another one"):
        rate_population(layers, views((4, 3)), "batch", resume=file, engine=Settings(workers=1), renormalize=True)


def _population_rank(rank, folder):
    """Two processes as one, then killed in one of them, then resumed with one file of the two."""
    partial.Partial.__init__.__defaults__ = (0.0,)
    layers, pairs = mbconv_layers(depth=2), views((4, 3))
    arguments = {"tail": projector(), "norm": "batch", "engine": Settings(workers=1, stack=1, max_bytes=4000)}
    rate_population(layers, pairs, **arguments).save(f"{folder}/population_{rank}.npz")
    resume = f"{folder}/partial.npz"
    for after, lost in ((10, False), (40, True)):
        CentreDistance.features = interrupted_features(after)[0] if rank == 1 else FEATURES
        try:
            rate_population(layers, pairs, **arguments, resume=resume)
        except (InputError, Killed) as error:
            with open(f"{folder}/killed_{after}_{rank}.txt", "w") as file:
                file.write(type(error).__name__)
        CentreDistance.features = FEATURES
        torch.distributed.barrier()
        if lost and rank == 1:
            os.remove(f"{resume}.1of2")
        rate_population(layers, pairs, **arguments, resume=resume).save(f"{folder}/resumed_{after}_{rank}.npz")
    try:
        rate_population(layers, pairs[rank:], **arguments)
    except InputError as error:
        with open(f"{folder}/fewer_{rank}.txt", "w") as file:
            file.write(str(error))


def _rank(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    layers, batches = mbconv_layers(), some_batches()
    rate(layers, batches, engine=Settings(stack=1)).save(f"{folder}/{rank}.npz")
    try:
        rate(layers, [] if rank == 1 else batches)
    except InputError as error:
        with open(f"{folder}/{rank}.txt", "w") as file:
            file.write(str(error))
    _population_rank(rank, folder)
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_table_of_one_and_fail_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    whole = rate(mbconv_layers(), some_batches(), engine=Settings(stack=1))
    for rank in range(2):
        np.testing.assert_array_equal(type(whole).load(tmp_path / f"{rank}.npz").scores, whole.scores)
    assert "at least one batch" in (tmp_path / "1.txt").read_text()
    assert "1 of 2" in (tmp_path / "0.txt").read_text()
    arguments = {"tail": projector(), "norm": "batch", "engine": Settings(workers=1, stack=1)}
    whole = rate_population(mbconv_layers(depth=2), views((4, 3)), **arguments)
    for rank in range(2):
        for name in ("population", "resumed_10", "resumed_40"):
            found = type(whole).load(tmp_path / f"{name}_{rank}.npz")
            np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-9, err_msg=name)
        assert "same batches" in (tmp_path / f"fewer_{rank}.txt").read_text()
    for after in (10, 40):
        assert (tmp_path / f"killed_{after}_0.txt").read_text() == "InputError"
        assert (tmp_path / f"killed_{after}_1.txt").read_text() == "Killed"
    assert not list(tmp_path.glob("partial*"))
