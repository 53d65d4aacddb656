"""Teachers by name of torchvision and transformers, with taps found by trial and features as maps."""

import json
import math

import pytest
import timm
import torch
import torchvision
from torch import nn

import pynas
from pynas import teachers
from pynas.errors import InputError
from pynas.teachers.maps import AsMap, ToMap, map_shape, maps_of
from pynas.teachers.taps import _assign

transformers = pytest.importorskip("transformers", reason="extra hf")
UNTRAINED = pytest.mark.filterwarnings(r"ignore:\[teacher\] .* is untrained")
SHAPE = (3, 224, 224)


@pytest.fixture(scope="module")
def blocks():
    """Output shapes of the blocks of `mbconv-dna`: sides of 56, 28, 14, 14, 7, 7."""
    return pynas.supernet("mbconv-dna", 10).block_shapes(SHAPE)


@UNTRAINED
@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("torchvision:resnet50", ["layer1", "layer2", "layer3.2", "layer3", "layer4.1", "layer4"]),
        ("torchvision:regnet_y_400mf", None),
        ("torchvision:efficientnet_b0", [f"features.{stage}" for stage in range(2, 8)]),
        ("torchvision:convnext_tiny", None),
        ("torchvision:swin_t", None),
        ("torchvision:mobilenet_v3_small", None),
        ("swin_tiny_patch4_window7_224", None),
        ("resnet50", None),
    ],
)
def test_taps_that_fit_are_found_in_any_model(name, taps, blocks):
    """As many as blocks, of their sizes, one after the other."""
    fitted = teachers.with_fitting_taps(teachers.named_teacher(name, pretrained=False), blocks, SHAPE)
    assert [shape[1:] for shape in fitted.feature_shapes(SHAPE)] == [shape[1:] for shape in blocks]
    assert taps is None or fitted.taps == tuple(taps)


@UNTRAINED
def test_ties_divide_a_size_evenly():
    """Six equal stages among two and three blocks; without `even` the last ones are taken."""
    stages = [(8, 4, 4)] * 6
    assert _assign(stages, [(8, 4, 4)] * 2, even=True) == [2, 5]
    assert _assign(stages, [(8, 4, 4)] * 3, even=True) == [1, 3, 5]
    assert _assign(stages, [(8, 4, 4)] * 2) == [4, 5]


