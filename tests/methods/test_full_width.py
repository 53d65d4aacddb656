"""DNA on the teacher's own widths (eq. 6 and 7), against the equations with the 1x1 convolutions written out."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pynas
from pynas import export, spaces, supernet, teachers
from pynas.errors import InputError
from pynas.methods import DNA, ProgressiveDNA
from pynas.methods.sampling import uniform_path
from pynas.spaces import Choice
from pynas.supernets.modes import batch_statistics
from pynas.teachers import Teacher

from .nets import small_net, small_teacher

SHAPE = (3, 8, 8)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return torch.randn(12, *SHAPE), torch.randint(0, 5, (12,))


@pytest.fixture
def method():
    """A teacher of 13 and 8 channels, blocks of 6 and 8: the second needs no convolution after it."""
    torch.manual_seed(0)
    return DNA(small_net(), small_teacher((13, 8)), image_shape=SHAPE, width="teacher")


def between(method):
    """The two convolutions of the first border as matrices: 6 -> 13 channels, and 13 -> 6."""
    widen, narrow = method.full_width.exits[0].weight, method.full_width.entries[1].weight
    assert widen.shape == (13, 6, 1, 1) and narrow.shape == (6, 13, 1, 1)
    return widen[:, :, 0, 0], narrow[:, :, 0, 0]


def features_of(method, images):
    module = method.teacher.module
    y1 = module[1](module[0](images)).detach()
    return y1, module[2](y1).detach()


def test_only_borders_of_other_widths_have_convolutions(method):
    sizes = {name: tuple(p.shape) for name, p in method.full_width.named_parameters()}
    assert sizes == {"exits.0.weight": (13, 6, 1, 1), "entries.1.weight": (6, 13, 1, 1)}
    same = DNA(small_net(), small_teacher(), image_shape=SHAPE, width="teacher")
    assert not list(same.full_width.parameters())


def test_a_step_is_equation_6_on_all_channels(method, batch):
    images, labels = batch
    losses = method.train().training_step(images, labels, np.random.default_rng(5))
    gradients = {name: p.grad.clone() for name, p in method.full_width.named_parameters()}
    method.zero_grad()
    rng = np.random.default_rng(5)
    (y1, y2), (widen, narrow) = features_of(method, images), between(method)
    net = method.net.train()
    paths = [[uniform_path(cell.counts, rng) for cell in cells] for cells in net.space.blocks]
    x, total = net.stem(images), 0
    for cell in (0, 1):
        total = (
            total
            + (
                (torch.einsum("oc,bchw->bohw", widen, net.run_path(0, Choice(cell, paths[0][cell]), x)) - y1) ** 2
            ).mean()
        )
    entered = torch.einsum("oc,bchw->bohw", narrow, y1)
    second = ((net.run_path(1, Choice(0, paths[1][0]), entered) - y2) ** 2).mean()
    torch.testing.assert_close(losses["block_1"], (total / 2).detach())
    torch.testing.assert_close(losses["block_2"], second.detach())
    (total + second).backward()
    for name, parameter in method.full_width.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


@pytest.mark.parametrize("loss", ["relative_l1", "kl"])
def test_ratings_are_of_the_teachers_own_features(method, batch, loss):
    method.eval()
    table = method.rate_block([batch], 0, loss=loss)[1]
    (y1, _), (widen, _) = features_of(method, batch[0]), between(method)
    net, module = method.net, method.teacher.module
    x = net.stem.eval()(batch[0])
    for path in np.ndindex(*net.space.blocks[0][1].counts):
        with batch_statistics(net):
            output = torch.einsum("oc,bchw->bohw", widen, net.run_path(0, Choice(1, path), x))
        if loss == "relative_l1":
            expected = (y1 - output).abs().mean() / y1.std()
        else:
            logits = functional.log_softmax(module(batch[0]), 1)
            expected = (
                logits.exp() * (logits - functional.log_softmax(module[4](module[3](module[2](output))), 1))
            ).sum() / 12
        assert table.scores[path] == pytest.approx(expected.item(), rel=1e-4)


def test_the_second_blocks_rating_enters_through_its_convolution(method, batch):
    method.eval()
    table = method.rate_block([batch], 1, loss="mse")[0]
    (y1, y2), (_, narrow) = features_of(method, batch[0]), between(method)
    x = torch.einsum("oc,bchw->bohw", narrow, y1)
    for path in np.ndindex(*method.net.space.blocks[1][0].counts):
        with batch_statistics(method.net):
            output = method.net.run_path(1, Choice(0, path), x)
        assert table.scores[path] == pytest.approx(functional.mse_loss(output, y2).item(), rel=1e-4)


def wide_teacher(space):
    """A small network whose features have twice the blocks' widths, trained by nothing."""
    net = supernet(space, 10)
    shape = (3, space.image_size, space.image_size)
    blocks, stem = teachers.small_like([(2 * c, *side) for c, *side in net.block_shapes(shape)], shape)
    return Teacher(teachers.small(10, blocks, stem).eval(), [f"blocks.{b}" for b in range(len(blocks))])


