"""Teachers: features as in a plain forward pass, a module that does not change, files, training, and errors."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pynas
from pynas import data, teachers
from pynas.calls import Call
from pynas.errors import InputError
from pynas.teachers import Teacher

IMAGE = (3, 32, 32)


def net(seed: int = 0) -> nn.Sequential:
    """Three convolutions with batch norm, whose statistics are not the defaults, and a classifier."""
    torch.manual_seed(seed)
    widths = (3, 8, 8, 12)
    blocks = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(0.5))
        for a, b in itertools.pairwise(widths)
    ]
    module = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    for _ in range(3):
        module(torch.randn(16, *IMAGE))
    return module


def naive(module: nn.Sequential, x: Tensor, norm: str, start: int = 0) -> list[Tensor]:
    """Outputs of the blocks from `start` on, and the logits: without dropout, batch norm from its formula."""
    outputs = []
    for block in module[start:3]:
        convolution, norm_layer = block[0], block[1]
        x = convolution(x)
        if norm == "batch":
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        else:
            mean, var = norm_layer.running_mean, norm_layer.running_var
        x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + norm_layer.eps).sqrt()
        x = (x * norm_layer.weight.view(-1, 1, 1) + norm_layer.bias.view(-1, 1, 1)).relu()
        outputs.append(x)
    return [*outputs, module[-1](x.mean((2, 3)))]


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_features_and_logits_are_those_of_a_plain_pass(norm: str) -> None:
    module, images = net(), torch.randn(6, *IMAGE)
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        *features, logits = naive(module, images, norm)
    teacher = Teacher(module, ["0", "1", "2"], norm).train()
    for got in (teacher(images), teacher.features_and_logits(images)[0]):
        assert all(not feature.requires_grad for feature in got)
        torch.testing.assert_close(got, features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher.features_and_logits(images)[1], logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher.logits(images), logits, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(m.training or m._forward_hooks for m in module.modules())
    assert all(m.track_running_stats for m in module.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(p.requires_grad for p in module.parameters())


def test_taps_come_in_the_order_asked_for_and_the_rest_is_not_computed() -> None:
    module, images = net(), torch.randn(2, *IMAGE)
    reached = []
    module[2].register_forward_hook(lambda *_: reached.append(2))
    teacher = Teacher(module, ["1", "0"])
    features = teacher(images)
    assert [f.shape[1:] for f in features] == [(8, 8, 8), (8, 16, 16)] == teacher.feature_shapes(IMAGE)
    assert not reached
    teacher.features_and_logits(images)
    assert reached


@pytest.mark.parametrize("norm", ["running", "batch"])
@pytest.mark.parametrize("tap", [0, 1, 2, -1])
def test_tail_goes_on_from_a_tap(norm: str, tap: int) -> None:
    images = torch.randn(6, *IMAGE)
    teacher = Teacher(net(), ["0", "1", "2"], norm)
    tail = teacher.tail(tap, IMAGE)
    feature = teacher(images)[tap].requires_grad_()
    torch.testing.assert_close(tail(feature), teacher.logits(images))
    (got,) = torch.autograd.grad(tail(feature).square().sum(), feature)
    (want,) = torch.autograd.grad(naive(teacher.module, feature, norm, tap % 3 + 1)[-1].square().sum(), feature)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_a_tail_runs_nothing_before_its_tap_and_knows_the_size_of_the_batch() -> None:
    class Reshaping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.act, self.tapped = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)
            self.classifier = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            size = x.size(0)  # as many networks do
            return self.classifier(self.act(self.tapped(self.act(self.stem(x)))).mean((2, 3)).view(size, -1))

    teacher = Teacher(Reshaping(), ["tapped"])
    tail, images = teacher.tail(0, IMAGE), torch.randn(7, *IMAGE)
    calls: list[Any] = []
    tail.module.stem.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    tail.module.act.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    assert teacher.logits(images).isnan().all()  # the weights are shared
    feature = torch.randn(7, 4, 16, 16)
    want = teacher.module.classifier(feature.relu().mean((2, 3)))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(tail(feature), want)
    assert len(calls) == 2  # the activation also stands behind the tap, so it runs in both places


def test_no_tail_where_information_passes_by() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return (self.second(x) + x).mean((2, 3))

    teacher = Teacher(Around(), ["first", "second"])
    teacher.tail(0, IMAGE)
    with pytest.raises(InputError, match="pass through 'second'"):
        teacher.tail(1, IMAGE)


def test_bad_taps() -> None:
    with pytest.raises(InputError, match=r"got '1\.4'; near: .*1\.3"):
        Teacher(net(), ["0", "1.4"])
    with pytest.raises(InputError, match="different taps"):
        Teacher(net(), ["0", "0"])
    with pytest.raises(InputError, match="different taps"):
        Teacher(net(), [])
    with pytest.raises(InputError, match="norm of running, batch, got 'eval'"):
        Teacher(net(), ["0"], "eval")


def test_taps_that_fail_when_run() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Identity())
    images = torch.randn(2, *IMAGE)
    with pytest.raises(InputError, match="'0' changed in place"):
        Teacher(module, ["0", "2"])(images)
    assert len(Teacher(module, ["1", "2"])(images)) == 2
    with pytest.raises(InputError, match="changed in place"):
        Teacher(module, ["0"]).features_and_logits(images)
    unused = nn.Sequential(nn.Conv2d(3, 4, 1))
    unused[0].extra = nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match=r"nothing at '0\.extra'"):
        Teacher(unused, ["0", "0.extra"])(images)

    class Sizes(nn.Module):
        def forward(self, x: Tensor) -> tuple[int, ...]:
            return tuple(x.shape)

    sizes = nn.Sequential(nn.Flatten(2), Sizes())
    with pytest.raises(InputError, match="tensor at the tap '1', got tuple"):
        Teacher(sizes, ["1"])(images)
    assert not sizes[1]._forward_hooks


def test_the_feature_is_the_first_tensor_of_a_taps_output() -> None:
    recurrent = nn.Sequential(nn.Flatten(2), nn.LSTM(1024, 4))
    images = torch.randn(2, *IMAGE)
    torch.testing.assert_close(Teacher(recurrent, ["1"])(images)[0], recurrent[1](images.flatten(2))[0])


@pytest.fixture(scope="module")
def bert() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, num_labels=5,
    )).eval()  # fmt: skip


def sentences(lengths: Sequence[int]) -> dict[str, Tensor]:
    """Token ids and the mask of sentences of these lengths, padded."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(1, 30, mask.shape) * mask, "attention_mask": mask}


