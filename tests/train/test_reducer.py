"""Gradients that travel during the last backward pass are the means over processes, and only those of used weights are sent."""

import torch
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from pynas.train import reducer as module
from pynas.train.reducer import Reducer
from tests.processes import join, spawn

LAYERS = 6


class Net(nn.Module):
    """Layers of which a pass uses some."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(LAYERS))

    def forward(self, x, used):
        for number in used:
            x = torch.tanh(self.layers[number](x))
        return x.square().mean()


# Layers of the passes of a step, by process: the last pass is the one that sends. Layer 5 is used by nobody.
PASSES = [
    [[(0, 1, 2)], [(0, 1, 2)]],
    [[(0, 1), (0, 2, 3)], [(0, 1), (0, 2, 3)]],
    [[(0, 1), (2,)], [(3,), (0, 4)]],  # each process its own
    [[(1,), ()], [(1,), (2,)]],  # a last pass without weights in one
]


def images(rank):
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(10 + rank))


def step(net, rank, passes, averaging=None):
    for number, used in enumerate(passes):
        loss = net(images(rank), used)
        if averaging is not None and number + 1 == len(passes):
            averaging.begin(loss)
        if loss.requires_grad:
            loss.backward()
    if averaging is not None:
        averaging.finish()
    gradients = [parameter.grad for parameter in net.parameters()]
    net.zero_grad(set_to_none=True)
    return gradients


def averages(rank, port, folder):
    join(rank, port, 2)
    module._BUCKET = 8 * 8 * 4 + 8 * 4  # a layer each
    net = Net()
    averaging = Reducer(list(net.parameters()), None, 2)
    results = [step(net, rank, passes[rank], averaging) for passes in PASSES]
    averaging.close()
    assert not net.layers[0].weight._post_accumulate_grad_hooks
    torch.save(results, f"{folder}/{rank}.pt")


def test_gradients_are_the_means_over_processes(tmp_path):
    spawn(averages, tmp_path, 2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for number, passes in enumerate(PASSES):
        alone = [step(Net(), rank, passes[rank]) for rank in range(2)]
        for first, second, *own in zip(found[0][number], found[1][number], *alone):
            given = [gradient for gradient in own if gradient is not None]
            if not given:
                assert first is None and second is None
                continue
            assert torch.equal(first, second)
            torch.testing.assert_close(first, sum(given) / 2)


def what_is_sent(rank, port, folder):
    join(rank, port, 2)
    module._BUCKET = 1
    net, events, plain = Net(), [], distributed.all_reduce

    def watched(tensor, *arguments, **options):
        if options.get("async_op"):
            events.append(tensor.numel())
        return plain(tensor, *arguments, **options)

    module.dist.all_reduce = watched
    averaging = Reducer(list(net.parameters()), None, 2)
    net.layers[0].weight.register_post_accumulate_grad_hook(lambda weight: events.append("first layer"))
    step(net, rank, [(0, 1, 2)], averaging)
    torch.save(events, f"{folder}/{rank}.pt")


def test_gradients_travel_while_the_pass_runs_and_unused_ones_stay(tmp_path):
    spawn(what_is_sent, tmp_path, 2)
    for rank in range(2):
        events = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        before = events[: events.index("first layer")]
        assert (
            before.count(64) >= 2 and before.count(8) >= 2
        )  # the last two layers were under way before the first had its own
        assert sorted(event for event in events if event != "first layer") == [8] * 3 + [64] * 3  # three of six layers


def late(rank, port, folder):
    join(rank, port, 2)
    net = Net()
    averaging = Reducer(list(net.parameters()), None, 2)
    for number in range(2):  # a weight in two passes, each said to be its last
        loss = net(images(rank), (0, 1 + number))
        averaging.begin(loss)
        loss.backward()
    sums = net.layers[0].weight.grad.clone()
    averaging.finish()
    means = net.layers[0].weight.grad.clone()
    net.zero_grad()
    loss = checkpoint(lambda x: net(x, (0, 1)), images(rank).requires_grad_(), use_reentrant=True)
    averaging.begin(loss)  # the graph does not show the weights: they are sent in the end
    loss.backward()
    own = net.layers[0].weight.grad.clone()
    averaging.finish()
    torch.save([sums, means, own, net.layers[0].weight.grad], f"{folder}/{rank}.pt")


def test_weights_of_several_passes_and_of_checkpoints(tmp_path):
    spawn(late, tmp_path, 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for number in (0, 2):
        torch.testing.assert_close(first[number + 1], (first[number] + second[number]) / 2)
        assert torch.equal(first[number + 1], second[number + 1])


def blocks(rank, port, folder):
    """Losses of blocks, each of weights of its own, one after the other."""
    join(rank, port, 2)
    net, order, plain = Net(), [], distributed.all_reduce

    def watched(tensor, *arguments, **options):
        if options.get("async_op"):
            order.append("sent")
        return plain(tensor, *arguments, **options)

    module.dist.all_reduce = watched
    averaging = Reducer(list(net.parameters()), None, 2)
    for number in range(3):
        loss = net(images(rank), (number,))
        averaging.begin(loss)
        loss.backward()
        order.append(f"block {number}")
    averaging.finish()
    torch.save([order, [layer.weight.grad for layer in net.layers[:3]]], f"{folder}/{rank}.pt")


def test_blocks_send_theirs_before_the_next_one_runs(tmp_path):
    spawn(blocks, tmp_path, 2)
    alone = [[step(Net(), rank, [(number,)])[2 * number] for number in range(3)] for rank in range(2)]
    for rank in range(2):
        order, gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert order == ["sent", "block 0", "sent", "block 1", "sent", "block 2"]
        for found, first, second in zip(gradients, *alone):
            torch.testing.assert_close(found, (first + second) / 2)
