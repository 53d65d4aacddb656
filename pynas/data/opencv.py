"""Changes of colour of one image by OpenCV: uint8 `[H, W, 3]` in and out, each rounded, as torchvision's are of bytes.

The import keeps OpenCV to one thread in this process: an image is small, and what runs side by side is worker processes.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch

cv2.setNumThreads(1)
# Weights of red, green and blue in a grey level, as torchvision's.
_LUMA = (0.2989, 0.587, 0.114)
_SOLARISED = np.array([255 - value if value >= 128 else value for value in range(256)], np.uint8)


def pixels_of(image: torch.Tensor) -> np.ndarray:
    """Return an image uint8 `[3, H, W]` as OpenCV takes it, `[H, W, 3]`; shared memory where it lies so already."""
    pixels = image.permute(1, 2, 0).numpy()
    return pixels if pixels.flags.c_contiguous else cv2.merge(list(image.numpy()))


def brightened(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by a factor."""
    return cv2.convertScaleAbs(pixels, alpha=factor)


def contrasted(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey level."""
    mean = cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(pixels, factor, pixels, 0.0, (1 - factor) * mean)


def saturated(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey levels."""
    return cv2.transform(pixels, factor * np.eye(3) + (1 - factor) * np.array(_LUMA))


def hue_turned(pixels: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by a share of the colour circle."""
    if turn == 0:
        return pixels
    hsv: Any = pixels.astype(np.float32)
    cv2.cvtColor(hsv, cv2.COLOR_RGB2HSV, dst=hsv)
    hsv[..., 0] += 360 * (turn % 1)  # OpenCV wraps what exceeds the circle, but nothing below 0
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
    return cv2.convertScaleAbs(hsv)


def blurred(pixels: np.ndarray, sigma: float, size: int) -> np.ndarray:
    """Blur by the kernel of `strong.blur`, cut where it is below a thousandth of its peak."""
    kept = min(size, 2 * math.ceil(math.sqrt(2 * math.log(1000)) * sigma) + 1)
    kernel = cv2.getGaussianKernel(kept, sigma, cv2.CV_32F)
    return cv2.convertScaleAbs(cv2.sepFilter2D(pixels, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101))


def solarised(pixels: np.ndarray) -> np.ndarray:
    """Invert values of 128 and more."""
    return cv2.LUT(pixels, _SOLARISED)


# In the order of `strong.Drawn.factors`.
JITTERS = (brightened, contrasted, saturated, hue_turned)