def test_a_teacher_of_sentences(bert: Any) -> None:
    teacher, batch = Teacher(bert, ["bert.encoder.layer.0", "bert.encoder.layer.2"]), sentences([4, 6, 2])
    with torch.no_grad():
        want = bert(**batch, output_hidden_states=True)
    features, logits = teacher.features_and_logits(batch)
    for feature, number in zip(features, (1, 3)):
        torch.testing.assert_close(feature, want.hidden_states[number])
    torch.testing.assert_close(logits, want.logits)
    torch.testing.assert_close(teacher.logits(batch).logits, want.logits)
    assert teacher.feature_shapes(batch) == [(6, 16), (6, 16)]


def test_a_tail_of_sentences_takes_the_masks_of_each_batch(bert: Any) -> None:
    tail = Teacher(bert, ["bert.encoder.layer.0"]).tail(0, sentences([3, 5]))
    assert tail.needs_side
    batch = sentences([4, 6, 2])
    with torch.no_grad():
        want = bert(**batch, output_hidden_states=True)
    feature = want.hidden_states[1].clone().requires_grad_()
    logits = tail(feature, {"model": Call.of(batch, bert).leaves})
    torch.testing.assert_close(logits, want.logits)
    (gradient,) = torch.autograd.grad(logits.square().sum(), feature)
    assert gradient.abs().sum(2).gt(0).equal(batch["attention_mask"].bool() | (torch.arange(6) == 0))


def test_logits_are_none_without_a_head() -> None:
    teacher = Teacher(nn.Sequential(nn.Conv2d(3, 4, 1)), ["0"])
    assert teacher.features_and_logits(torch.randn(2, *IMAGE))[1] is None


def test_as_teacher() -> None:
    teacher = Teacher(net(), ["0"])
    assert teachers.as_teacher(teacher) is teacher
    assert teachers.as_teacher(teacher, ["1"]).taps == ("1",)
    assert teachers.as_teacher(net(), ["2"]).taps == ("2",)
    with pytest.raises(InputError, match="expected taps"):
        teachers.as_teacher(net())


UNTRAINED = pytest.mark.filterwarnings(r"ignore:\[teacher\] .* is untrained")


