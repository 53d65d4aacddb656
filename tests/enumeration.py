"""All of a space, the slow way."""

from pynas.spaces import Architecture


def enumerated(space):
    """Every architecture, block after block from the state that the one before it left."""
    grown = [((), None)]
    for b, cells in enumerate(space.blocks):
        grown = [
            ((*choices, choice), cells[choice.cell].end(choice.path))
            for choices, state in grown for choice in space.paths(b) if cells[choice.cell].start == state
        ]  # fmt: skip
    return [Architecture(choices) for choices, _ in grown]
