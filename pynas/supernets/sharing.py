"""Modules of a net that hold parameters together: which of them are whole, and which are slices that need `extract`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from pynas.errors import InputError
from pynas.supernets.net import Place, located
from pynas.supernets.reads import partly_read
from pynas.supernets.setting import Setting
from pynas.supernets.shapes import Shape, extracted, is_view, output_shape

_CURE = "pass extract=, or give it a method extract(shape), that returns a plain module with copies of its slices"


class Holders:
    """Parameters of a net's modules, and by how many modules each is held; modules: stem, candidates and head."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        distinct = {id(module): module for module in modules}
        self._parameters = {key: {id(p) for p in module.parameters()} for key, module in distinct.items()}
        self._count: dict[int, int] = {}
        for parameters in self._parameters.values():
            for parameter in parameters:
                self._count[parameter] = self._count.get(parameter, 0) + 1

    def check(self, module: nn.Module, shape: Shape) -> None:
        """Check that a module's parameters are its own, or that it reads all elements of those which others hold too.

        Raises:
            InputError: a module without `extract` that is one setting of a layer, or that reads a part of a parameter of
                which another module may read another part: neither its costs nor its network are known.
        """
        if is_view(module):
            return
        own = self._parameters[id(module)]
        shared = {parameter for parameter in own if self._count[parameter] > 1}
        settings = [part for part in module.modules() if isinstance(part, Setting)]
        if settings and shared:
            raise InputError(f"[supernet] expected settings of a shared {settings[0].original_name} that can be extracted, got "
                             f"{settings[0].choice!r} without extract=; {_CURE}")  # fmt: skip
        name = partly_read(module, shape, own if settings else shared)
        if name is not None:
            others = " that another module holds too" if shared else ""
            raise InputError(f"[supernet] expected a module that reads its shared parameters whole, got {type(module).__name__}, "
                             f"which reads a part of {name!r}{others}; {_CURE}")  # fmt: skip

    def shares(self, module: nn.Module) -> bool:
        """Whether `check` has anything to look at: a setting, or parameters that another module holds too."""
        own = self._parameters[id(module)]
        return any(self._count[p] > 1 for p in own) or any(isinstance(part, Setting) for part in module.modules())


def extracted_chain(
    parts: Sequence[tuple[Place, nn.Module]], shape: Shape, net: Iterable[nn.Module]
) -> list[nn.Module]:
    """Plain modules with the outputs of a supernet's modules, run one after the other.

    parts: the modules with their places. shape: that of the first one's input, without the batch axis. net: all stems,
        candidates and heads of the supernet.

    Raises:
        InputError: a module that reads a part of what it shares and has no `extract`, or does not run; its place is named.
    """
    modules = [module for _, module in parts]
    holders = Holders(modules if all(map(is_view, modules)) else [*modules, *net])
    if not any(is_view(module) or holders.shares(module) for module in modules):
        return modules
    plain = []
    for place, module in parts:
        with located(place, "extract"):
            holders.check(module, shape)
            plain.append(extracted(module, shape))
            shape = output_shape(plain[-1], shape)
    return plain
