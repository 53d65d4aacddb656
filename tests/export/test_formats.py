"""Networks as torch.export, ONNX, and a Python file that needs only torch."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from pynas import export
from pynas.errors import InputError
from pynas.export.python_source import _rebuilds, traced
from pynas.spaces import get

SPACE = get("mbconv-mini")
ARCHITECTURE = SPACE.parse("1:13|0:02|2:130|21")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = export.standalone(SPACE, ARCHITECTURE, 10)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.1, 0.5)
            nn.init.uniform_(part.weight, 0.5, 2.0)
    return net.eval()


class Tokens(nn.Module):
    """A network that cannot be traced by layers: Python computes with sizes, and attention has layers inside."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.register_buffer("scale", torch.full((8,), 0.5))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        place = torch.arange(x.shape[1])
        bias = -(place[None] - place[:, None]).abs().float()
        return self.attention(self.norm(x), x, x, attn_mask=bias, need_weights=False)[0][:, 0] * self.scale


PLAIN = """
import sys
for name in ("pynas", "timm", "safetensors", "torchvision"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import torch, model
net = model.load()
images = torch.linspace(-1, 1, 3 * 3 * 32 * 32).reshape(3, 3, 32, 32)
torch.set_printoptions(precision=8)
print(net(images).flatten().tolist())
net.train()(images).sum().backward()
print(sum(p.grad is None for p in net.parameters()), sum(p.numel() for p in net.parameters()))
"""


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["mbconv", "tokens"])
def test_the_python_file_runs_without_pynas(model, tmp_path, kind):
    torch.manual_seed(1)
    net = model if kind == "mbconv" else Tokens().eval()
    path = export.write_python(
        tmp_path / "net", net, (3, 32, 32), mean=(0.1, 0.2, 0.3), std=(1, 1, 1), title="A title."
    )
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.py", "weights.safetensors"]
    text = path.read_text()
    assert (
        text.startswith('"""A title.')
        and "mean (0.1, 0.2, 0.3)" in text
        and "pynas" not in text
        and "pickle" not in text
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN, path.parent], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    outputs, counts = done.stdout.splitlines()
    images = torch.linspace(-1, 1, 3 * 3 * 32 * 32).reshape(3, 3, 32, 32)
    expected = net(images).flatten().detach().numpy()
    np.testing.assert_allclose(np.array(eval(outputs)), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 0.01
    missing, count = map(int, counts.split())
    assert missing == 0 and count == sum(p.numel() for p in net.parameters())


def test_layers_stay_layers_where_they_can(model):
    images = torch.zeros(2, 3, 32, 32)
    plain, odd = traced(model, images), traced(Tokens().eval(), images)
    assert not [node for node in plain.graph.nodes if "aten" in str(node.target)]
    assert [node for node in odd.graph.nodes if "aten" in str(node.target)]
    assert _rebuilds(nn.Conv2d(4, 8, (3, 5), 2, 1, groups=2, bias=False)) and _rebuilds(nn.GELU("tanh"))
    assert _rebuilds(nn.AvgPool2d(3, 1, 1)) and not _rebuilds(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
    strange = nn.Linear(2, 2)
    strange.extra_repr = lambda: "2, 3"
    assert not _rebuilds(strange) and not _rebuilds(nn.MultiheadAttention(4, 2))


HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript"))
SUFFIX = {export.write_python: "", export.write_torch_export: ".pt2", export.write_onnx: ".onnx"}
WRITERS = [export.write_python, export.write_torch_export, *[export.write_onnx] * HAS_ONNX]


class Small(nn.Module):
    """Features of a convolution, a learned query, a classifier, joined by a function of the module and the images."""

    def __init__(self, join):
        super().__init__()
        self.embed, self.classifier = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)
        self.query, self.join, self.count = nn.Parameter(torch.randn(1, 8)), join, 2

    def forward(self, x):
        return self.join(self, x)

    def vector(self, x):
        return self.embed(x).mean((2, 3))


def small(join):
    torch.manual_seed(0)
    return Small(join).eval()


def ran(path, images):
    """Outputs of a written file by another reader than the one that checked it, as a list."""
    if path.is_dir():
        spec = importlib.util.spec_from_file_location("written", path / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return tree_leaves(module.load()(images))
    if path.suffix == ".pt2":
        return tree_leaves(torch.export.load(path).module()(images))
    from onnx.reference import ReferenceEvaluator

    return [torch.from_numpy(y) for y in ReferenceEvaluator(str(path)).run(None, {"images": images.numpy()})]


ANY_BATCH = {
    "len": lambda m, x: m.classifier(m.vector(x) + m.query.expand(len(x), -1)),
    "shape": lambda m, x: m.classifier(m.vector(x) + m.query.expand(x.shape[0], -1)),
    "int": lambda m, x: m.classifier(m.vector(x) + torch.ones(int(x.shape[0]), 8)) / len(x),
    "mixes": lambda m, x: m.classifier(m.vector(x) - m.vector(x).mean(0)),
    "tuple": lambda m, x: (m.classifier(m.vector(x)), m.vector(x)),
    "dictionary": lambda m, x: {"logits": m.classifier(m.vector(x) + m.query.expand(len(x), -1)), "maps": [m.embed(x)]},
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", ANY_BATCH)
def test_a_file_takes_any_batch_size(kind, write, tmp_path):
    net, path = small(ANY_BATCH[kind]), tmp_path / ("net" + SUFFIX[write])
    write(path, net, (3, 12, 12))
    for size in (1, 2, 5, 8):
        images = torch.randn(size, 3, 12, 12)
        with torch.no_grad():
            torch.testing.assert_close(ran(path, images), tree_leaves(net(images)), rtol=1e-4, atol=1e-5)


def in_autocast(module, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = module.embed(x)
        with torch.autocast("cpu", enabled=False):
            y = module.embed(x) + y.float()
        y = module.classifier(y.mean((2, 3)))
    return module.query[:, :5] + y


def in_autocast_of_the_images(module, x):
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return module.classifier(module.vector(x))


def without_autocast(module, x):
    with torch.autocast(x.device.type, enabled=False):
        return module.classifier(module.vector(x.float()))


def without_gradients(module, x):
    with torch.no_grad():
        y = module.vector(x)
    with torch.set_grad_enabled(module.training):
        return module.classifier(y)


class Swish(torch.autograd.Function):
    """A function with a backward pass of its own, for mixed precision."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()


def keeps(module, x):
    module.kept = {"weights": module.classifier.weight[:4], "maps": module.embed(x)}
    return functional.linear(module.kept["maps"].mean((2, 3)), module.kept["weights"])


WRAPPED = {
    "autocast": in_autocast,
    "autocast by device": in_autocast_of_the_images,
    "autocast off": without_autocast,
    "decorated": torch.autocast("cpu", torch.bfloat16)(lambda m, x: m.classifier(m.vector(x))),
    "gradients": without_gradients,
    "inference": torch.inference_mode()(lambda m, x: m.classifier(m.vector(x))),
    "custom_fwd": lambda m, x: m.classifier(Swish.apply(m.vector(x))),
    "checkpoint": lambda m, x: m.classifier(checkpoint(m.vector, x, use_reentrant=False)),
    "disable": lambda m, x: m.classifier(torch.compiler.disable(m.vector)(x)),
    "keeps": keeps,
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", WRAPPED)
def test_contexts_and_wrappers_inside_a_network(kind, write, tmp_path):
    """The outputs stay, to the last bit and with their type in files of torch; onnxruntime has no bfloat16."""
    if kind == "keeps" and torch.__version__.startswith("2.7."):
        pytest.skip("torch 2.7 refuses tensors that a network keeps in a dictionary")
    net, path = small(WRAPPED[kind]), tmp_path / ("net" + SUFFIX[write])
    if write is export.write_onnx and kind in ("autocast", "autocast by device", "decorated"):
        with pytest.raises(InputError, match=r"^\[export\] expected an ONNX file that its runtime takes") as refused:
            write(path, net, (3, 12, 12))
        assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []
        return
    with torch.no_grad():
        net(torch.randn(2, 3, 12, 12))
        write(path, net, (3, 12, 12))
        images = torch.randn(5, 3, 12, 12)
        exactly = {"rtol": 0, "atol": 0} if write is not export.write_onnx else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(ran(path, images)[0], net(images), **exactly)


def test_autocast_stays_a_block_around_layers(tmp_path):
    """So that layers can be trained further, and an error inside leaves autocast."""
    source = export.write_python(tmp_path, small(in_autocast), (3, 12, 12)).read_text()
    assert source.count("        with torch.autocast('cpu', torch.bfloat16, True, None):\n            ") == 2
    assert "autocast_mode" not in source and "aten" not in source and "nn.Conv2d(3, 8" in source


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx and onnxscript")
@pytest.mark.parametrize("kind", ANY_BATCH)
def test_an_onnx_file_says_that_it_takes_any_batch_size(kind, tmp_path, monkeypatch):
    """Its input and its outputs begin with one symbol, and numbers are compared without onnxruntime too."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    result = export.write_onnx(tmp_path / "net.onnx", small(ANY_BATCH[kind]), (3, 12, 12))
    import onnx

    graph = onnx.load(tmp_path / "net.onnx").graph
    firsts = {value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)}
    assert len(firsts) == 1 and firsts != {""} and 0 <= result["onnx_difference"] < 1e-5
    assert [value.name for value in graph.input] == ["images"]
    names = {"tuple": ["output_1", "output_2"], "dictionary": ["logits", "maps"]}
    assert [value.name for value in graph.output] == names.get(kind, ["logits"])


REFUSED = {
    "decides by values": (lambda m, x: x.flatten(1) if x.sum() > 0 else -x.flatten(1), "expected a network that"),
    "decides by the batch": (lambda m, x: m.vector(x) * (1 if len(x) == 2 else 3), "any batch size"),
    "unrolls the batch": (lambda m, x: torch.stack([m.classifier(m.vector(i[None])[0]) for i in x]), "any batch size"),
    "views two": (lambda m, x: m.vector(x).view(2, -1, 8).flatten(0, 1), r"to run on images \[1, 3, 12, 12\]"),
    "two rows": (lambda m, x: m.vector(x) + m.query.expand(m.count, -1), r"each of 1 images, got the shapes \[\[2, 8"),
    "no rows": (lambda m, x: m.vector(x).mean(), r"each of 2 images, got the shapes \[\[\]\]"),
    "drops one": (lambda m, x: m.vector(x).squeeze(), r"each of 1 images, got the shapes \[\[8\]\]"),
    "nothing": (lambda m, x: (m.vector(x), None), "as outputs, got NoneType"),
    "noise": (lambda m, x: m.vector(x) + torch.randn(len(x), 8), "got a difference of"),
    "other channels": (lambda m, x: m.vector(x[:, :2]), "to run on images"),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_network_without_such_a_file_is_refused_and_nothing_stays(kind, write, tmp_path, capfd):
    join, reason = REFUSED[kind]
    with pytest.raises(InputError, match=reason) as refused:
        write(tmp_path / ("out" + SUFFIX[write]), small(join), (3, 12, 12))
    assert "\n" not in str(refused.value) and "\033" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [] and "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx and onnxscript")
def test_a_batch_size_that_the_onnx_exporter_fixes_is_seen(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from pynas.runtimes.formats import _check_any_batch

    for first in ("batch", 2):
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [s, 4]) for n, s in (("x", "batch"), ("y", first))]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
        onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
        if first == 2:
            with pytest.raises(InputError, match=r"any batch size, got the shape \[2, 4\] of 'y'"):
                _check_any_batch(tmp_path / "net.onnx")
        else:
            _check_any_batch(tmp_path / "net.onnx")


def test_torch_export_comes_back(model, tmp_path):
    result = export.write_torch_export(tmp_path / "net.pt2", model, (3, 32, 32))
    images = torch.randn(5, 3, 32, 32)
    again = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-5)
    assert result["torch_export_difference"] < 1e-3


@pytest.mark.skipif(not HAS_ONNX, reason="needs onnx and onnxscript")
def test_onnx_runs(model, tmp_path):
    result = export.write_onnx(tmp_path / "net.onnx", model, (3, 32, 32))
    images = torch.randn(5, 3, 32, 32)
    expected = model(images).detach()
    torch.testing.assert_close(ran(tmp_path / "net.onnx", images)[0], expected, rtol=1e-3, atol=1e-4)
    assert 0 < result["onnx_difference"] < 1e-3 < float(expected.std())


def test_without_the_exporter_it_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"\.\[onnx\]\""):
        export.write_onnx(tmp_path / "net.onnx", model, (3, 32, 32))


