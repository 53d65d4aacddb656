"""Trace a network for any batch size, and compare a written file with it at batch sizes that it was not traced with."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.copies import copy_module
from pynas.errors import InputError

# Networks are traced with a batch of this size and compared at the others, of which one broadcasts.
TRACED, OTHERS = 2, (1, 3)
_ADVICE = ' For more information, run with TORCH_LOGS="+dynamic".'


def prepared(model: nn.Module, image_shape: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """Return a copy of the model on the CPU in evaluation mode, and images for the largest batch.

    image_shape: (3, H, W).

    Raises:
        InputError: a network that does not run on these images, or whose outputs are not tensors with a row per image, at
            every batch size.
    """
    model = copy_module(model, plain=True).cpu().eval()
    images = torch.randn(max(OTHERS), *image_shape, generator=torch.Generator().manual_seed(0))
    for size in (TRACED, *OTHERS):
        shapes = [list(output.shape) for output in _outputs(model, images[:size], "the network")]
        if any(shape[:1] != [size] for shape in shapes):
            raise InputError(f"[export] expected outputs with a row for each of {size} images, got the shapes {shapes}: "
                             "a file takes any batch size; see that the network does")  # fmt: skip
    return model, images


def traced_program(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Trace a model with torch.export for any batch size.

    Raises:
        InputError: a model that torch.export refuses, or whose code fixes the batch size.
    """
    reasons, shapes = [], ({0: torch.export.Dim("batch")},)
    # Python's `len(images)` is a plain number to the first tracer, and a symbol to the second, slower one.
    for strict in (False, True):
        try:
            with quiet(), torch.no_grad():
                return torch.export.export(model, (images[:TRACED],), dynamic_shapes=shapes, strict=strict)
        except Exception as error:  # tracing runs the model's code, which may raise any error
            reasons.append(reason_of(error))
    raise InputError(f"[export] expected a network that torch.export takes with any batch size, got {reasons[0]}: "
                     "take the batch's size from `images.shape[0]`, and decide nothing by values")  # fmt: skip


@torch.no_grad()
def difference(model: nn.Module, run: Callable[[Tensor], Any], images: Tensor, source: str) -> float:
    """Largest absolute difference of a file's outputs from the model's, over all batch sizes.

    run: the file as a function of images. source: name of the file in messages.

    Raises:
        InputError: a file that refuses a batch size, or gives other outputs.
    """
    largest = 0.0
    for size in (TRACED, *OTHERS):
        got, expected = (_outputs(f, images[:size], name) for f, name in ((run, source), (model, "the network")))
        largest = max(largest, compare(got, expected, f"{source} for {size} images"))
    return largest


def compare(got: Sequence[Tensor], expected: Sequence[Tensor], source: str) -> float:
    """Largest absolute difference of tensors from those expected; `source` names where they come from in messages.

    Raises:
        InputError: other shapes, or a difference beyond rounding.
    """
    shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (expected, got)]
    if shapes[0] != shapes[1]:
        raise InputError(f"[export] expected outputs of the shapes {shapes[0]} from {source}, got {shapes[1]}")
    largest = 0.0
    for ours, theirs in zip(expected, got, strict=True):
        apart = float((ours.float() - theirs.float()).abs().max()) if ours.numel() else 0.0
        if not apart <= 1e-4 * float(ours.float().abs().max() if ours.numel() else 0.0) + 1e-6:
            raise InputError(
                f"[export] expected {source} to give the outputs of the network, got a difference of {apart:.2e}"
            )
        largest = max(largest, apart)
    return largest


def _outputs(run: Callable[[Tensor], Any], images: Tensor, source: str) -> list[Tensor]:
    """Output tensors of a function of images, one after the other."""
    try:
        with torch.no_grad():
            return leaves(run(images))
    except InputError:
        raise
    except Exception as error:  # a network's own code may raise any error
        raise InputError(f"[export] expected {source} to run on images {list(images.shape)}, got {reason_of(error)}: a "
                         "file takes any batch size; see that no size is fixed in the network") from None  # fmt: skip


def leaves(output: Any) -> list[Tensor]:
    """Tensors of an output: a tensor, or lists, tuples and dictionaries of them.

    Raises:
        InputError: anything else, as None or a number.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return leaves(list(output.values()))
    if isinstance(output, list | tuple) and output:
        return [tensor for part in output for tensor in leaves(part)]
    raise InputError(
        f"[export] expected tensors, or lists and dictionaries of them, as outputs, got {type(output).__name__}"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings and log messages: torch logs the traceback of an error that it also raises."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that the network keeps, for one
            yield
    finally:
        logging.disable(before)


def reason_of(error: BaseException) -> str:
    """First line of the error that an error came from, or its kind."""
    error = error.__cause__ or error
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(_ADVICE)
