"""DNA++ against the paper's equations on the same weights: what learns, from what, and how paths are rated."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.methods import DNAPlusPlus
from pynas.methods.dna.self_supervised_loss import SelfSupervisedLoss
from pynas.methods.sampling import uniform_path
from pynas.spaces import Choice
from pynas.supernets.modes import batch_statistics
from pynas.teachers import Teacher


def conv(inputs, outputs, stride=1, kernel=3):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()
    )  # fmt: skip


def small_net():
    """Two blocks; the first has two cells of different depth."""
    shallow = [[conv(4, 6, 2, k) for k in (3, 5)]]
    deep = [[conv(4, 5, 2, k) for k in (3, 5)], [conv(5, 6, 1, k) for k in (1, 3, 5)]]
    second = [[conv(6, 8, 2, k) for k in (3, 5, 7)], [conv(8, 8, 1, k) for k in (1, 3)]]
    return pynas.Supernet(
        [[shallow, deep], [second]], stem=conv(3, 4), head=nn.Sequential(nn.Flatten(), nn.Linear(8 * 4, 5))
    )


def small_teacher(widths=(7, 9)):
    module = nn.Sequential(conv(3, 5), conv(5, widths[0], 2), conv(widths[0], widths[1], 2), nn.Flatten(),
                           nn.Linear(widths[1] * 4, 5))  # fmt: skip
    return Teacher(module, ["1", "2"])


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return [torch.randn(12, 3, 8, 8), torch.randn(12, 3, 8, 8)], torch.randint(0, 5, (12,))


@pytest.fixture
def method(batch):
    torch.manual_seed(0)
    method = DNAPlusPlus(small_net(), small_teacher(), image_shape=(3, 8, 8), channels=10)
    method.prepare([batch])
    return method


def mlp(net, x):
    """The projector layer by layer, with batch statistics."""
    x = x.mean((2, 3))
    for number in (1, 2):
        x = x @ getattr(net, f"linear_{number}").weight.T
        norm = getattr(net, f"norm_{number}")
        x = F.relu((x - x.mean(0)) / (x.var(0, unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias)
    return x @ net.linear_3.weight.T


def test_a_step_is_equations_10_and_11_block_by_block(method, batch):
    """Losses and gradients of both nets; the graph of a block ends at the teacher's tap before it."""
    (first, second), labels = batch
    reference = copy.deepcopy(method).train()
    losses = method.train().training_step([first, second], labels, np.random.default_rng(5))

    rng = np.random.default_rng(5)
    net, teacher = reference.net, reference.teacher.module
    paths = [[uniform_path(cell.counts, rng) for cell in cells] for cells in net.space.blocks]
    y1 = teacher[1](teacher[0](first))
    y2 = teacher[2](y1.detach())
    with torch.no_grad():
        x2 = F.conv2d(teacher[1](teacher[0](second)), reference.entries[0].weight[:, :, None, None])
    z1, z2 = (mlp(reference.teacher_projectors[b], y) for b, y in enumerate((y1, y2)))
    stem = net.stem(second)
    own = [mlp(reference.projectors[0], net.run_path(0, Choice(c, path), stem)) for c, path in enumerate(paths[0])]
    block_1 = sum(reference.loss(z, z1) for z in own) / 2
    block_2 = reference.loss(mlp(reference.projectors[1], net.run_path(1, Choice(0, paths[1][0]), x2)), z2)
    torch.testing.assert_close(losses["block_1"], block_1.detach())
    torch.testing.assert_close(losses["block_2"], block_2.detach())
    (block_1 + block_2).backward()
    compared = 0
    for (name, ours), theirs in zip(method.named_parameters(), reference.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name, rtol=1e-3, atol=1e-4)
            compared += 1
    assert compared > 30


def test_labels_are_not_looked_at(method, batch):
    images, labels = batch
    same = copy.deepcopy(method)
    first = method.train().training_step(images, labels, np.random.default_rng(0))
    again = same.train().training_step(images, None, np.random.default_rng(0))
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in again.items()}


def test_teacher_and_supernet_learn_and_the_given_teacher_stays(batch):
    teacher, net = small_teacher(), small_net()
    given = copy.deepcopy(teacher.state_dict())
    method = DNAPlusPlus(net, teacher, image_shape=(3, 8, 8), channels=10)
    start = {name: value.clone() for name, value in method.named_parameters()}
    pynas.fit(method, [batch] * 30, 1)
    assert all(torch.equal(given[name], value) for name, value in teacher.state_dict().items())
    still = {name for name, value in method.named_parameters() if torch.equal(start[name], value)}
    # Neither head is trained: there are no labels.
    assert still == {"net.head.1.weight", "net.head.1.bias", "teacher.module.4.weight",
                     "teacher.module.4.bias"}  # fmt: skip


def test_a_stopped_training_ends_the_same(batch, tmp_path):
    """The teacher's weights are in the checkpoint, for they learn."""

    def fresh():
        torch.manual_seed(0)
        return DNAPlusPlus(small_net(), small_teacher(), image_shape=(3, 8, 8), channels=10)

    class Stop(Exception):
        pass

    def stop(step):
        if step.step == 3:
            raise Stop

    loader = [batch] * 2
    whole, halted, resumed = fresh(), fresh(), fresh()
    pynas.fit(whole, loader, 2)
    with pytest.raises(Stop):
        pynas.fit(halted, loader, 2, tmp_path, on_step=stop)
    pynas.fit(resumed, loader, 2, tmp_path)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("loss", ["self_supervised", "mse"])
