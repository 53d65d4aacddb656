"""Functional rating against running every path on through the teacher's own layers, one at a time."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pynas
from pynas.errors import InputError
from pynas.methods import DNA, ProgressiveDNA
from pynas.methods.sampling import uniform_path
from pynas.rating import Settings
from pynas.spaces import Choice
from pynas.teachers import Teacher
from pynas.train import fit

from .nets import conv, small_net, small_teacher


def naive(loss, logits, teacher, labels):
    if loss == "kl":
        return functional.kl_div(logits.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    if loss == "cross_entropy":
        return functional.cross_entropy(logits, labels)
    return (logits.argmax(1) != labels).double().mean()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("loss, widths", [("kl", (6, 8)), ("cross_entropy", (6, 8)), ("error", (6, 8)),
                                          ("kl", (9, 11)), ("kl", (4, 5))])  # fmt: skip
def test_ratings_equal_running_on_through_the_teacher(loss, widths, workers):
    torch.manual_seed(0)
    method = DNA(small_net(), small_teacher(widths), image_shape=(3, 8, 8))
    images, labels = torch.randn(12, 3, 8, 8), torch.randint(0, 5, (12,))
    method.prepare([(images, labels)])
    loader = [(images[:6], labels[:6]), (images[6:], labels[6:])]
    before = copy.deepcopy(method.state_dict())
    tables = method.rate(loader, loss=loss, engine=Settings(workers=workers))
    module = method.teacher.module
    for b, cells in enumerate(method.net.space.blocks):
        weight = method.projections[b].weight
        for c, cell in enumerate(cells):
            for path in np.ndindex(*cell.counts):
                scores = []
                for part, label in loader:
                    with torch.no_grad():
                        features, _ = method.targets(part)
                        x = method.net.eval().stem(part) if b == 0 else features[b - 1]
                        layers = copy.deepcopy(method.net.blocks).train()[b][c]
                        for layer, candidate in zip(layers, path):
                            x = layer[candidate](x)
                        if widths[b] != weight.shape[0]:
                            x = torch.einsum("oi,bohw->bihw", weight, x)
                        logits = module[2:](x) if b == 0 else module[3:](x)
                        scores.append(float(naive(loss, logits, module(part), label)))
                assert tables[b][c][path] == pytest.approx(np.mean(scores), rel=1e-4, abs=1e-7)
    after = method.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part._forward_hooks for part in module.modules())


def test_a_path_that_gives_the_teachers_feature_loses_nothing():
    """Widening goes back exactly; the score of a perfect path is then 0 in every loss against the teacher."""
    torch.manual_seed(0)
    method = DNA(small_net(), small_teacher((4, 5)), image_shape=(3, 8, 8))
    images = torch.randn(12, 3, 8, 8)
    method.prepare([(images, None)])
    method.net.blocks[1][0][0][0] = Perfect(method)
    for candidate in range(2):
        method.net.blocks[1][0][1][candidate] = nn.Identity()
    tables = method.rate([(images, torch.zeros(12, dtype=torch.int64))], loss="kl")
    assert tables[1][0][0, 0] == pytest.approx(0, abs=1e-6)
    assert tables[1][0][1, 0] > 0.01


class Perfect(nn.Module):
    """The teacher's own block between the projections of its input and output."""

    def __init__(self, method):
        super().__init__()
        self.before, self.after = method.projections
        self.block = method.teacher.module[2]

    def forward(self, x):
        with torch.no_grad():
            self.block[1].eval()
            normed = nn.functional.batch_norm(self.block[0](self.before.back(x)), self.block[1].running_mean,
                                              self.block[1].running_var, self.block[1].weight, self.block[1].bias)  # fmt: skip
            return self.after(normed.relu())


def test_teachers_that_cannot_judge_are_refused():
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 7])
    method = DNA(small_net(), small_teacher(norm="batch"), image_shape=(3, 8, 8))
    with pytest.raises(InputError, match="norm 'running' for these losses, got 'batch'"):
        method.rate([(images, labels)], loss="kl")
    method = DNA(small_net(), small_teacher(), image_shape=(3, 8, 8))
    with pytest.raises(InputError, match="labels below 5, the teacher's classes, for the loss 'error', got 7"):
        method.rate([(images, labels)], loss="error")
    headless = DNA(small_net(), Teacher(method.teacher.module[:3], ["1", "2"]), image_shape=(3, 8, 8))
    with pytest.raises(InputError, match=r"expected logits \[B, classes\] of the whole module"):
        headless.rate([(images, labels)], loss="kl")


