"""Plans: what they say, wrappers and modes of the model, and one error line for bad input."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.compress import plan, rate
from pynas.compress.cuts import Cut
from pynas.errors import InputError

from .families import FAMILIES, built, images, tokens

X = images(32)


@pytest.fixture(scope="module")
def model():
    """A ResNet."""
    return built(FAMILIES["timm resnet18"])[0]


def error_of(action):
    """The line of the InputError that an action ends in."""
    with pytest.raises(InputError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "example, message",
    [
        (images(32)[:, :2], "a model that runs on the example, got RuntimeError"),
        (X.to("meta"), "the model and the example on one device, got cpu and meta"),
        (X[:0], "a batch with at least one tensor with samples on its first axis, got none"),
        (torch.tensor(1.0), "a batch with at least one tensor with samples on its first axis, got none"),
        ({}, "a batch with at least one tensor with samples on its first axis, got none"),
        ("image", "a batch that is a tensor, a tuple or a mapping of the model's arguments, got str"),
        (X / 0, "finite outputs on the example, got infinite ones or NaN"),
    ],
    ids=["channels", "device", "empty", "number", "no tensor", "text", "infinite"],
)
def test_bad_examples(model, example, message):
    assert f"] expected {message}" in error_of(lambda: plan(model, example))


def test_bad_models(model):
    broken = copy.deepcopy(model)
    broken.layer4[1].conv2.weight.data[0, 0, 0, 0] = float("nan")
    assert "expected finite weights, got infinite ones or NaN in layer4.1.conv2.weight" in error_of(
        lambda: plan(broken, X)
    )
    assert "expected a torch.nn.Module of Python code, got function" in error_of(lambda: plan(lambda x: x, X))
    assert "got quantised ones in 0.weight" in error_of(lambda: plan(Integers(), X))
    assert "expected submodules whose output is the sum" in error_of(lambda: plan(nn.Sequential(nn.Conv2d(3, 4, 1)), X))


class Integers(nn.Sequential):
    """Model whose weights are integers, as packages of quantisation keep them."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3))
        self[0].weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)


