"""Block after block: what feeds what, files, exact resume."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import Scores, search
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.methods import Bootstrap, BossNAS, Heads, Optimization, PathRating, fit_blocks
from pynas.spaces import Choice


def conv(inputs, outputs, kernel):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU())


def method(hidden=8, **options):
    torch.manual_seed(0)
    first = [[conv(4, 5, k) for k in (1, 3)]]
    second = [[conv(5, 4, k) for k in (1, 3, 5)], [conv(4, 4, k) for k in (1, 3)]]
    net = pynas.Supernet([[first], [second]], stem=conv(3, 4, 3))
    return BossNAS(
        net, image_shape=(3, 4, 4), batch_size=4096, bootstrap=Bootstrap(paths=2, **options),
        heads=Heads(hidden=hidden, dim=4), optimization=Optimization(rate=2.0),
    )  # fmt: skip


def batches(views, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        ([torch.randn(5, 3, 4, 4, generator=generator) for _ in range(views)], torch.arange(5)) for _ in range(count)
    ]


class Killed(Exception):
    pass


def train(run, kill=None, epochs=2, **options):
    """Train; kill after so many steps in this process."""
    steps = []

    def on_step(step):
        steps.append((step.block, step.step.step))
        if len(steps) == kill:
            raise Killed

    net = method(**options)
    tables = fit_blocks(net, batches(4), batches(2, 2, seed=1), epochs, run, seed=3, on_step=on_step)
    return net, tables, steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


def test_the_rating_of_every_block_is_reported():
    told = []
    options = {"on_rating": lambda block, progress: told.append((block, progress.done, progress.total))}
    fit_blocks(method(), batches(4), batches(2, 2, seed=1), 1, seed=3, **options)
    finished = {block: (done, total) for block, done, total in told}
    assert finished == {1: (4, 4), 2: (12, 12)}  # 2 batches of 2 and 6 paths


def same_weights(one, other):
    assert one.chosen == other.chosen
    state = other.state_dict()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_blocks_train_in_turn_and_the_best_path_feeds_the_next(whole, tmp_path):
    net, tables, steps = whole
    assert steps == [(b, s) for b in (1, 2) for s in range(1, 7)]
    assert net.chosen == [Choice(0, tables[b][0].best()[0][0]) for b in (0, 1)]
    assert [len(cells[0]) for cells in tables] == [2, 6]
    memory, in_memory, _ = train(None)
    same_weights(memory, net)
    np.testing.assert_array_equal(in_memory[1][0].scores, tables[1][0].scores)


@pytest.mark.parametrize("kills", [[6], [7], [4, 5]])
def test_killed_runs_end_the_same(whole, tmp_path, kills):
    for kill in kills:
        with pytest.raises(Killed):
            train(tmp_path, kill)
    torch.manual_seed(9)
    net, tables, _ = train(tmp_path)
    same_weights(net, whole[0])
    for cells, expected in zip(tables, whole[1]):
        np.testing.assert_array_equal(cells[0].scores, expected[0].scores)


@pytest.mark.parametrize("moment", ["save_block", "write_tensors", "rmtree"])
def test_killed_between_two_files(whole, tmp_path, moment, monkeypatch):
    """Before each file that follows a block's training is written."""
    from pynas.methods.bossnas import fit_blocks as blocks

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(blocks.shutil if moment == "rmtree" else blocks, moment, die)
        with pytest.raises(Killed):
            train(tmp_path)
    net, tables, _ = train(tmp_path)
    same_weights(net, whole[0])
    np.testing.assert_array_equal(tables[1][0].scores, whole[1][1][0].scores)


def test_a_finished_run_is_read(whole, tmp_path):
    train(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
        "checkpoints/block_1.safetensors", "checkpoints/block_2.safetensors", "scores/block_1.npz",
        "scores/block_2.npz", "training/block_1/metrics.jsonl", "training/block_2/metrics.jsonl",
    }  # fmt: skip
    net, _, steps = train(tmp_path)
    assert steps == []
    same_weights(net, whole[0])
    x = batches(1)[0][0][0]
    torch.testing.assert_close(net.features(x, 2), whole[0].features(x, 2), rtol=0, atol=0)


def test_blocks_that_are_rated_after_some_epochs_train_alike(whole, tmp_path):
    net = method()
    fit_blocks(net, batches(4), batches(2, 2, seed=1), 2, tmp_path, seed=3, rate_epochs=[1])
    same_weights(net, whole[0])
    for block in (1, 2):
        early, late = (pynas.rating.scores.load_block(tmp_path / "scores" / folder / f"block_{block}.npz")[0][0]
                       for folder in ("epoch_1", "."))  # fmt: skip
        assert early.shape == late.shape and not np.array_equal(early.scores, late.scores)


