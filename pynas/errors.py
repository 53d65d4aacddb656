"""Errors that a user can cause; the command line prints these without a traceback."""

import re


class InputError(ValueError):
    """Bad input. The message is `[where] expected RULE, got VALUE; what to do`; the command line exits with 2."""


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, without the place in torch's sources and its closing advice."""
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return re.sub(r"^\[\S+:\d+\] ", "", last).split(". This is typically")[0].rstrip(". ")


class InfeasibleError(InputError):
    """No architecture keeps the limits; the message names the smallest costs that can be reached."""


class CollapseWarning(UserWarning):
    """A self-supervised training has collapsed: the outputs do not depend on the image, or all ratings are equal."""
