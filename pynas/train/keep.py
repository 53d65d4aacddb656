"""Policy of the weights that stay beside the last checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pynas.errors import InputError


@dataclass(frozen=True)
class Keep:
    """Epochs after which the weights stay in files of their own: every N-th, and of those only the newest M.

    every: N; None stands for 1 where `last` is given, else for no epoch. last: M; None for all. A resumed training may
    have another policy; it drops none but the epochs that its own policy would have kept.

    Raises:
        InputError: a number below 1.
    """

    every: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        for name in ("every", "last"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"[keep] expected {name} of at least 1, got {value}")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Keep:
        """Read a policy as `every=10`, `last=3` or `every=10,last=3`.

        Raises:
            InputError: another name, a name twice, or no whole number of at least 1.
        """
        given: dict[str, int] = {}
        for text in (part.strip() for each in texts for part in each.split(",")):
            name, _, number = text.partition("=")
            if name not in ("every", "last") or name in given or not number.isdecimal():
                raise InputError(f"[keep] expected every=N and last=M, once each, got {text!r}")
            given[name] = int(number)
        return cls(**given)

    def keeps(self, epoch: int) -> bool:
        """Whether the weights after an epoch, counted from 1, are kept."""
        every = self.every or (self.last and 1)
        return every is not None and epoch % every == 0

    def dropped(self, epoch: int) -> list[int]:
        """Return the epochs up to this one that were kept and are not among the newest."""
        return [] if self.last is None else [each for each in range(1, epoch + 1) if self.keeps(each)][: -self.last]
