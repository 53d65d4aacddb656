"""What DNA can be asked for: loss weights, mixed precision, teacher norms; each also resumes exactly."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

import pynas
from pynas.errors import InputError
from pynas.methods import DNA, ProgressiveDNA
from pynas.methods.sampling import uniform_path
from pynas.spaces import Choice
from pynas.teachers.folding import fold_norms
from tests.killing import Killed, killer

from .nets import small_net, small_teacher


def some_batches(count=3, size=12):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(size, 3, 8, 8, generator=generator), torch.randint(0, 5, (size,), generator=generator))
            for _ in range(count)]  # fmt: skip


def make(**options):
    torch.manual_seed(0)
    net, teacher = small_net(), small_teacher()
    progressive = {name: options.pop(name) for name in ("strategy", "keep", "rating_batches") if name in options}
    dna = DNA(net, teacher, image_shape=(3, 8, 8), **options)
    return ProgressiveDNA(dna, **progressive) if progressive else dna


def weights(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def test_loss_weights_scale_the_gradients_and_not_the_report():
    batch = some_batches(1)[0]
    plain, weighted = make().train(), make(loss_weights=[3.0, 0.5]).train()
    losses = [method.training_step(*batch, np.random.default_rng(1)) for method in (plain, weighted)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    for name, factor in (("blocks.0", 3.0), ("stem", 3.0), ("blocks.1", 0.5), ("head", 1.0)):
        pairs = zip(plain.net.get_submodule(name).parameters(), weighted.net.get_submodule(name).parameters())
        graded = [(a.grad, b.grad) for a, b in pairs if a.grad is not None]
        assert graded
        for a, b in graded:
            torch.testing.assert_close(factor * a, b)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_is_autocast_of_the_same_step(amp):
    images, labels = some_batches(1)[0]
    method = make(amp=amp).train()
    reference = copy.deepcopy(method)
    losses = method.training_step(images, labels, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    net, teacher = reference.net, fold_norms(reference.teacher.module)
    with torch.autocast("cpu", getattr(torch, amp)):
        y1 = teacher[1](teacher[0](images)).detach()
        y2 = teacher[2](y1).detach()
        assert y2.dtype == getattr(torch, amp)
        for cell in net.space.blocks[0]:
            uniform_path(cell.counts, rng)
        choice = Choice(0, uniform_path(net.space.blocks[1][0].counts, rng))
        loss = functional.mse_loss(net.run_path(1, choice, y1).float(), y2.float())
    loss.backward()
    torch.testing.assert_close(losses["block_2"], loss.detach())
    compared = 0
    for ours, theirs in zip(method.net.blocks[1].parameters(), net.blocks[1].parameters()):
        assert ours.dtype == torch.float32
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)
            compared += 1
    assert compared == 8


def test_float16_training_scales_its_losses():
    method, seen = make(amp="float16"), []
    assert make().scaler is None
    pynas.fit(method, some_batches(), 2, on_step=lambda step: seen.append(method.scaler.get_scale()))
    assert isinstance(method.scaler, torch.amp.GradScaler) and len(seen) == 6 and min(seen) > 1


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_the_teachers_norm(norm):
    images, _ = some_batches(1)[0]
    method = make(teacher_norm=norm).train()
    module = copy.deepcopy(method.teacher.module).train(norm == "batch")
    before = weights(method.teacher)
    torch.testing.assert_close(method.targets(images)[0][0], module[1](module[0](images)).detach())
    assert all(torch.equal(before[name], value) for name, value in weights(method.teacher).items())


STRATEGIES = {"strategy": "progressive-a", "keep": 2}, {"strategy": "progressive-b", "keep": 2}


@pytest.mark.parametrize(
    "options",
    [{"amp": "bfloat16"}, {"amp": "float16"}, {"loss_weights": [2, 1]}, {"teacher_norm": "batch"}, *STRATEGIES],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_killed_runs_end_with_the_same_weights(tmp_path, options, accumulate):
    if "strategy" in options:
        options = {**options, "rating_batches": some_batches(1, 6)}
    fitting = {"seed": 5, "accumulate": accumulate}
    whole = make(**options)
    pynas.fit(whole, some_batches(), 2, **fitting)
    steps = 6 if accumulate == 1 else 4
    for at in (steps // 2, steps // 2 + 1):
        with pytest.raises(Killed):
            pynas.fit(
                make(**options), some_batches(), 2, tmp_path, checkpoint_seconds=0.0, on_step=killer(at), **fitting
            )
    again = make(**options)
    pynas.fit(again, some_batches(), 2, tmp_path, **fitting)
    expected = weights(whole)
    assert all(torch.equal(expected[name], value) for name, value in weights(again).items())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"amp": "int8"}, "amp to be 'bfloat16', 'float16' or 'auto', got 'int8'"),
        ({"loss_weights": [1.0]}, "2 loss_weights of 0 or more"),
        ({"loss_weights": [1.0, -1.0]}, "2 loss_weights of 0 or more"),
        ({"teacher_norm": "group"}, "teacher_norm to be 'running' or 'batch', got 'group'"),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_the_recipe_for_vits():
    """AdamW, rates shrink every three epochs (section 4.3)."""
    method = make(optimizer="adamw", decay_every=3, decay=0.9)
    assert type(method.optimizer()) is torch.optim.AdamW
    assert [method.rate_factor(p, 20) for p in (0, 2.99, 3.0, 5.5, 6.0)] == pytest.approx([1, 1, 0.9, 0.9, 0.81])
    for options, message in (({"optimizer": "sgd"}, "'adam' or 'adamw', got 'sgd'"), ({"decay_every": 0}, "got 0")):
        with pytest.raises(InputError, match=message):
            make(**options)
