"""A training that is killed at a step."""


class Killed(Exception):
    pass


def killer(at):
    """For `on_step`: kills after step `at`."""

    def on_step(step):
        if step.step == at:
            raise Killed

    return on_step
