"""Ratings that are killed and go on, that report, and that several processes share."""

import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from pynas.errors import InputError
from pynas.rating import partial, rate

from .models import mbconv_layers, some_batches


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
        rate(layers, batches, killer(after)[0], resume=tmp_path / "p.npz", workers=2)
    loss, count = killer(1000)
    reports = []
    table = rate(layers, batches, loss, resume=tmp_path / "p.npz", progress=reports.append)
    np.testing.assert_allclose(table.scores, whole.scores, rtol=1e-6)
    assert table.made_from["samples"] == whole.made_from["samples"]
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
    assert reports[0].total is None and reports[0].eta is None
    assert reports[-1].total == 48 and reports[-1].eta == 0 and reports[-1].rate > 0


def _rank(rank, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    layers, batches = mbconv_layers(), some_batches()
    rate(layers, batches, stack=1).save(f"{folder}/{rank}.npz")
    try:
        rate(layers, [] if rank == 1 else batches)
    except InputError as error:
        with open(f"{folder}/{rank}.txt", "w") as file:
            file.write(str(error))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_table_of_one_and_fail_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_rank, (port, str(tmp_path)), nprocs=2)
    whole = rate(mbconv_layers(), some_batches(), stack=1)
    for rank in range(2):
        np.testing.assert_array_equal(type(whole).load(tmp_path / f"{rank}.npz").scores, whole.scores)
    assert "at least one batch" in (tmp_path / "1.txt").read_text()
    assert "1 of 2" in (tmp_path / "0.txt").read_text()
