"""Exported networks: the same output as the supernet, and files that load as they were saved."""

import numpy as np
import pytest
import torch
from torch import nn

import pynas
from pynas import export
from pynas.errors import InputError
from pynas.spaces import Architecture


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
