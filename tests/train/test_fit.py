"""The training loop: exact resume from any moment, metrics, faults."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas.errors import InputError
from pynas.tensor_files import read_tensors
from pynas.train.checkpoint import CHECKPOINT, LAST
from pynas.train.method import Method
from tests.killing import Killed, killer


class Regression(nn.Module, Method):
    """A method of one linear map with batch norm and dropout, whose noise comes from both generators."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        nn.init.normal_(self.net[0].weight, generator=generator)
        nn.init.zeros_(self.net[0].bias)
        self.prepared = 0

    def prepare(self, batches):
        self.prepared += len(list(batches))

    def optimizer(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def rate_factor(self, progress, epochs):
        return 0.9 ** int(progress)

    def training_step(self, images, labels, rng):
        loss = ((self.net(images) - labels) ** 2).mean() * rng.random()
        loss.backward()
        return {"loss": loss.detach()}


def batches(count=5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)) for _ in range(count)]


def weights(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    method, run = Regression(), tmp_path_factory.mktemp("whole")
    pynas.fit(method, batches(), 3, run, seed=5)
    return weights(method), (run / "metrics.jsonl").read_text()


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("kills", [[1], [4], [5], [6], [15], [3, 7, 8, 14]])
def test_killed_runs_end_with_the_same_weights_and_metrics(tmp_path, whole, kills, seconds):
    for at in kills:
        with pytest.raises(Killed):
            pynas.fit(Regression(), batches(), 3, tmp_path, seed=5, checkpoint_seconds=seconds, on_step=killer(at))
    torch.manual_seed(99)  # the state of the global generator must not matter
    method = Regression()
    pynas.fit(method, batches(), 3, tmp_path, seed=5, checkpoint_seconds=seconds)
    expected, metrics = whole
    assert all(torch.equal(expected[name], value) for name, value in weights(method).items())
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    # A kill comes before the step's checkpoint, so the first one finds none but after an epoch or a step before it.
    assert method.prepared == (5 if max(kills) == 1 or (seconds and max(kills) <= 5) else 0)


def test_half_written_metrics_are_mended(tmp_path, whole):
    with pytest.raises(Killed):
        pynas.fit(Regression(), batches(), 3, tmp_path, seed=5, on_step=killer(6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "st')
    pynas.fit(Regression(), batches(), 3, tmp_path, seed=5)
    assert (tmp_path / "metrics.jsonl").read_text() == whole[1]
    assert [json.loads(line)["step"] for line in whole[1].splitlines()] == list(range(1, 16))


def test_finished_training_is_not_repeated(tmp_path):
    pynas.fit(Regression(), batches(), 2, tmp_path)
    before = (tmp_path / LAST).stat().st_mtime_ns
    pynas.fit(Regression(), batches(), 2, tmp_path)
    assert (tmp_path / LAST).stat().st_mtime_ns == before


def test_another_seed_gives_other_weights(whole):
    method = Regression()
    pynas.fit(method, batches(), 3, seed=6)
    assert any(not torch.equal(whole[0][name], value) for name, value in weights(method).items())


def test_the_global_generator_is_left_alone():
    method, loader = Regression(), batches()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pynas.fit(method, loader, 1)
    assert torch.equal(torch.rand(1), expected)


def test_nan_stops_and_keeps_the_last_checkpoint(tmp_path):
    poisoned = batches()
    pynas.fit(Regression(), poisoned, 1, tmp_path / "good", seed=5)

    class Poison(Regression):
        def training_step(self, images, labels, rng):
            losses = super().training_step(images, labels, rng)
            return {"loss": losses["loss"] * (float("nan") if self.steps() == 7 else 1.0)}

        def steps(self):
            self.count = getattr(self, "count", 0) + 1
            return self.count

    with pytest.raises(FloatingPointError, match=r"nan for loss in step 7 \(epoch 2\)"):
        pynas.fit(Poison(), poisoned, 3, tmp_path / "bad", seed=5)
    assert read_tensors(tmp_path / "bad" / LAST, CHECKPOINT).metadata["step"] == 5


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 4}, {"loader": 4}])
def test_resuming_with_other_settings_is_refused(tmp_path, change):
    pynas.fit(Regression(), batches(), 2, tmp_path)
    before = (tmp_path / LAST).read_bytes()
    with pytest.raises(InputError, match=r"expected a checkpoint with"):
        pynas.fit(
            Regression(),
            batches(change.get("loader", 5)),
            change.get("epochs", 2),
            tmp_path,
            seed=change.get("seed", 0),
        )
    assert (tmp_path / LAST).read_bytes() == before


