"""Training of a classifier on a frozen network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from pynas.errors import InputError
from pynas.supernets import device_of
from pynas.train.loop import Batch, epoch_batches


def fit_head(model: nn.Module, loader: Iterable[Batch], epochs: int, *, rate: float = 0.01, seed: int = 0) -> None:
    """Train `model.head` by cross-entropy and Adam; the other weights and statistics do not change.

    Raises:
        InputError: a model without a head.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Module) or not list(head.parameters()):
        raise InputError("[fit_head] expected a model whose `head` has parameters, got none")
    device = device_of(model)
    modes = [(part, part.training) for part in model.modules()]
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    head.train().requires_grad_(True)
    optimizer = torch.optim.Adam(head.parameters(), rate, fused=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            for images, labels in epoch_batches(loader, epoch):
                optimizer.zero_grad()
                functional.cross_entropy(model(images.to(device)), labels.to(device)).backward()
                optimizer.step()
    model.zero_grad()
    for part, mode in modes:
        part.training = mode
    for parameter, flag in learned:
        parameter.requires_grad_(flag)
