"""Folders of smaller models that `from_pretrained` of transformers loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from safetensors import safe_open

from pynas.calls import Call
from pynas.compress import load, plan, save, save_pretrained
from pynas.compress.hugging_face import CODE
from pynas.errors import InputError
from pynas.spaces import Architecture

from .families import FAMILIES, built, prepared, tokens
from .test_left_out import SIZES

transformers = pytest.importorskip("transformers")
MODELS = ["BERT", "BERT classifier", "RoBERTa", "DistilBERT", "Hugging Face ViT", "Llama", "Mistral", "Qwen3"]
HALF, OUT, AS_IT_IS = 1, -1, 0


@pytest.fixture(autouse=True)
def modules_cache(tmp_path, monkeypatch):
    """Let transformers copy modelling files to a folder of the test."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def shrunk(model, batch, cuts, **options):
    """A model with the candidates of these numbers in its units; with its supernet and architecture."""
    net = plan(model, batch).supernet(paths=1, widths=(1, 0.5), **options)
    assert len(net.blocks) == len(cuts)
    numbers = [range(len(own))[cut] for ((_, own),), cut in zip(net.blocks, cuts)]
    architecture = Architecture.of((0, [number]) for number in numbers)
    return net.extract(architecture), net, architecture


def again(folder, made, **options):
    """Load a folder as the line of Python says that `save_pretrained` returned."""
    kind = getattr(transformers, made["load"].split(".")[1])
    assert ("trust_remote_code=True" in made["load"]) == (made["sizes"] == CODE)
    model, info = kind.from_pretrained(
        folder, output_loading_info=True, trust_remote_code=made["sizes"] == CODE, **options
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize(
    ("cuts", "sizes"),
    [((HALF, HALF), "config.json"), ((OUT, HALF), "config.json"), ((AS_IT_IS, HALF), CODE)],
)  # fmt: skip
@pytest.mark.parametrize("name", MODELS)
def test_every_family_comes_back(tmp_path, name, cuts, sizes):
    model, call = built(FAMILIES[name])
    small, *_ = shrunk(model, call, cuts, heads=False)
    made = save_pretrained(tmp_path, small, call)
    assert made["sizes"] == sizes and (tmp_path / CODE).exists() == (sizes == CODE)
    loaded = again(tmp_path, made)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in small.parameters())
    with torch.no_grad():
        torch.testing.assert_close(call(loaded)[0], call(small)[0], rtol=1e-5, atol=1e-5)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".writing-")]


@pytest.mark.parametrize("name", ["BERT", "DistilBERT", "Hugging Face ViT", "Llama", "Qwen3"])
@pytest.mark.parametrize("cuts", [(-2, -2), (AS_IT_IS, -2)])
def test_heads_come_back(tmp_path, name, cuts):
    model, call = built(FAMILIES[name])
    small, *_ = shrunk(model, call, cuts, heads=(1, 0.5))
    made = save_pretrained(tmp_path, small, call)
    # Two of four heads in every layer: a configuration without the size of a head would make them twice as wide.
    of_config = cuts[0] == cuts[1] and name in ("Hugging Face ViT", "Llama", "Qwen3")
    assert made["sizes"] == ("config.json" if of_config else CODE)
    with torch.no_grad():
        torch.testing.assert_close(call(again(tmp_path, made))[0], call(small)[0], rtol=1e-5, atol=1e-5)


FRESH = """
import sys
sys.modules["pynas"] = None
import torch, transformers
model = {load}
ids = torch.arange(3, 17).reshape(2, 7)
mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
made = model.generate(ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True,
                      return_dict_in_generate=True)
tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
torch.save([type(model).__name__, made.sequences, torch.stack(made.logits), tied], "{out}")
"""