@pytest.mark.parametrize("damage", ["truncate", "flip", "version", "network"])
def test_damaged_checkpoints_are_named_and_kept(tmp_path, damage):
    pynas.fit(Regression(), batches(), 1, tmp_path)
    path = tmp_path / LAST
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 64]) + content[-2:])
    elif damage == "version":
        path.write_bytes(content.replace(b'\\"version\\": 2', b'\\"version\\": 9'))
    method = Regression()
    if damage == "network":
        method.net.append(nn.Linear(4, 4))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"(checkpoint\]|\[fit\]) expected"):
        pynas.fit(method, batches(), 2 if damage == "other" else 1, tmp_path)
    assert path.read_bytes() == before


def test_empty_loader():
    with pytest.raises(InputError, match="empty loader"):
        pynas.fit(Regression(), [], 1)


def test_learning_rate_decays_by_epoch(tmp_path):
    pynas.fit(Regression(), batches(), 3, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], np.repeat([0.1, 0.09, 0.081], 5))


@pytest.mark.parametrize("at", [5, 7])
def test_a_loader_that_shuffles_by_torchs_generator_resumes(tmp_path, at):
    """torch's own DataLoader; killed at the end of an epoch and within one."""
    images, labels = (torch.cat(parts) for parts in zip(*batches()))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), len(images) // 5, shuffle=True)
    method, again = Regression(), Regression()
    pynas.fit(method, loader, 2)
    with pytest.raises(Killed):
        pynas.fit(Regression(), loader, 2, tmp_path, checkpoint_seconds=0.0, on_step=killer(at))
    torch.manual_seed(1)
    pynas.fit(again, loader, 2, tmp_path)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(method).items())


