"""Ratings, costs and whole smaller models, against loops that put each path into a copy of the whole model."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.calls import Call
from pynas.compress import Plan, plan, rate
from pynas.compress.cuts import Cut
from pynas.compress.net import UnitNet
from pynas.compress.rate import pick_output
from pynas.costs.operators import counting
from pynas.errors import InputError
from pynas.search import best
from pynas.spaces import Architecture

from .families import CLASSIFIER, encoder, features, images, of_decoder, of_hugging_face, of_timm, prepared, tokens


def divergence(y: Tensor, target: Tensor) -> Tensor:
    """KL(target || y) of classes or tokens, summed over tokens, mean over samples."""
    values = F.kl_div(y.log_softmax(-1), target.log_softmax(-1), reduction="none", log_target=True)
    return values.flatten(1).sum(1).mean()


LOSSES = {
    "kl": divergence,
    "cosine": lambda y, t: (2 - 2 * F.cosine_similarity(y.flatten(1), t.flatten(1))).mean(),
    "relative_l1": lambda y, t: (y - t).abs().mean() / t.std(unbiased=False),
}


@dataclass(frozen=True)
class Case:
    """A model, its batches, what its output is compared by, and the name of its output."""

    build: Callable[[], nn.Module]
    batches: Callable[[], list[Any]]
    loss: str
    output: str | None = None


def some_images() -> list[Tensor]:
    return [images(64, 4), images(64, 3) + 0.3]


def images_of_two_sizes() -> list[Tensor]:
    return [images(64, 4), images(48, 3)]


def sentences() -> list[dict[str, Tensor]]:
    batch = tokens()
    return [batch, {name: value.flip(0)[:3, :5] for name, value in batch.items()}]


def padded_later() -> list[dict[str, Tensor]]:
    """Batches of which the example has no padding, so that its layers get no mask."""
    first, later = sentences()
    return [{**first, "attention_mask": torch.ones_like(first["attention_mask"])}, later]


CASES = {
    "ResNet": Case(of_timm("test_resnet"), some_images, "kl"),
    "MobileNet": Case(of_timm("mobilenetv3_small_100"), images_of_two_sizes, "kl"),
    "ViT": Case(of_timm("test_vit", img_size=64), some_images, "kl"),
    "BERT": Case(of_hugging_face("Bert"), sentences, "cosine", "last_hidden_state"),
    "BERT classifier": Case(of_hugging_face("Bert", CLASSIFIER), sentences, "kl", "logits"),
    "BERT, padded later": Case(of_hugging_face("Bert"), padded_later, "cosine", "last_hidden_state"),
    "Llama, padded later": Case(of_decoder("Llama"), padded_later, "kl", "logits"),
    "DistilBERT": Case(of_hugging_face("DistilBert", CLASSIFIER), sentences, "kl", "logits"),
    "Llama": Case(of_decoder("Llama"), sentences, "kl", "logits"),
    "Llama, features": Case(of_decoder("Llama", "AutoModel"), sentences, "cosine", "last_hidden_state"),
    "Qwen3": Case(of_decoder("Qwen3"), sentences, "kl", "logits"),
    "encoder": Case(encoder, lambda: [features()], "cosine"),
}


@dataclass
class Made:
    """A case with its model, plan and supernet."""

    case: Case
    model: nn.Module
    batches: list[Any]
    planned: Plan
    net: UnitNet

    def output(self, model: nn.Module, batch: Any) -> Tensor:
        """What a model returns for a batch, 0 at padded positions."""
        with torch.no_grad():
            found = model(**batch) if isinstance(batch, dict) else model(batch)
        if self.case.output is not None:
            found = found[self.case.output]
        if isinstance(batch, dict) and "attention_mask" in batch and found.ndim == 3:
            found = found * batch["attention_mask"].unsqueeze(2)
        return found


@pytest.fixture(params=CASES, scope="module")
def made(request):
    """Each case, its candidates solved on its own batches."""
    case = CASES[request.param]
    torch.manual_seed(0)
    model, batches = case.build(), case.batches()
    prepared(model, Call.of(batches[0], model))
    planned = plan(model, batches[0])
    net = planned.supernet(widths=(1.0, 0.5), heads=(1.0, 0.5), refit=batches, paths=12)
    return Made(case, model, batches, planned, net)


class Gone(nn.Module):
    """Takes the place of a unit that is left out; two models read these attributes of their units."""

    attention_type = "full_attention"
    self_attn = SimpleNamespace(batch_first=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else kwargs["hidden_states"]


def with_path(made: Made, block: int, path: tuple[int, ...]) -> nn.Module:
    """Return a copy of the whole model with the candidates of a path in the place of the units of a block."""
    model = copy.deepcopy(made.model)
    for (parts, cuts), candidates, candidate in zip(made.net.blocks[block], made.net.layers(block), path):
        if cuts[candidate] != Cut():
            piece = candidates[candidate].module
            assert (piece is None) == cuts[candidate].left_out
            model.set_submodule(parts.unit.name, Gone() if piece is None else copy.deepcopy(piece))
    return model


def feature_after(made: Made, block: int, model: nn.Module, batch: Any) -> Tensor:
    """Return the feature after a block in a model."""
    seen: list[Tensor] = []
    unit = model.get_submodule(made.net.blocks[block][-1][0].unit.name)
    handle = unit.register_forward_hook(lambda part, args, output: seen.append(output.clone()))
    made.output(model, batch)
    handle.remove()
    return seen[0]


def naive(made: Made, loss: str, compared: Callable[[int, nn.Module, Any], Tensor]) -> list[np.ndarray]:
    """Scores of all paths of all blocks, one path at a time. compared: block, model, batch -> what is compared."""
    tables = []
    for block, layers in enumerate(made.net.blocks):
        table = np.zeros([len(cuts) for _, cuts in layers])
        for path in itertools.product(*[range(count) for count in table.shape]):
            model = with_path(made, block, path)
            losses = []
            for batch in made.batches:
                y, target = (compared(block, each, batch) for each in (model, made.model))
                losses.append((LOSSES[loss](y.double(), target.double()).item(), len(target)))
            table[path] = sum(value * count for value, count in losses) / sum(count for _, count in losses)
        tables.append(table)
    return tables


def check(found: Any, expected: list[np.ndarray]) -> None:
    for (table,), values in zip(found.tables, expected, strict=True):
        original = (0,) * values.ndim
        assert table.shape == values.shape
        np.testing.assert_allclose(table.scores, values, rtol=2e-3, atol=2e-6)
        assert abs(table.scores[original]) < 2e-6
    assert max(values.max() for values in expected) > 1e-3


def test_scores_through_the_tail_are_those_of_whole_models(made):
    found = rate(made.net, made.batches)
    assert dict(found.metadata) == {"loss": made.case.loss, "through_tail": True}
    check(found, naive(made, made.case.loss, lambda block, model, batch: made.output(model, batch)))


def test_scores_of_features(made):
    found = rate(made.net, made.batches, through_tail=False)
    assert dict(found.metadata) == {"loss": "relative_l1", "through_tail": False}
    check(found, naive(made, "relative_l1", lambda block, model, batch: feature_after(made, block, model, batch)))


def test_other_losses(made):
    other = "kl" if made.case.loss == "cosine" else "cosine"
    expected = naive(made, other, lambda block, model, batch: made.output(model, batch))
    check(rate(made.net, iter(made.batches), loss=other), expected)


def some_architectures(net: UnitNet, count: int = 6) -> list[Architecture]:
    """Random architectures of a supernet."""
    chance = random.Random(0)
    return [
        Architecture.of((0, [chance.randrange(len(cuts)) for _, cuts in block]) for block in net.blocks)
        for _ in range(count)
    ]


def chosen(net: UnitNet, architecture: Architecture) -> dict[str, Cut]:
    """Cut of each unit by its name."""
    pairs = [pair for block, choice in zip(net.blocks, architecture) for pair in zip(block, choice.path)]
    return {parts.unit.name: cuts[candidate] for (parts, cuts), candidate in pairs}


@torch.no_grad()
def test_costs_are_those_of_whole_models(made):
    costs, call = made.planned.costs(made.net), Call.of(made.batches[0], made.model)
    for architecture in [made.net.original, *some_architectures(made.net)]:
        smaller = made.net.extract(architecture)
        with counting() as counter:
            call.head(1)(smaller)
        size = sum(value.numel() for value in smaller.parameters())
        counted = costs.of(architecture)
        assert (counted["params"], counted["madds"]) == (size, counter.madds)
    assert costs.metadata["reference"] == costs.of(made.net.original)
    assert costs.metadata["reference"]["params"] == sum(value.numel() for value in made.model.parameters())


@torch.no_grad()
def test_extracted_model(made):
    before = copy.deepcopy(made.model.state_dict())
    for architecture in some_architectures(made.net, 3):
        smaller = made.net.extract(architecture)
        assert type(smaller) is type(made.model) and not any(part.training for part in smaller.modules())
        expected = copy.deepcopy(made.model)
        for block, choice in enumerate(architecture):
            inner = with_path(made, block, choice.path)
            for parts, _ in made.net.blocks[block]:
                expected.set_submodule(parts.unit.name, inner.get_submodule(parts.unit.name))
        for batch in made.batches:
            y = made.output(smaller, batch)
            torch.testing.assert_close(y, made.output(expected, batch), rtol=1e-4, atol=1e-4)
            assert torch.equal(made.output(copy.deepcopy(smaller), batch), y)
        again = made.planned.assemble(str(architecture))
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in smaller.state_dict().items())
        pointers = {value.data_ptr() for value in made.net.model.state_dict().values() if value.numel()}
        assert not pointers & {value.data_ptr() for value in smaller.state_dict().values() if value.numel()}
    original = made.net.extract(made.net.original)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert {*original.state_dict()} == {*before}


def test_extracted_model_trains(made):
    architecture = some_architectures(made.net, 2)[1]
    smaller = made.net.extract(architecture).train()
    batch = made.batches[0]
    found = smaller(**batch) if isinstance(batch, dict) else smaller(batch)
    found = found if made.case.output is None else found[made.case.output]
    found.square().mean().backward()
    used = {name.rpartition(".")[0] for name, value in smaller.named_parameters() if value.grad is not None}
    units = [name for name, cut in chosen(made.net, architecture).items() if not cut.left_out]
    assert all(any(name.startswith(f"{unit}.") for name in used) for unit in units)
    assert all(value.grad is None for value in made.net.model.parameters())


def test_search_ends_in_a_model_within_the_limit(made):
    scores, costs = rate(made.net, made.batches), made.planned.costs(made.net)
    limit = 0.8 * costs.metadata["reference"]["madds"]
    if all(costs.of(some)["madds"] > limit for some in some_architectures(made.net, 50)):
        pytest.skip("the units are a small part of the model")
    found = best(scores, costs, limits={"madds": limit})
    smaller = made.planned.assemble(found[0])
    with torch.no_grad(), counting() as counter:
        Call.of(made.batches[0], smaller).head(1)(smaller)
    assert counter.madds <= limit


def test_blocks_hold_consecutive_units(made):
    names = [parts.unit.name for block in made.net.blocks for parts, _ in block]
    assert names == [parts.unit.name for parts in made.planned.parts]
    for block in made.net.blocks:
        assert len(block) == 1 or np.prod([len(cuts) for _, cuts in block]) <= 12
        assert all(parts.unit.follows for parts, _ in block[1:])
        assert all(cuts[0] == Cut() for _, cuts in block)
        assert all((cuts[-1] == Cut(left_out=True)) == parts.unit.residual for parts, cuts in block)


def test_picked_outputs():
    x, mask = torch.ones(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    call = Call((), {"input_ids": mask, "attention_mask": mask})
    for output in (x, (x,), [(x, 1)], {"logits": x, "hidden": 3 * x}, {"last_hidden_state": x}, {"any": x}):
        assert torch.equal(pick_output(output, call), x * mask.unsqueeze(2))
        assert torch.equal(pick_output(output, Call((mask,))), x)
    with pytest.raises(InputError, match="expected an output with a tensor, got str; pass pick="):
        pick_output("text", call)