@UNTRAINED
def test_efficientnet_b7_is_cut_like_dnas_table_1() -> None:
    """The teacher that the README names has a tap of the right size for each block of `mbconv-dna`."""
    with torch.device("meta"):
        teacher = teachers.timm_teacher("tf_efficientnet_b7.ra_in1k", pretrained=False)
        blocks = pynas.supernet("mbconv-dna").block_shapes((3, 224, 224))
        assert [shape[1:] for shape in teacher.feature_shapes((3, 224, 224))] == [shape[1:] for shape in blocks]
        shapes = teacher.feature_shapes((3, 224, 224))
    assert shapes == [(48, 56, 56), (80, 28, 28), (160, 14, 14), (224, 14, 14), (384, 7, 7), (640, 7, 7)]


NAMED = re.compile(r"""(?:--teacher[ =]|timm_teacher\(["']|teacher=["']|"--teacher", default=")([\w.:/-]+)""")


def named_teachers() -> list[tuple[str, str]]:
    """Every teacher that the documentation, the examples, the benchmarks and the source name, with the file."""
    root = Path(__file__).parents[1]
    folders = ("docs/**/*.md", "examples/**/*.py", "bench/**/*.py", "pynas/**/*.py", "*.md")
    texts = [(path, path.read_text(encoding="utf-8")) for folder in folders for path in root.glob(folder)]
    return sorted({(path.name, name) for path, text in texts for name in NAMED.findall(text)})


def test_every_teacher_that_the_documentation_names_has_weights() -> None:
    """In the registries of timm and torchvision, by the whole name; no network."""
    from torchvision.models import get_model_weights, list_models

    named = named_teachers()
    assert {"README.md", "command-line.md", "scale.md", "scale.py"} <= {page for page, _ in named}
    for page, name in named:
        source, _, known = name.partition(":")
        model, _, weights = known.partition(":")
        if "NAME" in (source, model):
            continue
        if source == "torchvision":
            assert model in list_models() and weights in ("", *get_model_weights(model).__members__), (page, name)
        elif source not in ("torchvision", "hf"):
            assert name in ("small", "scaled") or name in timm.list_pretrained(), (page, name)
    assert any(name.startswith("torchvision:") for _, name in named)
    assert "tf_efficientnet_b7.ra_in1k" in {name for _, name in named}
    assert "efficientnet_b7" not in timm.list_pretrained() and NAMED.findall("--teacher efficientnet_b7\n") != []


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("efficientnet_b7", "tf_efficientnet_b7.ra_in1k"),
        ("tf_efficientnet_b7.imagenet", "tf_efficientnet_b7.ra_in1k"),
        ("efficientnet_b8", "tf_efficientnet_b8.ra_in1k"),
        ("darknet17", "darknet53.c2ns_in1k"),
    ],
)
def test_a_model_without_weights_is_refused_with_those_that_have(name: str, family: str) -> None:
    with pytest.raises(InputError, match=f"expected a timm model with weights, got '{name}'.*{family}") as error:
        teachers.timm_teacher(name)
    message = str(error.value)
    offered = message.partition("family have: ")[2].split(", ")
    assert offered and set(offered) <= set(timm.list_pretrained())
    assert "pretrained=False" not in message and "\n" not in message


def test_an_untrained_teacher_is_said_loudly() -> None:
    with pytest.warns(UserWarning, match=r"^\[teacher\] resnet10t is untrained, since pretrained is false[^\n]*$"):
        teacher = teachers.timm_teacher("resnet10t", pretrained=False)
    assert teacher.metadata["pretrained"] is False


@UNTRAINED
@pytest.mark.parametrize("norm", ["running", "batch"])
def test_timm_efficientnet_against_its_own_forward(norm: str) -> None:
    teacher = teachers.timm_teacher("efficientnet_b0", pretrained=False, num_classes=7, norm=norm)
    reference = copy.deepcopy(teacher.module)
    for m in reference.modules():
        if norm == "batch" and isinstance(m, nn.BatchNorm2d):
            m.train()
    images, x = torch.randn(4, *IMAGE), None
    with torch.no_grad():
        x = reference.bn1(reference.conv_stem(images))
        features = [x := stage(x) for stage in reference.blocks][1:]
        logits = copy.deepcopy(teacher.module).eval()(images) if norm == "running" else reference(images)
    torch.testing.assert_close(teacher(images), features)
    torch.testing.assert_close(teacher.logits(images), logits)
    torch.testing.assert_close(teacher.tail(3, IMAGE)(features[3]), logits)
    assert teacher.metadata == {"timm": "efficientnet_b0", "pretrained": False, "num_classes": 7}


@UNTRAINED
def test_timm_stages_by_default() -> None:
    teacher = teachers.timm_teacher("resnet10t", pretrained=False)
    assert teacher.feature_shapes((3, 64, 64)) == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert teachers.timm_teacher("resnet10t", pretrained=False, taps=["layer2"]).taps == ("layer2",)


