"""Errors of a rating that name the module, its path and its input."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pynas.errors import InputError


def failure(place: str, x: Tensor, error: Exception | str) -> InputError:
    """Return the error of a module that fails on its input.

    place: the module, as `PathTree.place` names it. error: the module's own, or its output in words.
    """
    if isinstance(error, InputError):
        return InputError(f"{error} (in {place})")
    if isinstance(error, Exception):
        error = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return InputError(
        f"[rate] expected {place} to run on an input of the shape {tuple(x.shape[1:])} per sample, got {error}"
    )


def misfit(x: Tensor, y: Any) -> str:
    """Describe an output that is no tensor with the rows of its input; empty where it fits."""
    if isinstance(y, Tensor) and y.ndim and len(y) == len(x):
        return ""
    return f"{tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__} instead of a tensor with as many rows"
