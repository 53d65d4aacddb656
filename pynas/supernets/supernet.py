"""A supernet: one module per candidate, nested as `blocks[b][cell][layer][candidate]`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pynas.errors import InputError
from pynas.spaces import Architecture, Choice, Space
from pynas.supernets.shapes import first_path_shapes

Layers = Sequence[Sequence[nn.Module]]


class Supernet(nn.Module):
    """All candidates of a space with their weights; a path runs one candidate per layer.

    blocks: `blocks[b][cell][layer][candidate]`, modules of your own or of `pynas.supernet`. All candidates of a layer
        take and give the same shapes, and so do all cells of a block.
    stem: runs before the first block; head: after the last. Either may be None.
    space: what the modules came from; counted off the modules when None.

    Raises:
        InputError: an empty block, cell or layer, a candidate that is no module, or a space of other sizes.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[Layers]],
        stem: nn.Module | None = None,
        head: nn.Module | None = None,
        space: Space | None = None,
    ):
        super().__init__()
        counts = _counts(blocks)
        self.space = space or Space.from_counts("own", counts)
        expected = [[cell.counts for cell in cells] for cells in self.space.blocks]
        if expected != counts:
            raise InputError(f"[supernet] expected the candidates of {self.space.name}, {expected}, got {counts}")
        self.stem = stem
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(nn.ModuleList(layer) for layer in cell) for cell in block) for block in blocks
        )
        self.head = head

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """The candidates of a cell as plain lists, `[layer][candidate]`, as `pynas.rate` takes them."""
        return [list(layer) for layer in self.blocks[block][cell]]  # type: ignore[index]

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """The modules that a path runs."""
        return [layer[candidate] for layer, candidate in zip(self.layers(block, choice.cell), choice.path)]

    def enter(self, images: torch.Tensor) -> torch.Tensor:
        """What the first block gets: the stem's output, or the images where there is no stem."""
        return images if self.stem is None else self.stem(images)

    def run_path(self, block: int, choice: Choice, x: torch.Tensor) -> torch.Tensor:
        """One path of one cell of one block."""
        for module in self.path(block, choice):
            x = module(x)
        return x

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> the head's output (logits) for one architecture."""
        x = self.enter(images)
        for block, choice in enumerate(architecture):
            x = self.run_path(block, choice, x)
        return x if self.head is None else self.head(x)

    @property
    def classifier(self) -> nn.Linear:
        """The head's last layer, of a head of pynas's own."""
        return self.head.classifier  # type: ignore[union-attr, return-value]

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> what the classifier reads, `[B, D]`; for a head of pynas's own."""
        x = self.enter(images)
        for block, choice in enumerate(architecture):
            x = self.run_path(block, choice, x)
        return self.head.features(x)  # type: ignore[union-attr, operator]

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Everything that runs for an architecture, and nothing else."""
        chosen = [module for block, choice in enumerate(architecture) for module in self.path(block, choice)]
        return [module for module in (self.stem, *chosen, self.head) if module is not None]

    @torch.no_grad()
    def block_shapes(self, image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """Shapes of what the blocks put out for one image, `[(C, H, W), ...]`; state and mode stay as they were."""
        return first_path_shapes(self, image_shape)


def _counts(blocks: Sequence[Sequence[Layers]]) -> list[list[tuple[int, ...]]]:
    counts = [[tuple(len(layer) for layer in cell) for cell in block] for block in blocks]
    if not counts:
        raise InputError("[supernet] expected at least one block, got none")
    for b, block in enumerate(blocks):
        if not counts[b] or any(not cell or 0 in cell for cell in counts[b]):
            raise InputError(
                f"[supernet] expected a candidate in every layer of every cell, got {counts[b]} in block {b}"
            )
        for cell in block:
            for layer in cell:
                for candidate in layer:
                    if not isinstance(candidate, nn.Module):
                        raise InputError(
                            f"[supernet] expected nn.Module candidates, got {type(candidate).__name__} in block {b}"
                        )
    return counts