def test_ratings_equal_running_each_path_alone(method, batch, loss):
    (first, second), labels = batch
    loader = [([first[:7], second[:7]], labels[:7]), ([first[7:], second[7:]], labels[7:])]
    before = copy.deepcopy(method.state_dict())
    tables = method.rate(loader, loss=loss)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    teacher = copy.deepcopy(method.teacher.module).train()
    score = {"self_supervised": SelfSupervisedLoss(), "mse": F.mse_loss}[loss]
    for b, cells in enumerate(method.net.space.blocks):
        for c, cell in enumerate(cells):
            for path in np.ndindex(*cell.counts):
                total = 0.0
                for (one, two), _ in loader:
                    with torch.no_grad():
                        y1 = teacher[1](teacher[0](one))
                        y = (y1, teacher[2](y1))[b]
                        x = method.net.eval().stem(two)
                        if b == 1:
                            features = teacher[1](teacher[0](two))
                            x = F.conv2d(features, method.entries[0].weight[:, :, None, None])
                        for layer, k in zip(copy.deepcopy(method.net.blocks).train()[b][c], path):
                            x = layer[k](x)
                        total += len(one) * score(mlp(method.projectors[b], x), mlp(method.teacher_projectors[b], y))
                assert tables[b][c][path] == pytest.approx(total.item() / 12, rel=1e-4)


def test_one_view_serves_both(method, batch):
    (first, _), labels = batch
    once = copy.deepcopy(method).train().training_step(first, labels, np.random.default_rng(0))
    twice = method.train().training_step([first, first], labels, np.random.default_rng(0))
    assert once["block_2"].item() == twice["block_2"].item()
    with pytest.raises(InputError, match="one or two views of the images, got 3"):
        method.views([first] * 3)


def test_a_single_image_is_left_out_of_a_rating(method, batch):
    (first, second), labels = batch
    whole, rest = ([first[:11], second[:11]], labels[:11]), ([first[11:], second[11:]], labels[11:])
    with_it, without = method.rate_block([whole, rest], 1), method.rate_block([whole], 1)
    assert (with_it[0].scores == without[0].scores).all()


def test_lars_and_cosine(method):
    from timm.optim.lars import Lars

    optimizer = method.optimizer()
    assert isinstance(optimizer, Lars)
    matrices, rest = optimizer.param_groups
    assert all(p.ndim > 1 for p in matrices["params"]) and all(p.ndim <= 1 for p in rest["params"])
    assert matrices["lr"] == 0.33 and matrices["weight_decay"] == 1e-6 and rest["weight_decay"] == 0
    assert [method.rate_factor(p, 20) for p in (0, 10, 20)] == pytest.approx([1, 0.5, 0])
    method.warmup = 4
    assert [method.rate_factor(p, 20) for p in (2, 4, 12, 20)] == pytest.approx([0.5, 1, 0.5, 0], abs=1e-3)


def deviation_after(weights):
    """Mean deviation of the teacher's and of a path's projections in each block, after a training on digits."""
    from sklearn.datasets import load_digits

    digits = torch.from_numpy(load_digits().images[:240]).float()[:, None].repeat(1, 3, 1, 1) / 8 - 1
    torch.manual_seed(0)
    batches = [([x + 0.2 * torch.randn_like(x) for _ in range(2)], torch.zeros(48)) for x in digits.split(48)]
    distance, covariance, deviation = weights
    loss = SelfSupervisedLoss(distance=distance, covariance=covariance, deviation=deviation)
    method = DNAPlusPlus(small_net(), small_teacher(), image_shape=(3, 8, 8), channels=10, loss=loss, trust=0.1)
    pynas.fit(method, batches, 10)
    found = []
    for b in range(2):
        x, teacher = next(iter(method.block_batches(batches, b)))
        with torch.no_grad(), batch_statistics(method.net), batch_statistics(method.projectors):
            path = method.net.run_path(b, Choice(0, (0,) * len(method.net.layers(b, 0))), x)
            found += [teacher.std(0).mean().item(), method.projectors[b](path).std(0).mean().item()]
    return found


def test_the_hinge_keeps_projections_apart_and_distance_alone_does_not():
    kept, alone = deviation_after((25, 1, 25)), deviation_after((25, 0, 0))
    assert min(kept) > 0.1 and max(alone) < 0.01


def test_wrong_taps_are_named():
    with pytest.raises(InputError, match="expected 2 taps, one per block, got 1"):
        DNAPlusPlus(small_net(), small_teacher().module, taps=["1"], image_shape=(3, 8, 8))


@pytest.mark.slow
def test_the_papers_pair_fits():
    """EfficientNet-B1 beside the space vit-dna: every block of both nets learns in a step (section 4.4)."""
    import timm

    torch.manual_seed(0)
    teacher = timm.create_model("efficientnet_b1", pretrained=False)
    taps = ["blocks.2", "blocks.3", "blocks.4", "blocks.6"]
    method = DNAPlusPlus(pynas.supernet("vit-dna"), teacher, taps=taps, channels=32).train()
    views, labels = [torch.randn(2, 3, 224, 224) for _ in range(2)], torch.zeros(2)
    method.prepare([(views, labels)])
    losses = method.training_step(views, labels, np.random.default_rng(0))
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) == 4
    for block in method.net.blocks:
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in block.parameters())
    with_gradient = {name.split(".")[2] for name, p in method.teacher.named_parameters()
                     if ".blocks." in name and p.grad is not None}  # fmt: skip
    assert with_gradient == set("0123456")
