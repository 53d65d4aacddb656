"""Arguments of one call of a module: any nest of tensors, by position and by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from pynas.copies import unwrapped
from pynas.errors import InputError

# The tensor of a module's output that counts, from (output, call).
Pick = Callable[[Any, "Call"], Tensor]


@dataclass(frozen=True)
class Call:
    """Arguments of one call of a module, by position and by name; tensors with samples have them on their first axis.

    kept: positions `[B, T]` of sequences that count, where some are padding.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = None  # type: ignore[assignment]
    kept: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kwargs", dict(sorted((self.kwargs or {}).items())))

    @classmethod
    def of(cls, batch: Any, module: nn.Module) -> Call:
        """Return the call that a batch of a data loader stands for.

        batch: a tensor, a mapping of arguments by name (as tokenizers give it), or a tuple of arguments by position. Of a pair,
            the second part is taken for labels and left out where the module's forward takes one argument, or where it can do
            without a second one and the part is whole numbers `[B]`.

        Sequence models that may keep keys and values run without (`use_cache=False`).

        Raises:
            InputError: a batch of another type, or without a sample.
        """
        if isinstance(batch, Call):
            return batch
        if isinstance(batch, Tensor):
            call = cls((batch,))
        elif isinstance(batch, Mapping):
            call = cls((), batch)
        elif isinstance(batch, (tuple, list)):
            call = cls.of(batch[0], module) if _has_labels(batch, module) else cls(tuple(batch))
        else:
            raise InputError(f"[batch] expected a batch that is a tensor, a tuple or a mapping of the model's arguments, got "
                             f"{type(batch).__name__}")  # fmt: skip
        if not call.tensors or not call.tensors[0].ndim or not call.samples:
            raise InputError(
                "[batch] expected a batch with at least one tensor with samples on its first axis, got none"
            )
        if any(parameter.name == "use_cache" for parameter in _parameters(module)):
            call = cls(call.args, {"use_cache": False, **call.kwargs})
        return call

    def __call__(self, module: Callable[..., Any]) -> Any:
        """Call a module or function with the arguments."""
        return module(*self.args, **self.kwargs)

    @property
    def leaves(self) -> list[Any]:
        """Arguments without their nesting."""
        return tree_leaves((self.args, self.kwargs))

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors among the arguments."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @property
    def samples(self) -> int:
        """Samples of the batch: the first axis of the first tensor."""
        return len(self.tensors[0])

    @property
    def attended(self) -> Tensor | None:
        """Positions `[B, T]` that the argument `attention_mask` keeps; None without such a mask, without padding, and of models
        with a decoder of its own, whose sequences are others."""
        mask = None if self._has_decoder else self.kwargs.get("attention_mask")
        return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 and not mask.all() else None

    @property
    def _has_decoder(self) -> bool:
        return any(name.startswith("decoder_") for name in self.kwargs)

    def replaced(self, leaves: Sequence[Any]) -> Call:
        """Return the call with other leaves in the same nesting; raises InputError where there are more or fewer."""
        own, structure = tree_flatten((self.args, self.kwargs))
        if len(own) != len(leaves):
            raise InputError(f"[batch] expected {len(own)} arguments in every batch, as in the example, got {len(leaves)}; give "
                             "those of all batches in the example too")  # fmt: skip
        args, kwargs = tree_unflatten(list(leaves), structure)
        return Call(args, kwargs, self.kept)

    def head(self, count: int) -> Call:
        """Return the call with the first samples only."""
        return self._sliced(slice(count))

    def every(self, start: int, step: int) -> Call:
        """Return the call with every `step`-th sample from one on."""
        return self._sliced(slice(start, None, step))

    def _sliced(self, part: slice) -> Call:
        samples = self.samples
        return self.mapped(lambda x: x[part] if x.ndim and len(x) == samples else x)

    def to(self, device: torch.device | None, dtype: torch.dtype | None = None) -> Call:
        """Return the call with its tensors on a device, None for where they are; dtype: of those with floating points."""
        return self.mapped(lambda x: x.to(device, dtype if x.is_floating_point() else None))

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with a function applied to each tensor."""
        return Call(*tree_map_only(Tensor, function, (self.args, self.kwargs, self.kept)))


def hidden_leaf(values: Any) -> tuple[int, Tensor] | None:
    """Return the first tensor of floating-point features among the leaves of arguments or outputs, with its number; or None."""
    for number, leaf in enumerate(tree_leaves(values)):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 1:
            return number, leaf
    return None


def with_leaf(values: Any, number: int, leaf: Any) -> Any:
    """Return the nest of an output with one leaf in place and None for the others."""
    leaves, spec = tree_flatten(values)
    return tree_unflatten([leaf if at == number else None for at in range(len(leaves))], spec)


def pick_output(output: Any, call: Call) -> Tensor:
    """Return the tensor of a model's output that losses compare: logits, else the last hidden state, else the first tensor.

    Positions that the call's attention mask leaves out are 0.

    Raises:
        InputError: an output without one.
    """
    if isinstance(output, Mapping):
        names = [name for name in ("logits", "last_hidden_state") if isinstance(output.get(name), Tensor)]
        output = output[names[0]] if names else tuple(output.values())
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"[batch] expected an output with a tensor, got {type(output).__name__}; pass pick=")
    mask = call.kwargs.get("decoder_attention_mask" if call._has_decoder else "attention_mask")
    if isinstance(mask, Tensor) and mask.ndim == 2 and output.ndim > 2 and mask.shape == output.shape[:2]:
        output = output * mask.view(*mask.shape, *[1] * (output.ndim - 2)).to(output.dtype)
    return output


def _has_labels(batch: Sequence[Any], module: nn.Module) -> bool:
    """Whether a batch is a pair of one argument and labels."""
    if len(batch) != 2 or not takes(module, 2):
        return len(batch) == 2
    second, own = batch[1], _by_position(module)
    whole = isinstance(second, Tensor) and second.ndim == 1 and not second.is_floating_point()
    return whole and len(own) > 1 and own[1].default is not inspect.Parameter.empty


def takes(module: nn.Module, count: int) -> bool:
    """Whether a module's forward takes so many arguments by position."""
    several = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in _parameters(module))
    return several or len(_by_position(module)) >= count


def _by_position(module: nn.Module) -> list[inspect.Parameter]:
    """Parameters of a module's forward that have a name and may be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in _parameters(module) if parameter.kind in kinds]


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    """Parameters of a module's forward, inside of wrappers; any number of a traced module, which tells none."""
    try:
        return list(inspect.signature(unwrapped(module).forward).parameters.values())
    except ValueError:
        return [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
