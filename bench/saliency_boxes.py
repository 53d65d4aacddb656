"""saliency_boxes: PreNAS scores the widths of AutoFormer's layers, heads by embedding dimensions."""

from __future__ import annotations

import torch

from bench import _timer
from pynas import ops
from pynas.ops.saliency_boxes import saliency_boxes_reference

# Rows, columns, row bounds, column bounds: the query part of qkv (heads of 64) and the first MLP layer of the tiny and
# base supernets, and a matrix that no cache holds.
CASES = {
    "tiny query": (256, 256, [192, 256], [192, 216, 240]),
    "tiny MLP": (1024, 256, [672, 756, 768, 840, 864, 960], [192, 216, 240]),
    "base MLP": (2560, 640, [1584, 1728, 1848, 2016, 2112, 2304, 2496], [528, 576, 624]),
    "large": (8192, 8192, [4096, 6144, 8192], [4096, 6144, 8192]),
}


def main() -> None:
    options = _timer.arguments(__doc__)
    for name, (rows, cols, row_bounds, col_bounds) in CASES.items():
        weight, grad = torch.randn(2, rows, cols, device=options.device)
        arguments = (weight, grad, row_bounds, col_bounds)
        torch.testing.assert_close(
            ops.saliency_boxes(*arguments), saliency_boxes_reference(*arguments), rtol=1e-6, atol=0
        )

        def eager(weight=weight, grad=grad, row_bounds=row_bounds, col_bounds=col_bounds) -> torch.Tensor:
            product = (weight * grad).abs()
            return torch.stack([product[:row, :col].sum() for row in row_bounds for col in col_bounds])

        nbytes = 2 * weight.element_size() * max(row_bounds) * max(col_bounds)
        functions = {
            "pynas": lambda arguments=arguments: ops.saliency_boxes(*arguments),
            "eager": eager,
            "copy": _timer.copy(nbytes, options.device),
        }
        if not options.no_compile:
            functions["compiled"] = _timer.compiled(eager)
        _timer.report("saliency_boxes", f"{name} {[rows, cols]}", nbytes, functions, options)


if __name__ == "__main__":
    main()