def test_the_default_is_kl_where_the_teacher_can_judge():
    images, labels = torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))
    whole = small_teacher()
    headless = Teacher(whole.module[:3], ["1", "2"])
    for teacher, loss in ((whole, "kl"), (small_teacher(norm="batch"), "relative_l1"), (headless, "relative_l1")):
        method = DNA(small_net(), teacher, image_shape=(3, 8, 8))
        assert method.default_loss() == loss
        default, named = method.rate([(images, labels)]), method.rate([(images, labels)], loss=loss)
        for tables, others in zip(default, named):
            for table, other in zip(tables, others):
                assert table.metadata["loss"] == loss
                np.testing.assert_array_equal(table.scores, other.scores)


def test_after_a_share_of_the_epochs_blocks_learn_the_logits():
    torch.manual_seed(0)
    method = DNA(small_net(), small_teacher((9, 8)), image_shape=(3, 8, 8), logits_after=0.5)
    images, labels = torch.randn(12, 3, 8, 8), torch.randint(0, 5, (12,))
    method.prepare([(images, labels)])
    teacher = copy.deepcopy(method.teacher.module)
    seen = []
    fit(method, [(images, labels)] * 2, 2, on_step=lambda step: seen.append(method.learns_logits))
    assert seen == [False, False, True, True]

    method.train().zero_grad()
    reference = copy.deepcopy(method.net).train()
    features, logits = method.targets(images)
    target = features[0]
    lost = method.train_block(0, images, target, np.random.default_rng(5), logits)
    rng, expected = np.random.default_rng(5), 0.0
    x = reference.enter(images)
    for c, cell in enumerate(reference.space.blocks[0]):
        output = reference.run_path(0, Choice(c, uniform_path(cell.counts, rng)), x)
        back = torch.einsum("oi,bohw->bihw", method.projections[0].weight, output)
        expected = expected + naive("kl", teacher[2:](back), teacher(images), labels)
    torch.testing.assert_close(lost, expected.detach() / 2)
    expected.backward()
    learnt = dict(method.net.named_parameters())
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(learnt[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    assert not any(parameter.grad is not None for parameter in method.teacher.parameters())
    assert (
        method.trained_state().keys()
        == DNA(small_net(), small_teacher((9, 8)), image_shape=(3, 8, 8)).trained_state().keys()
    )


def test_logits_need_a_teacher_that_has_them():
    headless = Teacher(small_teacher().module[:3], ["1", "2"])
    with pytest.raises(InputError, match="expected logits"):
        DNA(small_net(), headless, image_shape=(3, 8, 8), logits_after=0.7)
    method = DNA(small_net(), small_teacher(), image_shape=(3, 8, 8), logits_after=0.7)
    with pytest.raises(InputError, match="logits_after=1 for progressive trainings, got 0.7"):
        ProgressiveDNA(method, strategy="progressive-a", rating_batches=[])


def test_windows_and_tails_of_the_student():
    """A block may get a path of the block before it instead of the teacher's feature, and pass on to a tail of one's own."""
    torch.manual_seed(0)
    blocks = [[[[conv(i, o, 2, kernel) for kernel in (3, 5)]]] for i, o in ((4, 6), (6, 8), (8, 8))]
    net = pynas.Supernet(blocks, stem=conv(3, 4), head=nn.Sequential(nn.Flatten(), nn.Linear(8, 5)))
    module = nn.Sequential(
        conv(3, 4), conv(4, 6, 2), conv(6, 8, 2), conv(8, 8, 2), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    method = DNA(net, Teacher(module, ["1", "2", "3"]), image_shape=(3, 8, 8))
    images = torch.randn(12, 3, 8, 8)
    window = method.rate_block([(images, None)], 2, loss="kl", prefix=[Choice(0, (1,))])[0]
    student = nn.Sequential(*net.path(2, Choice(0, (0,))), net.head)
    tailed = method.rate_block([(images, None)], 1, loss="kl", tail=student, tail_norm="batch")[0]
    naive_net = copy.deepcopy(net).train()
    with torch.no_grad():
        logits, before = module(images), module[:2](images)
        for path in range(2):
            output = naive_net.run_path(2, Choice(0, (path,)), naive_net.run_path(1, Choice(0, (1,)), before))
            assert window[(path,)] == pytest.approx(float(naive("kl", module[4:](output), logits, None)), rel=1e-4)
            last = naive_net.run_path(2, Choice(0, (0,)), naive_net.run_path(1, Choice(0, (path,)), before))
            assert tailed[(path,)] == pytest.approx(float(naive("kl", naive_net.head(last), logits, None)), rel=1e-4)
