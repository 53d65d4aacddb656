"""The native module takes its arguments by name, each name once and all of them."""

from __future__ import annotations

import pytest
import torch

from pynas import _C

KERNELS = [name for name in dir(_C) if callable(getattr(_C, name)) and name not in ("isa", "thread_backend")]


@pytest.mark.parametrize("kernel", KERNELS)
def test_takes_no_positions(kernel: str) -> None:
    function = getattr(_C, kernel)
    count = function.__doc__.split(") ->")[0].count(": ")
    assert function.__doc__.startswith(f"{kernel}(*, ") and count > 0
    with pytest.raises(TypeError):
        function(*[0] * count)


def arguments() -> dict[str, object]:
    """Return two points for pareto_filter, which keeps the second."""
    loss, cost, kept, count = torch.tensor([2, 1]), torch.tensor([5, 5]), torch.zeros(2).long(), torch.zeros(1).long()
    tensors = {"loss": loss, "cost": cost, "kept": kept, "count": count}
    return {**tensors, "points": 2, "costs": 1}


def call(**values: object) -> None:
    _C.pareto_filter(**{name: v.data_ptr() if isinstance(v, torch.Tensor) else v for name, v in values.items()})


def test_takes_names_in_any_order() -> None:
    values = arguments()
    call(**dict(reversed(values.items())))
    assert values["count"].item() == 1 and values["kept"][0].item() == 1


@pytest.mark.parametrize("change", [{"points": 2.5}, {"loss": "a"}, {"size": 1}, {"costs": ...}])
def test_refuses_wrong_missing_and_unknown_arguments(change: dict[str, object]) -> None:
    values = {name: value for name, value in {**arguments(), **change}.items() if value is not ...}
    with pytest.raises(TypeError):
        call(**values)
