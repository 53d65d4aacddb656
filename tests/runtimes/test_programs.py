"""Programs of runtimes: their outputs beside torch's, their files, and what is refused."""

import importlib
import sys
import types

import pytest
import torch
from torch import nn

from pynas.errors import InputError
from pynas.runtimes import RUNTIMES, RefusedError, Served, Workload, build, onnx_runner, programs, write_onnx_int8

CPU = [name for name, runtime in RUNTIMES.items() if "cpu" in (runtime.devices or ("cpu",))]


def there(name):
    missing = RUNTIMES[name].missing
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed"))


def network():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("name", [there(name) for name in CPU])
def test_every_runtime_gives_the_networks_outputs(name):
    model, batch = network(), torch.randn(4, 3, 8, 8)
    program = build(name, model, batch, threads=1)
    expected = model(batch).detach()
    apart = (program(batch) - expected).abs().max() / expected.abs().max()
    # 8-bit numbers have 256 steps; OpenVINO takes bfloat16 where the CPU has it.
    assert apart < {"openvino": 2e-2}.get(name, 8e-2 if RUNTIMES[name].int8 else 1e-5)
    assert (apart > 0) if RUNTIMES[name].int8 else True
    assert program.size() >= (
        sum(p.numel() for p in model.parameters()) if RUNTIMES[name].int8 else programs.weight_bytes(model)
    )


def test_files_of_8_bits_are_smaller_and_calibrated_on_what_is_given(tmp_path):
    pytest.importorskip("onnxruntime")
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    images = 10 * torch.randn(6, 3, 12, 12)
    expected = model(images).detach()
    apart = {}
    for scale in (1.0, 0.01):
        write_onnx_int8(tmp_path / "8.onnx", model, (3, 12, 12), [(scale * images).numpy()])
        got = onnx_runner(tmp_path / "8.onnx")
        apart[scale] = float((got(images) - expected).abs().max() / expected.abs().max())
        assert torch.equal(got(images[:2]), got(images)[:2])  # any batch size
    assert apart[1.0] < 0.05 < 0.5 < apart[0.01]  # ranges of other images cut the outputs off
    float32 = build("onnxruntime", model, images, 1).size()
    assert (tmp_path / "8.onnx").stat().st_size < 0.5 * float32


def test_a_program_of_a_fixed_batch_takes_smaller_ones():
    pytest.importorskip("onnxruntime")
    model, images = network(), torch.randn(3, 3, 8, 8)
    served = Served(build("onnxruntime", model, torch.zeros(8, 3, 8, 8), 1), 8)
    assert torch.allclose(served(images), model(images), atol=1e-6) and served(images).shape == (3, 5)


def test_torch_compile_compiles_every_network_of_a_class():
    from torch._dynamo.utils import counters

    counters.clear()
    for width in range(1, 12):  # torch.compile gives up after 8 forms of one class's code
        build("compile", nn.Sequential(nn.Linear(3, width)), torch.randn(2, 3), 1)
    assert counters["stats"]["unique_graphs"] == 11 and not counters["recompile_limit"]


class Unknown(nn.Module):
    """Runs an operator that ONNX lacks."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize("name", [there(name) for name in CPU if not RUNTIMES[name].by_torch])
def test_an_operator_that_the_runtime_lacks_is_named(name):
    with pytest.raises(
        RefusedError, match=f"that {RUNTIMES[name].title} takes, got .*prims.bessel_j0, which ONNX does not have"
    ):
        build(name, Unknown(), torch.randn(1, 3), 1)


def test_an_operator_of_a_type_that_the_runtime_lacks_is_named():
    pytest.importorskip("onnxruntime")
    with pytest.raises(RefusedError, match=r"implementation for Conv\("):
        build("onnxruntime", nn.Conv2d(3, 3, 1).double(), torch.randn(1, 3, 4, 4).double(), 1)


def test_tensorrt_is_asked_for_the_batch(monkeypatch):
    """A stand-in: the real compiler needs a GPU."""
    asked = []
    fake = types.SimpleNamespace(compile=lambda model, ir, arg_inputs: asked.append((ir, arg_inputs)) or model)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
    batch = torch.randn(2, 3, 8, 8)
    assert torch.equal(build("tensorrt", network(), batch, 1)(batch), network()(batch))
    assert asked == [("dynamo", [batch])]


@pytest.mark.cuda
def test_tensorrt_on_a_gpu():
    pytest.importorskip("torch_tensorrt")
    model, batch = network().cuda(), torch.randn(2, 3, 8, 8, device="cuda")
    assert torch.allclose(build("tensorrt", model, batch, 1)(batch), model(batch), atol=1e-2)


def test_what_a_workload_refuses(monkeypatch):
    with pytest.raises(InputError, match="a runtime of torch, compile, .*, got 'tflite'"):
        Workload("tflite")
    with pytest.raises(InputError, match="1 or more, got 0 and None"):
        Workload(batch_size=0)
    with pytest.raises(InputError, match="1 or more, got 1 and 0"):
        Workload(threads=0)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("openvino", "torch_tensorrt") else found(name)
    )
    with pytest.raises(
        InputError, match=r'expected openvino for openvino, got no such package; pip install "\.\[openvino\]"'
    ):
        Workload("openvino")
    with pytest.raises(InputError, match="expected torch_tensorrt for tensorrt, .*pip install torch-tensorrt"):
        Workload("tensorrt")
    monkeypatch.setitem(RUNTIMES, "gpu", programs.Runtime("GPU", RUNTIMES["torch"].build, devices=("cuda",)))
    with pytest.raises(InputError, match="expected --device cuda for gpu, got cpu"):
        Workload("gpu")


def test_a_workload_sets_torchs_threads_for_a_while():
    before = torch.get_num_threads()
    workload = Workload(threads=before + 1)
    with workload.at_work():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert workload.name == f"torch-cpu-batch1-threads{before + 1}" and f"{before + 1} threads" in workload.device_name
    assert Workload().used_threads == before
