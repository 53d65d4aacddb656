"""Layers of transformers' models that are left out: generation with kept keys and values, against whole runs."""

from __future__ import annotations

import pytest
import torch

from pynas.compress import load, plan, save
from pynas.compress.pieces import Skip
from pynas.spaces import Architecture

from .families import FAMILIES, built, prepared, tokens

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 31, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 8, "intermediate_size": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip


def llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


def gemma():
    """A decoder whose layers look back 4 tokens, and at all, by turns."""
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SIZES, sliding_window=4))


def gpt():
    config = transformers.GPT2Config(vocab_size=31, n_embd=32, n_layer=3, n_head=4, n_positions=32, eos_token_id=2)
    return transformers.GPT2LMHeadModel(config)


def shrunk(model, batch, left_out, **options):
    """A model without the units of these numbers, and the others as they are; with its supernet and architecture."""
    net = plan(model, batch).supernet(paths=1, **options)
    last = [len(cuts) - 1 for ((_, cuts),) in net.blocks]
    architecture = Architecture.of((0, [last[n] if n in left_out else 0]) for n in range(len(last)))
    return net.extract(architecture), net, architecture


@pytest.mark.parametrize("left_out", [(0,), (0, 1), (1,)])
@pytest.mark.parametrize("build", [llama, gemma, gpt])
def test_generation_with_kept_keys_is_that_of_whole_runs(build, left_out):
    torch.manual_seed(0)
    small, *_ = shrunk(prepared(build()), tokens(), left_out)
    assert small.config.num_hidden_layers == 3 - len(left_out)
    ids, mask = torch.randint(3, 30, (2, 7)), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    options = {
        "attention_mask": mask,
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
    }
    kept, whole = (
        small.generate(ids, use_cache=cache, return_dict_in_generate=True, **options) for cache in (True, False)
    )
    torch.testing.assert_close(torch.stack(kept.logits), torch.stack(whole.logits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "DistilBERT", "Hugging Face ViT", "Llama", "Mistral", "Qwen3"])
def test_a_shorter_model_is_one_that_hands_on_the_input(name, tmp_path):
    model, call = built(FAMILIES[name])
    small, net, architecture = shrunk(model, call, (0,))
    layers = [part for part in small.modules() if isinstance(part, torch.nn.ModuleList)]
    assert [len(part) for part in layers] == [1] and small.config.num_hidden_layers == 1
    expected, unit = plan(model, call).model, net.blocks[0][0][0].unit
    expected.set_submodule(unit.name, Skip.of(unit))
    with torch.no_grad():
        torch.testing.assert_close(call(small)[0], call(expected)[0])
    save(tmp_path, small, net, architecture)
    with torch.no_grad():
        assert torch.equal(call(load(model, tmp_path))[0], call(small)[0])
    assert model.config.num_hidden_layers == 2


def test_settings_of_each_layer_stay_with_it():
    model = prepared(gemma())
    model.config.layer_types[:] = ["full_attention", "sliding_attention", "full_attention"]
    small, *_ = shrunk(model, tokens(), (1,))
    assert small.config.layer_types == ["full_attention"] * 2 and len(model.config.layer_types) == 3
    assert [part.layer_idx for part in small.modules() if hasattr(part, "layer_idx")] == [0, 1]


@pytest.mark.filterwarnings("ignore")  # of the name of an argument that versions before 5 have
def test_parts_of_layers_that_are_left_out_do_not_keep_their_number_either():
    config = transformers.T5Config(vocab_size=31, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0,
                                   eos_token_id=2, decoder_start_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    batch = {**tokens(), "decoder_input_ids": torch.randint(3, 30, (4, 5))}
    small, *_ = shrunk(prepared(transformers.T5ForConditionalGeneration(config)), batch, (4,))
    assert isinstance(small.decoder.block[0].layer[0], Skip)
    assert small.decoder.block[1].layer[0].SelfAttention.layer_idx == 0
    assert [block.layer[1].EncDecAttention.layer_idx for block in small.decoder.block] == [0, 1]
    first, rest = batch["decoder_input_ids"].split([2, 3], 1)
    with torch.no_grad():
        kept = small(**tokens(), decoder_input_ids=first, use_cache=True).past_key_values
        found = small(**tokens(), decoder_input_ids=rest, past_key_values=kept, use_cache=True).logits
        torch.testing.assert_close(found, small(**batch, use_cache=False).logits[:, 2:], rtol=1e-4, atol=1e-5)
