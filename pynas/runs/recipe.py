"""What the commands need to know of a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pynas.errors import InputError

# Options of the training images' loader, for methods that leave them to the user (`ImageData.loader`).
LOADER = {"augmentation": "standard", "erasing": 0.0, "erasing_count": 1, "repeats": 1}


@dataclass(frozen=True)
class Flow:
    """How a method goes from a run's settings to a found network; each stage works from files to files.

    method: its class; the keyword-only arguments of its constructor are the options that users give, but for those in
        `own`. build(run, show): the method, an nn.Module on the run's net.
    train(run, show), rate(run, loss, norm, show), find(run, wishes), export(run, architecture): the stages of
        `pynas run`, in this order.
    more: options of the stages beside the method's; defaults: values of options that the commands take instead of the
        constructor's; recipes: values of several options by one name, the option `recipe`. space, epochs: the defaults.
    augmentation, views: what the training images go through, where no option says so (`LOADER`). loss, norm: the default
        rating.
    """

    method: Callable[..., Any]
    build: Callable[..., Any]
    train: Callable[..., Any]
    rate: Callable[..., Any]
    find: Callable[..., dict[str, Any]]
    export: Callable[..., dict[str, Any]]
    own: tuple[str, ...] = ()
    space: str = "mbconv-mini"
    augmentation: str = "standard"
    views: int = 1
    loss: str = "relative_l1"
    norm: str = "batch"
    epochs: int = 20
    more: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """All options with their defaults."""
        return {**self.method_options, **self.more, **({"recipe": "none"} if self.recipes else {})}

    @property
    def method_options(self) -> dict[str, Any]:
        """Those of the method's constructor, with the defaults that the commands take."""
        taken = inspect.signature(self.method).parameters.values()
        own = {p.name: p.default for p in taken if p.kind is p.KEYWORD_ONLY and p.name not in self.own}
        return {**own, **self.defaults}

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options: as given, else of the recipe, else the default."""
        recipe = given.get("recipe", "none")
        return {**self.options, **(self.recipes[recipe] if recipe != "none" else {}), **given}

    def check_options(self, given: Mapping[str, Any]) -> None:
        """Whether the method has these options.

        Raises:
            InputError: an unknown option or recipe; the message lists the known ones.
        """
        for name in given:
            if name not in self.options:
                raise InputError(f"[run] expected options of {', '.join(self.options)}, got {name!r}")
        recipe = given.get("recipe", "none")
        if recipe not in ("none", *self.recipes):
            raise InputError(f"[run] expected a recipe of none, {', '.join(self.recipes)}, got {recipe!r}")
