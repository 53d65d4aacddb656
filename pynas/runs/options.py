"""Options of a method, which `--option NAME=VALUE` and `runs.create(options=...)` take, and their values by recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from pynas.checked import AtLeastOne, Fraction, validate
from pynas.errors import InputError
from pynas.runs.settings import Settings
from pynas.spaces import Space

# Annotation and default by name, as `pydantic.create_model` takes them.
Fields = Mapping[str, tuple[Any, Any]]
SMALL, PAPER = "small", "paper"
# Settings that a recipe names beside options; a recipe without one takes that of `Settings`.
SETTINGS = ("epochs", "batch_size", "accumulate", "val_fraction", "val_images")
# Side in pixels of images from which on the paper's recipe is the default.
_LARGE = 224


def loader_options(augmentation: str = "standard") -> Fields:
    """Return the options of the training images' loader (`ImageData.loader`); augmentation: the default."""
    return {"augmentation": (str, augmentation), "erasing": (Fraction, 0.0), "erasing_count": (AtLeastOne, 1),
            "repeats": (AtLeastOne, 1)}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Options of a method and of the stages of its runs.

    method: those of the method's constructor. stages: those that the stages read.
    recipes: values of options and of `SETTINGS` by the recipe's name: "small" for images of 32x32 pixels and two cores, "paper",
        and where the authors' released code differs from the paper "code". A name with a further word, as "paper-vit", is the
        recipe for spaces of that kind, or for those whose name ends so.
    """

    method: Fields
    stages: Fields = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {SMALL: {}})

    @property
    def model(self) -> type[BaseModel]:
        """Pydantic model of all options."""
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        return create_model("Options", __config__=config, **{**self.method, **self.stages})  # type: ignore[call-overload]

    def recipe(self, name: str | None, space: Space, image_size: int | None = None) -> str:
        """Return the full name of a recipe in a space, as "paper-vit" of "paper".

        name: None for the default: the paper's for images of 224 pixels and more, else the small one.
        image_size: side of the images, None for the space's.

        Raises:
            InputError: a recipe that the method lacks, or one with numbers for another number of blocks.
        """
        wanted = name or (PAPER if (image_size or space.image_size) >= _LARGE else SMALL)
        for word in (space.name.rpartition("-")[2], space.kind):
            if f"{wanted}-{word}" in self.recipes:
                return f"{wanted}-{word}"
        if wanted not in self.recipes:
            if name is None:
                return SMALL
            raise InputError(f"[run] expected a recipe of {', '.join(self.recipes)} for this method, got {name!r}")
        weights = self.recipes[wanted].get("loss_weights")
        if weights is not None and len(weights) != len(space):
            raise InputError(f"[run] expected a space of {len(weights)} blocks, for each of which the recipe {wanted} has numbers, "
                             f"got {len(space)} in {space.name}")  # fmt: skip
        return wanted

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given options with their types, as plain YAML values.

        Raises:
            InputError: an unknown option, a value of a wrong type or out of its range.
        """
        return validate("run", self.model, given).model_dump(mode="json", include=set(given))

    def filled(self, recipe: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options with their types: as given, else of the recipe, else the default."""
        chosen = {name: value for name, value in self.recipes[recipe].items() if name not in SETTINGS}
        return dict(validate("run", self.model, {**chosen, **given}).__dict__)

    def settings(self, recipe: str) -> dict[str, Any]:
        """Return the settings that a recipe names."""
        return {name: value for name, value in self.recipes[recipe].items() if name in SETTINGS}

    def values(self, recipe: str) -> dict[str, Any]:
        """Return a recipe's value, else the default, of all options and of `SETTINGS`."""
        defaults = {name: Settings.model_fields[name].default for name in SETTINGS}
        return self.filled(recipe, {}) | defaults | self.settings(recipe)
