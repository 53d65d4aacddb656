"""Cuts of attention heads: every family gives the outputs of the original with zeros in place of the removed heads."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.layers import Attention, AttentionRope
from timm.models.eva import Eva, EvaAttention
from torch import nn

from pynas.compress.attention import FewerHeads
from pynas.compress.heads import find_heads, keep_heads
from pynas.errors import InputError

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
TOKENS = torch.arange(12).view(2, 6) % 11


class Wrapped(nn.Module):
    """Residual unit around an attention, as a block has it."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x, **kwargs):
        return x + self.attn(x, **kwargs)


def timm_vit(**options):
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, num_heads=4, depth=2, num_classes=3, **options
    )


def timm_eva(**options):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 4, "depth": 1, "num_classes": 3}
    return Eva(**sizes, use_rot_pos_emb=True, **options)


def timm_swin():
    options = {
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 24,
        "depths": (2, 1),
        "num_heads": (3, 4),
    }
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **options)


def torchvision_vit():
    return torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=3)


def hugging_face(name, **options):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if name == "DistilBert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    text = {"vocab_size": 11, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    image = {"image_size": 32, "patch_size": 8}
    vision = name in ("ViT", "DeiT", "CLIPVision", "SiglipVision")
    config = getattr(transformers, f"{name}Config")(**{**sizes, **(image if vision else text), **options})
    config.use_cache = False
    model = transformers.AutoModel.from_config(config)
    assert model.config._attn_implementation == options.get("attn_implementation", model.config._attn_implementation)
    return model


def llama_like(name, **options):
    return hugging_face(name, num_key_value_heads=2, head_dim=options.pop("head_dim", 8), **options)


def swin_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    sizes = {
        "image_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 24,
        "depths": [2, 1],
        "num_heads": [3, 4],
    }
    return transformers.AutoModel.from_config(transformers.SwinConfig(**sizes))


# Parameters that belong to one head: queries, keys and values of 8 features of 32 inputs with biases, and the reader.
PLAIN = 3 * 8 * (32 + 1) + 8 * 32
# One of 2 groups with 2 query heads, without biases: queries and reader of 16 features, keys and values of 8.
GROUPED = 2 * 16 * 32 + 2 * 8 * 32
# Model, name of the unit in it, input, parameters per group of heads.
FAMILIES = {
    "timm ViT": (timm_vit, "blocks.1", IMAGES, PLAIN),
    "timm ViT, normed queries": (lambda: timm_vit(qk_norm=True), "blocks.1", IMAGES, PLAIN),
    "timm DeiT": (
        lambda: timm.create_model("deit_tiny_patch16_224", img_size=32, embed_dim=32, num_heads=4, depth=1),
        "blocks.0",
        IMAGES,
        PLAIN,
    ),
    "timm gated": (lambda: Wrapped(Attention(32, 4, gated=True)), "", IMAGES[:, 0], PLAIN - 3 * 8 + 8 * 32),
    "timm rotary grouped": (
        lambda: Wrapped(AttentionRope(32, 4, qkv_fused=False, num_kv_heads=2, qkv_bias=False)),
        "",
        IMAGES[:, 0],
        GROUPED,
    ),
    "timm EVA": (lambda: timm_eva(), "blocks.0", IMAGES, PLAIN - 8),
    "timm EVA, three layers": (lambda: timm_eva(qkv_fused=False), "blocks.0", IMAGES, PLAIN - 8),
    "timm EVA, rotary attention": (lambda: timm_eva(attn_type="rope"), "blocks.0", IMAGES, PLAIN),
    "timm DINOv3": (
        lambda: timm.create_model(
            "vit_small_patch16_dinov3", img_size=32, patch_size=8, embed_dim=32, num_heads=4, depth=1
        ),
        "blocks.0",
        IMAGES,
        PLAIN - 3 * 8,
    ),
    "timm Swin": (timm_swin, "layers.0.blocks.0", IMAGES, 3 * 8 * 25 + 8 * 24 + 49),
    "timm Swin, shifted": (timm_swin, "layers.0.blocks.1", IMAGES, 3 * 8 * 25 + 8 * 24 + 49),
    "torchvision ViT": (torchvision_vit, "encoder.layers.encoder_layer_1", IMAGES, PLAIN),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), "", IMAGES[:, 0], PLAIN),
    "encoder layer, sequence first": (lambda: nn.TransformerEncoderLayer(32, 4, 48), "", IMAGES[:, 0], PLAIN),
    "BERT": (lambda: hugging_face("Bert"), "encoder.layer.1", TOKENS, PLAIN),
    "BERT, eager": (lambda: hugging_face("Bert", attn_implementation="eager"), "encoder.layer.1", TOKENS, PLAIN),
    "RoBERTa": (lambda: hugging_face("Roberta"), "encoder.layer.0", TOKENS, PLAIN),
    "DistilBERT": (lambda: hugging_face("DistilBert"), "transformer.layer.0", TOKENS, PLAIN),
    "ViT": (lambda: hugging_face("ViT"), "layers.0", IMAGES, PLAIN),
    "ViT, eager": (lambda: hugging_face("ViT", attn_implementation="eager"), "layers.0", IMAGES, PLAIN),
    "DeiT": (lambda: hugging_face("DeiT"), "layers.0", IMAGES, PLAIN),
    "CLIP": (lambda: hugging_face("CLIPVision"), "encoder.layers.0", IMAGES, PLAIN),
    "CLIP text": (lambda: hugging_face("CLIPText"), "encoder.layers.0", TOKENS, PLAIN),
    "SigLIP": (lambda: hugging_face("SiglipVision"), "encoder.layers.0", IMAGES, PLAIN),
    "Swin": (swin_of_hugging_face, "encoder.layers.0.blocks.1", IMAGES, 3 * 8 * 25 + 8 * 24 + 49),
    "Llama": (lambda: llama_like("Llama"), "layers.1", TOKENS, GROUPED),
    "Llama, eager": (lambda: llama_like("Llama", attn_implementation="eager"), "layers.1", TOKENS, GROUPED),
    "Mistral": (lambda: llama_like("Mistral"), "layers.0", TOKENS, GROUPED),
    "Qwen2": (lambda: llama_like("Qwen2"), "layers.0", TOKENS, GROUPED + 16 + 2 * 8),
    "Qwen3": (lambda: llama_like("Qwen3", head_dim=16), "layers.0", TOKENS, 2 * GROUPED),
    "Gemma": (lambda: llama_like("Gemma"), "layers.0", TOKENS, GROUPED),
    "Phi3": (lambda: llama_like("Phi3"), "layers.0", TOKENS, GROUPED),
    "Phi3, eager": (lambda: llama_like("Phi3", attn_implementation="eager"), "layers.0", TOKENS, GROUPED),
}


