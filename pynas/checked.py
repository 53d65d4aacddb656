"""Options that check themselves: types, ranges and coercion of arguments by pydantic, with pynas's one-line errors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Interval
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from pynas.errors import InputError

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
AtLeastOne = Annotated[int, Ge(1)]
Fraction = Annotated[float, Interval(ge=0, le=1)]


def checked(where: str, skip: tuple[str, ...] = ()) -> Callable[[T], T]:
    """Check the keyword-only arguments of a function, or the fields of a keyword-only dataclass, by their annotations.

    Arguments are coerced as pydantic does (the text "2e-3" to a float, a list to a tuple) before the call.

    where: name in front of the error messages. skip: arguments that are passed on as they are (nets, iterables of batches).

    Raises:
        InputError: at the call, an argument of a wrong type or out of its range.
    """

    def decorate(target: Any) -> Any:
        if inspect.isclass(target):
            target.__init__ = decorate(target.__init__)  # type: ignore[method-assign, misc]
            return target

        @functools.wraps(target)
        def call(*args: Any, **given: Any) -> Any:
            model = _model(target, skip)
            mine = {name: value for name, value in given.items() if name in model.model_fields}
            checked = validate(where, model, mine)
            return target(*args, **{**given, **{name: getattr(checked, name) for name in mine}})

        return call

    return decorate


@functools.cache
def _model(function: Callable[..., Any], skip: tuple[str, ...]) -> type[BaseModel]:
    return create_model("Options", __config__=_CONFIG, **fields(function, skip))


_CONFIG = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def fields(function: Callable[..., Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Annotation and default of each keyword-only argument of a function or class, as `pydantic.create_model` takes them."""
    parameters = inspect.signature(function).parameters.values()
    while isinstance(function, functools.partial):
        function = function.func
    source = function.__init__ if inspect.isclass(function) else function  # type: ignore[misc]
    hints = get_type_hints(inspect.unwrap(source), include_extras=True)
    return {
        p.name: (hints.get(p.name, Any), ... if p.default is p.empty else p.default)
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in skip
    }


def validate(where: str, model: type[Model], given: Mapping[str, Any]) -> Model:
    """Build a pydantic model from values.

    Raises:
        InputError: an unknown name, a wrong type, or a value out of range; the message names the value and the rule.
    """
    try:
        return model(**given)
    except ValidationError as error:
        raise InputError(f"[{where}] {_sentence(model, error)}") from None


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    """The first of the errors as `expected NAME to be RULE, got VALUE`."""
    first = error.errors(include_url=False)[0]
    name, value = ".".join(map(str, first["loc"])), first["input"]
    if first["type"] == "extra_forbidden":
        return f"expected options of {', '.join(model.model_fields)}, got {name!r}"
    if first["type"] == "missing":
        return f"expected {name}, got none"
    rule = first["msg"].replace("Input should be", "to be").replace("Value error, ", "")
    return f"expected {name} {rule}, got {value!r}"
