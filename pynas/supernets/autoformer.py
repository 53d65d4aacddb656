"""The AutoFormer supernet: one vision transformer at its largest; every architecture runs on slices of it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from timm.layers import DropPath
from torch import nn

from pynas.errors import InputError
from pynas.nn.entangled import EntangledHead, EntangledPatches, EntangledTransformer
from pynas.nn.transformer import PatchEmbedding, PooledHead, TransformerLayer, start_like_autoformer
from pynas.spaces import Architecture, Choice, Space
from pynas.spaces.autoformer import TransformerSpec


class AutoFormer(nn.Module):
    """Weight entanglement over cells (embedding dimension, depth) and candidates (heads, MLP ratio).

    space: of `pynas.spaces.autoformer`. drop_path: the last layer's probability of dropping a branch in training; it
    rises linearly from 0 in the first.

    Raises:
        InputError: fewer than one class.
    """

    def __init__(self, space: Space, num_classes: int = 1000, drop_path: float = 0.0):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"[supernet] expected at least one class, got {num_classes}")
        self.space = space
        specs = [spec for cell in space.blocks[0] for spec in cell.layers[0]]
        depth = max(len(cell.layers) for cell in space.blocks[0])
        dim, heads, hidden = (max(getattr(spec, name) for spec in specs) for name in ("dim", "heads", "hidden"))
        self.stem = EntangledPatches(PatchEmbedding(dim, space.stem.patch, space.image_size))
        self.transformer = nn.ModuleList(
            TransformerLayer(dim, heads, specs[0].head_dim, hidden, space.stem.max_distance) for _ in range(depth)
        )
        self.set_drop_path(drop_path)
        self.head = EntangledHead(PooledHead(dim, num_classes))
        start_like_autoformer(self)

    @property
    def classifier(self) -> nn.Linear:
        """The largest network's last layer."""
        return self.head.weights.classifier  # type: ignore[union-attr, return-value]

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth: the last layer drops each branch with this probability, the first never, linearly between."""
        for layer, share in zip(self.transformer, torch.linspace(0, rate, len(self.transformer)).tolist()):
            layer.drop_path = DropPath(share) if share else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """The names of parameters that AutoFormer's training does not decay, beside biases and norms."""
        names = ("class_token", "position", "position_key", "position_value")
        return {name for name, _ in self.named_parameters() if any(part in names for part in name.split("."))}

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """The candidates of a cell, `[layer][candidate]`, for `pynas.rate` on tokens of the cell's dimension."""
        described = self.space.blocks[block][cell].layers
        return [
            [self._candidate(weights, spec) for spec in layer] for weights, layer in zip(self.transformer, described)
        ]

    def path(self, choice: Choice) -> list[EntangledTransformer]:
        """The layers that a choice runs."""
        described = self.space.blocks[0][choice.cell].layers
        return [
            self._candidate(weights, layer[candidate])
            for weights, layer, candidate in zip(self.transformer, described, choice.path)
        ]

    def dim(self, cell: int) -> int:
        """The embedding dimension of a cell."""
        return self.space.blocks[0][cell].layers[0][0].dim

    def enter(self, images: torch.Tensor, cell: int) -> torch.Tensor:
        """What a cell's first layer gets: images [B, 3, S, S] -> tokens [B, N, dim]."""
        return self.stem(images, self.dim(cell))

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, S, S] -> logits [B, num_classes] of one architecture."""
        x = self.enter(images, architecture[0].cell)
        for layer in self.path(architecture[0]):
            x = layer(x)
        return self.head(x)

    def extract(self, architecture: Architecture | str) -> nn.Sequential:
        """A plain vision transformer with copies of the slices: stem, block_1, head; the same output as `forward`.

        Raises:
            InputError: an architecture outside the space.
        """
        if isinstance(architecture, str):
            architecture = self.space.parse(architecture)
        self.space.check(architecture)
        choice = architecture[0]
        dim = self.dim(choice.cell)
        tokens = self.stem.weights.position.shape[1]
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=self.stem.extract(dim))
        parts["block_1"] = nn.Sequential(*(layer.extract((tokens, dim)) for layer in self.path(choice)))
        parts["head"] = self.head.extract(dim)
        return nn.Sequential(parts).train(self.training)

    def _candidate(self, weights: nn.Module, spec: TransformerSpec) -> EntangledTransformer:
        candidate = EntangledTransformer(weights, spec.heads, spec.ratio)  # type: ignore[arg-type]
        candidate.training = self.training
        return candidate
