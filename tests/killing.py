"""Kill a training at a step."""


class Killed(Exception):
    """Raised in place of a kill."""


def killer(at):
    """Return an `on_step` callback that raises `Killed` after step `at`."""

    def on_step(step):
        if step.step == at:
            raise Killed

    return on_step