def randomise(module):
    """Give every parameter random values in float64, so that each head and bias matters."""
    generator = torch.Generator().manual_seed(3)
    module.double().eval()
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.4 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return module


def record(model, name, inputs):
    """Return a unit of a model and the arguments it gets in it."""
    unit, calls = model.get_submodule(name), []
    handle = unit.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    with torch.no_grad():
        model(inputs.double() if inputs.is_floating_point() else inputs)
    handle.remove()
    return unit, calls[0]


def run(unit, call):
    args, kwargs = copy.deepcopy(call)
    output = unit(*args, **kwargs)
    return output if isinstance(output, torch.Tensor) else output[0]


def zeroed(unit, heads, kept):
    """Return a copy of the unit whose reader ignores the heads that are not kept."""
    unit = copy.deepcopy(unit)
    removed = [group for group in range(heads.groups) if group not in kept]
    with torch.no_grad():
        unit.get_submodule(heads.reader).weight[:, heads.columns()[removed].flatten()] = 0
    return unit


def cut(unit, heads, kept):
    unit = copy.deepcopy(unit)
    keep_heads(unit, heads, kept)
    return unit


def size(module):
    return sum(value.numel() for value in module.parameters())


def close(output, expected):
    assert output.shape == expected.shape
    assert (output - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    """Unit, its arguments, its attention, and the parameters per group, of each family."""
    build, name, inputs, per_group = FAMILIES[request.param]
    model = randomise(build())
    unit, call = record(model, name, inputs)
    (heads,), reasons = find_heads(unit)
    assert reasons == []
    return model, name, inputs, unit, call, heads, per_group


@torch.no_grad()
def test_cut_equals_zeros_in_the_reader(family):
    _, _, _, unit, call, heads, per_group = family
    for kept in ([0], [heads.groups - 1], list(range(1, heads.groups)), [heads.groups - 1, 0]):
        if len(kept) == heads.groups:
            continue
        fewer = cut(unit, heads, kept)
        expected = run(zeroed(unit, heads, kept), call)
        close(run(fewer, call), expected)
        assert (expected - run(unit, call)).abs().max() > 1e-3  # the removed heads matter
        assert size(unit) - size(fewer) == per_group * (heads.groups - len(kept))
        close(run(copy.deepcopy(fewer), call), expected)


@torch.no_grad()
def test_state_loads_into_an_equally_cut_copy(family):
    _, _, _, unit, call, heads, _ = family
    first, second = cut(unit, heads, [0]), cut(unit, heads, [heads.groups - 1])
    assert (run(first, call) - run(second, call)).abs().max() > 1e-3
    second.load_state_dict(first.state_dict(), strict=True)
    close(run(second, call), run(first, call))


@pytest.mark.parametrize("training", [True, False])
def test_cut_keeps_modes_and_the_order_of_heads(family, training):
    _, _, _, unit, _, heads, _ = family
    unit.train(training).get_submodule(heads.reader).train(not training)
    kept = [0, 1][: heads.groups - 1]
    fewer, other = cut(unit, heads, kept), cut(unit, heads, kept[::-1])
    modes = {name: module.training for name, module in fewer.named_modules()}
    assert modes == dict.fromkeys(modes, training) | {heads.reader: not training}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in fewer.state_dict().items())


