"""Whether something watches a module: then it has to run by itself, and no kernel in its place."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as of_all

# Hooks of all modules; torch's own question for them is younger than the oldest torch that pynas runs on.
_GLOBAL = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """Return whether a module has hooks (its own or those of all modules), or a forward that its class does not have."""
    return "forward" in vars(module) or any(getattr(of_all, name) for name in _GLOBAL) or bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )  # fmt: skip
