"""saliency_boxes: PreNAS scores the widths of AutoFormer's layers, heads by embedding dimensions.

Beside eager torch and torch.compile, on the CPU: OpenCV's integral image, whose table in float64 holds every prefix box. Its
boxFilter gives windows of one size at all places, of which a prefix box is one: no such line.
"""

from __future__ import annotations

import numpy as np
import torch

from bench import _timer
from bench._command import installed, run
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


def by_integral(cv2, weight, grad, row_bounds, col_bounds):
    """The boxes read from OpenCV's integral image of abs(weight * grad)."""
    weight, grad, places = weight.numpy(), grad.numpy(), np.ix_(row_bounds, col_bounds)
    rows, cols = max(row_bounds), max(col_bounds)

    def run() -> torch.Tensor:
        product = cv2.multiply(weight[:rows, :cols], grad[:rows, :cols])
        return torch.from_numpy(cv2.integral(np.abs(product, out=product), sdepth=cv2.CV_64F)[places])

    return run


def main() -> None:
    options = _timer.arguments(__file__, __doc__)
    cv2 = installed("cv2", "opencv-python-headless") if options.device == "cpu" else None
    if cv2:
        cv2.setNumThreads(torch.get_num_threads())
    for name, (rows, cols, row_bounds, col_bounds) in _timer.some(list(CASES.items()), options):
        weight, grad = torch.randn(2, rows, cols, device=options.device)
        arguments = (weight, grad, row_bounds, col_bounds)
        wanted = saliency_boxes_reference(*arguments)
        torch.testing.assert_close(ops.saliency_boxes(*arguments), wanted, rtol=1e-6, atol=0)

        def eager(weight=weight, grad=grad, row_bounds=row_bounds, col_bounds=col_bounds) -> torch.Tensor:
            product = (weight * grad).abs()
            return torch.stack([product[:row, :col].sum() for row in row_bounds for col in col_bounds])

        nbytes = 2 * weight.element_size() * max(row_bounds) * max(col_bounds)
        functions = {
            "pynas": lambda arguments=arguments: ops.saliency_boxes(*arguments),
            "eager": eager,
            "copy": _timer.copy(nbytes, options.device),
        }
        if cv2:
            functions["OpenCV"] = by_integral(cv2, *arguments)
            torch.testing.assert_close(functions["OpenCV"](), wanted, rtol=1e-6, atol=0)
        if not options.no_compile:
            functions["compiled"] = _timer.compiled(eager)
        _timer.report("saliency_boxes", f"{name} {[rows, cols]}", nbytes, functions, options)


if __name__ == "__main__":
    run(main)