def test_cut_keeps_flags_dtypes_and_names(family, request):
    _, _, _, unit, _, heads, _ = family
    for number, value in enumerate(unit.parameters()):
        value.requires_grad = number % 2 == 0
    fewer = cut(unit.bfloat16(), heads, [1])
    before, after = dict(unit.named_parameters()), dict(fewer.named_parameters())
    if "attn.q_proj.weight" in after.keys() - before.keys():  # EVA's fused layer is taken apart
        fused, parts = before.pop("attn.qkv.weight"), [after.pop(f"attn.{name}_proj.weight") for name in "qkv"]
        assert {(part.requires_grad, part.dtype) for part in parts} == {(fused.requires_grad, fused.dtype)}
        before = {name.replace("_bias", "_proj.bias"): value for name, value in before.items()}
    assert before.keys() == after.keys()
    assert {n: (v.requires_grad, v.dtype) for n, v in before.items()} == {
        n: (v.requires_grad, v.dtype) for n, v in after.items()
    }
    changed = {name for name in before if before[name].shape != after[name].shape}
    layers = {*heads.layers, "attn.q_proj", "attn.v_proj"} if "EVA" in request.node.name else set(heads.layers)
    assert changed and {name.rpartition(".")[0] for name in changed} <= layers
    assert find_heads(unit)[0] == [heads]


def test_cut_unit_trains_in_its_model(family):
    model, name, inputs, unit, _, heads, _ = family
    if name == "":
        model = cut(unit, heads, [1])
        fewer = model
    else:
        fewer = cut(unit, heads, [1])
        model = copy.deepcopy(model)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fewer)
    model.train()
    output = model(inputs.double() if inputs.is_floating_point() else inputs)
    output = output if isinstance(output, torch.Tensor) else output.last_hidden_state
    output.square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in fewer.parameters())


def test_cut_again(family):
    _, _, _, unit, call, heads, _ = family
    if heads.groups < 3:
        pytest.skip("two groups only")
    once = cut(unit, heads, range(1, heads.groups))
    (left,), reasons = find_heads(once)
    assert reasons == [] and left.groups == heads.groups - 1
    with torch.no_grad():
        close(run(cut(once, left, [1]), call), run(cut(unit, heads, [2]), call))


def test_every_layer_of_the_attention_is_named():
    (heads,), _ = find_heads(timm_vit(qk_norm=True).blocks[0])
    assert set(heads.layers) == {"attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj"}
    (heads,), _ = find_heads(timm_swin().layers[0].blocks[0])
    assert set(heads.layers) == {"attn", "attn.qkv", "attn.proj"}
    (heads,), _ = find_heads(hugging_face("Bert").encoder.layer[0])
    names = {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"}
    assert set(heads.layers) == names and heads.module == "attention.self"


def test_columns_of_grouped_queries():
    (heads,), _ = find_heads(llama_like("Llama").layers[0])
    assert (heads.count, heads.groups) == (4, 2)
    assert heads.columns().dtype == torch.int64
    assert heads.columns().tolist() == [list(range(16)), list(range(16, 32))]


def test_shared_configuration_is_not_written():
    model = llama_like("Phi3")
    keep_heads(model.layers[0], find_heads(model.layers[0])[0][0], [1])
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)
    assert model.layers[1].self_attn.config is model.config
    own = model.layers[0].self_attn.config
    assert (own.num_attention_heads, own.num_key_value_heads) == (2, 1)
    model = llama_like("Llama")  # its code reads no numbers of heads
    keep_heads(model.layers[0], find_heads(model.layers[0])[0][0], [1])
    assert model.layers[0].self_attn.config is model.config


