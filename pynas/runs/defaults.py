"""The space that a method's runs take by default, and how they rate."""

from __future__ import annotations

from dataclasses import dataclass

from pynas.errors import InputError
from pynas.methods.dna.functional import LOSSES as FUNCTIONAL
from pynas.ops.path_distance import KINDS as DISTANCES


@dataclass(frozen=True)
class Defaults:
    """The space that a method's runs take by default, and what its rating and its training images are.

    views: views of each image in a training batch. loss: of the rating; None for the method's `default_loss()`.
    losses: others that users may choose. norms: of the rating, the default first. averages: whether paths are rated, so that
    the scores of several seeds can be averaged. shares_search: whether the processes of torchrun share the search stage.
    """

    space: str = "mbconv-mini"
    views: int = 1
    loss: str | None = None
    losses: tuple[str, ...] = (*FUNCTIONAL, *DISTANCES)
    norms: tuple[str, ...] = ("batch", "running")
    averages: bool = True
    shares_search: bool = False

    def check_rating(self, loss: str | None, norm: str | None) -> None:
        """Raise InputError for a loss or norm that the method does not rate by."""
        losses = (self.loss, *self.losses) if self.loss else self.losses
        for name, given, allowed in (("loss", loss, losses), ("norm", norm, self.norms)):
            if given is not None and given not in allowed:
                raise InputError(f"[rate] expected a {name} of {', '.join(allowed)} for this method, got {given!r}")
