"""Symbolic tracing of any module, for changes of its graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Tracing patches nn.Module for the whole process: one at a time, and other threads' modules must run as ever.
_tracing = threading.Lock()


class _Tracer(fx.Tracer):
    def __init__(self, leaves: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self._thread, self._leaves = threading.get_ident(), leaves

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, self._leaves) or super().is_leaf_module(module, name)


def trace(
    module: nn.Module, fixed: Mapping[str, Any], leaves: tuple[type[nn.Module], ...] = (_BatchNorm,)
) -> fx.GraphModule | None:
    """Trace a module symbolically; return None where its forward does what tracing does not support.

    module: a private copy, as a forward may keep proxies on its module while it is traced. fixed: the values of arguments of its
    forward that do not vary. leaves: classes of modules that stay one node, beside those of `torch.nn`.
    """
    try:
        # torch.fx leaves a cycle of frames, which on this thread would hold the memory of whoever traces.
        with _tracing, ThreadPoolExecutor(1) as thread:
            return thread.submit(_traced, module, fixed, leaves).result()
    except Exception:  # whatever a forward does with a proxy
        return None


def _traced(module: nn.Module, fixed: Mapping[str, Any], leaves: tuple[type[nn.Module], ...]) -> fx.GraphModule:
    return fx.GraphModule(module, _Tracer(leaves).trace(module, dict(fixed) or None))


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module, or one in it, has forward hooks; tracing would run them once and then lose them."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
