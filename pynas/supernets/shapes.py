"""Shapes of modules, found by trial: a copy runs on the meta device, or where it cannot, on a few random numbers."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from itertools import chain
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.errors import InputError
from pynas.supernets.modes import device_of

Shape = tuple[int, ...]
T = TypeVar("T")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_shape(value: Any) -> bool:
    """Whether a value is the shape of one sample, whole numbers, rather than a batch."""
    return isinstance(value, Sequence) and all(isinstance(size, Integral) for size in value)


def to_meta(module: nn.Module) -> nn.Module:
    """Return a copy without storage, in evaluation mode."""
    memo: dict[int, object] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        meta = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
    return copy_module(module, memo, plain=True).eval()


def trial(module: nn.Module, input_shape: Shape, run: Callable[[Any, Tensor], T]) -> T:
    """Return `run(copy, x)`, where copy is the module in evaluation mode, without gradients, and x is a batch of inputs.

    The copy is on the meta device, where nothing is computed. Where it does not run there (it looks at values, or makes
    tensors of its own), it is a copy on the module's own device, and x is random: one sample, or 3 where it fails on one.
    The module and all random generators stay as they are.

    input_shape: shape of one sample.

    Raises:
        InputError: a module that fails on all of these; the message has its error's first line.
    """
    home = device_of(module)
    meta = torch.device("meta")
    places = [(meta, 1), (home, 1), (home, 3)]
    failure: Exception | None = None
    for device, batch in places:
        for dtype in input_dtypes(module):
            try:
                with kept_generators(home), _plain():
                    subject = to_meta(module) if device == meta else copy_module(module, plain=True).eval()
                    return run(subject, samples(batch, input_shape, device, dtype))
            except Exception as error:
                failure = error
    if isinstance(failure, InputError):
        raise failure
    raise InputError(f"[supernet] expected a module that runs on inputs of the shape {list(input_shape)}, got "
                     f"{blame(module, failure)}; check the module and its input") from failure  # fmt: skip


def samples(batch: int, shape: Shape, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return normal random numbers `[batch, *shape]`, equal in every call; torch's own generators are not drawn from."""
    if device.type == "meta":
        return torch.empty(batch, *shape, device=device, dtype=dtype)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0), device="cpu").to(device, dtype)


def output_shape(module: nn.Module, input_shape: Shape) -> Shape:
    """Shape of a module's output for one sample of `input_shape` (neither has the batch axis).

    Raises:
        InputError: a module that does not run on such inputs, or whose output does not keep the batch axis.
    """
    return trial(module, input_shape, lambda subject, x: sample_shape(subject, subject(x), len(x)))


def sample_shape(module: nn.Module, output: Any, batch: int) -> Shape:
    """Shape of a module's output without the batch axis; of the first tensor where it puts out several.

    Raises:
        InputError: an output without tensors, or a tensor without the batch axis.
    """
    name, first = type(module).__name__, next(tensors_in(output), None)
    if first is None:
        raise InputError(f"[supernet] expected {name} to put out a tensor, got {type(output).__name__}")
    if first is output and first.shape[:1] != (batch,):
        raise InputError(f"[supernet] expected {name} to keep the batch as first axis, got an output of the shape "
                         f"{list(first.shape)} for {batch} samples; let it put out [B, ...]")  # fmt: skip
    return tuple(first.shape[1:])


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Every tensor of a module's output: a tensor, or tuples, lists, mappings and dataclasses of them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from chain.from_iterable(map(tensors_in, output.values()))
    elif isinstance(output, (tuple, list)):
        yield from chain.from_iterable(map(tensors_in, output))
    elif is_dataclass(output):
        yield from chain.from_iterable(tensors_in(getattr(output, field.name)) for field in fields(output))


def extracted(module: nn.Module, shape: Shape) -> nn.Module:
    """Plain module with the outputs of a supernet's module for inputs of `shape` (without the batch axis).

    A candidate that shares its weights has `extract(shape)`, which returns a plain module with copies of its slices; any
    other module is returned as it is.
    """
    return module.extract(shape) if is_view(module) else module  # type: ignore[operator]


def is_view(module: nn.Module) -> bool:
    """Whether a module runs on slices of weights, of which `extracted` returns copies."""
    return hasattr(module, "extract")


def input_dtypes(module: nn.Module) -> list[torch.dtype]:
    """Types to try as a module's input: that of its first floating-point tensor, then torch's default."""
    own = (tensor.dtype for tensor in chain(module.parameters(), module.buffers()) if tensor.dtype in _FLOATS)
    return list(dict.fromkeys([next(own, torch.get_default_dtype()), torch.get_default_dtype()]))


def blame(module: nn.Module, error: Exception | None) -> str:
    """Describe a module's error in one line."""
    return f"{type(error).__name__} from {type(module).__name__}: {(str(error).splitlines() or [''])[0]}"


@contextmanager
def kept_generators(device: torch.device) -> Iterator[None]:
    """Restore the random generators of Python, numpy and torch (on the CPU and on `device`) afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (modules may draw from it)
    other = device.type not in ("cpu", "meta")
    try:
        with torch.random.fork_rng([device] if other else [], device_type=device.type if other else "cuda"):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _plain() -> Iterator[None]:
    """Run without gradients, compilation and warnings."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if "torch._dynamo" in sys.modules:  # imported by every torch.compile, and slow to import
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
