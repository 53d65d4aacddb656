"""Zero-cost proxies: a score of any network from one batch, without training; higher is better."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pynas.copies import copy_module
from pynas.costs import count_module
from pynas.errors import InputError
from pynas.supernets.modes import batch_statistics, evaluating
from pynas.zero_cost.az_nas import expressivity, progressivity, trainability
from pynas.zero_cost.passes import hooked, loss, run, total, trainable
from pynas.zero_cost.vkdnw import vkdnw
from pynas.zero_cost.zico import zico

Proxy = Callable[[nn.Module, torch.Tensor, "torch.Tensor | None"], float]


def score(
    name: str, model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None, *, seed: int = 0
) -> float:
    """Score of a network on one batch by a proxy's name; the network's weights, gradients and mode stay as they were.

    labels: None for the sum of the outputs as the loss, else cross-entropy. Batch norm uses its running statistics.

    Raises:
        InputError: an unknown proxy, weights that are all zero, or a score that is not finite.
    """
    if name not in PROXIES:
        raise InputError(f"[proxy] expected one of {', '.join(PROXIES)}, got {name!r}")
    if not any(bool(parameter.detach().any()) for parameter in model.parameters()):
        raise InputError("[proxy] expected a network with weights, got one whose weights are all zero")
    with quiet(model, seed):
        value = float(PROXIES[name](model, images, labels))
    if not math.isfinite(value):
        raise InputError(f"[proxy] expected a finite score, got {value} from {name}; are weights and images finite?")
    return value


@contextlib.contextmanager
def quiet(model: nn.Module, seed: int) -> Iterator[None]:
    """Hold a network in evaluation mode with gradients on and torch's generator seeded; all is restored afterwards."""
    with evaluating(model), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        yield


def parameters(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Number of parameters, the baseline of every other proxy."""
    return sum(parameter.numel() for parameter in model.parameters())


def gradient_norm(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Euclidean norm of the loss's gradient (Abdelfattah et al., 2021)."""
    return total(g.square() for g in _gradients(model, loss(model, images, labels))).sqrt().item()


def snip(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Sum of |g * w| over all parameters (Lee et al., 2019; PreNAS eq. 4)."""
    pairs = zip(trainable(model), _gradients(model, loss(model, images, labels)))
    return total((w.detach() * g).abs() for w, g in pairs).item()


def grasp(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """-sum w * (H g) with the loss's Hessian H, a measure of gradient flow after pruning (Wang et al., 2020)."""
    weights = trainable(model)
    flow = _gradients(model, loss(model, images, labels), create_graph=True)
    second = _gradients(model, total(g * g.detach() for g in flow))
    return -total(w.detach() * h for w, h in zip(weights, second)).item()


def synflow(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Logarithm of the sum of w * dR/dw, where R is the summed output for ones as input and |w| as weights (Tanaka et al.,
    2020).

    The computation is in float64, since products of many layers overflow; of the images only the shape counts.
    """
    linear = copy_module(model).double()
    for parameter in linear.parameters():
        parameter.data.abs_()
    output = linear(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    flow = total((w.detach() * g).abs() for w, g in zip(trainable(linear), _gradients(linear, output)))
    return torch.log(flow).item()


def naswot(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """log |K|, where K_ij counts the activations that are both on or both off for images i and j (Mellor et al., 2021).

    An activation is on above 0; all activation modules of `torch.nn` count.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)

    def add(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        on = (output.detach().flatten(1) > 0).double()
        kernel.add_(on @ on.T + (1 - on) @ (1 - on).T)
        if not output.isfinite().all():
            kernel.fill_(math.nan)  # NaN is neither on nor off

    activations = [part for part in model.modules() if type(part).__module__ == _ACTIVATIONS]
    if not activations:
        raise InputError("[proxy] expected a network with activations as modules for naswot, got none")
    with hooked(add, activations), torch.no_grad():
        model(images)
    return torch.linalg.slogdet(kernel).logabsdet.item()


def zen(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Zen-score (Lin et al., 2021): log E |f(x) - f(x + 0.01 e)| for noise x and e, plus log of each batch norm's deviation.

    f: last feature map or tokens (the input of the pooling) of a copy whose convolutions and linear layers are drawn from
    a standard normal. Of the network's weights and the images only the shapes count.
    """
    model = copy_module(model)
    for part in model.modules():
        if isinstance(part, (nn.modules.conv._ConvNd, nn.Linear)):
            nn.init.normal_(part.weight)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_parameters()
            part.momentum = None
    noise, change = torch.randn_like(images), torch.randn_like(images)
    norms: list[Any] = [part.train() for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        model(noise)
        model.eval()
        difference = _features(model, noise) - _features(model, noise + 0.01 * change)
    deviations = sum(part.running_var.mean().sqrt().log().item() for part in norms)
    return difference.flatten(1).abs().sum(1).mean().log().item() + deviations


def jacov(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """-sum log(v + k) + 1 / (v + k), k = 1e-5, over the eigenvalues v of the correlations of the images' input gradients.

    An image's gradient is that of the sum of the outputs (Mellor et al., 2021, first version). Batch norm uses the
    statistics of the batch, as in training.

    Raises:
        InputError: fewer than two images.
    """
    if len(images) < 2:
        raise InputError(
            f"[proxy] expected at least 2 images for jacov, which correlates their gradients, got {len(images)}"
        )
    images = images.detach().clone().requires_grad_()
    with batch_statistics(model):
        (gradients,) = torch.autograd.grad(run(model, images).sum(), images, materialize_grads=True)
    correlations = torch.corrcoef(gradients.flatten(1).double())
    if not correlations.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(correlations).clamp(min=0) + 1e-5
    return -(values.log() + 1 / values).sum().item()


def madds(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Multiply-adds for one image, AZ-NAS's complexity."""
    return count_module(model, tuple(images.shape[1:]))[0]["madds"]


_ACTIVATIONS = "torch.nn.modules.activation"

PROXIES: dict[str, Proxy] = {
    "parameters": parameters, "gradient_norm": gradient_norm, "snip": snip, "grasp": grasp, "synflow": synflow,
    "naswot": naswot, "zen": zen, "zico": zico, "expressivity": expressivity, "progressivity": progressivity,
    "trainability": trainability, "jacov": jacov, "vkdnw": vkdnw, "madds": madds,
}  # fmt: skip


def _gradients(model: nn.Module, loss: torch.Tensor, create_graph: bool = False) -> tuple[torch.Tensor, ...]:
    """Gradients of the loss, zero for parameters that it does not depend on."""
    return torch.autograd.grad(loss, trainable(model), create_graph=create_graph, materialize_grads=True)


def _features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Last output of a submodule that is a map `[B, C, H, W]` of more than one position, or tokens `[B, N, C]`."""
    last: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and (output.dim() == 3 or (output.dim() == 4 and output[0, 0].numel() > 1)):
            last[:] = [output]

    with hooked(keep, [part for part in model.modules() if not list(part.children())]):
        model(images)
    if not last:
        raise InputError("[proxy] expected a network with feature maps or tokens for zen, got none")
    return last[0]
