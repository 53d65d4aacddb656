"""All architectures of a space by enumeration, its smallest one, and those of AutoFormer by their sizes."""

from pynas.spaces import Architecture


def enumerated(space):
    """Every architecture, block after block from the state that the one before it left."""
    partial = [((), None)]
    for b, cells in enumerate(space.blocks):
        partial = [
            ((*choices, choice), cells[choice.cell].end(choice.path))
            for choices, state in partial for choice in space.paths(b) if cells[choice.cell].start == state
        ]  # fmt: skip
    return [Architecture(choices) for choices, _ in partial]


def smallest(space):
    """First path of the first cell that may follow, block by block."""
    choices, state = [], None
    for block in range(len(space.blocks)):
        number, cell = next(iter(space.cells_after(block, state).items()))
        path = next(cell.paths())
        choices.append((number, path))
        state = cell.end(path) if space.has_states else None
    return Architecture.of(choices)


def autoformer_architecture(space, dim, heads, ratios):
    """The architecture of an embedding dimension and of each layer's heads and MLP ratio."""
    for c, cell in enumerate(space.blocks[0]):
        if len(cell.layers) == len(heads) and cell.layers[0][0].dim == dim:
            places = {(spec.heads, spec.ratio): k for k, spec in enumerate(cell.layers[0])}
            return Architecture.of([(c, [places[pair] for pair in zip(heads, ratios, strict=True)])])
    raise KeyError((dim, len(heads)))
