"""VKDNW (Tybl and Neumann, CVPR 2025): how evenly a network knows its weights, from its Fisher information."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pynas.errors import InputError
from pynas.zero_cost.passes import first_tensor, hooked, run

# Most parameter tensors in the Fisher information; of more, these many evenly spaced ones are taken.
TENSORS = 64
# Images that are used, of a batch of more: with 9 directions each (10 classes) they give more rows than tensors.
IMAGES = 8
# Outputs up to which all classes count; of more classes, as many random directions are taken.
CLASSES = 16
# Share of the uniform distribution in the predicted probabilities, which keeps saturated ones from vanishing.
SMOOTHING = 0.05


def vkdnw(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None) -> float:
    """Number of parameter tensors, plus the entropy of the shares of the deciles 1 to 9 of the Fisher information's eigenvalues.

    The entropy is at most log 9, so that networks are ordered by their layers and, among as many, by the entropy. The
    Fisher information is that of the first entry of up to 64 parameter tensors (`fisher_factor`), estimated on the first 8
    images. Batch norm uses its running statistics, which leave signals as they are in a fresh network, as the paper's code
    does. -infinity where the Fisher information is zero.

    Raises:
        InputError: outputs other than `[B, classes]`, or a layer that forward-mode differentiation does not support.
    """
    factor = fisher_factor(model, images[:IMAGES]).double()
    if not factor.isfinite().all():
        return math.nan
    values = torch.linalg.eigvalsh(factor.T @ factor).clamp(min=0)
    if not values.any():
        return -math.inf
    deciles = torch.quantile(values, torch.arange(1, 10, dtype=values.dtype, device=values.device) / 10)
    shares = deciles / deciles.sum() if deciles.any() else deciles
    return len(list(model.parameters())) + torch.special.entr(shares).sum().item()


def fisher_factor(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Matrix A `[images * directions, tensors]` with A^T A = mean over images of J^T (diag(p) - p p^T) J.

    J: derivatives of an image's outputs with respect to the first entry of each of up to 64 parameter tensors, evenly
    spaced over the network. p: predicted probabilities, with 5 % of the uniform distribution. Batch norm uses its running
    statistics. Of more than 16 outputs, 16 random directions of each image estimate the matrix without
    bias.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    if len(names) > TENSORS:
        names = [names[round(at)] for at in torch.linspace(0, len(names) - 1, TENSORS).tolist()]
    owners = _owners(model, images, names)
    return _factor(model, images, names, owners) / math.sqrt(len(images))


Owners = dict[nn.Module, list[tuple[str, int]]]


def _owners(model: nn.Module, images: torch.Tensor, names: list[str]) -> Owners:
    """Innermost module around each parameter whose output has the batch as its first axis, with the parameter's name in it.

    A table of positions has no such output: its owner is the attention around it.
    """
    batched: set[nn.Module] = set()
    few = images[torch.arange(5, device=images.device) % len(images)]

    def keep(module: nn.Module, _inputs: object, output: object) -> None:
        value = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(value, torch.Tensor) and value.shape[:1] == (len(few),):
            batched.add(module)

    with hooked(keep, model.modules()), torch.no_grad():
        run(model, few)
    owners: Owners = {}
    for place, name in enumerate(names):
        path = name.split(".")[:-1]
        while path and model.get_submodule(".".join(path)) not in batched:
            path = path[:-1]
        inner = name.removeprefix(".".join(path)).removeprefix(".")
        owners.setdefault(model.get_submodule(".".join(path)), []).append((inner, place))
    return owners


def _factor(model: nn.Module, images: torch.Tensor, names: list[str], owners: Owners) -> torch.Tensor:
    """Rows of the factor, not yet divided by the root of the number of images."""
    outputs: list[torch.Tensor] = []
    changes: list[list[_Change]] = []
    inside: list[nn.Module] = []

    def after(module: nn.Module, inputs: tuple, kwargs: dict, output: Any) -> Any:
        if inside:  # called for a derivative
            return None
        inside.append(module)
        changes.append([_change(module, name, place, inputs, kwargs) for name, place in owners[module]])
        inside.clear()
        outputs.append(first_tensor(output))
        # Layers after this one may change its output in place: they get a copy.
        return output.clone() if output is outputs[-1] else None

    with hooked(after, owners, with_kwargs=True), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)  # torch's own, as it loads forward mode
        logits = run(model, images)
    if logits.dim() != 2 or len(logits) != len(images):
        raise InputError(f"[proxy] expected outputs [images, classes] for vkdnw, got {list(logits.shape)}")
    rows = [_derivatives(logits, weights, outputs, changes, len(names)) for weights in _directions(logits)]
    return torch.stack(rows, 1).flatten(0, 1)


def _directions(logits: torch.Tensor) -> list[torch.Tensor]:
    """Columns m of M with M M^T = diag(p) - p p^T, `[images, classes]` each, or random mixtures of them."""
    logits = logits.detach()
    count = logits.shape[1]
    p = logits.softmax(1) * (1 - SMOOTHING) + SMOOTHING / count
    if count <= CLASSES:
        columns = torch.eye(count, device=p.device, dtype=p.dtype)
    else:
        signs = torch.randint(0, 2, (CLASSES, *p.shape), device=p.device).to(p.dtype) * 2 - 1
        columns = signs / math.sqrt(CLASSES)
    return [p.sqrt() * z - p * (p.sqrt() * z).sum(1, keepdim=True) for z in columns]


@dataclass(frozen=True)
class _Change:
    """Derivative of a module's output with respect to the first entry of the tensor at a place, where it is not zero.

    axis, at: the single channel that the entry acts on; axis None for all.
    """

    place: int
    axis: int | None
    at: int
    values: torch.Tensor

    def product(self, gradient: torch.Tensor) -> torch.Tensor:
        """Sum over all axes but the first of gradient * derivative, `[images]`."""
        part = gradient if self.axis is None else gradient.select(self.axis, self.at)
        return (part * self.values).flatten(1).sum(1) if part.dim() > 1 else part * self.values


def _derivatives(logits: torch.Tensor, weights: torch.Tensor, outputs: list[torch.Tensor], changes: list[list[_Change]],
                 tensors: int) -> torch.Tensor:  # fmt: skip
    """Derivatives of every image's weighted outputs with respect to the tensors' first entries, `[images, tensors]`."""
    found = torch.zeros(len(logits), tensors, dtype=logits.dtype, device=logits.device)
    gradients = torch.autograd.grad(logits, outputs, weights, retain_graph=True, allow_unused=True)
    for gradient, some in zip(gradients, changes):
        for change in some if gradient is not None else ():
            found[:, change.place] += change.product(gradient)
    return found


def _change(module: nn.Module, name: str, place: int, inputs: tuple, kwargs: dict) -> _Change:
    value = module.get_parameter(name).detach()
    unit = torch.zeros_like(value)
    unit.view(-1)[0] = 1

    def output(given: torch.Tensor) -> torch.Tensor:
        return first_tensor(functional_call(module, {name: given}, inputs, kwargs))

    try:
        change = jvp(output, (value,), (unit,))[1]
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"[proxy] expected layers with a forward-mode derivative for vkdnw, got {type(module).__name__} "
                         f"({str(error).splitlines()[0]}): take another proxy") from None  # fmt: skip
    change = change.detach()
    for axis in {1, change.dim() - 1} - {0}:
        touched = change.ne(0).transpose(0, axis).flatten(1).any(1)
        if int(touched.sum()) <= 1:
            at = int(touched.int().argmax())
            return _Change(place, axis, at, change.select(axis, at))
    return _Change(place, None, 0, change)
