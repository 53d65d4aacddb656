"""Slimmable vision transformer blocks: a narrower block uses the first channels, heads and hidden units of the widest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pynas.errors import InputError
from pynas.nn.positions import positions_for, resampled, scaled_side

_Module = TypeVar("_Module", bound=nn.Module)


class SlimLayer(nn.Module):
    """A pre-norm layer, x + attention(norm(x)), then x + mlp(norm(x)), that runs at any width up to `dim`.

    The width is that of the input; a head has `head_dim` channels, so the width sets their number. Weights have the shapes
    of timm's `Block`, except qkv, `[3, dim, dim]`, whose three parts are sliced alike.
    """

    def __init__(self, dim: int, hidden: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv_weight, self.qkv_bias = nn.Parameter(torch.empty(3, dim, dim)), nn.Parameter(torch.zeros(3, dim))
        self.proj = nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for weight in (self.qkv_weight, self.proj.weight, self.fc1.weight, self.fc2.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        for bias in (self.proj.bias, self.fc1.bias, self.fc2.bias):
            nn.init.zeros_(bias)

    def attend(self, x: Tensor) -> Tensor:
        """x: `[B, T, d]` -> x + attention(norm(x))."""
        batch, tokens, dim = x.shape
        weight, bias = self.qkv_weight[:, :dim, :dim].reshape(3 * dim, dim), self.qkv_bias[:, :dim].reshape(-1)
        qkv = F.linear(slim_norm(self.norm1, x), weight, bias)
        q, k, v = qkv.view(batch, tokens, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, dim)
        return x + F.linear(y, self.proj.weight[:dim, :dim], self.proj.bias[:dim])

    def mlp(self, x: Tensor, hidden: int) -> Tensor:
        """x: `[B, T, d]` -> x + mlp(norm(x)) with the first `hidden` units."""
        return self.mlps(x, [hidden])[0]

    def mlps(self, x: Tensor, hidden: Iterable[int]) -> list[Tensor]:
        """`mlp` for each of several rising numbers of hidden units, as partial sums of the widest."""
        dim, sizes = x.shape[2], list(hidden)
        widest, units = sizes[-1], slim_norm(self.norm2, x)
        units = F.gelu(F.linear(units, self.fc1.weight[:widest, :dim], self.fc1.bias[:widest])).flatten(0, 1)
        total, done, outputs = (x + self.fc2.bias[:dim]).flatten(0, 1), 0, []
        for size in sizes:
            total = torch.addmm(total, units[:, done:size], self.fc2.weight[:dim, done:size].T)
            outputs.append(total.view_as(x))
            done = size
        return outputs

    def extract(self, dim: int, hidden: int) -> nn.Module:
        """Plain layer, timm's `Block`, with copies of the slices."""
        from timm.models.vision_transformer import Block

        with torch.device("meta"):
            block = Block(dim, dim // self.head_dim, hidden / dim, qkv_bias=True)
        copy = {"attn.qkv.weight": self.qkv_weight[:, :dim, :dim].reshape(3 * dim, dim)}
        copy |= {"attn.qkv.bias": self.qkv_bias[:, :dim].reshape(-1)}
        copy |= {"attn.proj.weight": self.proj.weight[:dim, :dim], "attn.proj.bias": self.proj.bias[:dim]}
        copy |= {"mlp.fc1.weight": self.fc1.weight[:hidden, :dim], "mlp.fc1.bias": self.fc1.bias[:hidden]}
        copy |= {"mlp.fc2.weight": self.fc2.weight[:dim, :hidden], "mlp.fc2.bias": self.fc2.bias[:dim]}
        for name, norm in (("norm1", self.norm1), ("norm2", self.norm2)):
            copy |= {f"{name}.weight": norm.weight[:dim], f"{name}.bias": norm.bias[:dim]}
        return _filled(block, copy)


class Entry(nn.Module):
    """A map to tokens: patches of `patch` x `patch` merged into one token each, plus a position's embedding.

    `dynamic`: resample the positions for maps of another size; else such maps are refused.
    """

    def __init__(self, in_channels: int, dim: int, patch: int, tokens: int):
        super().__init__()
        self.merge = nn.Conv2d(in_channels, dim, patch, patch)
        self.dynamic = False
        self.position = nn.Parameter(torch.zeros(tokens, dim))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor, dim: int | None = None) -> Tensor:
        """x: `[B, C, H, W]` -> `[B, T, dim]`, at the full width when None."""
        y = F.conv2d(x, self.merge.weight[:dim], self.merge.bias[:dim], self.merge.stride)  # type: ignore[index, arg-type]
        position = positions_for(x, self.position, self.merge.kernel_size[0], 0, self.dynamic)
        return y.flatten(2).mT + position[:, :dim]

    @torch.no_grad()
    def resize_positions(self, old: int, new: int) -> None:
        """Resample the positions of a network for images of `old` pixels for images of `new` pixels."""
        side = scaled_side(self.position, 0, old, new)
        self.position = nn.Parameter(resampled(self.position, side, 0), self.position.requires_grad)

    def extract(self, dim: int) -> Entry:
        """Plain module of one width with copies of the slices."""
        tokens, patch = len(self.position), self.merge.kernel_size[0]
        copy = {"merge.weight": self.merge.weight[:dim], "merge.bias": self.merge.bias[:dim]}  # type: ignore[index, dict-item]
        copy |= {"position": self.position[:, :dim]}
        with torch.device("meta"):
            plain = Entry(self.merge.in_channels, dim, patch, tokens)
        return _filled(plain, copy)


