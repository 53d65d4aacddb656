"""Smaller models as torch.export and ONNX, and all that the command writes for a model of transformers."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import pynas
from pynas.calls import Call
from pynas.cli import app
from pynas.errors import InputError
from pynas.runs import compress
from pynas.runs.compress import write_formats

from .families import FAMILIES, built, prepared
from .test_hugging_face import HALF, OUT, again, modules_cache, shrunk  # noqa: F401 (a fixture)
from .test_left_out import SIZES

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs onnx, onnxscript and onnxruntime")


def whole(batch):
    """The batch without padding."""
    if not isinstance(batch, dict) or "attention_mask" not in batch:
        return batch
    return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}


def calls(name):
    """A smaller model, the call that it is traced by, without padding, and another one of five samples with padding."""
    model, call = built(FAMILIES[name])
    small, *_ = shrunk(model, call, (OUT, HALF), heads=False)
    rows = [0, 1, 0, 1, 1] if call.samples == 2 else [0, 1, 2, 3, 2]
    other = call.mapped(lambda x: x[rows])
    return small, Call(call.args, whole(dict(call.kwargs))).head(2), other


def only_tensors(call):
    return {name: value for name, value in call.kwargs.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("name", ["BERT", "DistilBERT", "Hugging Face ViT", "Llama", "Qwen3"])
def test_torch_export_of_a_smaller_model(tmp_path, name):
    small, call, other = calls(name)
    made = write_formats(tmp_path, small, call, ["torch-export"])
    assert made["torch_export_batch"] == "any" and made["torch_export_difference"] < 1e-5
    program = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        found, expected = program(*other.args, **only_tensors(other)), other(small)
    assert type(found) is dict and list(found) == list(expected)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


@needs_onnx
@pytest.mark.parametrize("name", ["BERT", "DistilBERT", "Hugging Face ViT", "Llama", "Qwen3"])
def test_onnx_of_a_smaller_model(tmp_path, name):
    import onnxruntime

    small, call, other = calls(name)
    made = write_formats(tmp_path, small, call, ["onnx"])
    assert made["onnx_batch"] == "any" and made["onnx_difference"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = only_tensors(other) or {"pixel_values": other.args[0]}
    assert [value.name for value in session.get_inputs()] == list(feeds)
    found = session.run(None, {key: value.numpy() for key, value in feeds.items()})
    with torch.no_grad():
        expected = other(small)
    assert [value.name for value in session.get_outputs()] == list(expected)
    for value, key in zip(found, expected):
        torch.testing.assert_close(torch.from_numpy(value), expected[key], rtol=1e-3, atol=1e-4)


class OfTwo(nn.Module):
    """A network whose code takes two samples."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, features, mask):
        return {"features": self.linear(features).view(2, 8) * mask}


@pytest.mark.parametrize("name", ["torch-export", pytest.param("onnx", marks=needs_onnx)])
def test_a_batch_size_that_a_model_fixes(tmp_path, name):
    key = name.replace("-", "_")
    call = Call((torch.randn(2, 8),), {"mask": torch.tensor([[1.0], [0.0]])})
    made = write_formats(tmp_path, OfTwo(), call, [name])
    assert made[f"{key}_batch"] == 2 and made[f"{key}_difference"] < 1e-5
    assert made[key] == str(tmp_path / ("model.pt2" if key == "torch_export" else "model.onnx"))
    with pytest.raises(InputError, match="to run on images"):
        write_formats(tmp_path / "none", OfTwo(), call.mapped(lambda x: x[[0, 1, 0]]), [name])
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of a small Llama with a tokenizer, and a file of texts."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    model = prepared(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)))
    model.save_pretrained(folder)
    words = [f"w{number}" for number in range(28)]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["pad", "s", "/s", *words])}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="pad").save_pretrained(folder)
    texts = [" ".join(words[(7 * n + 3 * place) % 28] for place in range(2 + n % 5)) for n in range(12)]
    (folder / "texts.txt").write_text("\n".join(texts))
    return folder


def run(source, out, *words):
    """Run the command on a folder under 80 % of the multiply-adds."""
    told = [
        "compress",
        f"hf:{source}",
        "--data",
        str(source / "texts.txt"),
        "--max-madds",
        "80%",
        "--out",
        str(out),
        *words,
    ]
    return CliRunner().invoke(app, told)


@pytest.mark.integration
def test_the_command_writes_all_for_a_model_of_transformers(tmp_path, source):
    import transformers

    formats = ["--format", "torch-export", *(["--format", "onnx"] if HAS_ONNX else [])]
    done = run(source, tmp_path / "small", "--json", *formats)
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout[done.stdout.index("{") :])
    loaded = again(tmp_path / "small", content["hugging_face"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    batch = dict(tokenizer(["w3 w4", "w5 w6 w7 w8"], return_tensors="pt", padding=True))
    small = pynas.compress.load(transformers.AutoModelForCausalLM.from_pretrained(source), tmp_path / "small")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, small(**batch).logits, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in loaded.parameters()) == content["costs"]["params"]
    assert content["torch_export"].endswith("model.pt2") and (tmp_path / "small" / "model.pt2").is_file()
    assert not HAS_ONNX or (tmp_path / "small" / "model.onnx").is_file()


@pytest.mark.integration
def test_the_command_says_how_to_load(tmp_path, source, monkeypatch):
    done = run(source, tmp_path / "small")
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path / "small"}"' in done.output.replace("\n", "")

    def refuse(*args):
        raise InputError("[compress] expected another model")

    monkeypatch.setattr(compress, "save_pretrained", refuse)
    done = run(source, tmp_path / "other")
    assert done.exit_code == 0 and "[compress] expected another model" in done.output
    assert (tmp_path / "other" / "compress.json").is_file() and not (tmp_path / "other" / "config.json").exists()


def test_an_unknown_format_is_named(tmp_path, source):
    error = run(source, tmp_path, "--format", "python").exception
    assert isinstance(error, InputError) and "torch-export or onnx, got 'python'" in str(error)
