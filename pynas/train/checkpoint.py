"""Checkpoints of a training: weights and optimiser state, and putting them back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pynas.errors import InputError
from pynas.tensor_files import TensorFile

CHECKPOINT = "pynas.checkpoint"


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All that a resumed run needs: `model.*`, and the optimiser's state as `optimizer.<parameter number>.<name>`."""
    tensors = {f"model.{name}": value for name, value in trained_state(module).items()}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def restore_training(checkpoint: TensorFile, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put `training_tensors` back.

    Raises:
        InputError: the checkpoint is of another network.
    """
    load_weights(checkpoint, module)
    content = optimizer.state_dict()
    content["state"] = {}
    for name, value in checkpoint.with_prefix("optimizer.").items():
        number, key = name.split(".", 1)
        content["state"].setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(content)


def load_weights(checkpoint: TensorFile, module: nn.Module) -> None:
    """Load the `model.*` tensors into a method, strictly.

    Raises:
        InputError: names or shapes differ.
    """
    have = checkpoint.with_prefix("model.")
    differing = differing_names(have, trained_state(module))
    if differing:
        raise InputError(
            f"[checkpoint] expected the weights of this network, got others: {len(differing)} tensors differ, "
            f"the first is {differing[0]!r}"
        )
    module.load_state_dict(have, strict=False)


def differing_names(have: Mapping[str, torch.Tensor], want: Mapping[str, torch.Tensor]) -> list[str]:
    """Tensors that only one side has; where both have the same, those of other shapes."""
    return sorted(set(have) ^ set(want)) or [name for name in want if want[name].shape != have[name].shape]


def trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without a frozen teacher, which is kept in a file of its own; shared weights stand once."""
    state, seen = {}, set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen and not name.startswith("teacher."):
            state[name] = value.detach()
        seen.add(id(value))
    return state
