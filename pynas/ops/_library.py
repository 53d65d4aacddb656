"""The torch operator library `pynas::`, the calls of the native module, and the checks that operators share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from pynas import _C
from pynas.errors import InputError

library = torch.library.Library("pynas", "DEF")
Operator = Callable[..., Any]

# The numbers of the enumeration in csrc/common/dtype.h.
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3, torch.int64: 4}
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _share_openmp() -> None:
    """Run the kernels on torch's own OpenMP threads: a second pool would compete for the same cores."""
    for path in sorted(Path(torch.__file__).parent.joinpath("lib").glob("lib*omp*.so*")):
        if _C.use_openmp(path=str(path)):
            return


_share_openmp()


def define(name: str, schema: str, implementation: Operator, fake: Operator) -> Operator:
    """Register the operator `pynas::name` with its implementation and its fake, which gives the shapes of the outputs.

    The implementation serves every backend, so that its own checks refuse a tensor that is neither on CPU nor on CUDA.
    Returns the function that runs the operator. Where nothing watches torch's operators, it calls the implementation itself,
    since the way through torch's dispatcher and back to Python takes longer than a small kernel.
    """
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pynas::{name}", fake, lib=library)
    registered = getattr(torch.ops.pynas, name)

    def run(*arguments: Any) -> Any:
        return implementation(*arguments) if unwatched(arguments[0]) else registered(*arguments)

    return run


def unwatched(tensor: torch.Tensor) -> bool:
    """Return whether only the values of a call count: no compilation, tracing, mode or transform, no tensor of another type."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not tensor.is_meta
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
    )


def backend(tensor: torch.Tensor) -> str:
    """Return the device whose kernels run on this tensor: "cpu" or "cuda"."""
    return "cuda" if tensor.is_cuda else "cpu"


def threads() -> int:
    """Return the number of threads that a kernel may use, which is torch's."""
    return torch.get_num_threads()


def stream(tensor: torch.Tensor) -> int | None:
    """Return the address of the current CUDA stream of the tensor's device, None for a tensor on the CPU."""
    return torch._C._cuda_getCurrentRawStream(tensor.device.index) if tensor.is_cuda else None


def call(kernel: str, on: torch.Tensor, /, **arguments: object) -> None:
    """Run a native kernel on the device of the tensor `on`. Its arguments are the fields of its struct in csrc/common."""
    arguments.update(threads=threads(), stream=stream(on))
    if on.is_cuda and on.device.index != torch.cuda.current_device():
        with torch.cuda.device(on.device):
            run(kernel, **arguments)
    else:
        run(kernel, **arguments)


def run(kernel: str, /, **arguments: object) -> None:
    """Run a native kernel with these arguments alone, tensors as their addresses and dtypes as their numbers."""
    # `arguments` keeps the tensors alive while the kernel has their addresses.
    passed = {
        name: value.data_ptr() if isinstance(value, torch.Tensor)
        else DTYPE_CODES[value] if isinstance(value, torch.dtype) else value
        for name, value in arguments.items()
    }  # fmt: skip
    getattr(_C, kernel)(**passed)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums over tensors of `dtype`, and of their per-channel parameters."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """Return the tensor's layout if it is dense, contiguous or channels-last; contiguous otherwise."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if channels_last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=channels_last):
        return torch.contiguous_format
    return channels_last


def refuse(operator: str, expected: str, got: object) -> NoReturn:
    """Raise `InputError('[operator] expected ..., got ...')`."""
    raise InputError(f"[{operator}] expected {expected}, got {got}")


def require(condition: bool, operator: str, expected: str, got: object) -> None:
    """Refuse unless the condition holds. Where making `expected` or `got` takes longer than the check, call `refuse`."""
    if not condition:
        refuse(operator, expected, got)


def require_tensor(operator: str, name: str, tensor: object, *, like: torch.Tensor | None = None) -> None:
    """Raise `InputError` unless the tensor is dense, floating-point, on CPU or CUDA, and of the dtype and device of `like`."""
    if not isinstance(tensor, torch.Tensor):
        refuse(operator, f"{name} to be a tensor", type(tensor).__name__)
    dtype, device = tensor.dtype, tensor.device
    if tensor.layout is not torch.strided:
        refuse(operator, f"{name} to be a dense tensor", tensor.layout)
    if device.type not in ("cpu", "cuda", "meta"):
        refuse(operator, f"{name} on the CPU or a CUDA device", device)
    if dtype not in FLOATING:
        refuse(operator, f"{name} of dtype float32, float64, float16 or bfloat16", dtype)
    if like is not None:
        if dtype != like.dtype:
            refuse(operator, f"{name} of dtype {like.dtype}", dtype)
        if device != like.device:
            refuse(operator, f"{name} on {like.device}", device)


def require_no_grad(operator: str, **tensors: torch.Tensor | None) -> None:
    """Raise `InputError` if autograd would follow one of the tensors, since the operator is not differentiable."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                raise InputError(
                    f"[{operator}] expected {name} without requires_grad, since the operator is not differentiable, "
                    "got one with; call it under torch.no_grad() or detach the input"
                )


def same_or_disjoint(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return whether two dense tensors have equal elements at equal addresses, or share no memory."""
    if left is right or left.numel() == 0 or right.numel() == 0 or left.device != right.device:
        return True
    if left.data_ptr() == right.data_ptr() and left.shape == right.shape and left.dtype == right.dtype:
        return all(a == b for a, b, size in zip(left.stride(), right.stride(), left.shape) if size > 1)
    (left_begin, left_end), (right_begin, right_end) = extent(left), extent(right)
    return left_end <= right_begin or right_end <= left_begin


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and of the byte after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
