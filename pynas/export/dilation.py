"""Networks of a smaller output stride: strides give way to dilation, as in DeepLab (Chen et al., TPAMI 2018) and timm.

A map of reduction r before, `output_stride` s after, is `r / min(r, s)` times as dense, and every kernel that runs on it is
dilated by that factor: each weight sees the inputs that it was trained on. With zero padding of half the kernel the old map is
an exact sub-grid of the new one, borders included. Global pooling and self-attention run over all positions of the denser map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.supernets.shapes import trial

# By a module's name, the reductions of the maps that it takes and puts out, relative to the image.
Reductions = dict[str, tuple[int, int]]


class AtrousMaxPool2d(nn.Module):
    """Max pooling with dilation over the positions of a window that are inside the map; torch's pads by half a kernel at most.

    padding: rows and columns that the first window begins before the map.
    """

    def __init__(self, kernel: int, stride: int, padding: int, dilation: int):
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]."""
        x = _padded(x, self.kernel, self.padding, self.dilation, -torch.inf)
        return functional.max_pool2d(x, self.kernel, self.stride, 0, self.dilation)


class AtrousAvgPool2d(nn.Module):
    """Average pooling with dilation over the positions of a window that are inside the map.

    padding: rows and columns that the first window begins before the map. counted: whether positions outside count, as zeros.
    """

    def __init__(self, kernel: int, stride: int, padding: int, dilation: int, counted: bool):
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation, self.counted = kernel, stride, padding, dilation, counted

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> [B, C, ceil(H / stride), ceil(W / stride)]."""
        sums = self._sums(x.flatten(0, 1)[:, None])[:, 0].unflatten(0, x.shape[:2])
        return sums / (self.kernel**2 if self.counted else self._sums(torch.ones_like(x[:1, :1])))

    def _sums(self, x: Tensor) -> Tensor:
        """Sums over the windows of x `[N, 1, H, W]`."""
        x, ones = _padded(x, self.kernel, self.padding, self.dilation, 0.0), x.new_ones(1, 1, self.kernel, self.kernel)
        return functional.conv2d(x, ones, stride=self.stride, dilation=self.dilation)


def _padded(x: Tensor, kernel: int, padding: int, dilation: int, value: float) -> Tensor:
    """Pad x so that a window begins at every position of the map, moved by the padding in front."""
    return functional.pad(x, (padding, dilation * (kernel - 1) - padding) * 2, value=value)


def dilated(model: nn.Module, total: int, output_stride: int) -> nn.Module:
    """Change a network, in place, so that no map has a larger reduction than `output_stride`, and return it.

    model: an nn.Sequential of `features`, without the part that resizes images.
    total: reduction of its last map.
    output_stride: largest reduction to leave.

    Raises:
        InputError: an output stride that the strides do not reach; layers that work on tokens, enlarge maps, or reduce them
            by other means than convolutions and pooling with zero padding of half an odd kernel (average pooling: or without
            padding). The message names the layer.
    """
    # Large enough that only global pooling leaves one position, and that missing padding shows.
    side = 8 * total
    before = _reductions(model, side)
    possible = [s for s in range(1, total + 1) if all(_whole(*pair, s) for pair in before.values())]
    if output_stride not in possible:
        raise InputError(f"[features] expected an output stride of {', '.join(map(str, possible))}, those that this network of "
                         f"stride {total} can have, got {output_stride}")  # fmt: skip
    for name, module in list(model.named_modules()):
        if name in before and isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            r, out = before[name]
            stride = min(out, output_stride) // min(r, output_stride)
            _change(model, name, module, stride, r // min(r, output_stride))
    for name, (_, reached) in _reductions(model, side).items():
        if reached != min(before[name][1], output_stride):
            raise InputError(f"[features] expected strides in layers of the kinds Conv2d, MaxPool2d and AvgPool2d, got others in "
                             f"{name!r}: put them into such layers, or leave output_stride out")  # fmt: skip
    return model


def _whole(r: int, out: int, output_stride: int) -> bool:
    """Whether a layer from reduction r to `out` has whole strides and dilations under an output stride."""
    new, new_out = min(r, output_stride), min(out, output_stride)
    return new_out % new == 0 and r % new == 0 and out % new_out == 0


def _reductions(model: nn.Module, side: int) -> Reductions:
    """Reductions of the maps that every module takes and puts out, found by a trial on images of `side` pixels."""
    found: Reductions = {}

    def run(subject: nn.Module, x: Tensor) -> Reductions:
        found.clear()
        names = [name for name, _ in subject.named_children()]
        body = [(n, subject.get_submodule(n)) for n in names[: names.index("head") if "head" in names else None]]
        for top, part in body:
            for inner, module in part.named_modules(prefix=top):
                module.register_forward_hook(_watch(found, inner, side))
        for _, part in body:
            x = part(x)
        return found

    return trial(model, (3, side, side), run)


def _watch(found: Reductions, name: str, side: int) -> Any:
    """Return a hook that notes the reductions of a module, and refuses layers that cannot be dilated."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        x, kind, leaf = inputs[0] if inputs else None, type(module).__name__, not list(module.children())
        if not (isinstance(x, Tensor) and isinstance(output, Tensor)):
            return
        if leaf and 3 in (x.ndim, output.ndim):
            raise _refusal(name, kind, "works on tokens, as those of vision transformers do")
        kernels = any(parameter.ndim == 4 for parameter in module.parameters(recurse=False))
        if kernels and not isinstance(module, nn.Conv2d):
            raise _refusal(name, kind, "has kernels of its own")
        # Global pooling leaves one position, which has no stride.
        if x.ndim != 4 or output.ndim != 4 or 1 in (x.shape[2], output.shape[2]):
            return
        spatial = isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        if leaf and not spatial and x.shape[2:] != output.shape[2:]:
            raise _refusal(name, kind, "changes the size of its map")
        sides = x.shape[2], output.shape[2]
        if side % sides[0] or side % sides[1] or sides[0] < sides[1] or output.shape[2] != output.shape[3]:
            change = f"{list(x.shape[2:])} to {list(output.shape[2:])}"
            raise _refusal(name, kind, f"takes maps of {change}, no whole stride")
        pair = side // sides[0], side // sides[1]
        if found.setdefault(name, pair) != pair:
            raise _refusal(name, kind, "runs on maps of several sizes")

    return hook


