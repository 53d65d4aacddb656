"""Several processes train as one: shares of batches, blocks of their own, the same end."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import distributed, nn

import pynas
from pynas.errors import InputError
from pynas.methods import DNA
from pynas.tensor_files import read_tensors
from pynas.train.checkpoint import CHECKPOINT, LAST
from tests.killing import Killed, killer
from tests.methods.nets import conv, small_teacher
from tests.processes import join, spawn

EPOCHS, SEED = 2, 5


def three_blocks():
    """A method of three blocks, for two processes to share unevenly."""
    torch.manual_seed(0)
    blocks = [[[[conv(i, o, 2, k) for k in (3, 5)]]] for i, o in ((4, 6), (6, 8), (8, 8))]
    net = pynas.Supernet(blocks, stem=conv(3, 4), head=nn.Sequential(nn.Flatten(), nn.Linear(8, 5)))
    whole = small_teacher().module
    whole = nn.Sequential(*whole[:3], conv(8, 8, 2), nn.Flatten(), nn.Linear(8, 5))
    return DNA(net, pynas.teachers.Teacher(whole, ["1", "2", "3"]), image_shape=(3, 8, 8)).to(
        memory_format=torch.channels_last
    )


def batches(size=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(0, 5, (size,), generator=generator))
        for _ in range(3)
    ]


def worker(rank, port, folder):
    join(rank, port, 2)
    for spread in ("data", "blocks"):
        method = three_blocks()
        if rank == 1:
            nn.init.zeros_(next(method.net.parameters()))  # only the first process's weights count
        pynas.fit(method, batches(), EPOCHS, f"{folder}/{spread}", seed=SEED, spread=spread)
        torch.save(method.net.state_dict(), f"{folder}/{spread}-{rank}.pt")
        method = three_blocks()
        with pytest.raises(Killed):
            pynas.fit(
                method, batches(), EPOCHS, f"{folder}/{spread}-killed", seed=SEED, spread=spread, on_step=killer(4)
            )
        distributed.barrier()
        method = three_blocks()
        pynas.fit(method, batches(), EPOCHS, f"{folder}/{spread}-killed", seed=SEED, spread=spread)
        torch.save(method.net.state_dict(), f"{folder}/{spread}-killed-{rank}.pt")
    spoilt = batches()
    spoilt[1][0][1] = float("nan")  # an image of the second process's share
    said = []
    for wrong in (spoilt, batches(7)):
        try:
            pynas.fit(three_blocks(), wrong, EPOCHS, seed=SEED)
        except (FloatingPointError, InputError) as error:
            said.append(str(error))
    with open(f"{folder}/said-{rank}.json", "w") as file:
        json.dump(said, file)
    distributed.destroy_process_group()


def worker_of_four(rank, port, folder):
    join(rank, port, 4)
    method = three_blocks()
    pynas.fit(method, batches(), EPOCHS, f"{folder}/run", seed=SEED, spread="blocks")
    torch.save(method.net.state_dict(), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left."""
    path = tmp_path_factory.mktemp("team")
    spawn(worker, path, 2)
    return path


def load(folder, name):
    return torch.load(folder / f"{name}.pt")


def naive_shares(method):
    """Two copies train on halves of each batch; their gradients are averaged by hand, at last the running statistics."""
    method.prepare(iter(batches()))
    pair = [method.train(), copy.deepcopy(method).train()]
    optimizers = [one.optimizer() for one in pair]
    for step in range(EPOCHS * 3):
        for one, optimizer in zip(pair, optimizers):
            optimizer.zero_grad()
            for group, rate in zip(optimizer.param_groups, [0.002, 0.005, 0.005, 0.005]):
                group["lr"] = rate * one.rate_factor(step // 3, EPOCHS)
        images, labels = batches()[step % 3]
        for number, one in enumerate(pair):
            rng = np.random.default_rng([SEED, step])
            rng.integers(2**62)
            one.training_step(images[number::2], labels[number::2], rng)
        for ours, theirs in zip(*(one.parameters() for one in pair)):
            if ours.grad is not None:
                mean = (ours.grad + theirs.grad) / 2
                ours.grad, theirs.grad = mean, mean.clone()
        for optimizer in optimizers:
            optimizer.step()
    return [one.net.state_dict() for one in pair]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_shared_batches_are_averaged_gradients(request, tmp_path, size):
    """By two processes; four form two groups of two, each with blocks of its own."""
    first, second = naive_shares(three_blocks())
    if size == 2:
        found = load(request.getfixturevalue("folder"), "data-0")
    else:
        spawn(worker_of_four, tmp_path, size)
        found = load(tmp_path, "0")
        assert all(torch.equal(value, load(tmp_path, "3")[name]) for name, value in found.items())
    for name, value in found.items():
        want = (first[name].double() + second[name].double()) / 2
        torch.testing.assert_close(value.double(), want, rtol=1e-4, atol=1e-6, msg=name)
    changed = [name for name, value in three_blocks().net.state_dict().items() if not torch.equal(value, found[name])]
    assert len(changed) > 0.9 * len(found)


def test_blocks_of_their_own_end_as_one_process_does(folder, tmp_path):
    method = three_blocks()
    pynas.fit(method, batches(), EPOCHS, tmp_path, seed=SEED)
    for rank in range(2):
        for name, value in load(folder, f"blocks-{rank}").items():
            assert torch.equal(value, method.net.state_dict()[name]), (rank, name)
    have, want = (read_tensors(where / LAST, CHECKPOINT).tensors for where in (folder / "blocks", tmp_path))
    assert have.keys() == want.keys() and all(torch.equal(have[name], want[name]) for name in want)
    assert any(name.startswith("optimizer.") for name in want)
    assert (folder / "blocks" / "metrics.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("spread", ["data", "blocks"])
def test_all_processes_end_alike_killed_or_not(folder, spread):
    whole = load(folder, f"{spread}-0")
    for name in (f"{spread}-1", f"{spread}-killed-0", f"{spread}-killed-1"):
        other = load(folder, name)
        assert all(torch.equal(value, other[key]) for key, value in whole.items()), name


def test_a_loss_that_is_not_finite_stops_all(folder):
    for rank in range(2):
        loss, divides = json.loads((folder / f"said-{rank}.json").read_text())
        assert "expected finite losses, got nan" in loss and "step 2" in loss
        assert "2 processes share equally, got" in divides and "7" in divides


def test_blocks_need_a_method_whose_blocks_learn_independently():
    torch.manual_seed(0)
    method = three_blocks()
    method.trained_blocks = None
    with pytest.raises(InputError, match="whose blocks learn independently"):
        pynas.fit(method, batches(), 1, spread="blocks")
    with pytest.raises(InputError, match="expected spread of data, blocks, got 'both'"):
        pynas.fit(method, batches(), 1, spread="both")
