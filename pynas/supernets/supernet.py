"""A supernet: one module per candidate, nested as `blocks[b][cell][layer][candidate]`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.spaces import Architecture, Choice, Space
from pynas.supernets.net import Place, T, Visitor
from pynas.supernets.shapes import Shape, output_shape
from pynas.supernets.sharing import extracted_chain
from pynas.supernets.walk import Walked, walk_shapes

Layers = Sequence[Sequence[nn.Module]]
Rule = Callable[[tuple[int, ...]], bool]


class Supernet(nn.Module):
    """All candidates of a space with their weights (a `Net`); a path runs one candidate per layer.

    blocks: `blocks[b][cell][layer][candidate]`, modules of your own or of `pynas.supernet`. The candidates of a layer have
        equal shapes of input and output, and so have the cells of a block.
    stem: runs before the first block; head: after the last one. Either may be None.
    space: description of the modules; None for a space of numbered candidates.
    allowed: rules of such a space, `allowed[b][cell]`, each called with prefixes of paths (`pynas.spaces.Cell`) or None; that
        of `pynas.rating.elastic_depth` keeps skipped layers at the end. A supernet of one cell takes the rule itself.

    Raises:
        InputError: an empty block, cell or layer, a candidate that is no module, a space of other sizes, rules of other
            numbers or beside a space, or a cell without an allowed path.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[Layers]],
        stem: nn.Module | None = None,
        head: nn.Module | None = None,
        space: Space | None = None,
        allowed: Rule | Sequence[Sequence[Rule | None]] | None = None,
    ):
        super().__init__()
        counts = _counts(blocks)
        if space is not None and allowed is not None:
            raise InputError(
                f"[supernet] expected a space or rules, got both; give the cells of {space.name} the rules"
            )
        self.space = space or Space.from_counts("own", counts, allowed)
        expected = [[cell.counts for cell in cells] for cells in self.space.blocks]
        if expected != counts:
            raise InputError(f"[supernet] expected the candidates of {self.space.name}, {expected}, got {counts}")
        self.stem = stem
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(nn.ModuleList(layer) for layer in cell) for cell in block) for block in blocks
        )
        self.head = head

    def layers(self, block: int, cell: int) -> list[list[nn.Module]]:
        """Candidates of a cell as plain lists, `[layer][candidate]`, as `pynas.rate` takes them."""
        return [list(layer) for layer in self.blocks[block][cell]]  # type: ignore[index]

    def path(self, block: int, choice: Choice) -> list[nn.Module]:
        """Modules that a choice of a block runs, in their order."""
        return [layer[candidate] for layer, candidate in zip(self.layers(block, choice.cell), choice.path)]

    def enter(self, images: torch.Tensor, choice: Choice | None = None) -> torch.Tensor:
        """Input of the first block: the stem's output, or the images where there is no stem."""
        return images if self.stem is None else self.stem(images)

    def run_path(self, block: int, choice: Choice, x: torch.Tensor) -> torch.Tensor:
        """Output of a block for the input x, on one path; x stays as it is, as other paths and losses read it too."""
        x = x.clone()  # a candidate may begin with an operation in place
        for module in self.path(block, choice):
            x = module(x)
        return x

    def forward(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> the head's output (logits) for one architecture."""
        x = self._run_blocks(images, architecture)
        return x if self.head is None else self.head(x)

    def _run_blocks(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        x = self.enter(images)
        for block, choice in enumerate(architecture):
            for module in self.path(block, choice):
                x = module(x)
        return x

    @property
    def classifier(self) -> nn.Linear:
        """Last layer of the head.

        Raises:
            InputError: a head without `features` or `classifier`.
        """
        return self._classifying_head().classifier

    def features(self, images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
        """images: [B, 3, H, W] -> input of the classifier, `[B, D]`.

        Raises:
            InputError: a head without `features` or `classifier`.
        """
        return self._classifying_head().features(self._run_blocks(images, architecture))

    def _classifying_head(self) -> Any:
        if not (hasattr(self.head, "features") and hasattr(self.head, "classifier")):
            raise InputError(
                "[supernet] expected a supernet whose head has features and a classifier, "
                f"got {type(self.head).__name__}; give the head `features(x)` and `classifier`"
            )
        return self.head

    def modules_of(self, architecture: Architecture) -> list[nn.Module]:
        """Every module that an architecture runs, and no other."""
        chosen = [module for block, choice in enumerate(architecture) for module in self.path(block, choice)]
        return [module for module in (self.stem, *chosen, self.head) if module is not None]

    def extract(self, architecture: Architecture | str, image_shape: Shape | None = None) -> nn.Sequential:
        """One architecture as an nn.Sequential of stem, block_1, ..., block_N, head, with a copy of the weights.

        image_shape: shape of one input, (3, H, W); only used where candidates share weights; None for squares of the space's
            image size.

        Raises:
            InputError: an architecture outside the space, or a module that runs on slices of shared weights and has no
                `extract`, as candidates of `pynas.rating.encoded` and `configured` without extract=, or does not run on
                inputs of this shape.
        """
        architecture = self.space.resolve(architecture)
        paths = [self.path(block, choice) for block, choice in enumerate(architecture)]
        placed = list(self._placed(architecture))
        if image_shape is None:
            plain = iter(self._extracted_by_default(placed))
        else:
            plain = iter(extracted_chain(placed, image_shape, self._all_modules()))
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if self.stem is not None:
            parts["stem"] = next(plain)
        for number, path in enumerate(paths, 1):
            parts[f"block_{number}"] = nn.Sequential(*(next(plain) for _ in path))
        if self.head is not None:
            parts["head"] = next(plain)
        return copy_module(nn.Sequential(parts), plain=True).train(self.training)

    def _extracted_by_default(self, placed: Sequence[tuple[Place, nn.Module]]) -> list[nn.Module]:
        """Plain modules for squares of the space's image size."""
        shape = (3, self.space.image_size, self.space.image_size)
        try:
            return extracted_chain(placed, shape, self._all_modules())
        except InputError as error:
            raise InputError(f"{error}; the input had the shape {shape}, as no image_shape was given: where yours has another "
                             "one, pass image_shape=") from error  # fmt: skip

    def _placed(self, architecture: Architecture) -> Iterator[tuple[Place, nn.Module]]:
        """Modules that an architecture runs, with their places."""
        if self.stem is not None:
            yield ("stem",), self.stem
        for block, choice in enumerate(architecture):
            for n, (candidate, module) in enumerate(zip(choice.path, self.path(block, choice))):
                yield (block, choice.cell, n, candidate), module
        if self.head is not None:
            yield ("head",), self.head

    def _all_modules(self) -> Iterator[nn.Module]:
        """Stem, candidates and head."""
        cells = ((b, c) for b, cells in enumerate(self.space.blocks) for c in range(len(cells)))
        candidates = (module for b, c in cells for layer in self.layers(b, c) for module in layer)
        return (module for module in (self.stem, *candidates, self.head) if module is not None)

    def visit(self, image_shape: Shape, visitor: Visitor[T]) -> Walked[T]:
        """Call `visitor` for every module on every shape of its inputs; image_shape: (3, H, W)."""
        return Walked(self, image_shape, visitor)

    def block_shapes(self, image_shape: Shape) -> list[Shape]:
        """Shapes of the blocks' outputs for one image, `[(C, H, W), ...]`, along the first candidates of every cell.

        In a space whose paths leave different widths (`has_states`), each is the widest.

        Raises:
            InputError: cells of a block whose outputs have different shapes, or where widths may differ, different sizes.
        """
        if self.space.has_states:
            return self._widest_shapes(image_shape)
        shape = tuple(image_shape) if self.stem is None else output_shape(self.stem, image_shape)
        shapes = []
        for b, cells in enumerate(self.space.blocks):
            ends = []
            for c in range(len(cells)):
                end = shape
                for layer in self.layers(b, c):
                    end = output_shape(layer[0], end)
                ends.append(end)
            if len(set(ends)) > 1:
                raise InputError(f"[supernet] expected the cells of block {b} to end with one shape, got {ends}")
            shape = ends[0]
            shapes.append(shape)
        return shapes

    def _widest_shapes(self, image_shape: Shape) -> list[Shape]:
        walked = walk_shapes(self, image_shape)
        widest = []
        for b, cells in enumerate(walked.blocks):
            ends = {shape for cell in cells for shape in cell.shapes[-1]}
            if len({shape[1:] for shape in ends}) > 1:
                raise InputError(f"[supernet] expected the paths of block {b} of {self.space.name} to end with maps of one size, "
                                 f"got {sorted(ends)}; bossnas trains such spaces")  # fmt: skip
            widest.append(max(ends))
        return widest


def _counts(blocks: Sequence[Sequence[Layers]]) -> list[list[tuple[int, ...]]]:
    """Candidates per layer, `[block][cell]`."""
    try:
        counts = [[tuple(len(layer) for layer in cell) for cell in block] for block in blocks]
    except TypeError as error:
        raise InputError(f"[supernet] expected lists blocks[block][cell][layer][candidate], got fewer levels ({error}); one cell "
                         "of layers is [[layers]], one layer is [[[candidates]]]") from error  # fmt: skip
    if not counts:
        raise InputError("[supernet] expected at least one block, got none")
    for b, block in enumerate(blocks):
        if not counts[b] or any(not cell or 0 in cell for cell in counts[b]):
            raise InputError(
                f"[supernet] expected a candidate in every layer of every cell, got {counts[b]} in block {b}"
            )
        for candidate in (candidate for cell in block for layer in cell for candidate in layer):
            if not isinstance(candidate, nn.Module):
                raise InputError(
                    f"[supernet] expected nn.Module candidates, got {type(candidate).__name__} in block {b}"
                )
    return counts