def test_find_changes_neither_the_unit_nor_the_random_numbers():
    unit = timm_vit().blocks[0].train()
    unit.attn.register_forward_hook(lambda *_: pytest.fail("the unit ran"))
    before, state = copy.deepcopy(unit.state_dict()), torch.get_rng_state()
    find_heads(unit)
    assert torch.equal(torch.get_rng_state(), state) and unit.training
    assert all(torch.equal(value, before[name]) for name, value in unit.state_dict().items())


def test_attention_kernel_that_the_trial_cannot_run():
    model = hugging_face("ViT")
    model.config._attn_implementation_internal = "flash_attention_2"
    assert len(find_heads(model.layers[0])[0]) == 1
    assert model.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("kept", [[], [4], [-1], [1, 1]], ids=str)
def test_wrong_groups(kept):
    unit = timm_vit().blocks[0]
    (heads,), _ = find_heads(unit)
    with pytest.raises(InputError, match=r"^\[compress\] expected .* groups of heads from 0 to 3 .*got \["):
        keep_heads(unit, heads, kept)


def test_all_groups_leave_the_unit_as_it_is():
    unit = nn.TransformerEncoderLayer(32, 4, 48)
    before, (heads,) = unit.self_attn, find_heads(unit)[0]
    keep_heads(unit, heads, range(4))
    assert unit.self_attn is before


def spectral():
    attention = Attention(32, 4)
    nn.utils.parametrizations.spectral_norm(attention.proj)
    return Wrapped(attention)


def shared():
    attention = AttentionRope(32, 4, qkv_fused=False)
    attention.k_proj.weight = attention.q_proj.weight
    return Wrapped(attention)


def shared_packed():
    unit = nn.Sequential(nn.TransformerEncoderLayer(32, 4, 48), nn.Linear(32, 32))
    unit[1].weight = unit[0].self_attn.out_proj.weight
    return unit


class ByHead(Attention):
    """Attention whose fused layer has the queries, keys and values of one head after those of another."""

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (self.num_heads, 3, self.head_dim)).permute(3, 0, 2, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Subclass(nn.MultiheadAttention):
    pass


REASONS = {
    "SwinV2": (
        lambda: timm.models.swin_transformer_v2.SwinTransformerV2Block(32, (8, 8), 4, window_size=4),
        "does not run with fewer heads",
    ),
    "Swin of torchvision": (lambda: torchvision.models.swin_t().features[1][0], "does not run with fewer heads"),
    "norm over all heads": (
        lambda: Wrapped(Attention(32, 4, scale_norm=True, norm_layer=nn.LayerNorm)),
        "does not run with fewer heads",
    ),
    "order by head": (lambda: Wrapped(ByHead(32, 4)), "computes other outputs"),
    "GPT-NeoX": (lambda: hugging_face("GPTNeoX").layers[0], "computes other outputs"),
    "DeBERTa": (lambda: hugging_face("DebertaV2").encoder.layer[0], "cannot be run alone"),
    "computed weight": (spectral, "no linear layer with a plain weight"),
    "shared": (shared, "weight is shared with another layer"),
    "shared output": (shared_packed, "weight is shared with another layer"),
    "one head": (lambda: Wrapped(Attention(32, 1)), "one head only"),
    "one packed head": (lambda: nn.TransformerEncoderLayer(32, 1, 48), "one head only"),
    "one key-value head": (
        lambda: Wrapped(AttentionRope(32, 4, qkv_fused=False, num_kv_heads=1)),
        "all its heads share one key-value head",
    ),
    "bias of keys": (lambda: Wrapped(nn.MultiheadAttention(32, 4, add_bias_kv=True)), "add_bias_kv"),
    "other width of keys": (lambda: Wrapped(nn.MultiheadAttention(32, 4, kdim=16)), "another width"),
    "subclass": (lambda: Wrapped(Subclass(32, 4)), "Subclass is not supported"),
    "the unit itself, EVA": (lambda: EvaAttention(32, 4, scale_norm=False), "the unit itself"),
    "the unit itself": (lambda: nn.MultiheadAttention(32, 4), "the unit itself"),
}


@pytest.mark.parametrize("build, reason", REASONS.values(), ids=REASONS.keys())
def test_reasons(build, reason):
    found, reasons = find_heads(build())
    assert found == []
    assert len(reasons) == 1 and reason in reasons[0]


def test_layers_that_do_not_fit_the_heads():
    unit = timm_vit().blocks[0]
    unit.attn.num_heads = 3
    assert find_heads(unit) == ([], ["attn: its layers do not fit heads of 8 features"])
    unit.attn.num_heads = unit.attn.head_dim = None
    assert find_heads(unit) == ([], ["attn: its number of heads is not known"])
    del unit.attn.proj
    assert find_heads(unit) == ([], ["attn: no layer that reads the heads' outputs was found"])


def test_units_without_attention():
    assert find_heads(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))) == ([], [])
    assert find_heads(torchvision.models.resnet18().layer1[0]) == ([], [])


