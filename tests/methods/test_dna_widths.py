"""DNA in spaces whose blocks end in several widths: paths learn the first principal components, computed naively here."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import pynas
from pynas import teachers
from pynas.errors import InputError
from pynas.methods import DNA, DNAPlusPlus, ProgressiveDNA
from pynas.methods.dna.projection import Projection
from pynas.methods.sampling import uniform_path
from pynas.spaces import Choice
from pynas.spaces.nats_size import nats_size

WIDTHS = (4, 8, 12)
SHAPE = (3, 16, 16)


def taught(space, blocks=((16, 2), (12, 2), (20, 1))):
    torch.manual_seed(0)
    module = teachers.small(5, blocks, (8, 1)).eval()
    for buffer in (b for name, b in module.named_buffers() if "running_var" in name):
        buffer.uniform_(0.5, 2)
    teacher = teachers.Teacher(module, [f"blocks.{b}" for b in range(3)])
    return DNA(pynas.supernet(space, 5), teacher, image_shape=SHAPE)


@pytest.fixture(scope="module")
def method():
    found = taught(nats_size("widths", widths=WIDTHS))
    torch.manual_seed(1)
    found.prepare([(torch.randn(16, *SHAPE), None)])
    return found.eval()


@pytest.fixture
def batch():
    torch.manual_seed(2)
    return torch.randn(6, *SHAPE), torch.randint(0, 5, (6,))


def components(method, images):
    """The teacher's features, turned by hand onto the principal components of each tap."""
    features = method.teacher(images)
    return [torch.einsum("oc,bchw->bohw", p.weight, f) for p, f in zip(method.projections, features)]


def test_the_widest_of_each_block_and_the_widths_of_each_input(method):
    assert method.net.block_shapes(SHAPE) == [(12, 8, 8), (12, 4, 4), (12, 4, 4)]
    assert method.widths == [[None], [4, 8, 12], [4, 8, 12], [4, 8, 12]]


def test_channels_are_components_by_their_variance_also_at_equal_width():
    torch.manual_seed(0)
    mixed = torch.randn(6, 6) @ torch.diag(torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]))
    x = torch.einsum("oc,bchw->bohw", mixed, torch.randn(8, 6, 5, 5))
    projection = Projection(6, 6, nested=True)
    projection.fit([x])
    y = projection(x)
    moment = torch.einsum("bchw,bdhw->cd", y, y)
    assert (moment.diag().diff() < 0).all()
    torch.testing.assert_close(moment, torch.diag(moment.diag()), rtol=0, atol=1e-3 * float(moment.max()))
    torch.testing.assert_close(projection.back(y), x)
    best = torch.linalg.matrix_norm(projection.back(y[:, :2]) - x).square().sum()
    torch.testing.assert_close(best, moment.diag()[2:].sum())  # no two other directions leave less


def test_a_step_trains_one_cell_on_the_first_components(method, batch):
    images, labels = batch
    method.train()
    drawn, losses = np.random.default_rng(5), method.training_step(images, labels, np.random.default_rng(5))
    features = components(method, images)
    for b, cells in enumerate(method.net.space.blocks):
        cell = int(drawn.integers(len(cells)))
        path = uniform_path(cells[cell].counts, drawn)
        x = images if b == 0 else features[b - 1][:, : cells[cell].start]
        with torch.no_grad():
            output = method.net.run_path(b, Choice(cell, path), x)
        assert output.shape[1] == WIDTHS[path[-1]]
        expected = functional.mse_loss(output, features[b][:, : output.shape[1]])
        torch.testing.assert_close(losses[f"block_{b + 1}"], expected)
    width = WIDTHS[int(drawn.integers(3))]
    with torch.no_grad():
        logits = method.teacher.module(images)
        student = functional.log_softmax(method.net.head(features[-1][:, :width]), 1)
    expected = functional.kl_div(student, functional.log_softmax(logits, 1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(losses["head"], expected)
    method.eval()


@pytest.mark.parametrize("loss", ["kl", "error", "relative_l1", "mse"])
def test_ratings_equal_each_path_alone(method, batch, loss):
    images, labels = batch
    features, module = components(method, images), method.teacher.module
    for b, cells in enumerate(method.net.space.blocks):
        tables = method.rate_block([batch], b, loss=loss)
        for c, (cell, table) in enumerate(zip(cells, tables)):
            x = images if b == 0 else features[b - 1][:, : cell.start]
            for path in list(cell.paths())[::4]:
                with torch.no_grad():
                    # Batch statistics, as in training, of copies whose running ones do not matter.
                    method.net.train()
                    output = method.net.run_path(b, Choice(c, path), x)
                    method.net.eval()
                    filled = torch.zeros_like(features[b])
                    filled[:, : output.shape[1]] = output
                    if loss in ("kl", "error"):
                        back = torch.einsum("oc,bohw->bchw", method.projections[b].weight, filled)
                        filled = module.head(module.blocks[b + 1 :](back))
                    logits = module(images)
                expected = {
                    "kl": lambda f, t: functional.kl_div(f.log_softmax(1), t.softmax(1), reduction="batchmean"),
                    "error": lambda f, t: (f.argmax(1) != labels).float().mean(),
                    "relative_l1": lambda f, t: (f - t).abs().mean() / t.std(),
                    "mse": functional.mse_loss,
                }[loss](filled, logits if loss in ("kl", "error") else features[b])
                assert table[path] == pytest.approx(float(expected), rel=2e-4, abs=1e-6), (b, c, path)


def test_scores_are_searched_exactly(method, batch):
    scores = method.rate([batch])
    best = pynas.search.best(scores, pynas.costs.count(method.net, SHAPE))[0]
    networks = list(method.net.space.architectures())
    totals = dict(zip(networks, scores.total(networks)))
    assert best.architecture == min(totals, key=totals.get)


def test_spaces_and_teachers_that_do_not_fit(method):
    with pytest.raises(InputError, match=r"at least 12 channels after block 2.*got 8 at the teacher's tap 'blocks.1'"):
        taught(nats_size("widths", widths=WIDTHS), ((16, 2), (8, 2), (20, 1)))
    with pytest.raises(InputError, match="got widths, where it depends on the path; use bossnas, or dna where"):
        ProgressiveDNA(method, strategy="progressive-b", rating_batches=[])
    with pytest.raises(InputError, match=r"\[dna-pp\] expected a space whose blocks each end in one shape"):
        DNAPlusPlus(method.net, method.teacher, image_shape=SHAPE)
    with pytest.raises(InputError, match="paths of block 0 of hytra-mini to end with maps of one size"):
        pynas.supernet("hytra-mini", 5).block_shapes((3, 64, 64))