@pytest.mark.parametrize(
    ("cuts", "tied"), [((OUT, HALF, HALF), False), ((OUT, OUT, HALF), True), ((OUT, HALF, -2), True)]
)
def test_a_fresh_process_generates_without_pynas(tmp_path, cuts, tied):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)
    small, *_ = shrunk(prepared(transformers.LlamaForCausalLM(config)), tokens(), cuts)
    small.generation_config.temperature = 0.5
    made = save_pretrained(tmp_path, small, tokens())
    uniform = cuts[2] == HALF
    assert made["sizes"] == ("config.json" if uniform else CODE)
    out = tmp_path / "made.pt"
    code = FRESH.format(load=made["load"], out=out)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, capture_output=True)
    name, sequences, logits, still_tied = torch.load(out, weights_only=True)
    assert name == ("LlamaForCausalLM" if uniform else "CompressedLlamaForCausalLM") and still_tied == tied
    ids, mask = torch.arange(3, 17).reshape(2, 7), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    whole = small.generate(
        ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=False,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    assert torch.equal(sequences, whole.sequences)
    torch.testing.assert_close(logits, torch.stack(whole.logits), rtol=1e-4, atol=1e-5)
    assert transformers.GenerationConfig.from_pretrained(tmp_path).temperature == 0.5


def test_parts_of_layers_that_are_left_out(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=31, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0
    )
    model, call = prepared(transformers.T5EncoderModel(config)), Call((), tokens())
    small, *_ = shrunk(model, call, (AS_IT_IS, OUT, OUT, HALF))
    made = save_pretrained(tmp_path, small, call)
    loaded = again(tmp_path, made)
    assert made["sizes"] == CODE and [type(part).__name__ for part in loaded.modules()].count("Skip") == 2
    with torch.no_grad():
        torch.testing.assert_close(call(loaded)[0], call(small)[0], rtol=1e-5, atol=1e-5)
        assert (call(model)[0] - call(small)[0]).abs().max() > 0.1


def test_one_file_of_weights_serves_both(tmp_path):
    model, call = built(FAMILIES["BERT"])
    small, net, architecture = shrunk(model, call, (AS_IT_IS, HALF))
    save(tmp_path, small, net, architecture)
    weights = (tmp_path / "model.safetensors").stat()
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"  # transformers 4 asks for it
    made = save_pretrained(tmp_path, small, call)
    assert (tmp_path / "model.safetensors").stat().st_ino == weights.st_ino
    with torch.no_grad():
        assert torch.equal(call(load(model, tmp_path))[0], call(again(tmp_path, made))[0])
    # The weights of another network take their place, and the modelling file goes where it is not needed.
    small, *_ = shrunk(model, call, (OUT, AS_IT_IS))
    made = save_pretrained(tmp_path, small, call)
    assert made["sizes"] == "config.json" and not (tmp_path / CODE).exists()
    with torch.no_grad():
        torch.testing.assert_close(call(again(tmp_path, made))[0], call(small)[0])


def test_a_folder_that_does_not_give_the_outputs_is_not_left(tmp_path):
    model, call = built(FAMILIES["BERT"])
    handle = model.encoder.layer[0].register_forward_hook(lambda part, args, output: 2 * output)
    with pytest.raises(InputError, match="other outputs than the model's"):
        save_pretrained(tmp_path, model, call)
    handle.remove()
    model.encoder.layer[0].intermediate = torch.nn.Sequential(model.encoder.layer[0].intermediate)
    with pytest.raises(InputError, match="intermediate of the class Sequential in place of BertIntermediate"):
        save_pretrained(tmp_path, model, call)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.raises(InputError, match="expected a model of transformers .* got ResNet"):
        save_pretrained(tmp_path, timm.create_model("resnet18"), torch.zeros(2, 3, 32, 32))


def test_half_precision_and_the_mode_stay(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES)
    model = prepared(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)).train()
    model.config.dtype = torch.float32  # as it was before `model.to`
    made = save_pretrained(tmp_path, model, tokens())
    assert model.training and again(tmp_path, made).dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_values_that_follow_from_the_number_of_a_layer_stay(tmp_path):
    """Layers of this model divide by their number, which is another one in a shorter model."""
    config = transformers.GPT2Config(vocab_size=31, n_embd=32, n_layer=3, n_head=4, n_positions=32,
                                     scale_attn_by_inverse_layer_idx=True)  # fmt: skip
    torch.manual_seed(0)
    model, call = prepared(transformers.GPT2LMHeadModel(config)), Call((), {**tokens(), "use_cache": False})
    small, *_ = shrunk(model, call, (OUT, AS_IT_IS, AS_IT_IS))
    made = save_pretrained(tmp_path, small, call)
    assert made["sizes"] == CODE
    with torch.no_grad():
        torch.testing.assert_close(call(again(tmp_path, made))[0], call(small)[0], rtol=1e-5, atol=1e-5)
