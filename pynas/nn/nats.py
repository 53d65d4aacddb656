"""Layers of NATS-Bench's size space (Dong et al., TPAMI 2021), plain and slimmable; a slimmable layer holds every width.

An operation is ReLU, convolution, batch norm. A layer of the network is the fixed cell
`|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|` or a residual block of
stride 2. Where its width changes, the cell's skip is a 1x1 convolution with batch norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pynas.nn.batch_norm import Activation, NormSequential, batch_norm_act
from pynas.nn.drop import dropped
from pynas.nn.slimmable import SlimmableConv2d, SlimmableLinear, Switchable


class NATSCell(nn.Module):
    """The fixed cell: each of three nodes is the sum of its edges. edges: "01" leads from node 0 (the input) to node 1."""

    def __init__(self, edges: dict[str, nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(edges)
        self.drop_path: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in, H, W] -> [B, out, H, W]."""
        first = self.edges["01"](x)
        second = self.edges["02"](x) + self.edges["12"](first)
        shortcut, *branches = self.edges["03"](x), self.edges["13"](first), self.edges["23"](second)
        for branch in branches:
            shortcut = shortcut + dropped(branch, self.drop_path)
        return shortcut


class NATSResidual(nn.Module):
    """Two 3x3 operations, the first of stride 2, beside an average pool with a 1x1 convolution."""

    def __init__(self, first: nn.Module, second: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.pool, self.shortcut = nn.AvgPool2d(2), shortcut
        self.drop_path: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, in, H, W] -> [B, out, H / 2, W / 2]."""
        return dropped(self.second(self.first(x)), self.drop_path) + self.shortcut(self.pool(x))


class ConvNorm(nn.Module):
    """A slimmable convolution and its switchable batch norm."""

    def __init__(self, in_channels: int, widths: Sequence[int], kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = SlimmableConv2d(in_channels, max(widths), kernel, stride)
        self.norm = Switchable(widths, nn.BatchNorm2d)

    def forward(self, x: Tensor, width: int, act: Activation | None = None, residual: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W] -> [B, width, H / stride, W / stride]; act and residual: as of `batch_norm_act`."""
        return batch_norm_act(self.norm.at(width), self.conv(x, width), act, residual)

    def forward_widths(self, x: Tensor, widths: Sequence[int], act: Activation | None = None) -> list[Tensor]:
        """`forward` at each of the widths, with one convolution for all."""
        return [batch_norm_act(self.norm.at(y.shape[1]), y, act) for y in self.conv.forward_widths(x, widths)]

    def extract(self, in_channels: int, width: int, relu: bool = False) -> nn.Sequential:
        """Plain operation at one width; relu: with the ReLU before it."""
        parts: OrderedDict[str, nn.Module] = OrderedDict(relu=nn.ReLU()) if relu else OrderedDict()
        parts["conv"], parts["norm"] = self.conv.extract(in_channels, width), self.norm.extract((width,))
        return NormSequential(parts)


