"""Errors that a user can cause; the command line prints these without a traceback."""


class InputError(ValueError):
    """Bad input. The message is `[where] expected RULE, got VALUE; what to do`; the command line exits with 2."""


class InfeasibleError(InputError):
    """No architecture keeps the limits; the message names the smallest costs that can be reached."""


class CollapseWarning(UserWarning):
    """A self-supervised training has collapsed: the outputs do not depend on the image, or all ratings are equal."""
