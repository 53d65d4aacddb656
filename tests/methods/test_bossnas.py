"""BossNAS against the paper's equations, written as plain loops on the same weights."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import pynas
from pynas.errors import CollapseWarning, InputError
from pynas.methods import Bootstrap, BossNAS, Heads, Optimization, PathRating
from pynas.methods.bossnas.population import evolve
from pynas.spaces import Cell, Choice, Space
from pynas.teachers import Teacher


def conv(inputs, outputs, stride=1, kernel=3):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )  # fmt: skip


def small_net():
    """Two blocks; the first has two cells of different depth, the second's last layer ends with two widths."""
    shallow = [[conv(4, 6, 2, k) for k in (3, 5)]]
    deep = [[conv(4, 5, 2, k) for k in (3, 5)], [conv(5, 6, 1, k) for k in (1, 3, 5)]]
    second = [[conv(6, 8, 2, k) for k in (3, 5, 7)], [conv(8, w, 1, 3) for w in (7, 9)]]
    first = (Cell(((0, 1),)), Cell(((0, 1), (0, 1, 2))))
    space = Space("small", (first, (Cell(((0, 1, 2), (0, 1)), leaves=lambda path: path[-1]),)))
    return pynas.Supernet([[shallow, deep], [second]], stem=conv(3, 4), space=space)


def small_method(net=None, teacher=None, *, num_classes=None, batch_size=4096, rate=1.0, amp=False, **options):
    torch.manual_seed(0)
    return BossNAS(
        net or small_net(), teacher, image_shape=(3, 8, 8), num_classes=num_classes, batch_size=batch_size,
        bootstrap=Bootstrap(**{"paths": 2, **options}), heads=Heads(hidden=12, dim=5),
        optimization=Optimization(rate=rate, amp=amp),
    )  # fmt: skip


def some_views(count=4, batch=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, 8, 8, generator=generator) for _ in range(count)]


LABELS = torch.arange(6) % 3


def steps(method, count=3):
    """A few training steps by hand, so that online and averaged weights differ."""
    optimizer = method.train().optimizer()
    for step in range(count):
        optimizer.zero_grad()
        method.training_step(some_views(method.views, seed=step), LABELS, np.random.default_rng(step))
        optimizer.step()
        method.after_step(step / count, 1)
    return method


def second_block(**options):
    method = steps(small_method(**options))
    method.fix(Choice(1, (1, 2)), [(some_views(2, seed=9), LABELS)])
    method.start(1)
    return steps(method)


def fixed(head, x):
    """The fix layer of a path's width, the mean over space."""
    if len(head.fix.by_width):
        x = head.fix.by_width[str(x.shape[1])](x)
    return x.mean((2, 3))


def unit(x):
    return x / (x**2).sum(1, keepdim=True).sqrt()


