"""Pi-NAS against its equations, image by image and negative by negative, on the same weights."""

import copy
import math

import numpy as np
import pytest
import torch

import pynas
from pynas import spaces
from pynas.data import load
from pynas.errors import InputError
from pynas.methods import PiNAS
from pynas.methods.sampling import differing_pair

SPACE = spaces.nasbench201(n=1, channels=(4, 6), ops=("nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"), image_size=8)


def build(**options):
    torch.manual_seed(0)
    net = pynas.supernet(SPACE, 3)
    return PiNAS(net, **{"dim": 5, "queue_size": 7, "momentum": 0.9, **options}).double()


@pytest.fixture
def views():
    torch.manual_seed(1)
    return list(torch.randn(4, 6, 3, 8, 8, dtype=torch.float64))


def unit(rows):
    return [row / row.square().sum().sqrt() for row in rows]


def naive_loss(queries, keys, negatives, temperature):
    """Eq. 4 for one of its two terms, image by image."""
    total = 0
    for z, positive in zip(queries, keys):
        other = sum(math.e ** ((z * n).sum() / temperature) for n in negatives)
        match = math.e ** ((z * positive).sum() / temperature)
        total = total - torch.log(match / (other + match))
    return total / len(queries)


def naive_step(reference, views, paths, momentum, pairs=((0, 1), (1, 0)), teacher=True):
    """The loss of a step, and the new negatives; the teacher's weights on the paths are moved (eq. 2)."""
    slow, projector = (reference.key_net, reference.key_projector) if teacher else (reference.net, reference.projector)
    if teacher:
        used = {id(p) for path in paths for part in slow.modules_of(path) for p in part.parameters()}
        for own, mean in zip([*reference.net.parameters(), *reference.projector.parameters()],
                             [*slow.parameters(), *projector.parameters()]):  # fmt: skip
            if id(mean) in used or any(mean is p for p in projector.parameters()):
                mean.data = momentum * mean.data + (1 - momentum) * own.data
    queries = [unit(reference.projector(reference.net.features(views[p], paths[p]))) for p in (0, 1)]
    with torch.no_grad():
        keys = [unit(projector(slow.features(views[2 + p], paths[p]))) for p in (0, 1)]
    negatives = None if reference.queue is None else reference.queue.features.clone()
    if negatives is None:
        terms = [-sum((z * k).sum() for z, k in zip(queries[q], keys[k])) / len(keys[k]) for q, k in pairs]
    else:
        terms = [naive_loss(queries[q], keys[k], negatives, reference.temperature) for q, k in pairs]
    return sum(terms), torch.stack([(a + b) / 2 for a, b in zip(*keys)])


ABLATIONS = [
    ({}, ((0, 1), (1, 0))),
    ({"cross_path": False}, ((0, 0), (1, 1))),
    ({"mean_teacher": False}, ((0, 1), (1, 0))),
    ({"negatives": False}, ((0, 1), (1, 0))),
    ({"projector_norm": True}, ((0, 1), (1, 0))),
    ({"augmented_views": False}, ((0, 1), (1, 0))),
]


@pytest.mark.parametrize(
    "options, pairs", ABLATIONS, ids=["full", "no cross-path", "no mean teacher", "no negatives", "norm", "one view"]
)
def test_a_step_is_the_papers_equations(views, options, pairs):
    method = build(**options).train()
    given = views
    if not options.get("augmented_views", True):
        given, views = views[0], views[:1] * 4
    for _ in range(2):  # in the second step the mean teacher and the queue are no longer fresh
        with torch.no_grad():
            for parameter in method.net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        reference = copy.deepcopy(method)
        method.zero_grad()
        losses = method.training_step(given, torch.zeros(6), np.random.default_rng(5))
        paths = differing_pair(SPACE, np.random.default_rng(5))
        loss, negatives = naive_step(reference, views, paths, 0.9, pairs, options.get("mean_teacher", True))
        torch.testing.assert_close(losses["consistency"], loss.detach(), rtol=1e-9, atol=1e-10)
        reference.zero_grad()
        loss.backward()
        for (name, ours), theirs in zip(method.named_parameters(), reference.parameters()):
            assert (ours.grad is None) == (theirs.grad is None), name
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)  # the mean teacher, too
        if method.queue is not None:
            size, before = len(reference.queue.features), reference.queue
            rows = [(int(before.position) + n) % size for n in range(len(negatives))]
            torch.testing.assert_close(method.queue.features[rows], negatives)


