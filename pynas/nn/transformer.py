"""Parts of a plain vision transformer as AutoFormer's subnets have them: patch embedding, pre-norm layers, pooled head."""

from __future__ import annotations

import torch
from timm.layers import DropPath, Mlp
from torch import nn

from pynas.errors import InputError
from pynas.nn.positions import positions_for, resampled, scaled_side
from pynas.nn.relative import RelativeAttention


class PatchEmbedding(nn.Module):
    """Patch embedding by a strided convolution, with a class token in front and learned absolute positions.

    `dynamic`: resample the positions for images of another size; else such images are refused.
    """

    def __init__(self, dim: int, patch: int, image_size: int):
        super().__init__()
        if image_size % patch:
            raise InputError(f"[patches] expected patches that divide the image's side {image_size}, got {patch}")
        self.patch, self.image_size, self.dynamic = patch, image_size, False
        self.conv = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, dim))
        self.position = nn.Parameter(torch.empty(1, (image_size // patch) ** 2 + 1, dim))
        for parameter in (self.class_token, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: [B, 3, S, S] -> tokens [B, (S / patch)^2 + 1, dim]."""
        position = self.positions(images)
        patches = self.conv(images).flatten(2).transpose(1, 2)
        return torch.cat((self.class_token.expand(images.shape[0], -1, -1), patches), 1) + position

    def positions(self, images: torch.Tensor) -> torch.Tensor:
        """Positions for images `[B, 3, S, S]`, `[1, (S / patch)^2 + 1, dim]`.

        Raises:
            InputError: images of a size that they are not for.
        """
        return positions_for(images, self.position, self.patch, 1, self.dynamic)

    @torch.no_grad()
    def resize_positions(self, old: int, new: int) -> None:
        """Resample the positions of images of `old` pixels for images of `new` pixels."""
        side = scaled_side(self.position, 1, old, new)
        self.position = nn.Parameter(resampled(self.position, side, 1), self.position.requires_grad)
        self.image_size = side * self.patch


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); each branch is dropped with probability `drop_path` in training."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, hidden: int, max_distance: int = 14, drop_path: float = 0.0
    ):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = RelativeAttention(dim, heads, head_dim, max_distance)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, N, dim]."""
        x = x + self.drop_path(self.attention(self.norm_attention(x)))
        return x + self.drop_path(self.mlp(self.norm_mlp(x)))


class PooledHead(nn.Module):
    """Layer norm, mean over the patches (without the class token), classifier."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, N, dim] -> logits [B, num_classes]."""
        return self.classifier(self.norm(x)[:, 1:].mean(1))


def start_like_autoformer(module: nn.Module) -> None:
    """Draw linear layers from a truncated normal of deviation 0.02, with zero bias; norms and convolutions keep torch's."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
