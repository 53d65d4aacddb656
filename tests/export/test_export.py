"""Exported networks: the same output as the supernet, and files that load as they were saved."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import export
from pynas.errors import InputError
from pynas.spaces import Architecture, get
from pynas.supernets import KINDS, Kind


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = pynas.supernet("mbconv-mini", num_classes=10)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return net.eval()


def test_output_equals_the_supernets(net):
    images = torch.randn(3, 3, 32, 32)
    rng = np.random.default_rng(0)
    for _ in range(8):
        architecture = net.space.sample(rng)
        model = export.subnet(net, architecture)
        torch.testing.assert_close(model(images), net(images, architecture), rtol=0, atol=0)


def test_weights_are_copies(net):
    architecture = net.space.sample(np.random.default_rng(0))
    model = export.subnet(net, architecture)
    before = net(torch.ones(1, 3, 32, 32), architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(net(torch.ones(1, 3, 32, 32), architecture), before)


def test_nothing_of_the_supernet_is_left_in(net):
    architecture = net.space.sample(np.random.default_rng(1))
    model = export.subnet(net, architecture)
    assert type(model) is nn.Sequential and not any(isinstance(m, pynas.Supernet) for m in model.modules())
    fresh = export.standalone(net.space, architecture, 10)
    assert {n: p.shape for n, p in fresh.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}


def test_file_comes_back(net, tmp_path):
    architecture = net.space.sample(np.random.default_rng(2))
    model = export.subnet(net, architecture)
    export.save_subnet(tmp_path / "net.safetensors", model, net.space, architecture, 10, note="x")
    again, metadata = export.load_subnet(tmp_path / "net.safetensors")
    assert Architecture.parse(metadata["architecture"]) == architecture and metadata["note"] == "x"
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))


SMALL = ["mbconv-mini", "hytra-mini", "nats-size", "autoformer-mini", "bignas-mini", "nasbench201-mini", "splitattention-mini",
         "vit-mini"]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_what_is_saved_is_what_is_loaded(name, tmp_path):
    """For every kind of space; of other classes or another architecture nothing is written, and no random number is drawn."""
    path, space = tmp_path / "net.safetensors", get(name)
    architecture, other = (space.sample(np.random.default_rng(n)) for n in (0, 1))
    model = export.standalone(space, architecture, 3)
    drawn = torch.get_rng_state()
    for architecture_, classes in ((architecture, 4), (other, 3)):
        with pytest.raises(InputError, match=r"^\[export\] .*load_subnet builds .* got .*write_torch_export"):
            export.save_subnet(path, model, space, architecture_, classes)
    assert not path.exists()
    export.save_subnet(path, model, space, architecture, 3)
    assert torch.equal(torch.get_rng_state(), drawn)
    state = export.load_subnet(path)[0].state_dict()
    assert list(state) == list(model.state_dict()) and all(
        torch.equal(state[n], v) for n, v in model.state_dict().items()
    )


def own_net():
    layers = [[nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)], [nn.Conv2d(4, 4, 1), nn.Identity()]]
    return pynas.Supernet([[layers]], head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))


def test_a_network_of_ones_own_modules_is_refused_before_it_is_written(tmp_path):
    net, path = own_net(), tmp_path / "net.safetensors"
    architecture = net.space.parse("01")
    with pytest.raises(InputError, match=r"^\[export\] .* got own of the kind 'own': write it by write_torch_export"):
        export.save_subnet(path, net.extract(architecture), net.space, architecture, 2)
    assert not path.exists()
    export.write_torch_export(tmp_path / "net.pt2", net.extract(architecture), (3, 8, 8))


def test_a_space_of_ones_own_kind_is_loaded_by_its_space(tmp_path, monkeypatch):
    def build(space, num_classes):
        torch.linspace(0, 1, 2).tolist()  # not on the meta device
        return own_net()

    monkeypatch.setitem(KINDS, "mine", Kind(build))
    space, path = replace(own_net().space, kind="mine"), tmp_path / "net.safetensors"
    architecture = space.parse("10")
    model = torch.compile(own_net().extract(architecture), backend="eager")
    export.save_subnet(path, model, space, architecture, 2)
    with pytest.raises(InputError, match=r"^\[export\] expected the space 'own' .* pass it as space="):
        export.load_subnet(path)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(export.load_subnet(path, space)[0](images), model(images))


@pytest.mark.parametrize("damage", ["truncate", "flip", "other"])
def test_damaged_files_are_named(net, tmp_path, damage):
    path = tmp_path / "net.safetensors"
    architecture = net.space.sample(np.random.default_rng(2))
    export.save_subnet(path, export.subnet(net, architecture), net.space, architecture, 10)
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[:-1000]
    elif damage == "flip":
        content[-1000] ^= 1
    else:
        content = bytearray(b"not safetensors")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"\[pynas.subnet\] expected .*net\.safetensors"):
        export.load_subnet(path)


def test_recalibration_equals_statistics_of_the_batches(net):
    batches = [(torch.randn(8, 3, 32, 32), torch.zeros(8)) for _ in range(3)]
    model = export.subnet(net, net.space.sample(np.random.default_rng(3)))
    export.recalibrate(model, batches)
    # The first batch norm sees the stem convolution's output: equal-sized batches average their statistics.
    features = [model.stem.conv.conv(images) for images, _ in batches]
    mean = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    var = torch.stack([f.var((0, 2, 3)) for f in features]).mean(0)
    torch.testing.assert_close(model.stem.conv.bn.running_mean, mean)
    torch.testing.assert_close(model.stem.conv.bn.running_var, var)


def test_architecture_outside_the_space(net):
    with pytest.raises(InputError, match="blocks"):
        export.subnet(net, "0|0")
