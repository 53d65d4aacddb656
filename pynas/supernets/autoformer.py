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
from pynas.supernets.net import T, Visitor
from pynas.supernets.shapes import Shape, extracted
from pynas.supernets.walk import LayerWalk


class AutoFormer(nn.Module):
    """Weight entanglement over cells (embedding dimension, depth) and candidates (heads, MLP ratio); a `Net`.

    space: a space of `pynas.spaces.autoformer`. drop_path: probability that the last layer drops a branch in training; it
        rises linearly from 0 in the first layer.

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
        """Last layer of the largest network."""
        return self.head.weights.classifier  # type: ignore[union-attr, return-value]

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth: probability that the last layer drops a branch; it rises linearly from 0 in the first."""
        shares = torch.linspace(0, rate, len(self.transformer), device="cpu").tolist()
        for layer, share in zip(self.transformer, shares):
            layer.drop_path = DropPath(share) if share else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that AutoFormer's training does not decay, beside biases and norms."""
        names = ("class_token", "position", "position_key", "position_value")
        return {name for name, _ in self.named_parameters() if any(part in names for part in name.split("."))}

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """Candidates of a cell, `[layer][candidate]`, for `pynas.rate` on tokens of the cell's dimension."""
        specs = self.space.blocks[block][cell].layers
        return [[self._candidate(weights, spec) for spec in layer] for weights, layer in zip(self.transformer, specs)]

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """Layers that a choice of the one block runs."""
        specs = self.space.blocks[block][choice.cell].layers
        return [
            self._candidate(weights, layer[candidate])
            for weights, layer, candidate in zip(self.transformer, specs, choice.path)
        ]

    def dim(self, cell: int) -> int:
        """Embedding dimension of a cell."""
        return self.space.blocks[0][cell].layers[0][0].dim

    def enter(self, images: torch.Tensor, choice: Choice | None = None) -> torch.Tensor:
        """images: [B, 3, S, S] -> tokens [B, N, dim] of the choice's dimension (None: the largest)."""
        return self.stem(images, self.dim(-1 if choice is None else choice.cell))

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, S, S] -> logits [B, num_classes] of one architecture."""
        return self.head(self._run_layers(images, architecture))

    def _run_layers(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        x = self.enter(images, architecture[0])
        for layer in self.path(0, architecture[0]):
            x = layer(x)
        return x

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, S, S] -> input of the classifier, [B, dim]."""
        return self.head.features(self._run_layers(images, architecture))

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Every module that an architecture runs, and no other."""
        return [self.stem, *self.path(0, architecture[0]), self.head]

    def extract(self, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Sequential:
        """One architecture as a plain vision transformer, stem, block_1, head, with copies of the slices.

        image_shape: not used, since the positions fix the size of the images.

        Raises:
            InputError: an architecture outside the space.
        """
        choice = self.space.resolve(architecture)[0]
        dim = self.dim(choice.cell)
        shape = (self.stem.weights.position.shape[1], dim)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=self.stem.extract(dim))
        parts["block_1"] = nn.Sequential(*(extracted(layer, shape) for layer in self.path(0, choice)))
        parts["head"] = self.head.extract(shape)
        return nn.Sequential(parts).train(self.training)

    def visit(self, image_shape: Shape, visitor: Visitor[T]) -> LayerWalk[T]:
        """Call `visitor` for every module of every cell; stem and head have places ("stem", dim) and ("head", dim)."""
        ends, values = [], []
        for c in range(len(self.space.blocks[0])):
            dim = self.dim(c)
            stem, shape = visitor(self.stem.extract(dim), tuple(image_shape), ("stem", dim))
            values.append([[visitor(module, shape, (0, c, n, k))[0] for k, module in enumerate(layer)]
                           for n, layer in enumerate(self.layers(0, c))])  # fmt: skip
            ends.append([stem, visitor(self.head, shape, ("head", dim))[0]])
        return LayerWalk(ends, values)

    def _candidate(self, weights: nn.Module, spec: TransformerSpec) -> EntangledTransformer:
        candidate = EntangledTransformer(weights, spec.heads, spec.ratio)  # type: ignore[arg-type]
        candidate.training = self.training
        return candidate
