"""Trace a network for any batch size, and compare a written file with it at batch sizes that it was not traced with."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pynas.calls import Call
from pynas.copies import copy_module
from pynas.errors import InputError

# Networks are traced with a batch of this size and compared at the others, of which one broadcasts.
TRACED, OTHERS = 2, (1, 3)
_MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_ADVICE = ' For more information, run with TORCH_LOGS="+dynamic".'


def prepared(
    model: nn.Module, example: Sequence[int] | Call, any_batch: bool = True
) -> tuple[nn.Module, Tensor | Call]:
    """Return a copy of the model on the CPU in evaluation mode, and inputs for the largest batch.

    example: the shape of images, (3, H, W), or a call of the model, of which the samples are taken, over again where they are
        few; the model that is returned takes its tensors alone, and returns tensors, or lists and dictionaries of them.
    any_batch: see that the model takes any number of samples.

    Raises:
        InputError: a network that does not run on these inputs, or whose outputs are not tensors with a row per sample, at
            every batch size.
    """
    model = copy_module(model, plain=True).cpu().eval()
    inputs: Tensor | Call
    if isinstance(example, Call):
        example = named(model, example)
        model, inputs = _Tensors(model, example), _tensors_of(example, any_batch)
    else:
        inputs = torch.randn(max(OTHERS), *example, generator=torch.Generator().manual_seed(0))
    for size in sizes(model, inputs, any_batch):
        shapes = [list(output.shape) for output in _outputs(model, Call.of(inputs, model).head(size), "the network")]
        if any(shape[:1] != [size] for shape in shapes):
            raise InputError(f"[export] expected outputs with a row for each of {size} images, got the shapes {shapes}: "
                             "a file takes any batch size; see that the network does")  # fmt: skip
    return model, inputs


def sizes(model: nn.Module, inputs: Tensor | Call, any_batch: bool = True) -> Sequence[int]:
    """Return the numbers of samples that a file is compared at."""
    return (TRACED, *OTHERS) if any_batch else (Call.of(inputs, model).samples,)


def named(model: nn.Module, call: Call) -> Call:
    """Return a call with arguments by name where those by position are not all tensors.

    Raises:
        InputError: tensors inside of lists and dictionaries.
    """
    if not all(isinstance(value, Tensor) for value in call.args):
        bound = inspect.signature(model.forward).bind(*call.args, **call.kwargs)
        call = Call((), bound.arguments)
    values = [*call.args, *call.kwargs.values()]
    if len(call.tensors) > sum(isinstance(value, Tensor) for value in values):
        raise InputError("[export] expected tensors as arguments of the network, got lists or dictionaries of them")
    return call


class _Tensors(nn.Module):
    """A model that takes the tensors of a call alone, and returns dictionaries of torch's own kinds."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self._constants = {name: value for name, value in call.kwargs.items() if not isinstance(value, Tensor)}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's output; classes of dictionaries, which a reader would need, become dictionaries."""
        output = self.model(*args, **kwargs, **self._constants)
        return dict(output.items()) if isinstance(output, Mapping) else output


def _tensors_of(call: Call, any_batch: bool) -> Call:
    """Return the tensors of a call on the CPU; where any number of samples may come, as many as the largest batch has."""
    count = call.samples
    rows = torch.arange(max(OTHERS) if any_batch else count) % count
    call = call.to(torch.device("cpu")).mapped(lambda x: x[rows] if x.ndim and len(x) == count else x)
    return Call(call.args, {name: value for name, value in call.kwargs.items() if isinstance(value, Tensor)})


def traced_program(model: nn.Module, inputs: Tensor | Call, any_batch: bool = True) -> torch.export.ExportedProgram:
    """Trace a model with torch.export for any batch size, or for that of the inputs.

    Raises:
        InputError: a model that torch.export refuses, or whose code fixes the batch size.
    """
    reasons, call = [], Call.of(inputs, model)
    traced, shapes = call.head(TRACED) if any_batch else call, torch.export.ShapesCollection()
    for tensor, whole in zip(traced.tensors, call.tensors):
        if any_batch and tensor.shape[:1] != whole.shape[:1]:
            # torch 2.7 takes no size without a bound where a slice of it goes to the end.
            shapes[tensor] = {0: torch.export.Dim("batch", max=2**31)}
    # Python's `len(images)` is a plain number to the first tracer, and a symbol to the second, slower one. The first writes checks
    # of arguments by name that do not run.
    for strict in (True, False) if traced.kwargs else (False, True):
        try:
            with quiet(), torch.no_grad():
                arguments: Any = traced.args, dict(traced.kwargs)
                dynamic = shapes.dynamic_shapes(model, *arguments) if any_batch else None
                return torch.export.export(model, *arguments, dynamic_shapes=dynamic, strict=strict)
        except Exception as error:  # tracing runs the model's code, which may raise any error
            reasons.append(reason_of(error))
    raise InputError(f"[export] expected a network that torch.export takes with any batch size, got {reasons[0]}: "
                     "take the batch's size from `images.shape[0]`, and decide nothing by values")  # fmt: skip


@torch.no_grad()
def difference(
    model: nn.Module, run: Callable[..., Any], inputs: Tensor | Call, source: str, any_batch: bool = True
) -> float:
    """Largest absolute difference of a file's outputs from the model's, over all batch sizes.

    run: the file as a function of images, or of the call's arguments. source: name of the file in messages.

    Raises:
        InputError: a file that refuses a batch size, or gives other outputs.
    """
    largest, call = 0.0, Call.of(inputs, model)
    for size in sizes(model, inputs, any_batch):
        got, expected = (_outputs(f, call.head(size), name) for f, name in ((run, source), (model, "the network")))
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


def _outputs(run: Callable[..., Any], call: Call, source: str) -> list[Tensor]:
    """Output tensors of a function, one after the other."""
    try:
        with torch.no_grad():
            return leaves(call(run))
    except InputError:
        raise
    except Exception as error:  # a network's own code may raise any error
        raise InputError(f"[export] expected {source} to run on images {list(call.tensors[0].shape)}, got {reason_of(error)}: a "
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
    """First line of the error that an error came from, or its kind; an operator that ONNX lacks is named."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in causes:
        if missing := _MISSING.search(str(cause)):
            return f"the operator {missing[1]}, which ONNX does not have"
    error = error.__cause__ or error
    return (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(_ADVICE)