def test_features_are_the_last_maps_of_every_resolution(model):
    images = torch.randn(2, 3, 32, 32)
    net = export.features(model, (3, 32, 32))
    expected, x = {}, images
    for part in (model.stem.conv, *model.block_1, *model.block_2, *model.block_3, *model.block_4):
        x = part(x)
        expected[32 // x.shape[2]] = x
    assert net.feature_info.reduction() == list(expected) == [1, 2, 4, 8]
    assert net.feature_info.channels() == [x.shape[1] for x in expected.values()]
    for got, wanted in zip(net(images), expected.values(), strict=True):
        assert torch.equal(got, wanted)
    some = export.features(model, (3, 32, 32), out_indices=(1, -1))
    assert some.feature_info.reduction() == [2, 8] and torch.equal(some(images)[1], net(images)[3])
    before = model.block_1[0].project.conv.weight.clone()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(model.block_1[0].project.conv.weight, before)


def test_features_of_what_has_none():
    with pytest.raises(InputError, match="Sequential"):
        export.features(Tokens(), (3, 32, 32))
    with pytest.raises(InputError, match="maps"):
        export.features(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))


def test_from_pretrained(model, tmp_path):
    export.save_subnet(tmp_path / "subnet.safetensors", model, SPACE, ARCHITECTURE, 10, image_shape=[3, 32, 32])
    images = torch.randn(2, 3, 32, 32)
    for path in (tmp_path, tmp_path / "subnet.safetensors", str(tmp_path)):
        assert torch.equal(export.from_pretrained(path)(images), model(images))
    maps = export.from_pretrained(tmp_path, features_only=True)(images)
    assert [x.shape[2] for x in maps] == [32, 16, 8, 4]
    with pytest.raises(InputError, match="got none"):
        export.from_pretrained(tmp_path / "elsewhere")
