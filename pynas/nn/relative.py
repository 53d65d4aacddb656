"""Attention with relative positions on a square grid of patches and a class token, as in AutoFormer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pynas.errors import InputError


class RelativePosition(nn.Module):
    """Embedding e(i, j) of the position of token j relative to token i: vertical[row distance] + horizontal[column distance].

    Distances are clipped to +-max_distance; row 0 of each table stands for pairs with the class token (token 0). Rows and
    columns are summed separately, without an `[N, N, head_dim]` array, which takes sqrt(N) / 2 times less work.
    """

    def __init__(self, max_distance: int, head_dim: int):
        super().__init__()
        self.max_distance = max_distance
        self.vertical = nn.Parameter(torch.empty(2 * max_distance + 2, head_dim))
        self.horizontal = nn.Parameter(torch.empty(2 * max_distance + 2, head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the tables from a truncated normal of deviation 0.02, as in AutoFormer."""
        for table in (self.vertical, self.horizontal):
            nn.init.trunc_normal_(table, std=0.02)

    def dot(self, query: torch.Tensor) -> torch.Tensor:
        """q_i . e(i, j): `[B, H, N, D]` -> `[B, H, N, N]`."""
        side = _side(query.shape[2])
        vertical, horizontal = self._tables(side)
        grid = query[:, :, 1:].unflatten(2, (side, side))
        rows = torch.einsum("bhyxd,yrd->bhyxr", grid, vertical)
        columns = torch.einsum("bhyxd,xcd->bhyxc", grid, horizontal)
        among = (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)
        with_class = query @ self._class()[:, None]
        first = with_class[:, :, :1].expand(-1, -1, 1, query.shape[2])
        return torch.cat((first, torch.cat((with_class[:, :, 1:], among), 3)), 2)

    def mix(self, attention: torch.Tensor) -> torch.Tensor:
        """sum_j a_ij e(i, j): `[B, H, N, N]` -> `[B, H, N, D]`."""
        side = _side(attention.shape[2])
        vertical, horizontal = self._tables(side)
        grid = attention[:, :, 1:, 1:].unflatten(3, (side, side)).unflatten(2, (side, side))
        among = torch.einsum("bhyxr,yrd->bhyxd", grid.sum(5), vertical)
        among = (among + torch.einsum("bhyxc,xcd->bhyxd", grid.sum(4), horizontal)).flatten(2, 3)
        first = attention[:, :, :1].sum(3, keepdim=True) * self._class()
        return torch.cat((first, among + attention[:, :, 1:, :1] * self._class()), 2)

    def _class(self) -> torch.Tensor:
        return self.vertical[0] + self.horizontal[0]

    def _tables(self, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For each pair of rows, and of columns, its embedding: twice `[side, side, head_dim]`."""
        places = torch.arange(side, device=self.vertical.device)
        distance = (places[None] - places[:, None]).clamp(-self.max_distance, self.max_distance)
        index = distance + self.max_distance + 1
        return self.vertical[index], self.horizontal[index]


def _side(tokens: int) -> int:
    side = round((tokens - 1) ** 0.5)
    if side * side + 1 != tokens:
        raise InputError(f"[attention] expected a class token and a square grid of patches, got {tokens} tokens")
    return side


def relative_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_key: RelativePosition,
    position_value: RelativePosition,
) -> torch.Tensor:
    """softmax(q_i . (k_j + e_k(i, j)) / sqrt(D)) over j, times (v_j + e_v(i, j)): `[B, H, N, D]` each -> `[B, N, H * D]`."""
    query = query * query.shape[-1] ** -0.5
    attention = F.softmax(query @ key.transpose(2, 3) + position_key.dot(query), -1)
    return (attention @ value + position_value.mix(attention)).transpose(1, 2).flatten(2)


class RelativeAttention(nn.Module):
    """Multi-head attention with relative positions; `heads * head_dim` may differ from the width of the input.

    head_dim: None for dim / heads.

    Raises:
        InputError: heads that do not divide the width where no head_dim is given.
    """

    def __init__(self, dim: int, heads: int, head_dim: int | None = None, max_distance: int = 14):
        super().__init__()
        if head_dim is None and dim % heads:
            raise InputError(f"[attention] expected a number of heads that divides the width {dim}, got {heads}")
        self.heads = heads
        self.head_dim = dim // heads if head_dim is None else head_dim
        self.qkv = nn.Linear(dim, 3 * heads * self.head_dim)
        self.project = nn.Linear(heads * self.head_dim, dim)
        self.position_key = RelativePosition(max_distance, self.head_dim)
        self.position_value = RelativePosition(max_distance, self.head_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: `[B, N, dim]`, where token 0 is the class token and the others form a square grid."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.project(relative_attention(query, key, value, self.position_key, self.position_value))