def test_quantised_model():
    quantization = pytest.importorskip("torch.ao.quantization")
    vit, _ = built(FAMILIES["timm deit"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = quantization.quantize_dynamic(vit, {nn.Linear}, dtype=torch.qint8)
        line = error_of(lambda: plan(quantised, X))
    assert "expected weights with floating points, got quantised ones in blocks.0.attn.proj" in line


def test_script(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(copy.deepcopy(model), X)
    assert "expected a torch.nn.Module of Python code, got TopLevelTracedModule" in error_of(lambda: plan(script, X))


@pytest.mark.parametrize("share", [0, 2, -0.5, float("nan"), "half"])
def test_bad_shares(model, share):
    planned = plan(model, X)
    for options in ({"widths": (1, share)}, {"heads": (share,)}):
        line = error_of(lambda options=options: planned.supernet(**options))
        assert line == f"[compress] expected widths and heads above 0 and at most 1, got {share!r}"


def test_bad_options(model):
    planned = plan(model, X)
    assert "expected a supernet of the plan before an architecture" in error_of(lambda: planned.assemble("0"))
    assert "expected kernels of odd sides, got (4,)" in error_of(lambda: planned.supernet(kernels=(4,)))
    assert "expected at least one batch to refit on, got none" in error_of(lambda: planned.supernet(refit=[]))
    net = planned.supernet(widths=(1.0, 0.5))
    assert "expected at least one batch to rate on, got none" in error_of(lambda: rate(net, []))
    assert "expected loss to be" in error_of(lambda: rate(net, [X], loss="other"))
    assert "architecture" in error_of(lambda: planned.assemble("9"))


class Skipping(nn.Module):
    """Model whose head reads the stem too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.unit = Residual()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.unit(x) * x.sigmoid()).mean((2, 3))


class Residual(nn.Module):
    """Residual unit."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def test_output_that_needs_more_than_the_feature():
    """The way around the unit starts in the stem, which the tail runs from the model's own inputs."""
    torch.manual_seed(0)
    net = plan(Skipping(), X).supernet(widths=(1.0, 0.5))
    scores = rate(net, [X]).tables[0][0].scores
    assert abs(scores[0]) < 1e-6 and scores[1:].min() > 1e-6
    for candidate in (1, 2):
        smaller = net.extract(f"{candidate}")
        with torch.no_grad():
            y, target = smaller(X).log_softmax(1), net.model(X).log_softmax(1)
        expected = (target.exp() * (target - y)).sum(1).mean().item()
        assert scores[candidate] == pytest.approx(expected, rel=1e-3, abs=1e-8)


class Chained(nn.Module):
    """Model whose head reads the feature between its units too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = nn.Conv2d(3, 8, 3), Residual(), Residual(), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        between = self.first(self.stem(x))
        return self.head(self.second(between) * between.sigmoid()).mean((2, 3))


def test_head_that_reads_two_units():
    torch.manual_seed(0)
    net = plan(Chained(), X).supernet(widths=(1.0, 0.5))
    line = error_of(lambda: rate(net, [X]))
    assert "expected all information to pass through 'second', got an output that needs more" in line
    assert rate(net, [X], through_tail=False).tables[0][0].scores[0, 0] < 1e-6


def test_plan_says_what_can_be_cut():
    vit, call = built(FAMILIES["timm deit"])
    assert str(plan(vit, call)).splitlines()[1] == "blocks.1: 192 channels of mlp.fc1, 3 heads of attn, the whole unit"
    swin, call = built(FAMILIES["swin"])
    line = str(plan(swin, call)).splitlines()[0]
    assert line.startswith(
        "features.1.0: 96 channels of mlp.0, the whole unit; not attn: does not run with fewer heads"
    )
    mobile, call = built(FAMILIES["efficientnet"])
    lines = str(plan(mobile, call)).splitlines()
    assert (
        lines[0].startswith("features.1.0: nothing; not no channels inside") and "the kernel of block.1.0" in lines[3]
    )


def test_last_stage_with_one_position(model):
    parts = plan(model, X).parts
    assert [part.hidden[0].root for part in parts] == ["conv1"] * 8
    mobile, _ = built(FAMILIES["timm efficientnet"])
    last = plan(mobile, images(32)).parts[-1]
    assert "se.conv_expand" in {hidden.root for hidden in last.hidden}
    net = plan(mobile, images(32)).supernet(widths=(1.0, 0.5), refit=[images(32, 8)])
    with torch.no_grad():
        for pieces in net.layers(len(net.blocks) - 1)[-1:]:
            assert all(piece(last.unit.feature(last.unit.call)).isfinite().all() for piece in pieces)


def test_model_stays_as_it_is(model):
    model = copy.deepcopy(model).train()
    model.layer1.eval().requires_grad_(False)
    modes = {name: part.training for name, part in model.named_modules()}
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    planned = plan(model, X, recalibrate=[X, images(64)])
    net = planned.supernet(widths=(1.0, 0.5), refit=[X])
    rate(net, [X])
    found = net.extract(net.original)
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert {name: value.requires_grad for name, value in model.named_parameters()} == flags
    assert {name: value.requires_grad for name, value in found.named_parameters()} == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(found.bn1.running_mean, before["bn1.running_mean"])  # estimated anew
    assert all(value.grad is None for value in model.parameters())


def test_wrapped_model(model):
    assert type(plan(nn.DataParallel(model), X).model) is type(model)


def test_statistics_of_the_smaller_model(model):
    planned = plan(model, X)
    net = planned.supernet(widths=(1.0, 0.5))
    architecture = max(
        range(len(net.blocks[0][0][1])), key=lambda candidate: net.blocks[0][0][1][candidate] == Cut(0.5)
    )
    choice = [[(0, [architecture] + [0] * (len(block) - 1)) for block in net.blocks]][0]
    text = str(type(net.original).of(choice))
    kept, estimated = planned.assemble(text), planned.assemble(text, recalibrate=[X, X + 1])
    with torch.no_grad():
        stem = [kept.conv1(x) for x in (X, X + 1)]
    expected = torch.stack([x.mean((0, 2, 3)) for x in stem]).mean(0)
    torch.testing.assert_close(estimated.bn1.running_mean, expected)
    assert torch.equal(kept.bn1.running_mean, planned.model.bn1.running_mean)


def test_batches_of_loaders(model):
    """Pairs with labels, and a loss against them."""
    data = torch.utils.data.DataLoader([(x, number) for number, x in enumerate(images(32, 4))], 2)
    net = plan(model, X).supernet(widths=(1.0, 0.5), paths=3, refit=data)
    scores = rate(net, data, loss="cross_entropy", labels=lambda batch: batch[1])
    losses = []
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(net.model(x), y).item() for x, y in data]
    for (table,) in scores.tables:
        assert table.scores[(0,) * table.scores.ndim] == pytest.approx(sum(losses) / 2, rel=1e-4)


@pytest.mark.parametrize("name", ["vit", "BERT", "Llama"])
def test_threads_and_stacks_do_not_change_scores(name):
    model, call = built(FAMILIES[name])
    net = plan(model, call).supernet(widths=(1.0, 0.5), heads=False, paths=12)
    expected = rate(net, [call], workers=1, stack=1)
    for settings in ({"workers": 2}, {"workers": 1, "stack": 3}, {"workers": 2, "stack": 2, "max_bytes": 1 << 22}):
        found = rate(net, [call], **settings)
        for (table,), (other,) in zip(found.tables, expected.tables):
            torch.testing.assert_close(table.scores, other.scores, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_call_of_batches():
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    one, batch = nn.Linear(3, 3), torch.ones(2, 3)
    assert Call.of((batch, [0, 1]), one).leaves == [batch]
    assert [leaf is batch for leaf in Call.of((batch, batch), Two()).leaves] == [True, True]
    llama, _ = built(FAMILIES["Llama"])
    assert Call.of(tokens(), llama).kwargs["use_cache"] is False
    assert Call.of({**tokens(), "use_cache": True}, llama).kwargs["use_cache"] is True
    assert Call.of(batch, one).head(1).samples == 1 and Call.of(batch, one).samples == 2
