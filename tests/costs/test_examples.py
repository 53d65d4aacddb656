"""Costs on examples: token ids, masks and batches by name, against sums by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pynas
from pynas import costs
from pynas.errors import InputError

WIDTH, LENGTH, WORDS, CLASSES = 16, 7, 30, 3


class Embedding(nn.Module):
    """Stem: token ids `[B, T]` to features `[B, T, D]`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        assert not ids.is_floating_point()
        return self.words(ids)


class Attention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: Tensor, side: dict[str, Any]) -> Tensor:
        assert side["name"] == "mask"
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.mT).masked_fill(~side["mask"][:, None], -1e9)
        return x + self.out(scores.softmax(-1) @ v)


class Looking(Attention):
    """Looks at values, so that it does not run on the meta device."""

    def forward(self, x: Tensor, side: dict[str, Any]) -> Tensor:
        assert side["mask"].any()
        return super().forward(x, side)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, side: dict[str, Any]) -> Tensor:
        kept = side["mask"][..., None].to(x.dtype)
        return self.linear((x * kept).sum(1) / kept.sum(1))


def attention_madds(hidden: int) -> int:
    return LENGTH * WIDTH * 3 * hidden + 2 * LENGTH * LENGTH * hidden + LENGTH * hidden * WIDTH


def supernet(kind: type[Attention]) -> Any:
    layers = [[kind(4), kind(8), nn.Identity()] for _ in range(2)]
    return pynas.Supernet([[layers]], stem=Embedding(), head=Head())


@pytest.fixture
def net() -> Any:
    return supernet(Attention)


@pytest.fixture
def example() -> Any:
    mask = torch.arange(LENGTH) < torch.tensor([[3], [LENGTH]])
    return torch.randint(WORDS, (2, LENGTH)), {"mask": mask, "name": "mask"}


@pytest.mark.parametrize("kind", [Attention, Looking])
def test_a_net_with_masks_and_token_ids(kind: type[Attention], example: Any) -> None:
    table = costs.count(supernet(kind), example)
    for path, hidden in {(0, 1): (4, 8), (1, 2): (8,), (2, 2): ()}.items():
        of = table.of(pynas.spaces.Architecture.of([(0, path)]))
        madds = WIDTH * CLASSES + sum(map(attention_madds, hidden))
        params = WORDS * WIDTH + (WIDTH + 1) * CLASSES + sum(4 * h * WIDTH + 3 * h + WIDTH for h in hidden)
        assert (of["madds"], of["params"]) == (madds, params)


def test_a_search_under_costs_of_an_example(net: Any, example: Any) -> None:
    x, target, side = torch.randn(2, LENGTH, WIDTH), torch.randn(2, LENGTH, WIDTH), example[1]
    table = pynas.rate(net.layers(0, 0), [(x, target, side)], lambda output, target: F.mse_loss(output, target))
    scores = pynas.rating.Scores(net.space, [[table]])
    found = pynas.search.best(scores, costs.count(net, example), {"madds": "60%"})[0]
    assert found.costs["madds"] <= 0.6 * (WIDTH * CLASSES + 2 * attention_madds(8))


def test_latency_and_widths_on_an_example(net: Any, example: Any) -> None:
    timed = costs.latency(net, example, repeats=2, warm_up=0, batch_size=3)
    shorter, longer = (pynas.spaces.Architecture.of([(0, path)]) for path in ((2, 2), (0, 0)))
    assert 0 < timed.of(shorter)["latency"] < timed.of(longer)["latency"]
    widths = costs.log_width(net, example)
    assert widths.of(shorter)["log_width"] == 0 < widths.of(longer)["log_width"]


def test_a_model_that_takes_arguments_by_name() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=24, max_position_embeddings=9)  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False)
    batch = {"input_ids": torch.randint(WORDS, (3, LENGTH)), "attention_mask": torch.ones(3, LENGTH, dtype=torch.long)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted, shape = costs.count_module(model, batch)
    per_token = 4 * 16 * 16 + 2 * 16 * 24 + 2 * LENGTH * 16
    assert (counted["madds"], shape) == (2 * LENGTH * per_token, (LENGTH, 16))
    assert counted["params"] == sum(p.numel() for p in model.parameters())
    assert model.training and all(before[name].equal(value) for name, value in model.state_dict().items())


def test_a_batch_that_a_model_does_not_take() -> None:
    with pytest.raises(
        InputError, match=r"\[costs\] expected a module that runs on one sample of the example, got TypeError"
    ):
        costs.count_module(nn.Linear(3, 4), {"images": torch.randn(2, 3)})
    with pytest.raises(InputError, match=r"\[batch\] expected a batch that is a tensor"):
        costs.count_module(nn.Linear(3, 4), "images")
