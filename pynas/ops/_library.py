"""The torch operator library `pynas::`, the native module, and the checks every operator shares."""

from __future__ import annotations

from pathlib import Path

import torch

from pynas import _C
from pynas.errors import InputError

library = torch.library.Library("pynas", "DEF")

# The codes of csrc/common/dtype.h.
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3, torch.int64: 4}
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _share_openmp() -> None:
    """Let the kernels run on torch's own OpenMP threads (a second pool would fight for the same cores)."""
    for path in sorted(Path(torch.__file__).parent.joinpath("lib").glob("lib*omp*.so*")):
        if _C.use_openmp(str(path)):
            return


_share_openmp()


def define(name: str, schema: str, implementation, fake) -> None:
    """Register the operator `pynas::name` with its implementation and the shapes of its outputs.

    For every backend, so that a tensor elsewhere than on CPU and CUDA is refused by the operator's own checks.
    """
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pynas::{name}", fake, lib=library)


def backend(tensor: torch.Tensor) -> str:
    """Whose kernels run on this tensor: "cpu" or "cuda"."""
    return "cuda" if tensor.is_cuda else "cpu"


def threads() -> int:
    """Threads that a kernel may use: torch's setting."""
    return torch.get_num_threads()


def stream(tensor: torch.Tensor) -> int:
    """The raw current CUDA stream of the tensor's device."""
    return torch.cuda.current_stream(tensor.device).cuda_stream


def call(kernel: str, on: torch.Tensor, *arguments: object) -> None:
    """Run a native kernel where the tensor `on` is: tensors go as addresses (0 for None), dtypes as codes."""
    native = [_native(argument) for argument in arguments]
    if on.is_cuda:
        with torch.cuda.device(on.device):
            getattr(_C, kernel)(*native, 1, stream(on))
    else:
        getattr(_C, kernel)(*native, threads(), None)


def _native(argument: object) -> object:
    if isinstance(argument, torch.Tensor):
        return argument.data_ptr()
    if isinstance(argument, torch.dtype):
        return DTYPE_CODES[argument]
    return 0 if argument is None else argument


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over, and of per-channel parameters of, tensors of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """The layout to work in: the tensor's own if dense, contiguous or channels-last, else contiguous."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if channels_last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=channels_last):
        return torch.contiguous_format
    return channels_last


def require(condition: bool, operator: str, expected: str, got: object) -> None:
    """Raise `InputError('[operator] expected ..., got ...')` unless the condition holds."""
    if not condition:
        raise InputError(f"[{operator}] expected {expected}, got {got}")


def require_tensor(operator: str, name: str, tensor: object, *, like: torch.Tensor | None = None) -> None:
    """A dense floating-point CPU or CUDA tensor; with `like`, of the same dtype and on the same device."""
    require(isinstance(tensor, torch.Tensor), operator, f"{name} to be a tensor", type(tensor).__name__)
    assert isinstance(tensor, torch.Tensor)
    require(tensor.layout == torch.strided, operator, f"{name} to be a dense tensor", tensor.layout)
    require(
        tensor.device.type in ("cpu", "cuda", "meta"), operator, f"{name} on the CPU or a CUDA device", tensor.device
    )
    require(tensor.dtype in FLOATING, operator, f"{name} of dtype float32, float64, float16 or bfloat16", tensor.dtype)
    if like is not None:
        require(tensor.dtype == like.dtype, operator, f"{name} of dtype {like.dtype}", tensor.dtype)
        require(tensor.device == like.device, operator, f"{name} on {like.device}", tensor.device)


def require_no_grad(operator: str, **tensors: torch.Tensor | None) -> None:
    """The operator is not differentiable: refuse an input that autograd would follow."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                raise InputError(
                    f"[{operator}] expected {name} without requires_grad, since the operator is not differentiable, "
                    "got one with; call it under torch.no_grad() or detach the input"
                )


def same_or_disjoint(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Two dense tensors have the same elements at the same addresses, or share none."""
    if left.numel() == 0 or right.numel() == 0 or left.device != right.device:
        return True
    if left.data_ptr() == right.data_ptr() and left.shape == right.shape and left.dtype == right.dtype:
        return all(a == b for a, b, size in zip(left.stride(), right.stride(), left.shape) if size > 1)
    (left_begin, left_end), (right_begin, right_end) = extent(left), extent(right)
    return left_end <= right_begin or right_end <= left_begin


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses of a tensor's first byte and of the byte after its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