def test_decoder_layer_has_two_attentions():
    unit = randomise(nn.TransformerDecoderLayer(32, 4, 48, batch_first=True))
    found, _ = find_heads(unit)
    assert [heads.module for heads in found] == ["self_attn", "multihead_attn"]
    call = ((IMAGES[:, 0].double(), IMAGES[:, 1, :7].double()), {})
    with torch.no_grad():
        expected = run(zeroed(zeroed(unit, found[0], [2]), found[1], [0, 3]), call)
        close(run(cut(cut(unit, found[0], [2]), found[1], [0, 3]), call), expected)


def packed_pair(batch_first=True, bias=True, dropout=0.0):
    """Return PyTorch's attention and the own one with the same weights."""
    torch_one = randomise(nn.MultiheadAttention(32, 4, dropout, bias, batch_first=batch_first))
    own = FewerHeads(32, 4, 8, bias, dropout, batch_first).double().eval()
    own.load_state_dict(torch_one.state_dict(), strict=True)
    return torch_one, own


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights, average", [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("masks", ["none", "bool", "float", "per head", "padding", "both"])
def test_own_attention_equals_torch(batch_first, need_weights, average, masks):
    torch_one, own = packed_pair(batch_first)
    query, key, value = torch.randn(3, 2, 5, 32, generator=torch.Generator().manual_seed(0)).double()
    if not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    options = {
        "none": {},
        "bool": {"attn_mask": causal, "is_causal": True},
        "float": {"attn_mask": torch.linspace(-2, 2, 25).view(5, 5).double()},
        "per head": {"attn_mask": torch.linspace(-2, 2, 200).view(8, 5, 5).double()},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
    }[masks]
    options |= {"need_weights": need_weights, "average_attn_weights": average}
    expected, weights = torch_one(query, key, value, **options)
    output, own_weights = own(query, key, value, **options)
    close(output, expected)
    if need_weights:
        close(own_weights, weights)
    else:
        assert own_weights is None and weights is None


def test_own_attention_without_batch_and_bias():
    torch_one, own = packed_pair(bias=False)
    x = IMAGES[0, 0].double()
    padding = torch.arange(32) > 20
    for output, expected in zip(own(x, x, x, padding), torch_one(x, x, x, padding)):
        close(output, expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_own_attention_drops_weights_in_training_only(need_weights):
    _, own = packed_pair(dropout=0.5)
    x = IMAGES[:, 0].double()
    still = own(x, x, x, need_weights=need_weights)[0]
    assert torch.equal(own(x, x, x, need_weights=need_weights)[0], still)
    assert not torch.allclose(own.train()(x, x, x, need_weights=need_weights)[0], still)


def test_own_attention_refuses_what_it_would_misread():
    _, own = packed_pair()
    x = IMAGES[:, 0].double()
    with pytest.raises(InputError, match=r"expected attn_mask with is_causal"):
        own(x, x, x, is_causal=True)
    with pytest.raises(InputError, match=r"expected an attn_mask \[L, S\] or \[8, L, S\] .* got \[6, 32, 32\]"):
        own(x, x, x, attn_mask=torch.zeros(6, 32, 32))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=str)
@torch.no_grad()
def test_encoder_with_padding_in_evaluation(which):
    """PyTorch's encoder hands nested tensors to its layers."""
    encoder = randomise(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2))
    x, padding = IMAGES[:, 0].double(), torch.arange(32) >= torch.tensor([[32], [20]])
    expected, fewer = copy.deepcopy(encoder), copy.deepcopy(encoder)
    for index in which:
        (heads,), _ = find_heads(encoder.layers[index])
        expected.layers[index] = zeroed(encoder.layers[index], heads, [1, 2])
        fewer.layers[index] = cut(encoder.layers[index], heads, [1, 2])
    close(fewer(x, src_key_padding_mask=padding), expected(x, src_key_padding_mask=padding))