def test_timm_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def loaded(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        return create(name)

    monkeypatch.setattr(timm, "create_model", loaded)
    teacher = teachers.timm_teacher("resnet10t")
    assert asked == [("resnet10t", True)] and teacher.metadata["mean"] == [0.485, 0.456, 0.406]

    def offline(*args: object, **options: object) -> None:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match="couldn't connect; pretrained weights come from the model hub") as error:
        teachers.timm_teacher("resnet10t")
    assert "\n" not in str(error.value) and "without a network" in str(error.value)
    assert "pretrained=False" not in str(error.value)
    with pytest.raises(InputError, match=r"'eficientnet_b0'; near: .*efficientnet_b0"):
        teachers.timm_teacher("eficientnet_b0", pretrained=False)


@pytest.fixture(scope="module")
def few() -> data.ImageData:
    """The digits at 8x8 pixels, with fewer training images."""
    images = data.load("digits", 8)
    return dataclasses.replace(images, train=data.Arrays(images.train.images[:384], images.train.labels[:384]))


BLOCKS = [(8, 2, 1), (12, 1, 2)]


def test_small_teacher_trains_repeats_and_comes_back_from_its_file(few: data.ImageData, tmp_path: Path) -> None:
    calls = []
    state = torch.get_rng_state()
    teacher = teachers.fit_small(few, BLOCKS, batch_size=16, epochs=3, progress=lambda *call: calls.append(call))
    assert torch.equal(state, torch.get_rng_state())
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)] and calls[2][2] < calls[0][2] < 3
    assert teacher.feature_shapes((3, 8, 8)) == [(8, 4, 4), (12, 4, 4)]

    predicted = teacher.logits((few.test.images / 255 - few.mean[0]) / few.std[0]).argmax(1)
    assert teacher.metadata["test_accuracy"] == np.mean((predicted == few.test.labels).numpy()) > 0.3

    again = teachers.fit_small(few, BLOCKS, batch_size=16, epochs=3)
    assert all(torch.equal(v, again.module.state_dict()[k]) for k, v in teacher.module.state_dict().items())
    other = teachers.fit_small(few, BLOCKS, batch_size=16, epochs=3, seed=1)
    images = torch.randn(4, 3, 8, 8)
    assert not torch.equal(other.logits(images), teacher.logits(images))

    path = tmp_path / "teacher.safetensors"
    teachers.save_small(path, teacher)
    loaded = teachers.load_small(path)
    assert loaded.metadata == teacher.metadata and loaded.taps == teacher.taps
    assert torch.equal(loaded.logits(images), teacher.logits(images))


def test_small_teacher_files_that_are_not_whole(tmp_path: Path) -> None:
    module = teachers.small(3, BLOCKS)
    metadata = {"num_classes": 3, "blocks": BLOCKS, "stem": [16, 1]}
    path, bad = tmp_path / "teacher.safetensors", tmp_path / "bad.safetensors"
    teachers.save_small(path, Teacher(module, ["blocks.0"], metadata=metadata))
    content = path.read_bytes()
    for spoiled in (content[:-10], content[:4], b"", content[:-1] + bytes([content[-1] ^ 1])):
        bad.write_bytes(spoiled)
        with pytest.raises(InputError, match="damaged"):
            teachers.load_small(bad)
    with pytest.raises(InputError, match="got none"):
        teachers.load_small(tmp_path / "none.safetensors")
    save_file(load_file(path), bad)
    with pytest.raises(InputError, match=r"format 'pynas\.teacher'"):
        teachers.load_small(bad)
    bad.write_bytes(content.replace(b'\\"version\\": 2', b'\\"version\\": 9'))
    with pytest.raises(InputError, match="format version 2, got 9"):
        teachers.load_small(bad)


@pytest.mark.parametrize(
    ("shapes", "side"),
    [
        ([(24, 16, 16), (40, 8, 8), (64, 8, 8), (96, 4, 4)], 32),
        ([(8, 56, 56), (8, 28, 28), (8, 14, 14), (8, 14, 14), (8, 7, 7), (8, 7, 7)], 224),
        ([(8, 33, 33), (8, 9, 9), (8, 9, 9)], 33),
        ([(8, 5, 5)], 37),
    ],
)
def test_small_like_gives_the_shapes_asked_for(shapes: list[tuple[int, ...]], side: int) -> None:
    blocks, stem = teachers.small_like(shapes, (3, side, side))
    module = teachers.small(2, blocks, stem)
    teacher = Teacher(module, [f"blocks.{b}" for b in range(len(blocks))])
    assert teacher.feature_shapes((3, side, side)) == shapes


