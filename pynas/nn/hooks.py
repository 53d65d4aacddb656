"""Whether something watches a module: then it has to run by itself, and no kernel in its place."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


def hooked(module: nn.Module) -> bool:
    """Return whether a module has hooks (its own or those of all modules), or a forward that its class does not have."""
    return "forward" in vars(module) or _has_any_global_hook() or bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )  # fmt: skip
