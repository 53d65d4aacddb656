"""Training checkpoints: write weights and optimizer state, and restore them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pynas.errors import InputError
from pynas.tensor_files import TensorFile

CHECKPOINT = "pynas.checkpoint"
LAST = "checkpoints/last.safetensors"


def epoch_file(epoch: int) -> str:
    """Return the name in a run's folder of the weights after an epoch, counted from 1."""
    return f"checkpoints/epoch_{epoch}.safetensors"


def training_tensors(method: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Copy to the CPU the tensors that a resumed run needs: `model.<name>`, and `optimizer.<parameter number>.<name>`."""
    tensors = {f"model.{name}": value for name, value in method.trained_state().items()}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
    copies = {name: tensor.detach().to("cpu", copy=True, non_blocking=True) for name, tensor in tensors.items()}
    for device in {tensor.device for tensor in tensors.values()}:
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)
    return copies


def restore_training(checkpoint: TensorFile, method: Any, optimizer: torch.optim.Optimizer) -> None:
    """Load the tensors of `training_tensors` into a method and its optimizer.

    Raises:
        InputError: the checkpoint is of another network.
    """
    load_weights(checkpoint, method)
    content = optimizer.state_dict()
    content["state"] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in checkpoint.with_prefix("optimizer.").items():
        number, key = name.split(".", 1)
        like = parameters[int(number)]
        # In the parameter's memory format: fused optimizers go through both element by element as they lie in memory.
        kept = (
            torch.empty_like(like, dtype=value.dtype).copy_(value)
            if key != "step" and value.shape == like.shape
            else value
        )
        content["state"].setdefault(int(number), {})[key] = kept
    optimizer.load_state_dict(content)


def load_weights(checkpoint: TensorFile, method: Any) -> None:
    """Load the `model.*` tensors of a checkpoint into a method, strictly.

    Raises:
        InputError: names or shapes differ.
    """
    stored = checkpoint.with_prefix("model.")
    check_same("checkpoint", stored, method.trained_state())
    method.load_state_dict(stored, strict=False)


def check_images(where: str, metadata: Mapping[str, Any], own: str | None, path: Any) -> None:
    """Raise InputError where a file's weights are known to be trained on other images than those with this fingerprint."""
    stored = metadata.get("data")
    if own is not None and stored not in (None, own):
        raise InputError(f"[{where}] expected the images that {path} was trained on, with the fingerprint {stored}, got "
                         f"{own}; restore the images and their split, or use another run folder")  # fmt: skip


def check_same(where: str, stored: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Raise InputError unless stored tensors have the names and shapes of a method's own."""
    differing = sorted(set(stored) ^ set(own)) or [name for name in own if own[name].shape != stored[name].shape]
    if differing:
        raise InputError(
            f"[{where}] expected the weights of this network, got others: {len(differing)} tensors differ, "
            f"the first is {differing[0]!r}; use another run folder"
        )