class Exit(nn.Module):
    """Tokens to a map: layer norm, then `merge` x `merge` tokens into one position, or one into `unfold` x `unfold`."""

    def __init__(self, dim: int, out_channels: int, merge: int, unfold: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Conv2d(dim, out_channels * unfold**2, merge, merge)
        self.unfold = nn.PixelShuffle(unfold) if unfold > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: `[B, T, d]` -> `[B, C, H, W]`.

        Raises:
            InputError: a square of tokens that cannot be merged.
        """
        dim, side, merge = x.shape[2], round(x.shape[1] ** 0.5), self.linear.stride[0]
        if side % merge:
            raise InputError(f"[vit] expected a square of tokens whose side is a multiple of {merge}, got {side}: give images of "
                             "another size")  # fmt: skip
        y = slim_norm(self.norm, x).mT.unflatten(2, (side, side))
        return self.unfold(F.conv2d(y, self.linear.weight[:, :dim], self.linear.bias, self.linear.stride))  # type: ignore[arg-type]

    def extract(self, dim: int) -> Exit:
        """Plain module of one width with copies of the slices."""
        unfold = getattr(self.unfold, "upscale_factor", 1)
        with torch.device("meta"):
            plain = Exit(dim, self.linear.out_channels // unfold**2, self.linear.kernel_size[0], unfold)
        copy = {"norm.weight": self.norm.weight[:dim], "norm.bias": self.norm.bias[:dim]}
        copy |= {"linear.weight": self.linear.weight[:, :dim], "linear.bias": self.linear.bias}  # type: ignore[dict-item]
        return _filled(plain, copy)


class SlimViT(nn.Module):
    """The weights of one block at its widest and deepest: entry, layers, exit.

    Raises:
        InputError: sides that are no multiples of each other.
    """

    def __init__(
        self,
        in_map: tuple[int, int],
        side: int,
        out_map: tuple[int, int],
        dim: int,
        hidden: int,
        depth: int,
        head_dim: int,
    ):
        super().__init__()
        if in_map[1] % side or (out_map[1] % side and side % out_map[1]):
            raise InputError(f"[vit] expected {side}x{side} tokens whose side divides the input's and fits the output's, "
                             f"got the sides {in_map[1]} and {out_map[1]}")  # fmt: skip
        self.entry = Entry(in_map[0], dim, in_map[1] // side, side**2)
        self.layers = nn.ModuleList(SlimLayer(dim, hidden, head_dim) for _ in range(depth))
        self.exit = Exit(dim, out_map[0], max(1, side // out_map[1]), max(1, out_map[1] // side))


class SlimViTCandidate(nn.Module):
    """A candidate: a block of one width, number of hidden units and depth, which uses the first of the shared weights."""

    def __init__(self, weights: SlimViT, dim: int, hidden: int, depth: int):
        super().__init__()
        self.weights, self.dim, self.hidden, self.depth = weights, dim, hidden, depth

    def forward(self, x: Tensor) -> Tensor:
        """x: `[B, C, H, W]` -> `[B, C', H', W']`."""
        y = self.weights.entry(x, self.dim)
        for layer in self.weights.layers[: self.depth]:
            y = layer.mlp(layer.attend(y), self.hidden)  # type: ignore[operator]
        return self.weights.exit(y)

    @classmethod
    def run_together(cls, candidates: Sequence[SlimViTCandidate], x: Tensor) -> list[Tensor]:
        """Outputs of several candidates of a block, which share the entry, the first attention of a width, and shallower
        layers of a depth."""
        weights = candidates[0].weights
        widest = weights.entry(x, max(candidate.dim for candidate in candidates))
        outputs: dict[tuple[int, int, int], Tensor] = {}
        for dim in sorted({candidate.dim for candidate in candidates}):
            depths: dict[int, set[int]] = {}
            for candidate in candidates:
                if candidate.dim == dim:
                    depths.setdefault(candidate.hidden, set()).add(candidate.depth)
            first: SlimLayer = weights.layers[0]  # type: ignore[assignment]
            sizes = sorted(depths)
            for hidden, y in zip(sizes, first.mlps(first.attend(widest[..., :dim]), sizes)):
                for depth, layer in enumerate(weights.layers[: max(depths[hidden])], 1):
                    if depth > 1:
                        y = layer.mlp(layer.attend(y), hidden)  # type: ignore[operator]
                    if depth in depths[hidden]:
                        outputs[dim, hidden, depth] = weights.exit(y)
        return [outputs[candidate.dim, candidate.hidden, candidate.depth] for candidate in candidates]

    def extract(self, shape: Sequence[int]) -> nn.Sequential:
        """Plain block, entry, timm's `Block`s and exit, with copies of the slices; shape is not used."""
        layers = [layer.extract(self.dim, self.hidden) for layer in self.weights.layers[: self.depth]]  # type: ignore[operator]
        return nn.Sequential(self.weights.entry.extract(self.dim), *layers, self.weights.exit.extract(self.dim))


class ViTHead(nn.Module):
    """Average pool, layer norm, classifier."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.norm, self.classifier = nn.LayerNorm(in_channels), nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: `[B, C, H, W]` -> logits `[B, num_classes]`."""
        return self.classifier(self.norm(x.mean((2, 3))))


def slim_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm over the channels that the input has."""
    dim = x.shape[-1]
    return F.layer_norm(x, (dim,), norm.weight[:dim], norm.bias[:dim], norm.eps)


def _filled(module: _Module, tensors: dict[str, Tensor]) -> _Module:
    """Give a module without storage copies of the tensors, so that no weight is drawn in vain."""
    module.load_state_dict({name: tensor.detach().clone() for name, tensor in tensors.items()}, assign=True)
    return module
