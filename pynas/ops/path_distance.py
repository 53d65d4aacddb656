"""Distance of every path's outputs to one target: one pass over the outputs, no copies of the target."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pynas.ops import _library as native

KINDS = ("relative_l1", "mse", "cosine")

# Elements of a row in one partial sum: long for the prefetcher of a CPU, shorter for many blocks on CUDA.
_CHUNKS = {"cpu": 32768, "cuda": 8192}


def path_distance(outputs: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the distance `[G]` of each path's outputs o `[G*B, ...]` to the target y `[B, ...]`.

    "relative_l1": mean|y - o| / std(y), DNA eq. 7; std over the whole target, divided by n - 1 as in torch and in the
    code released with DNA (a constant target gives inf or nan). "mse": mean (y - o)^2. "cosine": the mean over samples
    of 2 - 2 cos(y, o). Rows g*B .. g*B+B-1 belong to path g. Distances are float32 for half types. Not differentiable.

    Raises `InputError` on shapes, dtypes or devices that do not fit, and on inputs that need a gradient.
    """
    native.require_no_grad("path_distance", outputs=outputs, target=target)
    return _run(outputs, target, kind)


def path_distance_reference(outputs: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the distances of `path_distance`, in plain torch and float64."""
    target = target.double().unsqueeze(-1).flatten(1)
    outputs = outputs.double().unflatten(0, (-1, len(target))).unsqueeze(-1).flatten(2)
    if kind == "cosine":
        distance = 2 - 2 * F.cosine_similarity(outputs, target[None], dim=2)
    elif kind == "mse":
        distance = (outputs - target).square()
    else:
        distance = (outputs - target).abs() / target.std()
    return distance.flatten(1).mean(1)


def _check(outputs: torch.Tensor, target: torch.Tensor, kind: str) -> int:
    """Check all that the kernel relies on; return the number of paths."""
    name = "path_distance"
    native.require(kind in KINDS, name, f"kind to be one of {', '.join(KINDS)}", repr(kind))
    native.require_tensor(name, "outputs", outputs)
    native.require_tensor(name, "target", target, like=outputs)
    native.require(target.dim() >= 1 and target.shape[0] > 0, name, "target [B, ...] with B > 0", list(target.shape))
    native.require(
        outputs.dim() == target.dim() and outputs.shape[1:] == target.shape[1:],
        name,
        f"outputs of shape [G*B, ...] with the target's {list(target.shape[1:])} after the first axis",
        list(outputs.shape),
    )
    native.require(
        outputs.shape[0] % target.shape[0] == 0,
        name,
        f"outputs to have a multiple of the target's {target.shape[0]} samples",
        outputs.shape[0],
    )
    return outputs.shape[0] // target.shape[0]


def _path_distance(outputs: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    paths, batch = _check(outputs, target, kind), target.shape[0]
    distances = outputs.new_full((paths,), float("nan"), dtype=native.accumulate_dtype(outputs.dtype))
    if outputs.numel() == 0:
        return distances
    # A sample's elements may be in any order that outputs and target share.
    layout = native.memory_format(outputs)
    outputs, target = outputs.contiguous(memory_format=layout), target.contiguous(memory_format=layout)
    size = target.numel() // batch
    chunk = _CHUNKS[native.backend(outputs)]
    parts = batch * -(-size // chunk)
    workspace = outputs.new_empty(parts * (3 * paths + 2), dtype=torch.float64)
    partial, moments = workspace[: parts * 3 * paths], workspace[parts * 3 * paths :]
    native.call(
        "path_distance",
        outputs,
        outputs=outputs,
        target=target,
        partial=partial,
        moments=moments,
        distances=distances,
        paths=paths,
        batch=batch,
        size=size,
        chunk=chunk,
        kind=KINDS.index(kind),
        dtype=outputs.dtype,
    )
    return distances


def _fake(outputs: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    return outputs.new_empty((_check(outputs, target, kind),), dtype=native.accumulate_dtype(outputs.dtype))


_run = native.define("path_distance", "(Tensor outputs, Tensor target, str kind) -> Tensor", _path_distance, _fake)
