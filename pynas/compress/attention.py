"""Attention of PyTorch's signature with fewer heads than `nn.MultiheadAttention` allows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pynas.errors import InputError


class FewerHeads(nn.Module):
    """`nn.MultiheadAttention` whose heads together are narrower than its input; the names of its weights are the same.

    width: features of the input and the output, `E`. heads: number of heads. size: features of a head.
    """

    # Read by `nn.TransformerEncoderLayer` and `nn.TransformerEncoder`: False keeps both off their fused kernels.
    _qkv_same_embed_dim = False

    def __init__(
        self, width: int, heads: int, size: int, bias: bool = True, dropout: float = 0.0, batch_first: bool = False
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = width, heads, size
        self.dropout, self.batch_first = dropout, batch_first
        self.in_proj_weight = nn.Parameter(torch.empty(3 * heads * size, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * heads * size)) if bias else None
        self.out_proj = nn.Linear(heads * size, width, bias)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `nn.MultiheadAttention` does; a mask `[B * heads, L, S]` is one of the heads that are left.

        Returns:
            Output, and the weights `[B, L, S]` or `[B, heads, L, S]` if `need_weights`, else None.
        """
        if is_causal and attn_mask is None:
            raise InputError("[compress] expected attn_mask with is_causal, which is a hint only, got None")
        if query.is_nested:
            return self._nested(query, key, value), None
        single = query.dim() == 2
        if single:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        mask = self._mask(query, key, attn_mask, key_padding_mask)
        output, weights = self._attend(query, key, value, mask, need_weights)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        weights = self.in_proj_weight.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases)
        )
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            return self.out_proj(heads.transpose(1, 2).flatten(2)), None
        scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
        shares = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout, self.training)
        return self.out_proj((shares @ v).transpose(1, 2).flatten(2)), shares

    def _mask(
        self, query: Tensor, key: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor | None:
        """Return the sum of both masks, `[B or 1, heads or 1, L or 1, S]`, to add to the scores."""
        batch, mask = len(query), None
        if attn_mask is not None:
            if attn_mask.dim() == 3 and len(attn_mask) != batch * self.num_heads:
                raise InputError(
                    f"[compress] expected an attn_mask [L, S] or [{batch * self.num_heads}, L, S] for the "
                    f"{self.num_heads} heads left, got {list(attn_mask.shape)}"
                )
            mask = _added(attn_mask, query.dtype)
            mask = mask.unflatten(0, (batch, self.num_heads)) if mask.dim() == 3 else mask[None, None]
        if key_padding_mask is None:
            return mask
        padding = _added(key_padding_mask, query.dtype)[:, None, None]
        return padding if mask is None else mask + padding

    def _nested(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within each sequence of nested tensors, which `nn.TransformerEncoder` makes of padded ones."""
        items = [
            self._attend(q[None], k[None], v[None], None, False)[0][0]
            for q, k, v in zip(query.unbind(), key.unbind(), value.unbind())
        ]
        return torch.nested.as_nested_tensor(items)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
