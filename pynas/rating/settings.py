"""Settings of the rating engine: memory, type, layout, threads, stacks and CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from pynas.checked import AtLeastOne, checked


def _check_stack(stack: Any) -> Any:
    """Accept None, "memory", "cache" or an integer of at least 1."""
    if stack in (None, "memory", "cache") or (isinstance(stack, int) and stack >= 1):
        return stack
    raise ValueError("to be 'memory', 'cache' or a number of at least 1")


@checked("rate")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """How `rate` and `rate_population` run; they change time and memory, and the scores only by rounding.

    max_bytes: budget in bytes of the features that are held at once. Default: half of the free memory.
    dtype: floating type to run in, e.g. `torch.bfloat16`; losses are taken in float32. Default: the modules' own.
    channels_last: memory layout of 4-dimensional features. Default: True on a CPU and for 16-bit types.
    workers: threads that walk subtrees on a CPU. Default: torch's number of threads.
    stack: number of paths that run at once, stacked on the batch axis, or how to choose it: "memory" takes as many as fit
        the budget (default on a GPU), "cache" as many as fit a core's cache (default on a CPU).
    graphs: record the evaluation of all paths as one CUDA graph, and replay it for further batches of these shapes. Default:
        True on a GPU, where a walk that cannot be recorded (a loss that waits for the device, targets that are not tensors)
        runs without. A recording holds up to half of the budget for as long as the rating runs.

    Raises:
        InputError: a value of a wrong type or out of range.
    """

    max_bytes: AtLeastOne | None = None
    dtype: torch.dtype | None = None
    channels_last: bool | None = None
    workers: AtLeastOne | None = None
    stack: Annotated[Any, AfterValidator(_check_stack)] = None
    graphs: bool | None = None


DEFAULT = Settings()
