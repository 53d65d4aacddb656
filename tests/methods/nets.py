"""A small supernet and teachers for it, shared by the tests of the DNA family."""

import torch
from torch import nn

import pynas
from pynas.teachers import Teacher


def conv(inputs, outputs, stride=1, kernel=3):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU())


def small_net():
    """Two blocks for 8x8 images; the first has two cells of different depth."""
    shallow = [[conv(4, 6, 2, k) for k in (3, 5)]]
    deep = [[conv(4, 5, 2, k) for k in (3, 5)], [conv(5, 6, 1, k) for k in (1, 3, 5)]]
    second = [[conv(6, 8, 2, k) for k in (3, 5, 7)], [conv(8, 8, 1, k) for k in (1, 3)]]
    return pynas.Supernet(
        [[shallow, deep], [second]], stem=conv(3, 4), head=nn.Sequential(nn.Flatten(), nn.Linear(8 * 4, 5))
    )


def small_teacher(widths=(6, 8), norm="running"):
    """Taps "1" and "2" of these widths, 5 classes, batch norm with statistics of its own."""
    module = nn.Sequential(conv(3, 7), conv(7, widths[0], 2), conv(widths[0], widths[1], 2), nn.Flatten(),
                           nn.Linear(widths[1] * 4, 5))  # fmt: skip
    with torch.no_grad():
        for _ in range(20):
            module.train()(torch.randn(16, 3, 8, 8))
    return Teacher(module, ["1", "2"], norm)
