"""Batch norm of one architecture, wherever a supernet runs it and on whichever slice of its channels."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from pynas.errors import InputError
from pynas.rating.function_calls import norm_arguments
from pynas.rating.places import memory

_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward, BatchNormAct2d.forward)


class Statistics(TorchFunctionMode):
    """Gives each batch norm that runs inside the `with` block statistics of the architecture that runs.

    Calls of `torch.nn.functional.batch_norm` get other arguments; modules and their stored statistics stay as they are. A norm
    may therefore be a slice of a wrapped one, as elastic layers take them, and run at several widths: a channel's statistics
    are the mean over the batches that reach the channel, as torch computes with momentum=None. Norms that another module than
    torch's runs with stored statistics whatever its mode (frozen ones) keep them.

    net: a copy in evaluation mode; its batch norms of one's own get hooks.
    Raises:
        InputError: batch norm that cannot be given other statistics; where only a run shows it, from the net's forward.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._mode, self._foreign, self._follows = "batch", dict[int, int](), set[int]()
        self._known, self._seen = {memory(buffer) for buffer in net.buffers()}, set[int]()
        self._means: dict[int, tuple[Tensor, Tensor]] = {}
        for part in net.modules():
            if isinstance(part, torch.jit.ScriptModule):
                if "batch_norm" in str(part.inlined_graph):  # type: ignore[attr-defined]
                    raise _fixed(str(part.original_name))
            elif not isinstance(part, _BatchNorm):
                self._watch(part)
            elif type(part).forward not in _KNOWN_FORWARDS:
                part.register_forward_hook(self._check_seen)

    def use(self, mode: str, means: dict[int, tuple[Tensor, Tensor]] | None = None) -> None:
        """Set the mode: "batch" (statistics of the batch), "record" (of the batch, kept) or "recorded" (the mean of those kept).

        means: those that `recorded` returned, in the mode "recorded"; None for none.
        """
        self._mode, self._means = mode, {} if means is None else means

    def recorded(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return what was kept since `use("record")`."""
        return self._means

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, batch norms with the statistics of the mode."""
        kwargs = kwargs or {}
        given = norm_arguments(func, args, kwargs)
        if given is None:
            if isinstance(func, torch._ops.OpOverload) and "batch_norm" in func._schema.name:
                raise _fixed(str(func))
            return func(*args, **kwargs)
        if given["running_mean"] is None or self._frozen(given):
            return func(*args, **kwargs)
        return self._normalised(given["running_mean"], given["running_var"], given)

    def _normalised(self, stored_mean: Tensor, stored_var: Tensor, given: dict[str, Any]) -> Tensor:
        x, affine, eps = given["input"], (given.get("weight"), given.get("bias")), given.get("eps", 1e-5)
        self._seen.add(memory(stored_mean))
        if self._mode == "batch":
            return F.batch_norm(x, None, None, *affine, True, 0.0, eps)
        if self._mode == "recorded":
            return F.batch_norm(x, self._recorded(stored_mean), self._recorded(stored_var), *affine, False, 0.0, eps)
        mean, var = torch.zeros_like(stored_mean), torch.zeros_like(stored_var)
        y = F.batch_norm(x, mean, var, *affine, True, 1.0, eps)
        self._record(stored_mean, mean)
        self._record(stored_var, var)
        return y

    def _record(self, stored: Tensor, value: Tensor) -> None:
        """Keep a batch's statistics for the channels of a buffer that `stored` is a view of."""
        if memory(stored) not in self._known:
            raise InputError("[rate] expected batch norms with running statistics that are buffers of a module or slices of "
                             "them, got other tensors; pass norm='batch'")  # fmt: skip
        if memory(stored) not in self._means:
            size, kind = (
                stored.untyped_storage().nbytes() // stored.itemsize,
                torch.promote_types(stored.dtype, torch.float32),
            )
            zeros = torch.zeros(2, size, dtype=kind, device=stored.device)
            self._means[memory(stored)] = zeros[0].clone(), zeros[1].clone()
        mean, count = (_like(stored, whole) for whole in self._means[memory(stored)])
        count += 1
        mean += (value - mean) / count

    def _recorded(self, stored: Tensor) -> Tensor:
        mean, count = (_like(stored, whole) for whole in self._means.get(memory(stored), (None, None)))
        if mean is None or not bool((count > 0).all()):
            raise InputError("[rate] expected images that pass the same batch norms as the calibration images, got others: "
                             "pass norm='batch'")  # fmt: skip
        return mean.to(stored.dtype)

    def _watch(self, part: nn.Module) -> None:
        """Note where a module that is no batch norm of torch's, but may run one on its own buffers, asks for its mode."""
        buffers = list(part.buffers(recurse=False))
        self._foreign |= {memory(buffer): id(part) for buffer in buffers}
        if buffers:
            mode = property(lambda module: self._follows.add(id(module)) or False, lambda module, value: None)  # type: ignore[func-returns-value]
            part.__class__ = type(type(part).__name__, (type(part),), {"training": mode})

    def _frozen(self, given: dict[str, Any]) -> bool:
        owner = self._foreign.get(memory(given["running_mean"]))
        return owner is not None and owner not in self._follows and not given.get("training", False)

    def _check_seen(self, norm: Any, inputs: Any, output: Any) -> None:
        if norm.running_mean is not None and memory(norm.running_mean) not in self._seen:
            raise _fixed(type(norm).__name__)


def _like(stored: Tensor, whole: Tensor | None) -> Any:
    """Channels of a vector as long as a buffer's storage, those that the view `stored` has of the buffer."""
    return None if whole is None else whole.as_strided(stored.size(), stored.stride(), stored.storage_offset())


def _fixed(name: str) -> InputError:
    return InputError(f"[rate] expected batch norms that run torch.nn.functional.batch_norm, got {name}, whose statistics "
                      "cannot be exchanged; pass norm='running', or use nn.BatchNorm")  # fmt: skip
