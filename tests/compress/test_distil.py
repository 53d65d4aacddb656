"""Distillation against a loop of its own: the steps, the early stop, several processes."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

import pynas
from pynas.compress.distil import LOSSES
from pynas.compress.stopping import EarlyStop, held_out
from pynas.errors import InputError
from tests.killing import Killed, killer
from tests.processes import join, spawn

EMA, WARMUP, DECAY = 0.5, 0.05, 0.01
# With these the loss on the held-out batches falls at first, and then rises.
STEPS, RATE, EVERY, PATIENCE = 60, 0.02, 4, 3


class Net(nn.Module):
    """Classifier that is called by names."""

    def __init__(self, width):
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(6, width), nn.BatchNorm1d(width), nn.Linear(width, 4)

    def forward(self, x, shift):
        """Return logits `[B, 4]` of x `[B, 6]`."""
        return self.head(self.norm(self.hidden(x + shift)).relu())


def setting(samples=4):
    """Student, teacher, batches, and held-out batches of another distribution."""
    torch.manual_seed(0)
    nets = Net(5).eval(), Net(16).eval()
    for net in nets:
        net.norm.running_mean.normal_()
    batches = [{"x": torch.randn(samples, 6), "shift": torch.randn(samples, 1)} for _ in range(3)]
    others = [{"x": torch.randn(n, 6) + 0.7, "shift": torch.randn(n, 1)} for n in (6, 3, 5)]
    return *nets, batches, others


def kl(student, teacher, batch):
    with torch.no_grad():
        target = teacher(**batch).log_softmax(-1)
    return F.kl_div(student(**batch).log_softmax(-1), target, log_target=True, reduction="batchmean")


def naive(student, teacher, batches, steps=STEPS, rate=RATE, others=None):
    """Distil by hand; return the network, the number of steps, and the step with the least loss on the held-out batches."""
    student, average = copy.deepcopy(student), copy.deepcopy(student)
    vectors = [p for p in student.parameters() if p.ndim == 1]
    matrices = [p for p in student.parameters() if p.ndim == 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)

    def held_out_loss():
        with torch.no_grad():
            return sum(kl(average, teacher, b).item() * len(b["x"]) for b in others) / sum(len(b["x"]) for b in others)

    best = None if others is None else (held_out_loss(), 0, copy.deepcopy(average))
    warm, waited = WARMUP * steps, 0
    for step in range(steps):
        factor = step / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        order = np.random.default_rng([0, step // 3]).permutation(3)
        optimizer.zero_grad()
        kl(student, teacher, batches[order[step % 3]]).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, value in zip(average.parameters(), student.parameters()):
                mean.copy_(EMA * mean + (1 - EMA) * value)
        if others is not None and ((step + 1) % EVERY == 0 or step + 1 == steps):
            loss = held_out_loss()
            waited = 0 if loss < best[0] else waited + 1
            best = (loss, step + 1, copy.deepcopy(average)) if loss < best[0] else best
            if waited == PATIENCE:
                break
    return (average, steps, steps) if best is None else (best[2], step + 1, best[1])


def distil(student, teacher, batches, steps=STEPS, rate=RATE, others=None, **options):
    """Distil by the library; return the network and the steps taken."""
    taken = []
    if others is not None:
        options = {"validation": others, "patience": PATIENCE, "check_every": EVERY, **options}
    hook = options.pop("on_step", lambda step: None)

    def on_step(step):
        taken.append(step.step)
        hook(step)

    net = pynas.compress.distil(
        student, teacher, batches, steps, ema=EMA, learning_rate=rate, on_step=on_step, **options
    )
    return net, taken


def check_same(net, want, **tolerance):
    for name, value in want.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name, **tolerance)


def test_the_steps_are_those_of_a_loop():
    student, teacher, batches, _ = setting()
    net, taken = distil(student, teacher, batches)
    check_same(net, naive(student, teacher, batches)[0], rtol=1e-4, atol=1e-6)
    assert taken == list(range(1, STEPS + 1)) and not net.training
    assert all(p.requires_grad for p in net.parameters())


def test_an_early_stop_returns_the_best_weights():
    student, teacher, batches, others = setting()
    want, steps, best = naive(student, teacher, batches, others=others)
    assert 0 < best < steps < STEPS
    net, taken = distil(student, teacher, batches, others=others)
    assert taken[-1] == steps
    check_same(net, want, rtol=1e-4, atol=1e-6)
    assert all(p.requires_grad for p in net.parameters())
    # Without patience the training goes on to its end, and the best weights are kept all the same.
    net, taken = distil(student, teacher, batches, others=others, patience=None)
    assert taken[-1] == STEPS
    check_same(net, want, rtol=1e-4, atol=1e-6)


def test_the_last_weights_are_checked_and_the_first_ones_kept_where_all_others_are_worse():
    student, teacher, batches, _ = setting()
    # Of seven steps only the last is due.
    net, _ = distil(student, teacher, batches, 7, others=batches, check_every=50)
    check_same(net, naive(student, teacher, batches, 7)[0], rtol=1e-4, atol=1e-6)
    net, taken = distil(student, teacher, batches, 20, 50.0, batches)
    assert taken[-1] == EVERY * PATIENCE
    check_same(net, student, rtol=0, atol=0)


def test_a_training_that_was_killed_stops_where_it_would_have(tmp_path, monkeypatch):
    student, teacher, batches, others = setting()
    straight, taken = distil(student, teacher, batches, others=others)
    _, _, best = naive(student, teacher, batches, others=others)
    at = best + EVERY + 1  # a check without gain lies behind, the best weights too
    # A checkpoint is written at the latest every minute: here after every step.
    with pytest.raises(Killed), monkeypatch.context() as patched:
        patched.setattr("pynas.train.loop.time.monotonic", iter(range(0, 10**6, 1000)).__next__)
        distil(student, teacher, batches, others=others, run=tmp_path, on_step=killer(at))
    again, rest = distil(student, teacher, batches, others=others, run=tmp_path)
    assert rest == taken[at - 1 :]
    check_same(again, straight, rtol=0, atol=0)
    ended, none = distil(student, teacher, batches, others=others, run=tmp_path)
    assert none == []
    check_same(ended, straight, rtol=0, atol=0)


def worker(rank, port, folder):
    join(rank, port, 2)
    student, teacher, batches, others = setting()
    nets = {"all": distil(student, teacher, batches), "early": distil(student, teacher, batches, others=others)}
    for name, (net, taken) in nets.items():
        torch.save({"state": net.state_dict(), "steps": taken[-1]}, f"{folder}/{name}-{rank}.pt")
    try:
        distil(student, teacher, setting(5)[2])
    except InputError as error:
        with open(f"{folder}/said-{rank}.json", "w") as file:
            json.dump(str(error), file)
    distributed.destroy_process_group()


def test_two_processes_end_as_one(tmp_path):
    """Both compare with the loop over whole batches."""
    spawn(worker, tmp_path, 2)
    student, teacher, batches, others = setting()
    for name, (net, steps, _) in {
        "all": naive(student, teacher, batches),
        "early": naive(student, teacher, batches, others=others),
    }.items():
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert found["steps"] == steps
            for key, value in net.state_dict().items():
                torch.testing.assert_close(found["state"][key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {rank} {key}")
    for rank in range(2):
        assert "2 processes share equally" in json.loads((tmp_path / f"said-{rank}.json").read_text())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"patience": 2}, "held-out batches"),
        ({"validation": []}, "held-out batches"),
        ({"validation": [torch.zeros(1, 6)], "patience": 0}, "patience of at least 1"),
        ({"validation": [torch.zeros(1, 6)], "check_every": 0}, "check_every of at least 1"),
    ],
)
def test_what_an_early_stop_needs(options, says):
    net = nn.Linear(6, 4)
    with pytest.raises(InputError, match=says):
        pynas.compress.distil(net, net, [torch.zeros(2, 6)], 2, **options)


def test_every_held_out_sample_counts_alike():
    net = nn.Linear(1, 1)
    stop = EarlyStop(net, [torch.full((3, 1), 2.0), torch.full((1, 1), 6.0)], 10, None, 5)
    stop.check(net, lambda _, call: call.tensors[0].mean())
    assert stop.least == 3
    assert [step for step in range(1, 11) if stop.due(step)] == [5, 10]


def test_an_eighth_is_held_out():
    assert held_out(list(range(17))) == (list(range(15)), [15, 16])
    assert held_out([0, 1]) == ([0], [1])
    with pytest.raises(InputError, match="two batches"):
        held_out([0])


def test_padding_has_no_distance() -> None:
    x = torch.randn(2, 5, 4) * torch.tensor([1.0, 1, 1, 0, 0]).view(1, 5, 1)
    assert float(LOSSES["cosine"](x, x)) == pytest.approx(0, abs=1e-6)
    assert float(LOSSES["cosine"](-x, x)) == pytest.approx(2 * 3 / 5)
