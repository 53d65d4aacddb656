"""Small models of every family, with random weights, and a batch for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pynas.calls import Call

MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])


@dataclass(frozen=True)
class Family:
    """A model, its batch, and its units.

    stages: units of each stage. changing: numbers of the stages whose first unit is not residual. unit: name of the units' class.
    chained: whether a unit gets the output of the one before, also from stage to stage.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], Any]
    stages: tuple[int, ...]
    changing: Sequence[int]
    unit: str
    chained: bool = True


def images(side: int = 64, samples: int = 2) -> torch.Tensor:
    """Images `[samples, 3, side, side]`."""
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(0))


def tokens() -> dict[str, torch.Tensor]:
    """Four sentences, three with padding."""
    ids = torch.randint(1, 30, MASK.shape, generator=torch.Generator().manual_seed(0)) * MASK
    return {"input_ids": ids, "attention_mask": MASK}


def features() -> dict[str, torch.Tensor]:
    """Sequences of features with a mask of padding."""
    x = torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(0))
    return {"src": x, "src_key_padding_mask": MASK == 0}


def prepared(model: nn.Module, call: Call | None = None) -> nn.Module:
    """Give a model weights that all count, and its batch norms statistics that fit an example."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 2:
                value.copy_(1.5 * noise / value.shape[1] ** 0.5)
            else:
                value.add_(0.3 * noise * (value.std() if value.std(unbiased=False) > 1e-5 else 1))
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        for norm in norms:
            norm.momentum = 0.5
        for _ in range(3 if call is not None and norms else 0):
            call(model.train())
    return model.eval()


def built(family: Family) -> tuple[nn.Module, Call]:
    """Return a family's model and its call."""
    torch.manual_seed(0)
    model, batch = family.build(), family.batch()
    call = Call.of(batch, model)
    return prepared(model, call), call


def of_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a timm model."""
    return partial(timm.create_model, name, num_classes=5, **options)


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    """Return a builder of a torchvision model."""
    return partial(getattr(torchvision.models, name), num_classes=5)


def of_hugging_face(name: str, task: str = "AutoModel", **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a tiny Hugging Face model."""

    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        if name == "DistilBert":
            sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
        text = {"vocab_size": 31, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        others = {"image_size": 32, "patch_size": 8} if name == "ViT" else text
        config = getattr(transformers, f"{name}Config")(**{**sizes, **others, **options})
        return getattr(transformers, task).from_config(config)

    return build


def of_decoder(name: str, task: str = "AutoModelForCausalLM") -> Callable[[], nn.Module]:
    """Return a builder of a tiny decoder with grouped queries."""
    return of_hugging_face(name, task, num_key_value_heads=2, head_dim=8)


def encoder() -> nn.Module:
    """Return torch's own transformer encoder."""
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def small_vit() -> nn.Module:
    """Return a vision transformer of torchvision."""
    return torchvision.models.VisionTransformer(32, 8, 3, 4, 32, 48, num_classes=5)


def small_swin() -> nn.Module:
    """Return a Swin transformer of torchvision."""
    return torchvision.models.SwinTransformer([2, 2], 24, [2, 2], [3, 6], [4, 4], num_classes=5)


small = partial(images, 32)
CLASSIFIER = "AutoModelForSequenceClassification"
FAMILIES = {
    "timm mobilenetv2": Family(of_timm("mobilenetv2_100"), images, (2, 3, 4, 3, 3, 1), range(6), "InvertedResidual"),
    "timm mobilenetv3": Family(of_timm("mobilenetv3_small_100"), images, (2, 3, 2, 3), range(4), "InvertedResidual"),
    "timm efficientnet": Family(of_timm("efficientnet_b0"), images, (2, 2, 3, 3, 4, 1), range(6), "InvertedResidual"),
    "timm resnet18": Family(of_timm("resnet18"), images, (2, 2, 2, 2), (1, 2, 3), "BasicBlock"),
    "timm resnet50": Family(of_timm("resnet50"), images, (3, 4, 6, 3), range(4), "Bottleneck"),
    "timm regnet": Family(of_timm("regnety_004"), images, (1, 3, 6, 6), range(4), "Bottleneck"),
    "timm convnext": Family(of_timm("convnext_atto", drop_path_rate=0.1), images, (2, 2, 6, 2), (), "ConvNeXtBlock", False),
    "timm convnextv2": Family(of_timm("convnextv2_atto"), images, (2, 2, 6, 2), (), "ConvNeXtBlock", False),
    "timm deit": Family(of_timm("deit_tiny_patch16_224", img_size=32, embed_dim=48), small, (12,), (), "Block"),
    "timm swin": Family(
        of_timm("swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=24, depths=(2, 2),
                num_heads=(3, 6)),
        small, (2, 2), (), "SwinTransformerBlock", False,
    ),
    "mobilenet_v2": Family(of_torchvision("mobilenet_v2"), images, (1, 2, 3, 4, 3, 3, 1), range(7), "InvertedResidual"),
    "mobilenet_v3": Family(of_torchvision("mobilenet_v3_small"), images, (1, 2, 3, 2, 3), range(5), "InvertedResidual"),
    "efficientnet": Family(of_torchvision("efficientnet_b0"), images, (1, 2, 2, 3, 3, 4, 1), range(7), "MBConv"),
    "resnet18": Family(of_torchvision("resnet18"), images, (2, 2, 2, 2), (1, 2, 3), "BasicBlock"),
    "regnet": Family(of_torchvision("regnet_y_400mf"), images, (1, 3, 6, 6), range(4), "ResBottleneckBlock"),
    "convnext": Family(of_torchvision("convnext_tiny"), images, (3, 3, 9, 3), (), "CNBlock", False),
    "vit": Family(small_vit, small, (3,), (), "EncoderBlock"),
    "swin": Family(small_swin, small, (2, 2), (), "SwinTransformerBlock", False),
    "BERT": Family(of_hugging_face("Bert"), tokens, (2,), (), "BertLayer"),
    "BERT classifier": Family(of_hugging_face("Bert", CLASSIFIER), tokens, (2,), (), "BertLayer"),
    "RoBERTa": Family(of_hugging_face("Roberta"), tokens, (2,), (), "RobertaLayer"),
    "DistilBERT": Family(of_hugging_face("DistilBert", CLASSIFIER), tokens, (2,), (), "TransformerBlock"),
    "Hugging Face ViT": Family(of_hugging_face("ViT"), small, (2,), (), "ViTLayer"),
    "Llama": Family(of_decoder("Llama"), tokens, (2,), (), "LlamaDecoderLayer"),
    "Mistral": Family(of_decoder("Mistral"), tokens, (2,), (), "MistralDecoderLayer"),
    "Qwen3": Family(of_decoder("Qwen3"), tokens, (2,), (), "Qwen3DecoderLayer"),
    "encoder": Family(encoder, features, (3,), (), "TransformerEncoderLayer"),
}  # fmt: skip
