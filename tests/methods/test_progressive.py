"""Table 10's progressive strategies against their description, followed step by step."""

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
from pynas.train.reducer import _leaves

from .nets import small_net, small_teacher


def batch(size=12):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(0, 5, (size,), generator=generator)


def make(strategy, keep=2):
    torch.manual_seed(0)
    net, teacher = small_net(), small_teacher()
    dna = DNA(net, teacher, image_shape=(3, 8, 8))
    return ProgressiveDNA(dna, strategy=strategy, keep=keep, rating_batches=[batch()])


def naive_score(method, choices, images):
    """Equation 7 of each block along one path of the student, batch statistics, the stem's stored ones; summed."""
    net = copy.deepcopy(method.net).train()
    net.stem.eval()
    features, _ = method.dna.targets(images)
    total = 0.0
    with torch.no_grad():
        x = net.stem(images)
        for b, choice in enumerate(choices):
            x = net.run_path(b, choice, x)
            total += ((x - features[b]).abs().mean() / features[b].std()).item()
    return total


def ranked(entries):
    return sorted(entries, key=lambda entry: entry[0])


@pytest.mark.parametrize("strategy", ["progressive-a", "progressive-b"])
def test_the_kept_paths_are_the_best_after_each_block(strategy):
    method, image = make(strategy), batch()[0]
    at_change = {}

    def watch(step):
        if step.step == 3:
            found = [(naive_score(method, (choice,), image), (choice,)) for choice in method.net.space.paths(0)]
            at_change["best"] = [path for _, path in ranked(found)[:2]]

    pynas.fit(method, [batch()] * 3, 2, on_step=watch)
    assert method.prefixes(1) == at_change["best"]
    kept = method.kept_architectures([batch()])
    expected = ranked(
        (naive_score(method, (*prefix, choice), image), (*prefix, choice))
        for prefix in at_change["best"] for choice in method.net.space.paths(1)
    )[:2]  # fmt: skip
    assert [tuple(architecture) for architecture, _ in kept] == [path for _, path in expected]
    assert [score for _, score in kept] == pytest.approx([score for score, _ in expected], rel=1e-5)


@pytest.mark.parametrize("strategy", ["progressive-a", "progressive-b"])
def test_which_blocks_train_and_on_what(strategy):
    """Equation 5: block 2 gets what a kept path of block 1 puts out, and no gradient goes back through it."""
    method = make(strategy).train()
    optimizer = method.optimizer()
    fresh = copy.deepcopy(method.net.state_dict())
    images, labels = batch()
    rng = np.random.default_rng(0)
    assert set(method.training_step(images, labels, rng)) == {"block_1", "head"}
    assert all(p.grad is None for p in method.net.blocks[1].parameters())
    optimizer.step()
    assert len(optimizer.state) > 0
    torch.manual_seed(1)
    method.before_step(1.0, 2, optimizer)
    trained = method.net.blocks[0][0][0][0][0].weight
    if strategy == "progressive-a":  # from scratch again, with other random weights, and nothing remembered
        assert len(optimizer.state) == 0 and not torch.equal(trained, fresh["blocks.0.0.0.0.0.weight"])
        assert torch.equal(method.net.stem[1].weight, torch.ones(4))
    optimizer.zero_grad(set_to_none=True)

    reference = copy.deepcopy(method)
    losses = method.training_step(images, labels, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    prefixes = reference.prefixes(1)
    (choice,) = prefixes[int(rng.integers(len(prefixes)))]
    features, _ = reference.dna.targets(images)
    output = reference.net.run_path(0, choice, reference.net.stem(images))
    first = functional.mse_loss(output, features[0])
    path = uniform_path(reference.net.space.blocks[1][0].counts, rng)
    second = functional.mse_loss(reference.net.run_path(1, Choice(0, path), output.detach()), features[1])
    torch.testing.assert_close(losses["block_2"], second.detach())
    second.backward()
    if strategy == "progressive-a":
        torch.testing.assert_close(losses["block_1"], first.detach())
        first.backward()
    else:
        assert "block_1" not in losses
    for name in ("stem", "blocks.0", "blocks.1"):
        pairs = zip(method.net.get_submodule(name).parameters(), reference.net.get_submodule(name).parameters())
        for ours, theirs in pairs:
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad)


def test_frozen_blocks_keep_their_weights():
    method, snapshots = make("progressive-b"), {}

    def watch(step):
        snapshots[step.step] = {name: p.detach().clone() for name, p in method.net.named_parameters()}

    pynas.fit(method, [batch()] * 3, 2, on_step=watch)
    early = {name for name in snapshots[3] if not torch.equal(snapshots[3][name], snapshots[6][name])}
    assert early and all(name.startswith(("blocks.1", "head")) for name in early)
    late = {name for name in snapshots[1] if not torch.equal(snapshots[1][name], snapshots[3][name])}
    assert late and not any(name.startswith("blocks.1") for name in late)


def test_rates_start_anew_with_each_block():
    method = make("progressive-b")
    assert [method.rate_factor(p, 4) for p in (0, 0.5, 1, 1.75, 2, 3)] == pytest.approx([1, 1, 0.9, 0.9, 1, 0.9])


def test_tables_go_on_from_the_best_kept_path():
    method, image = make("progressive-b"), batch()[0]
    pynas.fit(method, [batch()] * 2, 2)
    table = method.rate([batch()], loss="relative_l1")[1][0]
    best = method.prefixes(1)[0]
    before = naive_score(method, best, image)
    for choice in method.net.space.paths(1):
        assert table[choice.path] == pytest.approx(naive_score(method, (*best, choice), image) - before, rel=1e-4)


def test_what_is_missing_is_named():
    method = make("progressive-b")
    with pytest.raises(InputError, match="all 2 blocks trained, got to block 1"):
        method.kept_architectures([batch()])
    with pytest.raises(InputError, match="strategy to be 'progressive-a' or 'progressive-b', got 'slow'"):
        make("slow")
    with pytest.raises(InputError, match="keep to be greater than or equal to 1, got 0"):
        make("progressive-a", keep=0)
    with pytest.raises(InputError, match="blocks learn independently"):
        pynas.fit(method, [batch()], 2, spread="blocks")


@pytest.mark.parametrize(("strategy", "names"), [("progressive-a", ["blocks.0", "blocks.1", "head"]),
                                                 ("progressive-b", ["blocks.1", "head"])])  # fmt: skip
def test_every_block_says_that_its_gradients_may_travel(strategy, names):
    method = make(strategy)
    pynas.fit(method, [batch()] * 2, 2)
    assert int(method.stage) == 1
    by_weight = {id(weight): name for name, weight in method.net.named_parameters()}
    graphs = []
    method.reduce = lambda loss: graphs.append({by_weight[key] for key in _leaves(loss) if key in by_weight})
    assert method.dna.reduce is method.reduce
    method.train().training_step(*batch(), np.random.default_rng(0))
    assert [next(n for n in names if any(each.startswith(n) for each in weights)) for weights in graphs] == names
