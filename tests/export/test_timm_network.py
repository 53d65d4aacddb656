"""Found networks as timm's models, of every kind of space, against the networks themselves."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from pynas import export
from pynas.errors import InputError
from pynas.export.timm_network import TimmNetwork
from pynas.spaces import get
from tests.enumeration import smallest

KINDS = ["mbconv-mini", "hytra-mini", "nats-size", "nasbench201-mini", "splitattention-mini", "vit-mini", "autoformer-mini",
         "bignas-mini"]  # fmt: skip


def saved(folder, name, classes=4, side=None, distilled=False):
    """A network of a space with weights, positions and statistics drawn at random, in a file; and the network."""
    torch.manual_seed(0)
    space = get(name)
    architecture = smallest(space)
    shape = None if side is None else (3, side, side)
    model = export.standalone(space, architecture, classes, shape).eval()
    model = export.add_distillation(model) if distilled else model
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
        for tensor in (getattr(part, "position", None), getattr(part, "class_token", None)):
            if isinstance(tensor, nn.Parameter):
                nn.init.normal_(tensor)
    side = side or space.image_size
    export.save_subnet(folder / "subnet.safetensors", model, space, architecture, classes, image_shape=[3, side, side],
                       mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], crop_pct=1.0)  # fmt: skip
    return model, space


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_by_its_registered_name(name, tmp_path):
    model, space = saved(tmp_path, name)
    registered = export.register(tmp_path, f"pynas_test_{name.replace('-', '_')}")
    side = space.image_size
    images = torch.randn(2, 3, side, side)
    made = timm.create_model(registered, pretrained=True).eval()
    assert set(made.state_dict()) == set(model.state_dict()) and registered in timm.list_models(
        "pynas_*", pretrained=True
    )
    with torch.no_grad():
        expected, body = model(images), made.forward_features(images)
        assert torch.equal(made(images), expected) and torch.equal(made.forward_head(body), expected)
        vectors = made.forward_head(body, pre_logits=True)
        torch.testing.assert_close(made.get_classifier()(vectors), expected)
        assert vectors.shape == (2, made.head_hidden_size)
        assert made.num_features == (body.shape[1] if body.ndim == 4 else body.shape[2])
        maps = timm.create_model(registered, pretrained=True, features_only=True).eval()
        torch.testing.assert_close(maps(images), export.features(model, (3, side, side))(images))
        assert maps.feature_info.channels()[-1] == made.feature_info[-1]["num_chs"]
        other = timm.create_model(registered, pretrained=True, num_classes=7).eval()
        torch.testing.assert_close(other.forward_head(other.forward_features(images), pre_logits=True), vectors)
        bare = timm.create_model(registered, pretrained=True, num_classes=0).eval()
        torch.testing.assert_close(bare(images), vectors)
        assert (
            other(images).shape == (2, 7) and other.num_classes == 7 and isinstance(bare.get_classifier(), nn.Identity)
        )
        read = timm.create_model(registered, checkpoint_path=tmp_path / "subnet.safetensors").eval()
        assert torch.equal(read(images), expected)
    fresh = timm.create_model(registered)
    assert not torch.equal(fresh.get_classifier().weight, made.get_classifier().weight)
    data = timm.data.resolve_model_data_config(made)
    assert data["input_size"] == (3, side, side) and data["mean"] == (0.1, 0.2, 0.3) and data["std"] == (0.4, 0.5, 0.6)
    assert (data["interpolation"], data["crop_pct"], data["crop_mode"]) == ("bilinear", 1.0, "squash")


@pytest.mark.parametrize("name", ["autoformer-mini", "vit-mini"])
def test_vision_transformers_of_another_side_and_with_a_distillation_token(name, tmp_path):
    model, _ = saved(tmp_path, name, distilled=True)
    registered = export.register(tmp_path, f"pynas_test_distilled_{name.replace('-', '_')}")
    made = timm.create_model(registered, pretrained=True).eval()
    small, large = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made(small), model(small)) and len(made.get_classifier()) == 2
        expected = export.load_subnet(tmp_path / "subnet.safetensors", image_size=64)[0](large)
        resized = timm.create_model(registered, pretrained=True, img_size=64).eval()
        assert torch.equal(resized(large), expected)
        dynamic = timm.create_model(registered, pretrained=True, dynamic_img_size=True).eval()
        torch.testing.assert_close(dynamic(large), expected)
        assert made.fixed_input_size and not dynamic.fixed_input_size
        both = [
            layer.weight for layer in timm.create_model(registered, pretrained=True, num_classes=7).get_classifier()
        ]
        assert [weight.shape for weight in both] == [(7, 64), (7, 64)]
    with pytest.raises(InputError, match="expected"):
        made(large)


def test_dropout_and_stochastic_depth_stay_with_a_new_classifier(tmp_path):
    saved(tmp_path, "splitattention-mini")
    name = export.register(tmp_path, "pynas_test_dropout")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=True, drop_rate=0.5, drop_path_rate=0.5, num_classes=7)
    model.reset_classifier(5)
    vectors = torch.ones(2, 512)
    dropped = model.train().get_classifier()
    seen = []
    dropped.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    dropped(vectors)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0} and dropped.out_features == 5
    assert [part.drop_prob for part in model.modules() if isinstance(part, timm.layers.DropPath)][-1] == 0.5
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.eval()(images), model(images))


def test_options_of_timm_that_a_network_does_not_have(tmp_path):
    saved(tmp_path, "mbconv-mini")
    name = export.register(tmp_path, "pynas_test_options")
    for options, message in [({"in_chans": 1}, "3 channels.*in_chans=1"), ({"patch_size": 4}, "got patch_size"),
                             ({"img_size": (32, 48)}, "square"), ({"global_pool": "max"}, "pooling 'avg'"),
                             ({"output_stride": 8}, "features_only=True for an output_stride")]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            timm.create_model(name, **options)
    with pytest.raises(InputError, match="indices from 0 to 3"):
        timm.create_model(name, features_only=True, out_indices=(9,))
    dense = timm.create_model(name, features_only=True, output_stride=4, out_indices=(1, 3))
    assert dense.feature_info.reduction() == [2, 4]
    with pytest.raises(InputError, match="one of pynas's spaces, got one of 'mine'"):
        TimmNetwork("mine", "0")
    with pytest.raises(InputError, match="letters, digits and underscores, got 'a/b'"):
        export.register(tmp_path, "a/b")
    assert TimmNetwork("mbconv-mini", "0|00|00|00", num_classes=3).num_classes == 3
    made = timm.create_model("pynas_subnet", space="mbconv-mini", architecture="0|00|00|00", num_classes=3)
    assert made(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(InputError, match="one of None"):
        timm.create_model("pynas_subnet")


FOUND = """
import sys
{imports}
assert ("torch" in sys.modules) == ("timm" in sys.modules)
import timm
assert timm.is_model("pynas_subnet") and "pynas.export" not in sys.modules
print(timm.create_model("pynas_subnet", space="mbconv-mini", architecture="0|00|00|00", num_classes=3).num_classes)
"""


@pytest.mark.integration
@pytest.mark.parametrize("imports", ["import pynas", "import timm, pynas"])
def test_importing_pynas_is_enough_in_either_order(imports):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FOUND.format(imports=imports)], capture_output=True, text=True
    )
    assert done.stdout == "3\n", done.stderr