def step_by_equations(method, views, choices, *, kind="ensemble", renormalize=False, both=False):
    """Sum over paths of |S(p; x_p) - mean_q T(q; x'_q)|^2 (eq. 3-4), BYOL's vectors, nothing shared or stacked."""
    b, pairs, parts = method.block, len(views) // 2, copy.deepcopy(method).train()
    prefix = copy.deepcopy(method).eval()

    def enter(x):
        with torch.no_grad():
            x = prefix.ema.stem(x)
            for earlier, choice in enumerate(method.chosen[:b]):
                for layer, candidate in enumerate(choice.path):
                    x = prefix.ema.blocks[earlier][choice.cell][layer][candidate](x)
        return x

    def run(net, x, choice):
        x = net.stem(x) if b == 0 else enter(x)
        for layer, candidate in enumerate(choice.path):
            x = net.blocks[b][choice.cell][layer][candidate](x)
        return x

    def online(x, choice):
        head = parts.heads[b]
        return unit(head.top.predictor(head.top.projector(fixed(head, run(parts.net, x, choice)))))

    def target(x, choice):
        with torch.no_grad():
            head = parts.ema_heads[b]
            return unit(head.top.projector(fixed(head, run(parts.ema, x, choice))))

    losses = [torch.zeros(()) for _ in choices]
    for first, second in ((0, pairs), (pairs, 0)) if both else ((0, pairs),):
        targets = [target(views[second + p % pairs], choice) for p, choice in enumerate(choices)]
        centre = sum(targets) / len(targets)
        for p, choice in enumerate(choices):
            wanted = targets[p] if kind == "naive" else unit(centre) if renormalize else centre
            losses[p] = losses[p] + ((online(views[first + p % pairs], choice) - wanted) ** 2).sum(1).mean()
    sum(losses).backward()
    return torch.stack(losses).detach(), parts


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize(
    "options",
    [{}, {"both_views": True}, {"renormalize": True, "both_views": True}, {"target": "naive"}, {"views": "shared"}],
    ids=str,
)
def test_a_step_is_equations_3_and_4(block, options):
    method = steps(small_method(**options)) if block == 0 else second_block(**options)
    before = copy.deepcopy(method)
    views = some_views(method.views, seed=20)
    for parameter in method.parameters():
        parameter.grad = None
    losses = method.training_step(views, LABELS, np.random.default_rng(5))
    choices = method.sampler(block, None)(np.random.default_rng(5))
    assert len(choices) == 2
    expected, parts = step_by_equations(
        before, views, choices, kind=options.get("target", "ensemble"),
        renormalize=options.get("renormalize", False), both=options.get("both_views", False),
    )  # fmt: skip
    assert list(losses) == [f"block_{block + 1}"]
    torch.testing.assert_close(losses[f"block_{block + 1}"], expected.mean())
    learned = 0
    for (name, ours), theirs in zip(method.named_parameters(), parts.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            learned += 1
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert learned > 10


def test_the_average_moves_by_equation_2_and_only_where_something_learns():
    method = second_block()
    before = copy.deepcopy(method)
    with torch.no_grad():
        for parameter in method.net.parameters():
            parameter.add_(1.0)
    method.after_step(5.0, 20)
    momentum = 1 - 0.01 * (math.cos(math.pi * 0.25) + 1) / 2
    for name, value in method.ema.named_parameters():
        old, online = before.ema.get_parameter(name), method.net.get_parameter(name)
        moved = momentum * old + (1 - momentum) * online if name.startswith("blocks.1") else old
        torch.testing.assert_close(value, moved)
    torch.testing.assert_close(
        method.ema_heads[1].top.projector[0].weight,
        momentum * before.ema_heads[1].top.projector[0].weight + (1 - momentum) * method.heads[1].top.projector[0].weight,
    )  # fmt: skip
    assert not any(parameter.requires_grad for parameter in method.ema.parameters())
    assert not any(parameter.requires_grad for parameter in method.ema_heads.parameters())


def rated_alone(method, views, calibration, choices=None, released=False):
    """Equations 5 and 6, or the released code's variant: every path alone, batch norm re-estimated for it."""
    block = method.block
    target, target_head = (method.ema, method.ema_heads[block]) if released else (method.net, method.heads[block])
    choices = choices or list(method.net.space.paths(block))

    def outputs(net, head, x, choice):
        modules = [net.stem] if block == 0 else []
        modules += [net.blocks[block][choice.cell][layer][c] for layer, c in enumerate(choice.path)]
        path = copy.deepcopy(nn.Sequential(*modules, head))
        for part in path.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.reset_running_stats()
                part.momentum = None
        with torch.no_grad():
            path.train()(method.features(calibration, block))
            return unit(path.eval()(method.features(x, block)))

    scores = dict.fromkeys(choices, 0.0)
    for x, y in [(views[0], views[1]), (views[1], views[0])][: 2 if released else 1]:
        centre = sum(outputs(target, target_head, y, c) for c in choices) / len(choices)
        for choice in choices:
            mine = outputs(method.net, method.heads[block], x, choice)
            scores[choice] += ((mine - centre) ** 2).sum(1).mean().item()
    return scores


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("block", [0, 1])
def test_ratings_equal_running_each_path_alone(block, released):
    """All cells of a block have one centre; nothing of the method changes."""
    method = steps(small_method()) if block == 0 else second_block()
    views, calibration = some_views(2, seed=30), some_views(1, seed=31)[0]
    before = copy.deepcopy(method.state_dict())
    settings = PathRating(centre_of="average", exchange_views=True) if released else PathRating()
    tables = method.rate_block([(views, LABELS)], block, calibration=[(calibration, LABELS)], rating=settings)
    for choice, score in rated_alone(method, views, calibration, released=released).items():
        assert tables[choice.cell][choice.path] == pytest.approx(score, rel=1e-4)
    assert [len(table) for table in tables] == [cell.size for cell in method.net.space.blocks[block]]
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_what_a_block_gets_is_the_best_path_with_statistics_of_its_own():
    """Independent of the batch it is in, and of what the block learns later."""
    method = second_block()
    x = some_views(1, batch=8, seed=40)[0]
    together = method.train().features(x, 1)
    torch.testing.assert_close(together[:3], method.features(x[:3], 1))
    assert together.shape == (8, 6, 4, 4) and not together.requires_grad
    steps(method)
    torch.testing.assert_close(method.features(x, 1), together)


def test_joint_feeding_trains_all_blocks_in_every_step():
    method = small_method(feed="joint")
    losses = method.train().training_step(some_views(), LABELS, np.random.default_rng(0))
    assert list(losses) == ["block_1", "block_2"]
    before = copy.deepcopy(method.ema.state_dict())
    optimizer = method.optimizer()
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len([*method.net.stem.parameters(), *method.net.blocks.parameters(), *method.heads.parameters()])
    optimizer.step()
    method.after_step(0.5, 1)
    changed = {name.split(".")[1] for name, value in method.ema.blocks.named_parameters()
               if not torch.equal(before[f"blocks.{name}"], value)}  # fmt: skip
    assert changed


def test_mixed_precision_is_close_to_full():
    full, half = small_method(), small_method(amp=True)
    views = some_views()
    losses = [m.train().training_step(views, LABELS, np.random.default_rng(0))["block_1"] for m in (full, half)]
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert losses[0] == pytest.approx(losses[1].item(), rel=0.05)
    assert not torch.equal(*losses)


def test_the_optimiser_is_lars_without_decay_of_norms_and_biases():
    method = small_method(rate=4.8, batch_size=256)
    optimizer = method.optimizer()
    decayed, free = optimizer.param_groups
    assert type(optimizer).__name__ == "Lars" and decayed["momentum"] == 0.9
    assert decayed["lr"] == pytest.approx(0.3) and decayed["weight_decay"] == 1e-6
    assert free["weight_decay"] == 0 and not free["always_adapt"]
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in free["params"]} == {1}
    block = [*method.net.stem.parameters(), *method.net.blocks[0].parameters(), *method.heads[0].parameters()]
    assert len(decayed["params"]) + len(free["params"]) == len(block)


