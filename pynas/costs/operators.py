"""Multiply-adds of torch's operators, counted while they run: torch's own formulas, and those that it lacks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def _product(at: int) -> Callable[..., int]:
    """Formula of a matrix product whose factors `[..., M, K]` and `[..., K, N]` are the arguments `at` and `at + 1`."""
    return lambda *args: args[at].numel() * args[at + 1].shape[-1]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _multi_head(query: Tensor, key: Tensor, value: Tensor, dim: int, *_: Any) -> int:
    batch, length = query.shape[:2]
    return batch * length * dim * (4 * dim + 2 * key.shape[1])


def _encoder_layer(x: Tensor, dim: int, *args: Any) -> int:
    # The weights of the two linear layers of the MLP are arguments 14 and 16 of the operator.
    return _multi_head(x, x, x, dim) + x.shape[:-1].numel() * (args[12].numel() + args[14].numel())


def _recurrent(x: Tensor, weights: list[Tensor], *_: Any) -> int:
    return x.shape[:-1].numel() * sum(weight.numel() for weight in weights if weight.dim() == 2)


# Multiply-adds from an operator's arguments, by its name; torch's registry has those that are not here.
_FORMULAS: dict[str, Callable[..., int]] = {
    "aten.mv": lambda matrix, *_: matrix.numel(),
    "aten.addmv": lambda start, matrix, *_: matrix.numel(),
    "aten.dot": lambda vector, *_: vector.numel(),
    "aten.vdot": lambda vector, *_: vector.numel(),
    "aten.addr": lambda start, left, right, *_: left.numel() * right.numel(),
    "aten.addbmm": _product(1),
    "aten._addmm_activation": _product(1),
    "aten._int_mm": _product(0),
    "aten._grouped_mm": _product(0),
    "aten.linear": lambda x, weight, *_: x.shape[:-1].numel() * weight.numel(),
    "aten.mkldnn_linear": lambda x, weight, *_: x.shape[:-1].numel() * weight.numel(),
    "aten.conv_tbc": lambda x, weight, bias, pad=0: (x.shape[0] + 2 * pad - len(weight) + 1) * x.shape[1] * weight.numel(),
    "aten._trilinear": lambda first, second, third, *expand: _trilinear((first, second, third), expand),
    "aten.affine_grid_generator": lambda theta, size, *_: theta.numel() * torch.Size(size[2:]).numel(),
    "aten.mkldnn_rnn_layer": lambda x, inputs, hidden, *_: _recurrent(x, [inputs, hidden]),
    "aten._cudnn_rnn": _recurrent,
    "aten.miopen_rnn": _recurrent,
    "aten._native_multi_head_attention": _multi_head,
    "aten._transformer_encoder_layer_fwd": _encoder_layer,
    "pynas.queue_nce": lambda query, key, queue, *_: query.numel() * (1 + len(queue)),
}  # fmt: skip

# Words in the names of torch's operators that multiply and add. One without a formula is uncounted, and so is every
# operator of other libraries.
_WORDS = re.compile(
    "(^|_)(mm|bmm|addmm|baddbmm|addbmm|sspaddmm|hspmm|mv|addmv|dot|vdot|addr|matmul|linear|linalg|conv|conv2d|conv3d|"
    "convolution|dilated2d|dilated3d|transpose2d|transpose3d|depthwise2d|depthwise3d|tbc|trilinear|attention|transformer|"
    "rnn|gru|lstm|fft|cdist|pdist|euclidean|cholesky|solve|spsolve|geqrf|ormqr|qr|svd|eig|householder)(_|$)"
)
# Norms, cross products, interpolation, and parts of recurrent layers without products.
_NO_PRODUCTS = {
    "linalg_vector_norm", "linalg__powsum", "linalg_cross", "_linalg_check_errors", "upsample_linear1d", "fft_fftfreq",
    "upsample_trilinear3d", "fft_rfftfreq", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "_cudnn_rnn_flatten_weight",
    "mkldnn_reorder_conv2d_weight", "mkldnn_reorder_conv3d_weight",
}  # fmt: skip
# Libraries whose operators have no products: those of torch that move data, and pynas's norms, losses and searches.
_LIBRARIES = {"prim", "prims", "profiler", "c10d", "_c10d_functional", "pynas"}
_DENSE = (torch.strided, torch._mkldnn)  # type: ignore[attr-defined]

# Axis of the channels in the output of convolutions and linear layers.
_CHANNELS = {
    "aten.convolution": 1,
    "aten._convolution": 1,
    "aten.mkldnn_convolution": 1,
    "aten.conv_tbc": 2,
} | dict.fromkeys(
    ("aten.addmm", "aten.mm", "aten.linear", "aten.mkldnn_linear", "aten._addmm_activation", "aten._int_mm"), -1
)


def _trilinear(factors: tuple[Tensor, ...], expand: tuple[Any, ...]) -> int:
    """One multiply-add for every index of the three factors, of which each lacks the axes `expand[n]`."""
    sizes: dict[int, int] = {}
    for factor, missing in zip(factors, expand):
        axes = [axis for axis in range(factor.dim() + len(missing)) if axis not in missing]
        for axis, size in zip(axes, factor.shape):
            sizes[axis] = max(size, sizes.get(axis, 1))
    return torch.Size(sizes.values()).numel()


class Counter(TorchDispatchMode):
    """Counts the multiply-adds of the operators that run, and lists the operators that it has no formula for."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.madds = 0
        self.uncounted: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count it; one that torch defines by others is counted by those."""
        kwargs = kwargs or {}
        name = _name(func)
        formula = _formula(name, func)
        if formula is None and hasattr(func, "decompose"):
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        if formula is None:
            if _multiplies(name, func):
                self.uncounted.add(name)
        elif any(isinstance(leaf, Tensor) and leaf.layout not in _DENSE for leaf in tree_leaves(args)):
            self.uncounted.add(f"{name} (sparse)")
        else:
            try:
                self.madds += formula(args, kwargs, output)
            except Exception:  # arguments that the formula does not foresee, such as nested tensors
                self.uncounted.add(name)
        return output


class _OuterProducts(TorchFunctionMode):
    """Counts outer products, which arrive at a `Counter` as elementwise products.

    A function mode also keeps torch's attention layers from their fused operators, of which some have no formula.
    """

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        output = func(*args, **(kwargs or {}))
        if func in (torch.outer, torch.ger, Tensor.outer, Tensor.ger):
            self._counter.madds += output.numel()
        return output


@contextmanager
def counting() -> Iterator[Counter]:
    """Count the operators that run inside."""
    with Counter() as counter, _OuterProducts(counter):
        yield counter


class _Channels(TorchDispatchMode):
    """Lists the output channels of the convolutions and linear layers that run."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and note its output channels."""
        output = func(*args, **(kwargs or {}))
        axis = _CHANNELS.get(_name(func))
        if axis is not None and output.dim() >= 2:
            self.channels.append(output.shape[axis])
        return output


