"""Training steps of methods: as they are, by torch's own modules and optimiser, compiled, convolutions alone.

    python -m bench.training [--case dna bossnas prenas] [--repeats 15] [--no-compile] [--device cuda] [--json FILE]

A step draws its paths from its number; every candidate runs the same steps in turn, with an optimiser's step. `torch`: torch's
modules one by one, as before there were kernels for training. `compiled`: the same, each candidate layer of the first step's paths
by torch.compile; it runs that step alone, and is compared with `torch` on it. `convolutions`: the forward and backward of the
convolutions of the same steps, with torch's gradients, and nothing else: the bound that torch sets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import pynas
from bench import _timer
from bench._command import run
from bench.two_processes import build
from pynas.nn import batch_norm, convolution, squeeze_excitation

STEPS = 3  # different steps, in turn


def images(batch: int, side: int, views: int, device: str) -> tuple[Any, Tensor]:
    """Noise and labels; a list of views for more than one."""
    drawn = [
        torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(v)).to(device) for v in range(views)
    ]
    drawn = [view.contiguous(memory_format=torch.channels_last) for view in drawn]
    return (drawn[0] if views == 1 else drawn), torch.arange(batch, device=device) % 10


def dna(device: str) -> tuple[Any, Any]:
    """DNA on mbconv-mini with an untrained teacher, 64 images of 32x32."""
    return build(device), images(64, 32, 1, device)


def bossnas(device: str) -> tuple[Any, Any]:
    """BossNAS on hytra-mini, four paths, 32 images of 64x64 in two views."""
    torch.manual_seed(0)
    net = pynas.supernet("hytra-mini", 10)
    bootstrap = pynas.methods.Bootstrap(feed="joint", views="shared", paths=2)
    method = pynas.methods.BossNAS(net, image_shape=(3, 64, 64), bootstrap=bootstrap)
    return method.to(device, memory_format=torch.channels_last), images(32, 64, method.views, device)


def prenas(device: str) -> tuple[Any, Any]:
    """PreNAS's training on bignas-mini (sandwich of one path), 32 images."""
    torch.manual_seed(0)
    space = pynas.spaces.get("bignas-mini")
    net = pynas.supernet("bignas-mini", 10)
    method = pynas.methods.PreNAS(net, sampling="spos", sandwich=1, drop_path=0.0)
    return method.to(device, memory_format=torch.channels_last), images(32, space.image_size, 1, device)


def prenas_transformer(device: str) -> tuple[Any, Any]:
    """PreNAS's training on autoformer-mini, 64 images."""
    torch.manual_seed(0)
    net = pynas.supernet("autoformer-mini", 10)
    return pynas.methods.PreNAS(net, sampling="spos").to(device), images(64, net.space.image_size, 1, device)


CASES = {"dna": dna, "bossnas": bossnas, "prenas": prenas, "prenas-transformer": prenas_transformer}


class Steps:
    """A method with its optimiser, which trains steps 0, 1, ... in turn."""

    def __init__(self, method: Any, batch: Any) -> None:
        self.method, self.batch, self.number = method.train(), batch, 0
        self.optimizer = method.optimizer()

    def __call__(self, number: int | None = None) -> dict[str, Tensor]:
        number = self.number % STEPS if number is None else number
        self.number += 1
        torch.manual_seed(number)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.method.training_step(*self.batch, np.random.default_rng(number))
        self.optimizer.step()
        return losses


@contextmanager
def by_torch() -> Iterator[None]:
    """Let torch's modules run one by one."""
    with ExitStack() as stack:
        for module in (batch_norm, squeeze_excitation):
            stack.enter_context(mock.patch.object(module, "_LEAST_BYTES", {}))
        stack.enter_context(mock.patch.object(convolution, "_fits", lambda *_: False))
        yield


def unfused(steps: Steps) -> Callable[[], object]:
    """A step by torch's modules, the optimiser not fused."""
    for group in steps.optimizer.param_groups:
        if "fused" in group:
            group["fused"] = None

    def step() -> None:
        with by_torch():
            steps()

    return step


def convolutions(steps: Steps) -> Callable[[], object]:
    """Forward and backward of the convolutions that the steps run, of each as often."""
    calls: list[list[tuple[tuple[Any, ...], tuple[Tensor, ...], Tensor]]] = []
    convolve = torch.nn.functional.conv2d

    def recorded(x: Tensor, weight: Tensor, bias: Any = None, *settings: Any, **named: Any) -> Tensor:
        y = convolve(x, weight, bias, *settings, **named)
        if y.requires_grad:
            inputs = [x.detach().requires_grad_(x.requires_grad), weight.detach().requires_grad_(weight.requires_grad)]
        else:
            inputs = [x.detach(), weight.detach()]
        calls[-1].append(((settings, named), tuple(inputs), torch.randn_like(y)))
        return y

    for number in range(STEPS):
        calls.append([])
        with by_torch(), mock.patch("torch.nn.functional.conv2d", recorded), mock.patch.object(
            nn.Conv2d, "_conv_forward", lambda conv, x, weight, bias: recorded(
                x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        ):  # fmt: skip
            steps(number)
    number = 0

    def run_alone() -> None:
        nonlocal number
        for (settings, named), inputs, gradient in calls[number % STEPS]:
            y = convolve(*inputs, None, *settings, **named)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            if wanted:
                torch.autograd.grad(y, wanted, gradient)
        number += 1

    return run_alone


def compiled(steps: Steps) -> Callable[[], object]:
    """The first step, each module that it runs as a layer compiled."""
    layers: dict[nn.Module, None] = {}
    kinds = (pynas.nn.MBConv, pynas.nn.hytra.Bottleneck, pynas.nn.elastic.ElasticMBConv, pynas.nn.TransformerLayer)
    handles = [part.register_forward_pre_hook(lambda part, _: layers.setdefault(part))
               for part in steps.method.modules() if isinstance(part, kinds)]  # fmt: skip
    steps(0)
    for handle in handles:
        handle.remove()
    for layer in layers:
        layer.compile(dynamic=False)
    return partial(steps, 0)


def main() -> None:
    options = _timer.arguments(__file__, __doc__, cases=list(CASES))
    for name in _timer.some(options.case, options):
        make = CASES[name]
        ours = Steps(*make(options.device))
        other = Steps(copy.deepcopy(ours.method), ours.batch)
        with by_torch():
            wanted = {key: float(value) for key, value in other(0).items()}
        for key, value in ours(0).items():
            np.testing.assert_allclose(float(value), wanted[key], rtol=2e-3)
        functions = {"pynas": ours, "eager": unfused(other)}
        if name != "prenas-transformer":
            functions["convolutions"] = convolutions(Steps(copy.deepcopy(ours.method), ours.batch))
        _timer.report("training", f"{name} step", 0, functions, options)
        if not options.no_compile:
            first, plain = (Steps(copy.deepcopy(ours.method), ours.batch) for _ in range(2))
            functions = {"pynas": partial(plain, 0), "compiled": compiled(first)}
            _timer.report("training", f"{name} step 0", 0, functions, options)


if __name__ == "__main__":
    run(main)