def test_the_rate_warms_up_and_falls_by_a_cosine():
    method = small_method()
    assert [method.rate_factor(p, 21) for p in (0, 0.5, 1, 11, 21)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [method.rate_factor(p, 1) for p in (0.25, 0.5, 1)] == pytest.approx([0.5, 1, 0])


def teacher():
    module = nn.Sequential(conv(3, 7), conv(7, 6, 2), conv(6, 10, 2), nn.Flatten(), nn.Linear(40, 3))
    return Teacher(module.eval(), ["1", "2"])


@pytest.mark.parametrize("target", ["classification", "distillation"])
def test_supervised_targets_by_hand(target):
    options = {"target": target, "num_classes": 3}
    torch.manual_seed(0)
    method = small_method(None, teacher() if target == "distillation" else None, **options)
    views = some_views(seed=50)
    reference = copy.deepcopy(method).train()
    losses = method.train().training_step(views, LABELS, np.random.default_rng(1))
    expected = []
    for p, choice in enumerate(method.sampler(0, None)(np.random.default_rng(1))):
        x = reference.net.stem(views[p])
        for layer, candidate in enumerate(choice.path):
            x = reference.net.blocks[0][choice.cell][layer][candidate](x)
        y = reference.heads[0].top.linear(x.mean((2, 3)))
        if target == "classification":
            expected.append(functional.cross_entropy(y, LABELS))
        else:
            wanted = reference.teacher.module[:2].eval()(views[p]).mean((2, 3))
            expected.append(((y - wanted) ** 2).mean())
    torch.testing.assert_close(losses["block_1"], torch.stack(expected).mean().detach())
    tables = method.rate_block([(some_views(2), LABELS)], 0, calibration=[(some_views(2, seed=4), LABELS)])
    assert [len(table) for table in tables] == [2, 6]
    with pytest.raises(InputError, match="bootstrapped target"):
        method.rate_block(
            [(some_views(2), LABELS)], 0, calibration=[(some_views(2), LABELS)], rating=PathRating(kind="centre")
        )


def test_linear_evaluation_tells_features_that_carry_the_label_from_noise():
    """Candidate 0 passes the image, candidate 1 mixes its colours: only one of them can be classified."""

    class Grey(nn.Module):
        def forward(self, x):
            return x.mean(1, keepdim=True).expand_as(x)

    net = pynas.Supernet([[[[nn.Identity(), Grey()], [nn.Identity(), nn.Identity()]]]])
    method = small_method(net, num_classes=3)
    labels = torch.arange(30) % 3
    images = torch.zeros(30, 3, 8, 8)
    images[torch.arange(30), labels] = 1.0
    batches, rating = [(images, labels)], PathRating(kind="linear", probe_epochs=40, probe_rate=0.1)
    (table,) = method.rate_block(batches, 0, calibration=batches, rating=rating)
    assert table[0, 0] < 0.6 and table[1, 0] == pytest.approx(math.log(3), abs=0.1)
    assert table[0, 0] == pytest.approx(table[0, 1])
    again = method.rate_block(batches, 0, calibration=batches, rating=rating)[0]
    np.testing.assert_array_equal(again.scores, table.scores)


def test_a_population_has_a_centre_of_its_own():
    method, views, calibration = second_block(), some_views(2, seed=60), some_views(1, seed=61)[0]
    batches, options = [(views, LABELS)], {"calibration": [(calibration, LABELS)]}
    (table,) = method.rate_block(batches, 1, **options, rating=PathRating(population=6, generations=1))
    (whole,) = method.rate_block(batches, 1, **options)
    np.testing.assert_allclose(table.scores, whole.scores)
    (few,) = method.rate_block(batches, 1, **options, rating=PathRating(population=3, generations=4))
    assert len(few) == 3
    members = [Choice(0, tuple(path)) for path in few.rated()[0].tolist()]
    for choice, score in rated_alone(method, views, calibration, members).items():
        assert few[choice.path] == pytest.approx(score, rel=1e-4)


def test_evolution_finds_good_paths_of_a_block_too_large_to_traverse():
    """4^16 paths; the score is the distance to a hidden path."""
    hidden = np.random.default_rng(7).permutation([1, 2] * 8)
    cells = [Cell(((0, 1, 2, 3),) * 16), Cell(((0,),))]
    asked = []

    def score(population):
        asked.append(len(population))
        return {c: float(np.abs(np.array(c.path) - hidden).sum()) if c.cell == 0 else 99.0 for c in population}

    found = evolve(score, cells, 24, 60, np.random.default_rng(0))
    assert asked == [24] * 60 and len(found) == 24
    assert min(found.values()) <= 2
    assert found == evolve(score, cells, 24, 60, np.random.default_rng(0))


def test_collapse_is_seen():
    method = small_method()
    with torch.no_grad():
        method.heads[0].top.predictor[-1].weight.zero_()
    views = some_views()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(method.detector.patience - 1):
            method.train().training_step(views, LABELS, np.random.default_rng(0))
    with pytest.warns(CollapseWarning, match="outputs of block 1 collapse"):
        method.training_step(views, LABELS, np.random.default_rng(0))
    with pytest.warns(CollapseWarning, match="8 paths of block 1 all rate"):
        method.rate_block([(some_views(2), LABELS)], 0, calibration=[(views, LABELS)])


def test_boundary_states_restrict_what_may_follow():
    """Two widths that block 1 can end with; block 2 has a cell for each, with the same candidates."""

    class Wide(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, width, 3, 2, 1), nn.BatchNorm2d(width)

        def forward(self, x):
            weight = self.conv.weight[:, : x.shape[1]]
            return self.norm(functional.conv2d(x, weight, self.conv.bias, 2, 1)).relu()

    last = [Wide(5), Wide(7), Wide(8)]
    space = Space("widths", (
        (Cell((("a", "b", "c"),), leaves=lambda path: path[0] > 0),),
        tuple(Cell(((1, 2, 3),), start=state, leaves=max) for state in (False, True)),
    ))  # fmt: skip
    net = pynas.Supernet([[[[conv(3, 4), conv(3, 6), conv(3, 6, kernel=1)]]], [[last], [last]]], space=space)
    method = small_method(net)
    assert [sorted(head.fix.by_width) for head in method.heads] == [["4", "6"], ["5", "7", "8"]]
    method.fix(Choice(0, (2,)), [(some_views(2), LABELS)])
    method.start(1)
    assert {choice.cell for seed in range(5) for choice in method.sampler(1, True)(np.random.default_rng(seed))} == {1}
    losses = method.train().training_step(some_views(), LABELS, np.random.default_rng(0))
    assert list(losses) == ["block_2"]
    tables = method.rate_block([(some_views(2), LABELS)], 1, calibration=[(some_views(2), LABELS)])
    # The other cell has the same candidates: it takes the scores of the one that was rated.
    np.testing.assert_array_equal(tables[0].scores, tables[1].scores)
    assert not np.isnan(tables[1].scores).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": 5}, "at most 2 paths per step under fair sampling"),
        ({"paths": 0}, "paths to be greater than or equal to 1, got 0"),
        ({"target": "nothing"}, "target to be 'ensemble', 'naive'"),
        ({"feed": "none"}, "feed to be 'best' or 'joint'"),
        ({"views": "three"}, "views to be 'each' or 'shared'"),
        ({"sampling": "greedy"}, "sampling to be 'fair' or 'random'"),
        ({"target": "classification"}, "num_classes of at least 2"),
        ({"target": "distillation"}, "expected a teacher"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        small_method(**options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (some_views(1)[0], "views in pairs, got single images"),
        (some_views(3), "views in pairs, got 3 views"),
        (some_views(2), "expected 4 views, a pair per path, got 2"),
        (some_views(4, batch=1), "batches of at least two images, since batch norm needs them, got 1"),
    ],
)
def test_batches_that_do_not_fit(images, message):
    with pytest.raises(InputError, match=message):
        small_method().training_step(images, LABELS, np.random.default_rng(0))
    with pytest.raises(InputError, match=message):
        small_method().prepare([(images, LABELS)])


def test_ratings_that_cannot_be():
    method, batches = small_method(), [(some_views(2), LABELS)]
    with pytest.raises(InputError, match="two views to rate paths by, got single images"):
        method.rate_block([(some_views(1)[0], LABELS)], 0, calibration=batches)
    with pytest.raises(InputError, match="population to be greater than or equal to 2, got 1"):
        PathRating(population=1)
    with pytest.raises(InputError, match="at most the block's 8 paths, got 9"):
        method.rate_block(batches, 0, calibration=batches, rating=PathRating(population=9))
    with pytest.raises(InputError, match="a best path for each block before block 2, got 0"):
        method.rate_block(batches, 1, calibration=batches)
    with pytest.raises(InputError, match="a best path for each block before block 2, got 0"):
        method.start(1)
    with pytest.raises(InputError, match="num_classes for rating by linear evaluation"):
        method.rate_block(batches, 0, calibration=batches, rating=PathRating(kind="linear"))