class Plain(nn.Module, Method):
    """Linear regression without noise: what accumulation gives can be computed by hand."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        with torch.no_grad():
            self.net.weight.fill_(0.1)
            self.net.bias.zero_()
        self.positions = []

    def optimizer(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def rate_factor(self, progress, epochs):
        return 0.5 ** int(progress)

    def before_step(self, progress, epochs, optimizer):
        self.positions.append((progress, epochs, type(optimizer)))

    def training_step(self, images, labels, rng):
        loss = ((self.net(images) - labels) ** 2).mean()
        loss.backward()
        return {"loss": loss.detach()}


def test_accumulated_batches_step_by_their_mean_gradient():
    method, steps = Plain(), []
    pynas.fit(method, batches(5), 2, accumulate=2, on_step=steps.append)
    weight, bias = torch.full((4, 4), 0.1), torch.zeros(4)
    expected = []
    for epoch in range(2):
        for group in ((0, 1), (2, 3), (4,)):
            images, labels = (torch.cat(parts) for parts in zip(*(batches(5)[i] for i in group)))
            error = images @ weight.T + bias - labels
            expected.append(error.square().mean().item())
            weight = weight - 0.1 * 0.5**epoch * 2 * error.T @ images / error.numel()
            bias = bias - 0.1 * 0.5**epoch * 2 * error.sum(0) / error.numel()
    torch.testing.assert_close(method.net.weight.detach(), weight)
    torch.testing.assert_close(method.net.bias.detach(), bias)
    assert [step.losses["loss"] for step in steps] == pytest.approx(expected)
    assert [(step.step, step.steps, step.epoch) for step in steps] == [(n + 1, 6, n // 3 + 1) for n in range(6)]
    assert method.positions == [(n / 3, 2, torch.optim.SGD) for n in range(6)]


@pytest.mark.parametrize("kills", [[1], [2, 3], [5]])
def test_killed_accumulating_runs_end_with_the_same_weights(tmp_path, kills):
    method = Regression()
    pynas.fit(method, batches(), 2, accumulate=2, seed=5)
    expected = weights(method)
    for at in kills:
        with pytest.raises(Killed):
            options = {"checkpoint_seconds": 0.0, "on_step": killer(at)}
            pynas.fit(Regression(), batches(), 2, tmp_path, accumulate=2, seed=5, **options)
    method = Regression()
    pynas.fit(method, batches(), 2, tmp_path, accumulate=2, seed=5)
    assert all(torch.equal(expected[name], value) for name, value in weights(method).items())
    with pytest.raises(InputError, match="accumulate = 3, got 2"):
        pynas.fit(Regression(), batches(), 2, tmp_path, accumulate=3, seed=5)


class HalfPrecision(Plain):
    """Losses scaled as float16 needs it; the third step overflows."""

    def __init__(self):
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        self.scales = []

    def optimizer(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def training_step(self, images, labels, rng):
        loss = ((self.net(images) - labels) ** 2).mean()
        self.scales.append(self.scaler.get_scale())
        self.scaler.scale(loss * (1e38 if images[0, 0] == 7 else 1.0)).backward()
        return {"loss": loss.detach()}


def test_scaled_losses_give_the_same_steps_and_the_scale_resumes(tmp_path):
    loader = batches()
    loader[2][0][0, 0] = 7.0
    method = HalfPrecision()
    pynas.fit(method, loader, 2)
    # Grows after two good steps; the overflow halves it and changes no weight.
    assert method.scales == [8, 8, 16, 8, 8, 16, 16, 32, 16, 16]
    reference = Plain()
    adam = torch.optim.Adam(reference.parameters(), lr=0.1)
    for step, (images, labels) in enumerate(loader * 2):
        if step % 5 == 2:
            continue
        adam.param_groups[0]["lr"] = 0.1 * 0.5 ** (step // 5)
        adam.zero_grad()
        ((reference.net(images) - labels) ** 2).mean().backward()
        adam.step()
    torch.testing.assert_close(method.net.weight, reference.net.weight)
    with pytest.raises(Killed):
        pynas.fit(HalfPrecision(), loader, 2, tmp_path, checkpoint_seconds=0.0, on_step=killer(7))
    again = HalfPrecision()
    pynas.fit(again, loader, 2, tmp_path)
    assert again.scales == method.scales[6:]
    assert torch.equal(again.net.weight, method.net.weight)


def test_a_method_that_lacks_a_member_is_refused():
    class Lacks(nn.Module):
        def optimizer(self): ...

    with pytest.raises(
        InputError, match="expected a method with rate_factor, training_step, got Lacks without; define"
    ):
        pynas.fit(Lacks(), [(torch.zeros(1), torch.zeros(1))], 1)


class ChannelsLast(Regression):
    """A convolution in channels-last order under a fused optimizer, which takes memory as it lies."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Conv2d(3, 4, 3, padding=1).to(memory_format=torch.channels_last)

    def optimizer(self):
        return torch.optim.Adam(self.parameters(), lr=0.1, fused=True)


def test_a_resumed_optimizer_keeps_the_memory_format_of_its_weights(tmp_path):
    loader = [(torch.randn(6, 3, 5, 5), torch.randn(6, 4, 5, 5)) for _ in range(4)]
    whole, method = ChannelsLast(), ChannelsLast()
    pynas.fit(whole, loader, 2, seed=5)
    with pytest.raises(Killed):
        pynas.fit(ChannelsLast(), loader, 2, tmp_path, seed=5, on_step=killer(6))
    pynas.fit(method, loader, 2, tmp_path, seed=5)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(method).items())