def test_the_mean_teacher_moves_on_the_paths_alone(views):
    method = build().train()
    before = copy.deepcopy(method.key_net.state_dict())
    with torch.no_grad():
        for parameter in method.net.parameters():
            parameter.add_(1)
    paths = differing_pair(SPACE, np.random.default_rng(5))
    method.training_step(views, torch.zeros(6), np.random.default_rng(5))
    for number, cell in enumerate(method.key_net.body):
        if not hasattr(cell, "edges"):
            continue
        for e in range(6):
            for k in range(2):  # the convolutions
                name = f"body.{number}.edges.{e}.{k}.conv.weight"
                moved = not torch.equal(before[name], method.key_net.state_dict()[name])
                assert moved == (k in [path[0].path[e] for path in paths])


def test_paths_differ_in_every_layer():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        first, second = differing_pair(SPACE, rng)
        assert all(a != b for a, b in zip(first[0].path, second[0].path))
        seen.add((first[0].path[0], second[0].path[0]))
    assert len(seen) == 6
    with_single = spaces.nasbench201(ops=("nor_conv_3x3",))
    first, second = differing_pair(with_single, rng)
    assert first == second


def test_a_collapse_is_said_once(views):
    method = build(negatives=False).train()
    with torch.no_grad():
        method.projector[2].weight.zero_()
        method.projector[2].bias.fill_(1)
    with pytest.warns(UserWarning, match=r"\[pinas\] the representations have collapsed, as is to be expected"):
        method.training_step(views, torch.zeros(6), np.random.default_rng(0))
    assert method.collapsed and method.spread < 1e-6
    method.training_step(views, torch.zeros(6), np.random.default_rng(1))  # no second warning: it would be an error


@pytest.mark.slow
def test_without_negatives_training_collapses_and_with_them_it_does_not():
    data = load("digits", 8)

    def train(negatives, norm):
        torch.manual_seed(0)
        net = pynas.supernet(SPACE, 10)
        method = PiNAS(net, negatives=negatives, queue_size=256, dim=32, momentum=0.99, learning_rate=0.1,
                       projector_norm=norm)  # fmt: skip
        pynas.fit(method, data.loader("train", 64, "standard", views=4), 8)
        return method

    method = train(True, True)
    assert not method.collapsed and method.spread > 0.3
    with pytest.warns(UserWarning, match="collapsed"):
        assert train(False, False).spread < 0.05


def test_a_killed_training_resumes_exactly(tmp_path):
    torch.manual_seed(2)
    loader = [(list(torch.randn(4, 6, 3, 8, 8)), torch.zeros(6)) for _ in range(3)]

    class Killed(Exception):
        pass

    def kill(step):
        if step.step == 5:
            raise Killed

    whole, again = build().float(), build().float()
    pynas.fit(whole, loader, 3)
    with pytest.raises(Killed):
        pynas.fit(build().float(), loader, 3, tmp_path, on_step=kill, checkpoint_seconds=0)
    pynas.fit(again, loader, 3, tmp_path)
    for ours, theirs in zip(whole.state_dict().values(), again.state_dict().values()):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_it_trains_mbconv_too(views):
    torch.manual_seed(0)
    method = PiNAS(pynas.supernet("mbconv-mini", 3), dim=4, queue_size=5).train()
    images = [torch.randn(3, 3, 16, 16) for _ in range(4)]
    assert math.isfinite(method.training_step(images, torch.zeros(3), np.random.default_rng(0))["consistency"])


def test_bad_use(views):
    method = build().train()
    with pytest.raises(InputError, match=r"\[pinas\] expected 4 views of each image, got 1; use a loader"):
        method.training_step(views[0], torch.zeros(6), np.random.default_rng(0))
    with pytest.raises(InputError, match=r"\[pinas\] expected momentum to be less than 1, got 1.0"):
        build(momentum=1.0)
    own = pynas.Supernet([[[[torch.nn.Identity(), torch.nn.Identity()]]]])
    with pytest.raises(InputError, match="expected a supernet whose head has features"):
        PiNAS(own)