class SlimmableNATSCell(nn.Module):
    """The fixed cell at every width. in_channels: largest width of the input; None where it is that of the output."""

    def __init__(self, widths: Sequence[int], in_channels: int | None = None) -> None:
        super().__init__()
        widest = max(widths)
        inputs = {"01": in_channels or widest, "02": in_channels or widest, "12": widest, "13": widest, "23": widest}
        self.edges = nn.ModuleDict({edge: ConvNorm(channels, widths) for edge, channels in inputs.items()})
        if in_channels is not None:
            self.edges["03"] = ConvNorm(in_channels, widths, 1)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """x: [B, C, H, W] -> [B, width, H, W]."""
        return self.forward_widths(x, [width])[0]

    def forward_widths(self, x: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """`forward` at each of the widths; the edges from the input are computed once."""
        changed = [width for width in widths if width != x.shape[1]]
        skips = dict(zip(changed, self._edge("03").forward_widths(x, changed))) if changed else {}
        active = F.relu(x)
        first = self._edge("01").forward_widths(active, widths, F.relu)
        second = self._edge("02").forward_widths(active, widths)
        return [self._rest(skips.get(width, x), y, z, width) for y, z, width in zip(first, second, widths)]

    def _rest(self, skip: Tensor, first: Tensor, second: Tensor, width: int) -> Tensor:
        """Part of the cell after the input's edges, which widths do not share."""
        second = self._edge("12")(first, width, F.relu, second)
        return self._edge("23")(second, width, residual=self._edge("13")(first, width, residual=skip))

    def _edge(self, name: str) -> ConvNorm:
        return self.edges[name]  # type: ignore[return-value]

    def extract(self, in_channels: int, width: int) -> NATSCell:
        """Plain cell at one width."""
        edges: dict[str, nn.Module] = {"03": nn.Identity()}
        if in_channels != width:
            edges["03"] = self._edge("03").extract(in_channels, width)
        for name in ("01", "02", "12", "13", "23"):
            edges[name] = self._edge(name).extract(in_channels if name[0] == "0" else width, width, relu=True)
        return NATSCell(edges)


class SlimmableNATSResidual(nn.Module):
    """The residual block at every width. in_channels: largest width of the input."""

    def __init__(self, widths: Sequence[int], in_channels: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(in_channels, widths, stride=2), ConvNorm(max(widths), widths)
        self.shortcut = SlimmableConv2d(in_channels, max(widths))

    def forward(self, x: Tensor, width: int) -> Tensor:
        """x: [B, C, H, W] -> [B, width, H / 2, W / 2]."""
        return self.forward_widths(x, [width])[0]

    def forward_widths(self, x: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """`forward` at each of the widths; the convolutions of the input are computed once."""
        first = self.first.forward_widths(F.relu(x), widths, F.relu)
        short = self.shortcut.forward_widths(F.avg_pool2d(x, 2), widths)
        return [self.second(y, width, residual=z) for y, z, width in zip(first, short, widths)]

    def extract(self, in_channels: int, width: int) -> NATSResidual:
        """Plain block at one width."""
        first, second = self.first.extract(in_channels, width, relu=True), self.second.extract(width, width, relu=True)
        return NATSResidual(first, second, self.shortcut.extract(in_channels, width))


class SlimmableNATSStem(nn.Module):
    """The 3x3 convolution of the image with batch norm, and the first layer's cell; both have one width."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem, self.cell = ConvNorm(3, widths), SlimmableNATSCell(widths)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """x: [B, 3, H, W] -> [B, width, H, W]."""
        return self.cell(self.stem(x, width), width)

    def forward_widths(self, x: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """`forward` at each of the widths; the stem's convolution is computed once."""
        return [self.cell(y, width) for y, width in zip(self.stem.forward_widths(x, widths), widths)]

    def extract(self, in_channels: int, width: int) -> nn.Sequential:
        """Plain stem and cell at one width."""
        stem, cell = self.stem.extract(in_channels, width), self.cell.extract(width, width)
        return nn.Sequential(OrderedDict(stem=stem, cell=cell))


class SlimmableNATSHead(nn.Module):
    """Batch norm, ReLU, average pool and classifier for every width."""

    def __init__(self, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.norm, self.classifier = Switchable(widths, nn.BatchNorm2d), SlimmableLinear(max(widths), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W] -> logits [B, num_classes]."""
        return self.classifier(batch_norm_act(self.norm.at(x.shape[1]), x, F.relu).mean((2, 3)))

    def extract(self, shape: Sequence[int]) -> nn.Sequential:
        """Plain head for an input of `shape` (without the batch axis)."""
        parts = (
            self.norm.extract(shape),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            self.classifier.extract(shape[0]),
        )
        return NormSequential(OrderedDict(zip(("norm", "relu", "pool", "flatten", "classifier"), parts)))
