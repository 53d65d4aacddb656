"""The errors that a user can cause, so that the command line can tell them from faults of its own."""


class InputError(ValueError):
    """Bad input: the message says what was expected, what came, and what to do. The command line exits with 2."""


class InfeasibleError(InputError):
    """No architecture keeps the limits; the message says the least cost that can be reached."""


class CollapseWarning(UserWarning):
    """A self-supervised training has lost its signal: outputs that do not depend on the image, or ratings all alike."""
