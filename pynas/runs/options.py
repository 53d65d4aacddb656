"""The options of a method that `--option NAME=VALUE` and `runs.create(options=...)` take: types, ranges, defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from pynas.checked import AtLeastOne, Fraction, validate
from pynas.errors import InputError

# Annotation and default by name, as `pydantic.create_model` takes them.
Fields = Mapping[str, tuple[Any, Any]]

# Options of the training images' loader (`ImageData.loader`), for methods that leave them to the user.
LOADER: Fields = {"augmentation": (str, "standard"), "erasing": (Fraction, 0.0), "erasing_count": (AtLeastOne, 1),
                  "repeats": (AtLeastOne, 1)}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Options of a method and of the stages of its runs.

    method: those of the method's constructor. stages: those that the stages read. defaults: values that runs take instead
    of the constructor's. recipes: values of several options by one name, which the option `recipe` chooses.
    """

    method: Fields
    stages: Fields = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> type[BaseModel]:
        """Pydantic model of all options."""
        fields = {**self.method, **self.stages, **({"recipe": (str, "none")} if self.recipes else {})}
        fields = {name: (kind, self.defaults.get(name, default)) for name, (kind, default) in fields.items()}
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        return create_model("Options", __config__=config, **fields)  # type: ignore[call-overload]

    @property
    def names(self) -> dict[str, Any]:
        """Defaults by name."""
        return self.model().__dict__

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given options with their types, as plain YAML values.

        Raises:
            InputError: an unknown option or recipe, a value of a wrong type or out of its range.
        """
        checked = validate("run", self.model, given)
        recipe = getattr(checked, "recipe", "none")
        if recipe not in ("none", *self.recipes):
            raise InputError(f"[run] expected a recipe of none, {', '.join(self.recipes)}, got {recipe!r}")
        return checked.model_dump(mode="json", include=set(given))

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options with their types: as given, else of the recipe, else the default."""
        recipe = given.get("recipe", "none")
        values = {**(self.recipes[recipe] if recipe != "none" else {}), **given}
        return dict(validate("run", self.model, values).__dict__)