def test_joint_training_resumes_too(tmp_path):
    net, tables, steps = train(tmp_path / "whole", feed="joint")
    assert steps == [(1, s) for s in range(1, 7)]
    assert [len(cells[0]) for cells in tables] == [2, 6]
    with pytest.raises(Killed):
        train(tmp_path / "killed", 4, feed="joint")
    again, same, _ = train(tmp_path / "killed", feed="joint")
    same_weights(again, net)
    np.testing.assert_array_equal(same[1][0].scores, tables[1][0].scores)
    third, same, steps = train(tmp_path / "killed", feed="joint")
    assert steps == []
    same_weights(third, net)


def test_an_evolving_population_goes_through(tmp_path):
    net = method()
    tables = fit_blocks(net, batches(4), batches(2, 1, seed=1), 1, None, rating=PathRating(population=2, generations=2))
    assert [len(cells[0]) for cells in tables] == [2, 2]


def test_bad_input(tmp_path):
    train(tmp_path)
    with pytest.raises(InputError, match="a block with epochs = 3, got 2"):
        train(tmp_path, epochs=3)
    with pytest.raises(InputError, match="no rate_epochs with feed='joint'"):
        fit_blocks(method(feed="joint"), batches(4), batches(2), 2, None, rate_epochs=[1])
    with pytest.raises(InputError, match="a fresh method, got one with chosen paths"):
        used = method()
        used.chosen.append(Choice(0, (0,)))
        fit_blocks(used, batches(4), batches(2), 1)
    with pytest.raises(InputError, match="views in pairs"):
        fit_blocks(method(), batches(3), batches(2), 1)
    other = copy.deepcopy(method(hidden=9))
    with pytest.raises(InputError, match="the weights of this network"):
        fit_blocks(other, batches(4), batches(2, 2, seed=1), 2, tmp_path, seed=3)


@pytest.mark.slow
def test_a_trellis_of_scales_is_searched_from_where_the_best_paths_end():
    """HyTra's rules: a block is trained and rated from the scale that the best path before it left."""
    torch.manual_seed(0)
    net = pynas.supernet("hytra-mini", 3)
    boss = BossNAS(net, image_shape=(3, 16, 16), batch_size=4096, bootstrap=Bootstrap(paths=4),
                   heads=Heads(hidden=8, dim=4), optimization=Optimization(rate=0.5))  # fmt: skip
    assert [sorted(head.fix.by_width) for head in boss.heads[:3]] == [["128", "256", "32", "64"]] * 3

    def views(count):
        generator = torch.Generator().manual_seed(count)
        return [([torch.randn(4, 3, 16, 16, generator=generator) for _ in range(count)], torch.arange(4))]

    tables = fit_blocks(boss, views(8) * 2, views(2), 1)
    space = net.space
    state = None
    for b, (cells, choice) in enumerate(zip(space.blocks, boss.chosen)):
        for cell, table in zip(cells, tables[b]):
            rated = {tuple(path) for path in table.rated()[0].tolist()}
            assert rated == (set(cell.paths()) if b == 0 or cell.start == state else set())
        state = cells[choice.cell].end(choice.path)
    found = search.best(Scores(space, tables), Costs({}, {}), top_k=2)
    assert found[0].architecture in space
    # Greedy is not exact: what was fixed to feed the next block is one of those found, at no better score.
    fixed = sum(tables[b][choice.cell][choice.path] for b, choice in enumerate(boss.chosen))
    assert found[0].score <= fixed + 1e-9


class Known(list):
    """Batches of images with a fingerprint."""

    def __init__(self, fingerprint):
        super().__init__(batches(4))
        self.fingerprint = fingerprint


def test_blocks_trained_on_other_images_are_not_restored(tmp_path):
    fit_blocks(method(), Known("one"), batches(2, 2, seed=1), 1, tmp_path, seed=3)
    fit_blocks(method(), Known("one"), batches(2, 2, seed=1), 1, tmp_path, seed=3)
    with pytest.raises(
        InputError, match=r"\[fit_blocks\] expected the images that .*block_1.* was trained on, .*one, got"
    ):
        fit_blocks(method(), Known("other"), batches(2, 2, seed=1), 1, tmp_path, seed=3)
