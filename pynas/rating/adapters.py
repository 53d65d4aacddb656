"""Supernets of other projects as layers of candidates, for `rate` and for `pynas.Supernet`.

Many supernets have no list of candidates but layers that take a choice as an argument, as a configuration or as attributes.
Each function here returns the candidates of one layer; all of them hold that layer, so its weights exist once.

    class Block(nn.Module):                              # forward(x, choices): an nn.ModuleList of choice layers
        def __init__(self):
            super().__init__()
            kernels = (1, 3)
            both = [nn.ModuleList([nn.Conv2d(4, 4, k, padding="same") for k in kernels]) for _ in "ab"]
            self.layers = nn.ModuleList(both)
        def forward(self, x, choices):
            for layer, choice in zip(self.layers, choices):
                x = layer[choice](x)
            return x
    table = pynas.rate(choice_layers(block.layers), batches)

    layers = [encoded(block, itertools.product(range(2), range(2)))]                # block(x, code)
    layers = [encoded(layer, [0, 1], lambda layer, x, code: layer[code](x)) for layer in block.layers]

    class Hidden(nn.Module):                             # runs its first `active` hidden features
        def __init__(self):
            super().__init__()
            self.w, self.active = nn.Parameter(torch.randn(4, 8)), 8
        def forward(self, x):
            return F.relu(x @ self.w[:, : self.active]) @ self.w[:, : self.active].T
    def narrow(layer, config, shape):                    # a plain module of one width, for costs and export
        layer.w = nn.Parameter(layer.w[:, : layer.active])
        return layer
    widths = configured(Hidden(), [{"active": 4}, {"active": 8}], set_attributes, extract=narrow)
    costs = pynas.costs.count(pynas.Supernet([[[widths]]]), (4,))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from pynas.errors import InputError
from pynas.supernets.setting import Extract, Picked, Setting


def choice_layers(layers: Iterable[Iterable[nn.Module]], *, pick: Any = None) -> list[list[nn.Module]]:
    """Return the candidates of an `nn.ModuleList` of lists or dictionaries of modules, one inner list per layer.

    pick: takes the tensor out of a candidate's output, as for `encoded`.

    Raises:
        InputError: a layer that is no list of modules.
    """
    lists = []
    for number, layer in enumerate(layers):
        candidates = layer.values() if isinstance(layer, (nn.ModuleDict, Mapping)) else layer
        if not isinstance(candidates, Iterable):
            raise InputError(f"[adapters] expected a list of modules per layer, got {type(layer).__name__} in layer {number}; "
                             "pass its list of choices")  # fmt: skip
        lists.append([module if pick is None else Picked(module, pick) for module in candidates])
    return lists


def encoded(
    layer: nn.Module,
    codes: Iterable[Any],
    call: Callable[..., Any] | None = None,
    *,
    pick: Any = None,
    extract: Extract | None = None,
) -> list[nn.Module]:
    """Return one candidate per code: `layer(x, code)`. Where the layer is a whole network, its paths share no prefixes.

    call: called with the layer, the input `[B, ...]`, the code and the side, if a batch has one, in place of `layer(x, code)`.
    pick: position, key, attribute or function that takes the tensor out of an output that is a tuple, a dictionary or an
        object; an output that is a tensor already passes a position or key.
    extract: called with a private copy of the layer, a code and the shape of the input without the batch axis; returns a plain
        module of this code with its weights, or slices of them (`pick` applies to its output too). Costs and export need it.

    Raises:
        InputError: a layer that is no module.
    """
    layer, call = _module(layer), call or _with_code
    return [Setting(layer, code, call=call, pick=pick, extract=extract) for code in codes]


def configured(
    layer: nn.Module,
    configs: Iterable[Any],
    setter: str | Callable[[Any, Any], object] = "set_sample_config",
    *,
    pick: Any = None,
    extract: Extract | None = None,
) -> list[nn.Module]:
    """Return one candidate per configuration: `layer.set_sample_config(config)`, then `layer(x)`.

    setter: name of the layer's method that takes a configuration, or a function of the layer and the configuration, such as
        `set_attributes` or `lambda net, config: net.set_active_subnet(**config)`. The configuration is passed as it is.
    pick, extract: as for `encoded`; the private copy that `extract` gets is configured.

    Raises:
        InputError: a layer that is no module or has no such method.
    """
    layer = _module(layer)
    if not callable(setter):
        if not callable(getattr(layer, setter, None)):
            raise InputError(f"[adapters] expected a layer with the method {setter!r}, got {type(layer).__name__} without it; pass "
                             "setter=, a method's name or a function (layer, config)")  # fmt: skip
        setter = partial(_call_method, setter)
    return [Setting(layer, config, prepare=setter, pick=pick, extract=extract) for config in configs]


def set_attributes(layer: nn.Module, config: Mapping[str, Any]) -> None:
    """Set attributes of a layer, by names that may have dots ("conv.active_kernel_size"); a setter for `configured`.

    Raises:
        InputError: an attribute that the layer does not have or that cannot be set.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"[adapters] expected attributes by name, got {config!r}; pass a mapping")
    for name, value in config.items():
        *parents, last = name.split(".")
        part: Any = layer
        try:
            for parent in parents:
                part = getattr(part, parent)
            getattr(part, last)
            setattr(part, last, value)
        except (AttributeError, TypeError) as error:
            raise InputError(f"[adapters] expected an attribute that {type(layer).__name__} has and that can be set, got {name!r} "
                             f"({error}); check its name") from error  # fmt: skip


def elastic_depth(
    layers: Iterable[Iterable[nn.Module]], least: int = 1
) -> tuple[list[list[nn.Module]], Callable[[tuple[int, ...]], bool]]:
    """Return layers that may be left out from the end, and the rule that allows it at the end only.

    Every layer after the first `least` ones gets one more candidate, its last: `nn.Identity`. The rule is the `allowed` of
    `rate`, of a `pynas.Supernet` of one cell, and of `pynas.spaces.Cell`: a layer after an Identity is an Identity.

    Raises:
        InputError: a least depth outside 0 to the number of layers.
    """
    lists = choice_layers(layers)
    if not 0 <= least <= len(lists):
        raise InputError(f"[adapters] expected a least depth from 0 to {len(lists)} layers, got {least}")
    skips = tuple(len(layer) if number >= least else None for number, layer in enumerate(lists))
    return [[*layer, *[nn.Identity()] * (skip is not None)] for layer, skip in zip(lists, skips)], _OnlyAtTheEnd(skips)


@dataclass(frozen=True)
class _OnlyAtTheEnd:
    """Allows prefixes whose skipped layers are the last ones; skips: candidate that skips a layer, None where none does."""

    skips: tuple[int | None, ...]

    def __call__(self, prefix: tuple[int, ...]) -> bool:
        skipped = [choice == skip for choice, skip in zip(prefix, self.skips)]
        return skipped == sorted(skipped)


def _module(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.Module):
        raise InputError(f"[adapters] expected a layer that is an nn.Module, got {type(layer).__name__}")
    return layer


def _with_code(layer: nn.Module, x: Tensor, code: Any, *side: Any) -> Any:
    return layer(x, code, *side)


def _call_method(name: str, layer: nn.Module, config: Any) -> None:
    getattr(layer, name)(config)
