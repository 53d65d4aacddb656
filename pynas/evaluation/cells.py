"""Many architectures of a NAS-Bench-201 supernet at once: equal values are computed once, different ones stacked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pynas.nn.cell import ReLUConvBN, ResidualReduction, Zero
from pynas.ops.path_batch_norm import path_batch_norm
from pynas.spaces import Architecture
from pynas.spaces.nasbench201 import EDGES
from pynas.supernets.nasbench201 import CellNet, SharedCell


class PathNorms:
    """Batch norm with statistics for each stacked path.

    mode: "batch" normalises by the batch's statistics; "record" also keeps them; "recorded" normalises by the mean of those
    kept, with the unbiased variance, as torch's cumulative average does.
    """

    def __init__(self, mode: str = "batch") -> None:
        self.mode = mode
        self._sums: dict[nn.Module, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def __call__(self, norm: nn.BatchNorm2d, x: torch.Tensor, paths: int) -> torch.Tensor:
        """Normalise x `[paths * B, C, H, W]`."""
        if self.mode == "recorded":
            mean, var, times = self._sums[norm]
            return path_batch_norm(
                x, paths, norm.weight, norm.bias, norm.eps, mean=mean / times, var=var / times
            )[0]  # fmt: skip
        y, mean, var = path_batch_norm(x, paths, norm.weight, norm.bias, norm.eps)
        if self.mode == "record":
            count = x.numel() // (x.shape[1] * paths)
            unbiased = var * (count / (count - 1))
            before = self._sums.get(norm)
            self._sums[norm] = (
                (mean, unbiased, 1) if before is None else (before[0] + mean, before[1] + unbiased, before[2] + 1)
            )
        return y


class CellPaths:
    """Runs some architectures of a NAS-Bench-201 supernet in one pass; neighbours in lexicographic order share the most."""

    def __init__(self, net: CellNet, architectures: Sequence[Architecture]) -> None:
        self.net = net
        self.paths = np.array([architecture[0].path for architecture in architectures])

    @torch.no_grad()
    def features(self, images: torch.Tensor, norms: PathNorms) -> torch.Tensor:
        """Input of the classifier for images `[B, 3, H, W]`, of each architecture, `[P, B, D]`."""
        net, batch = self.net, len(images)
        x = norms(net.stem[1], net.stem[0](images), 1)  # type: ignore[arg-type]
        value, at = x[None], np.zeros(len(self.paths), np.int64)
        for part in net.body:
            if isinstance(part, SharedCell):
                value, at = self._cell(part, value, at, norms)
            elif isinstance(part, ResidualReduction):
                value = _unstacked(_reduce(part, value.flatten(0, 1), len(value), norms), batch)
        x = norms(net.head[0], value.flatten(0, 1), len(value))  # type: ignore[arg-type]
        features = net.head[1:](x).view(len(value), batch, -1)
        return features[torch.from_numpy(at).to(images.device)]

    def _cell(
        self, cell: SharedCell, x: torch.Tensor, at: np.ndarray, norms: PathNorms
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Run a cell on distinct values `[U, B, C, H, W]`; at `[P]`: index of each path's value. Returns the same pair."""
        nodes = [(x, at)]
        for target in range(1, 4):
            results, inputs, known = [torch.zeros_like(x[:1])], [], 1
            for edge, (source, _) in ((e, ends) for e, ends in enumerate(EDGES) if ends[1] == target):
                value, place = nodes[source]
                brought = np.zeros(len(self.paths), np.int64)
                for candidate, operation in enumerate(cell.edges[edge]):  # type: ignore
                    takers = np.flatnonzero(self.paths[:, edge] == candidate)
                    if len(takers) == 0 or isinstance(operation, Zero):
                        continue
                    distinct, which = np.unique(place[takers], return_inverse=True)
                    results.append(_operate(operation, value[torch.from_numpy(distinct).to(x.device)], norms))
                    brought[takers] = known + which
                    known += len(distinct)
                inputs.append(brought)
            sums, which = np.unique(np.stack(inputs, axis=1), axis=0, return_inverse=True)
            every = torch.cat(results)
            terms = [every[torch.from_numpy(column).to(x.device)] for column in sums.T]
            for term in terms[1:]:
                terms[0] += term
            nodes.append((terms[0], which.reshape(-1)))
        return nodes[-1]


def _operate(operation: nn.Module, value: torch.Tensor, norms: PathNorms) -> torch.Tensor:
    """Run one operation on distinct values `[U, B, C, H, W]`."""
    x = value.flatten(0, 1)
    if isinstance(operation, ReLUConvBN):
        y = norms(operation.bn, operation.conv(torch.relu(x)), len(value))
    else:
        y = operation(x)
    return _unstacked(y, value.shape[1])


def _reduce(part: ResidualReduction, x: torch.Tensor, paths: int, norms: PathNorms) -> torch.Tensor:
    y = x
    for layer in (part.conv_a, part.conv_b):
        y = norms(layer.bn, layer.conv(torch.relu(y)), paths)
    return part.shortcut(x) + y


def _unstacked(x: torch.Tensor, batch: int) -> torch.Tensor:
    return x.reshape(-1, batch, *x.shape[1:])