@pytest.mark.parametrize("name", ["mbconv-mini", "mbconv-boss"])
def test_a_folded_network_is_the_chain_of_blocks_and_convolutions(name):
    """The head of mbconv-boss begins with an MBConv, that of mbconv-mini with a 1x1 convolution."""
    space = spaces.get(name)
    small = 32 if name == "mbconv-mini" else 64
    torch.manual_seed(1)
    method = DNA(supernet(space, 10), wide_teacher(space), width="teacher").eval().double()
    for part in method.net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.fill_(0.05)  # fresh weights shrink features block by block
    architecture = space.sample(np.random.default_rng(0))
    model = export.subnet(method.net, architecture).eval()
    images = torch.randn(2, 3, small, small, dtype=torch.float64)
    x = method.net.stem(images)
    for b, choice in enumerate(architecture):
        x = method.full_width.entries[b + 1](method.full_width.exits[b](method.net.run_path(b, choice, x)))
    sizes = [p.shape for p in model.parameters()]
    assert not torch.allclose(model(images), method.net.head(x), atol=1e-4)
    assert method.fold(model) and [p.shape for p in model.parameters()] == sizes
    torch.testing.assert_close(model(images), method.net.head(x), atol=1e-9, rtol=1e-9)


def test_what_cannot_take_them_up_stays_as_it_is(method):
    model = export.subnet(method.net, next(iter(method.net.space.architectures())))
    before = [p.clone() for p in model.parameters()]
    assert not method.fold(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize("name", ["vit-mini", "mbconv-mini", "splitattention-mini"])
def test_without_learned_convolutions_there_is_nothing_to_take_up(name):
    space = spaces.get(name)
    net = supernet(space, 10)
    shape = (3, space.image_size, space.image_size)
    blocks, stem = teachers.small_like(net.block_shapes(shape), shape)
    teacher = Teacher(teachers.small(10, blocks, stem).eval(), [f"blocks.{b}" for b in range(len(blocks))])
    method = DNA(net, teacher)
    model = export.subnet(net, next(iter(space.architectures())))
    before = [p.clone() for p in model.parameters()]
    assert method.fold(model) and all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_a_block_keeps_its_convolutions_and_learns_alone(method, batch):
    states = [set(method.block_state(block)) for block in (0, 1)]
    assert "full_width.exits.0.weight" in states[0] and "full_width.entries.1.weight" in states[1]
    assert set(method.trained_state()) == states[0] | states[1] | {
        name for name in method.trained_state() if name.startswith("projections")
    }
    method.trained_blocks = [1]
    method.train().training_step(*batch, np.random.default_rng(0))
    grads = {name: p.grad is not None for name, p in method.full_width.named_parameters()}
    assert grads == {"exits.0.weight": False, "entries.1.weight": True}
    assert len(method.optimizer().param_groups) == 3
    trained = {id(p) for group in method.optimizer().param_groups for p in group["params"]}
    assert {id(p) for p in method.full_width.parameters()} <= trained


@pytest.mark.integration
def test_a_run_trains_rates_and_exports_by_it(tmp_path):
    options = {"width": "teacher"}
    run = pynas.runs.create(tmp_path / "run", data="digits", epochs=1, limit_images=100, options=options)
    path = run.folder / "teacher.safetensors"
    images = run.data
    wide = [(2 * c, *side) for c, *side in run.net.block_shapes(images.image_shape)]
    teachers.save_small(path, teachers.fit_small(images, *teachers.small_like(wide, images.image_shape), epochs=1))
    run.train()
    run.rate("relative_l1")
    found = run.search()["found"][0]
    exported = run.export()
    assert "note" not in exported and exported["params"] == found["params"]
    method, _ = run.trained_method()
    model, _ = export.load_subnet(run.folder / "subnet.safetensors")
    again = export.subnet(method.net, run.space.parse(found["architecture"]))
    assert method.fold(again)
    assert torch.equal(model.block_2[0].expand.conv.weight, again.block_2[0].expand.conv.weight)
    assert exported["test_accuracy"] == pytest.approx(teachers.accuracy(model, images))


def test_bad_uses_are_named():
    with pytest.raises(InputError, match="expected width to be 'projection' or 'teacher', got 'wide'"):
        DNA(small_net(), small_teacher(), image_shape=SHAPE, width="wide")
    dna = DNA(small_net(), small_teacher((13, 8)), image_shape=SHAPE, width="teacher")
    with pytest.raises(InputError, match="width='projection' for progressive trainings, got 'teacher'"):
        ProgressiveDNA(dna, strategy="progressive-b", rating_batches=[])
    space = spaces.get("nats-size")
    net = supernet(space, 10)
    module = nn.Sequential(nn.Conv2d(3, 80, 3, 2, 1), nn.Conv2d(80, 80, 3, 2, 1), nn.Conv2d(80, 80, 3, 1, 1))
    with pytest.raises(
        InputError, match="width='projection' for nats-size, whose blocks end in several widths, got 'teacher'"
    ):
        DNA(net, Teacher(module, ["0", "1", "2"]), width="teacher")