@pytest.mark.parametrize("blocks", [[(8,)], [(8, 0)], [(8, 1, 0)], [(8.0, 1)], [(8, 1, 1, 1)]])
def test_bad_blocks(blocks: list[tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="layers"):
        teachers.small(2, blocks)


def test_bad_epochs(few: data.ImageData) -> None:
    with pytest.raises(InputError, match="at least one epoch"):
        teachers.fit_small(few, BLOCKS, epochs=0)


@pytest.mark.slow
def test_default_teacher_knows_the_digits() -> None:
    images = data.load("digits")
    blocks, stem = teachers.small_like([(24, 16, 16), (40, 8, 8), (64, 8, 8), (96, 4, 4)], images.image_shape)
    for seed in range(3):
        assert teachers.fit_small(images, blocks, stem, seed=seed).metadata["test_accuracy"] > 0.97


def test_ids_that_are_read_again_behind_the_tap() -> None:
    """Blank ids would say that nothing is padding; the tail takes those of each batch."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.tapped, self.last = nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            kept = (ids != 0).float()[..., None]
            return self.last((self.tapped(self.words(ids)) * kept).sum(1) / kept.sum(1))

    module = Pooled()
    tail = Teacher(module, ["tapped"]).tail(0, torch.randint(1, 30, (3, 5)))
    ids = torch.randint(1, 30, (2, 5)) * torch.tensor([1, 1, 1, 0, 0])
    feature = module.tapped(module.words(ids))
    torch.testing.assert_close(tail(feature, {"model": Call.of(ids, module).leaves}), module(ids))


def test_arguments_by_name_in_any_order(bert: Any) -> None:
    tail = Teacher(bert, ["bert.encoder.layer.0"]).tail(0, sentences([3, 5]))
    batch = sentences([4, 2])
    turned = {name: batch[name] for name in reversed(batch)}
    feature = Teacher(bert, ["bert.encoder.layer.0"])(turned)[0]
    torch.testing.assert_close(tail(feature, {"model": Call.of(turned, bert).leaves}), bert(**batch).logits)
    with pytest.raises(InputError, match=r"\[batch\] expected \d arguments in every batch, as in the example, got 1"):
        tail(feature, {"model": [batch["input_ids"]]})


@pytest.mark.parametrize(
    ("model", "space", "taps"),
    [
        # Sizes 56, 28, 14, 14, 7 of mbconv-boss's five blocks; of two stages of 7x7 the one of nearer width.
        ("efficientnet_b0", "mbconv-boss", [1, 2, 3, 4, 5]),
        ("efficientnet_b1", "mbconv-dna", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_taps_that_fit_the_blocks_are_found(model, space, taps):
    with pytest.warns(UserWarning, match="untrained"):
        teacher = teachers.timm_teacher(model, pretrained=False)
    net = pynas.supernet(space, 10)
    fitted = teachers.with_fitting_taps(teacher, net.block_shapes((3, 224, 224)), (3, 224, 224))
    assert fitted.taps == tuple(f"blocks.{tap}" for tap in taps) and fitted.module is teacher.module


def test_fitting_taps_are_the_best_of_all_choices():
    """Against every rising choice of stages, on drawn shapes; -1 where none fits."""
    from pynas.teachers.taps import _assign

    rng = np.random.default_rng(0)
    for _ in range(200):
        sides = [[side, side] for side in sorted(rng.integers(1, 4, 6).tolist(), reverse=True)]
        stages = [(int(rng.integers(1, 30)), *side) for side in sides]
        blocks = [(int(rng.integers(1, 30)), *side) for side in sorted(sides, reverse=True)[:: int(rng.integers(1, 4))]]
        costs = {
            choice: sum(abs(math.log(stages[s][0] / block[0])) for s, block in zip(choice, blocks))
            for choice in itertools.combinations(range(6), len(blocks))
            if all(stages[s][1:] == block[1:] for s, block in zip(choice, blocks))
        }
        found = _assign(stages, blocks)
        if costs:
            assert costs[tuple(found)] == pytest.approx(min(costs.values()))
        else:
            assert found is None


def test_stages_that_do_not_fit_are_left_as_they_are():
    with pytest.warns(UserWarning, match="untrained"):
        teacher = teachers.timm_teacher("resnet10t", pretrained=False)
    assert teachers.with_fitting_taps(teacher, [(24, 9, 9)], (3, 64, 64)) is teacher