@contextmanager
def output_channels() -> Iterator[list[int]]:
    """List the output channels of the convolutions and linear layers that run inside, in their order.

    A linear layer is a product of two matrices; products of more axes, as between queries and keys, are none.
    """
    # The function mode keeps torch's attention layers from their fused operators.
    with _Channels() as mode, _OuterProducts(Counter()):
        yield mode.channels


def _name(func: Any) -> str:
    """Library and name of an operator; in-place ones have the name of the others."""
    if not isinstance(func, torch._ops.OpOverload):
        return f"higher_order.{func}"
    base = func._overloadpacket.__name__
    return f"{func.namespace}.{base if base.endswith('__') else base.rstrip('_')}"


def _formula(name: str, func: Any) -> Callable[[Any, Any, Any], int] | None:
    """Multiply-adds from an operator's arguments, keywords and output; None where there is no formula."""
    own = _FORMULAS.get(name)
    if name.startswith("aten._scaled_dot_product") and not name.endswith("backward"):
        own = _attention
    if own is not None:
        return lambda args, kwargs, output: own(*args)
    library, base = name.split(".", 1)
    packet = getattr(func, "_overloadpacket", func)
    if library == "aten":
        packet = getattr(torch.ops.aten, base, packet)  # that of `addmm` for `addmm_`
    known = flop_registry.get(packet)
    return known and (lambda args, kwargs, output: known(*args, **kwargs, out_val=output) // 2)


def _multiplies(name: str, func: Any) -> bool:
    """Whether an operator without a formula may sum products."""
    library, base = name.split(".", 1)
    if library != "aten":
        return library not in _LIBRARIES
    return torch.Tag.pointwise not in func.tags and base not in _NO_PRODUCTS and _WORDS.search(base) is not None
