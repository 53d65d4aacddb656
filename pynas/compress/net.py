"""The supernet of a model's units: candidates that are made when they are needed, costs, and whole smaller models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pynas.calls import Call
from pynas.compress.costs import Block, count_costs
from pynas.compress.cuts import Cut, Ranks, Shrinker
from pynas.compress.layers import remove_layers
from pynas.compress.pieces import Piece, Skip, captured
from pynas.compress.refit import Refitter, estimate
from pynas.copies import copy_module
from pynas.costs import Costs
from pynas.errors import InputError
from pynas.spaces import Architecture, Cell, Space


class UnitNet:
    """Candidates of the units of a model; a block holds consecutive units, a layer the candidates of one.

    space: its candidates are `Cut`s. Candidates of a block are made when `layers` asks for them, and kept until it asks for those
    of another block, so memory holds the model and one block.
    """

    def __init__(
        self, model: nn.Module, call: Call, blocks: Sequence[Block], calibration: Sequence[Call] | None
    ) -> None:
        self.model, self.call, self.blocks, self._calibration = model, call, blocks, calibration
        cells = [(Cell(tuple(tuple(cuts) for _, cuts in block)),) for block in blocks]
        self.space = Space("compress", tuple(cells), describe=_describe)
        self._made: tuple[int, list[list[nn.Module]]] | None = None
        self._ranks: dict[str, Ranks] = {}
        self._weights: Mapping[str, Mapping[str, Tensor]] = {}
        self._versions = [p._version for p in model.parameters()]

    @property
    def original(self) -> Architecture:
        """The model as it is."""
        return Architecture.of((0, (0,) * len(block)) for block in self.blocks)

    def layers(self, block: int, cell: int = 0) -> list[list[nn.Module]]:
        """Candidates of a block, `[layer][candidate]`, as `pynas.rate` takes them."""
        if self._made is None or self._made[0] != block:
            self._made = None
            layers = [
                [Piece(shrinker.make(cut, share=True), parts.unit, number) for cut in cuts]
                for number, ((parts, cuts), shrinker) in enumerate(zip(self.blocks[block], self._shrinkers(block)))
            ]
            self._made = block, layers  # type: ignore[assignment]
        return self._made[1]  # type: ignore[index]

    def extract(
        self, architecture: Architecture | str, recalibrate: Iterable[Any] | None = None, again: bool = False
    ) -> nn.Module:
        """Return the model with the units of an architecture: the user's class, on a copy of the weights.

        Layers of transformers' models that are left out leave their list (`layers.remove_layers`).

        recalibrate: batches on which the statistics of batch norm are estimated anew. again: refit unit after unit once more, on
        the features that the smaller units before put out.

        Raises:
            InputError: an architecture outside the space.
        """
        architecture = self.space.resolve(architecture)
        others, left_out = dict[int, Any](), list[str]()  # what stands in the place of units
        for number, choice in enumerate(architecture):
            if not any(choice.path):  # the block as it is
                continue
            for (parts, cuts), candidate, shrinker in zip(self.blocks[number], choice.path, self._shrinkers(number)):
                if cuts[candidate] != Cut():
                    smaller = shrinker.make(cuts[candidate])
                    left_out += [parts.unit.name] * (smaller is None)
                    others[id(parts.unit.module)] = Skip.of(parts.unit) if smaller is None else smaller
        model = copy_module(self.model, others, where="compress")
        if again and self._calibration is not None:
            self._refit_again(model, architecture)
        model = remove_layers(model, left_out, self.call)
        if recalibrate is not None:
            estimate(model, [Call.of(batch, model) for batch in recalibrate])
        return model

    def _refit_again(self, model: nn.Module, architecture: Architecture) -> None:
        """Solve the layers of the smaller units anew, in the order in which they run, in place."""
        for block, choice in zip(self.blocks, architecture):
            for (parts, cuts), candidate in zip(block, choice.path):
                cut, unit = cuts[candidate], parts.unit
                if cut == Cut() or cut.left_out:
                    continue
                own, source = (
                    [captured(run, [unit], call)[0][0] for call in self._calibration or ()]
                    for run in (model, self.model)
                )
                layers = parts.refits(parts.sizes(cut), self._ranks[unit.name])
                Refitter(unit.module, source).refit(model.get_submodule(unit.name), layers, own)

    def ranks(self, block: int) -> list[Ranks]:
        """Return which channels and heads of each unit of a block stay."""
        return [shrinker.ranks for shrinker in self._shrinkers(block)]

    def use_weights(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Cut candidates from these weights of the units, by the unit's name, from now on; units as they are keep their own."""
        self._weights, self._made = weights, None

    def costs(self, **options: Any) -> Costs:
        """Return the costs of all candidates (`pynas.compress.costs.count_costs`)."""
        return count_costs(self.model, self.call, self.blocks, self.space, **options)

    def _check_unchanged(self) -> None:
        if [p._version for p in self.model.parameters()] != self._versions:
            raise InputError("[compress] expected the weights that the plan was made of, got others: the model was trained since; "
                             "make the plan anew")  # fmt: skip

    def _calls(self, block: int) -> list[list[Call]]:
        """Calls of each unit of a block on the calibration batches, `[unit][batch]`; none without calibration."""
        units = [parts.unit for parts, _ in self.blocks[block]]
        if self._calibration is None:
            return [[] for _ in units]
        batches = [captured(self.model, units, call)[0] for call in self._calibration]
        return [list(calls) for calls in zip(*batches)]

    def _shrinkers(self, block: int) -> list[Shrinker]:
        """Makers of the candidates of each unit of a block."""
        self._check_unchanged()
        made = []
        for (parts, _), calls in zip(self.blocks[block], self._calls(block)):
            name = parts.unit.name
            made.append(Shrinker(parts, calls, self._ranks.get(name), self._weights.get(name)))
            self._ranks[name] = made[-1].ranks
        return made


def _describe(space: Space, architecture: Architecture) -> dict[str, Any]:
    """Describe the cut of each unit, by block and layer."""
    return {
        f"block {b}, unit {n}": str(space.blocks[b][0].layers[n][candidate])
        for b, choice in enumerate(architecture)
        for n, candidate in enumerate(choice.path)
    }