def _refusal(name: str, kind: str, reason: str) -> InputError:
    return InputError(f"[features] expected a network of convolutions and pooling for an output stride, got the layer {name!r} "
                      f"({kind}), which {reason}: leave output_stride out")  # fmt: skip


def _change(model: nn.Module, name: str, module: Any, stride: int, dilation: int) -> None:
    """Give a layer a stride, and dilate it."""
    kernel, old, padding, inner = (
        _sides(getattr(module, key, 1)) for key in ("kernel_size", "stride", "padding", "dilation")
    )
    if old == (stride, stride) and (dilation == 1 or kernel == (1, 1)):
        return
    half = module.padding == "same" or all(k % 2 and 2 * p == d * (k - 1) for k, p, d in zip(kernel, padding, inner))
    if isinstance(module, nn.Conv2d):
        if not half or module.padding_mode != "zeros":
            raise _refusal(name, "Conv2d", "is not padded with zeros by half an odd kernel")
        module.stride, module.dilation = (stride, stride), (dilation * inner[0], dilation * inner[1])
        if module.padding != "same":
            module.padding = (dilation * padding[0], dilation * padding[1])
        return
    other = kernel[0] != kernel[1] or inner != (1, 1) or getattr(module, "divisor_override", None) is not None
    if other or not (half or padding == (0, 0)):
        raise _refusal(
            name, type(module).__name__, "is no plain square window with padding of nothing or half an odd kernel"
        )
    model.set_submodule(name, _pool(module, kernel[0], stride, dilation * padding[0], dilation).train(module.training))


def _pool(module: Any, kernel: int, stride: int, padding: int, dilation: int) -> nn.Module:
    """Pooling with dilation in place of a pooling."""
    if isinstance(module, nn.AvgPool2d):
        return AtrousAvgPool2d(kernel, stride, padding, dilation, module.count_include_pad and padding > 0)
    return AtrousMaxPool2d(kernel, stride, padding, dilation)


def _sides(value: Any) -> tuple[int, int]:
    """Rows and columns of a quantity; 0 for a padding in words."""
    if isinstance(value, str):
        return (0, 0)
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[return-value]
