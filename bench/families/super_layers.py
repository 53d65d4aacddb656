"""Layers in the style of AutoFormer: `set_sample_config` keeps slices of the weights, which a forward pass then uses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 16


class LinearSuper(nn.Linear):
    """Linear layer of leading rows and columns; interleaved: rows k, k+3, ... stand together, as queries, keys and values."""

    def __init__(self, inputs: int, outputs: int, interleaved: bool = False) -> None:
        super().__init__(inputs, outputs)
        self.samples: dict[str, Tensor] = {}
        self.interleaved = interleaved

    def set_sample_config(self, sample_in_dim: int, sample_out_dim: int) -> None:
        weight = self.weight[:, :sample_in_dim]
        if self.interleaved:
            weight = torch.cat([weight[i:sample_out_dim:3] for i in range(3)])
        self.samples["weight"], self.samples["bias"] = weight[:sample_out_dim], self.bias[:sample_out_dim]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.samples["weight"], self.samples["bias"])


class LayerNormSuper(nn.LayerNorm):
    """Layer norm of the leading channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.samples: dict[str, Tensor] = {}
        self.sample_embed_dim = channels

    def set_sample_config(self, sample_embed_dim: int) -> None:
        self.sample_embed_dim = sample_embed_dim
        self.samples["weight"], self.samples["bias"] = self.weight[:sample_embed_dim], self.bias[:sample_embed_dim]

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.sample_embed_dim,), self.samples["weight"], self.samples["bias"], self.eps)


class AttentionSuper(nn.Module):
    """Attention of `sample_num_heads` heads, with embedded relative positions on the keys."""

    def __init__(self, channels: int, heads: int, distance: int = 4) -> None:
        super().__init__()
        self.qkv = LinearSuper(channels, 3 * heads * HEAD, interleaved=True)
        self.proj = LinearSuper(heads * HEAD, channels)
        self.table, self.distance = nn.Parameter(0.2 * torch.randn(2 * distance + 1, HEAD)), distance
        self.sample_num_heads = heads

    def set_sample_config(self, sample_num_heads: int, sample_embed_dim: int) -> None:
        self.sample_num_heads = sample_num_heads
        self.qkv.set_sample_config(sample_embed_dim, 3 * sample_num_heads * HEAD)
        self.proj.set_sample_config(sample_num_heads * HEAD, sample_embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.sample_num_heads, HEAD).permute(2, 0, 3, 1, 4)
        places = torch.arange(tokens, device=x.device)
        away = (places[None] - places[:, None]).clamp(-self.distance, self.distance) + self.distance
        logits = q @ k.transpose(-2, -1) + torch.einsum("bhqc,qkc->bhqk", q, self.table[away])
        y = (logits * HEAD**-0.5).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, -1))


class EncoderLayer(nn.Module):
    """Transformer layer of a sampled width, number of heads and MLP ratio; without a configuration it cannot run."""

    def __init__(self, channels: int, heads: int, ratio: float = 4) -> None:
        super().__init__()
        self.attn_layer_norm, self.ffn_layer_norm = LayerNormSuper(channels), LayerNormSuper(channels)
        self.attn = AttentionSuper(channels, heads)
        self.fc1, self.fc2 = LinearSuper(channels, int(channels * ratio)), LinearSuper(int(channels * ratio), channels)
        self.super_mlp_ratio, self.is_identity_layer = ratio, False

    def set_sample_config(self, is_identity_layer: bool, sample_embed_dim: int = 0, sample_mlp_ratio: float = 4,
                          sample_num_heads: int = 0) -> None:  # fmt: skip
        self.is_identity_layer = is_identity_layer
        if is_identity_layer:
            return
        middle = int(sample_embed_dim * sample_mlp_ratio)
        self.sample_mlp_ratio = sample_mlp_ratio
        self.attn_layer_norm.set_sample_config(sample_embed_dim=sample_embed_dim)
        self.ffn_layer_norm.set_sample_config(sample_embed_dim=sample_embed_dim)
        self.attn.set_sample_config(sample_num_heads, sample_embed_dim)
        self.fc1.set_sample_config(sample_embed_dim, middle)
        self.fc2.set_sample_config(middle, sample_embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_identity_layer:
            return x
        x = x + self.attn(self.attn_layer_norm(x))
        y = self.fc2(F.gelu(self.fc1(self.ffn_layer_norm(x))))
        return x + y * (self.super_mlp_ratio / self.sample_mlp_ratio)