class Changing(nn.Module):
    """Outputs that are changed in place, given twice, run twice, and no maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.twice, self.body, self.head = nn.Tanh(), nn.Sequential(nn.Conv2d(4, 5, 2, 2)), nn.Linear(5, 2)

    def forward(self, x):
        x = self.twice(self.twice(self.relu(self.norm(self.conv(x)))))
        return self.head(self.body(x).mean((2, 3)))


def test_maps_of_a_network():
    assert maps_of(Changing(), (3, 8, 8)) == [
        ("conv", (4, 8, 8), False),
        ("relu", (4, 8, 8), False),
        ("body", (5, 4, 4), True),
    ]


def test_shapes_as_maps():
    assert map_shape((5, 8, 8)) == map_shape((8, 8, 5)) == map_shape((64, 5)) == (5, 8, 8)
    assert map_shape((65, 5)) == map_shape((69, 5)) == (5, 8, 8) and map_shape((4, 4, 4)) == (4, 4, 4)
    assert map_shape((80, 5)) is None and map_shape((10,)) is None


@pytest.mark.parametrize("shape", [(64, 5), (65, 5), (8, 8, 5)])
def test_a_feature_passes_through_its_map_unchanged(shape):
    x = torch.randn(2, *shape)
    found, wrapped = ToMap()(x), AsMap(nn.Identity())
    assert found.shape == (2, 5, 8, 8) and torch.equal(ToMap().back(found, x), x) and torch.equal(wrapped(x), x)
    for row, column in ((0, 0), (2, 5), (7, 7)):
        place = x[:, row, column] if x.ndim == 4 else x[:, x.shape[1] - 64 + 8 * row + column]
        assert torch.equal(found[:, :, row, column], place)
    layer = nn.Linear(5, 5)
    output = AsMap(nn.Sequential(layer))(x)
    assert torch.equal(output, layer(x)) and AsMap(layer).in_features == 5


def swin():
    config = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4,
                                     num_labels=3)  # fmt: skip
    return transformers.SwinForImageClassification(config)


def resnet(depths=(1, 2)):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=list(depths), layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config)


def vit():
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
                                    image_size=32, patch_size=4, num_labels=3)  # fmt: skip
    return transformers.ViTForImageClassification(config)


HF = {
    # Name: builder, sizes of the blocks, whether all information passes through the taps.
    "resnet": (resnet, [(8, 8, 8), (16, 4, 4), (16, 4, 4)], True),
    "swin": (swin, [(24, 4, 4), (24, 4, 4)], True),
    "vit": (vit, [(16, 8, 8), (16, 8, 8)], False),
}


@pytest.mark.parametrize("kind", HF)
def test_a_folder_of_transformers(kind, tmp_path):
    build, blocks, whole = HF[kind]
    torch.manual_seed(0)
    model = build().eval()
    model.save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    teacher = teachers.named_teacher(f"hf:{tmp_path}")
    assert teacher.metadata["mean"] == [0.1, 0.2, 0.3] and teacher.metadata["std"] == [0.4, 0.5, 0.6]
    fitted, images = teachers.with_fitting_taps(teacher, blocks, (3, 32, 32)), torch.randn(2, 3, 32, 32)
    assert fitted.feature_shapes((3, 32, 32)) == blocks
    with torch.no_grad():
        expected = model(images).logits
    features, logits = fitted.features_and_logits(images)
    torch.testing.assert_close(logits, expected)
    if whole:
        torch.testing.assert_close(fitted.tail(0, (3, 32, 32))(features[0]), expected)
    else:  # a token of the class passes beside the map
        with pytest.raises(InputError, match="all information"):
            fitted.tail(0, (3, 32, 32))
    assert set(map(id, fitted.module.parameters())) == set(map(id, teacher.module.parameters()))


@UNTRAINED
def test_transformers_without_weights_or_processor(tmp_path):
    model = resnet()
    model.save_pretrained(tmp_path)
    fresh = teachers.named_teacher(f"hf:{tmp_path}", pretrained=False)
    ours, theirs = (next(iter(part.parameters())) for part in (fresh.module, model))
    assert ours.shape == theirs.shape and not torch.equal(ours, theirs) and "mean" not in fresh.metadata
    assert "mean" not in teachers.named_teacher(f"hf:{tmp_path}").metadata
    with pytest.raises(InputError, match="expected to load .*nowhere"):
        teachers.named_teacher(f"hf:{tmp_path}/nowhere")


def test_weights_of_torchvision_from_its_cache(tmp_path, monkeypatch):
    """torchvision's own loading, from the folder that it downloads to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    model = torchvision.models.mobilenet_v3_small().eval()
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    torch.save(model.state_dict(), folder / weights.url.rpartition("/")[2])
    teacher = teachers.named_teacher("torchvision:mobilenet_v3_small:IMAGENET1K_V1")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(teacher.logits(images), model(images))
    assert teacher.metadata["mean"] == [0.485, 0.456, 0.406] and teacher.metadata["std"] == [0.229, 0.224, 0.225]
    assert teacher.metadata["weights"] == "IMAGENET1K_V1" and teacher.metadata["pretrained"]
    sides = [shape[1] for shape in teacher.feature_shapes((3, 64, 64))]
    assert sides == [32, 16, 8, 4, 2]
    (folder / weights.url.rpartition("/")[2]).write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="expected to load 'mobilenet_v3_small' with pretrained=True, got [^\n]*$"):
        teachers.named_teacher("torchvision:mobilenet_v3_small")


def test_names_that_are_wrong():
    with pytest.raises(InputError, match="classifier of torchvision, got 'resnet5'; near: resnet50"):
        teachers.named_teacher("torchvision:resnet5")
    with pytest.raises(InputError, match="of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, got 'V7'"):
        teachers.named_teacher("torchvision:resnet50:V7")
    with pytest.raises(InputError, match="expected to load 'local-dir:nowhere'"):
        teachers.named_teacher("local-dir:nowhere")


def test_a_folder_of_timm_is_a_teacher(tmp_path):
    model = timm.create_model("resnet10t", num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    teacher, images = teachers.named_teacher(f"local-dir:{tmp_path}"), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(teacher.logits(images), model(images))
    assert math.isclose(teacher.metadata["mean"][0], 0.485) and len(teacher.taps) == 5


@pytest.mark.integration
def test_a_run_with_a_teacher_of_transformers(tmp_path):
    """The images get the normalisation of the teacher's weights, and what is trained against it is rated and found."""
    torch.manual_seed(0)
    resnet(depths=[2, 1]).save_pretrained(tmp_path / "hf")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    named = {"limit_images": 100, "epochs": 1, "batch_size": 8}
    run = pynas.runs.create(tmp_path / "run", teacher=f"hf:{tmp_path / 'hf'}", **named)
    assert run.data.mean == (0.1, 0.2, 0.3) and run.data.std == (0.4, 0.5, 0.6)
    run.train()
    run.rate()
    assert run.search(limits={"madds": 16e6})["found"]
    assert [shape[1] for shape in run.teacher().feature_shapes((3, 32, 32))] == [16, 8, 8, 4]


@UNTRAINED
def test_taps_by_default_are_the_last_of_each_resolution():
    assert teachers.named_teacher("torchvision:efficientnet_b0", pretrained=False).taps == (
        "features.1", "features.2", "features.3", "features.5", "features"
    )  # fmt: skip
    assert teachers.named_teacher("torchvision:resnet18", pretrained=False).taps[1:] == tuple(
        f"layer{stage}" for stage in range(1, 5)
    )
