"""Standardised scores, their average over several ratings of one space, and how far the ratings agree.

The scores of two supernets have scales of their own. A block's mean says nothing about the order of networks, so each
block is centred; all blocks are divided by one number, since their relative spread does say how much each block matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pynas.errors import InputError
from pynas.rating.scores import Scores
from pynas.rating.table import ScoreTable
from pynas.spaces.states import states_of


def standardised(scores: Scores) -> Scores:
    """Return scores with every block's mean over its rated paths taken off, and all blocks divided by one number.

    The number is the standard deviation of the total score of a network drawn uniformly from those whose paths are rated;
    scores that do not differ are only centred. Paths that the space does not allow have no score.

    Raises:
        InputError: an infinite score, or a block without rated paths.
    """
    paths, values, totals = _centred([scores])
    scale = float(np.sqrt(max(totals[0, 0], 0.0))) or 1.0
    return _tables(scores, paths, [[cell[0] / scale for cell in cells] for cells in values])


def average(members: Sequence[Scores]) -> Scores:
    """Return the mean of the standardised scores of several ratings; a path that one of them did not rate has none.

    members: scores of one space. The metadata are those that all members have in common, and `members`, their number.

    Raises:
        InputError: no members, different spaces, an infinite score, or a block without a path that all have rated.
    """
    paths, _, _ = _centred(members)
    each = [standardised(scores) for scores in members]
    sums = [
        [sum(scores[b][c].at(rows) for scores in each) for c, rows in enumerate(cells)] for b, cells in enumerate(paths)
    ]
    common = {
        name: value
        for name, value in members[0].metadata.items()
        if all(scores.metadata.get(name) == value for scores in members)
    }
    return _tables(
        Scores(members[0].space, members[0].tables, {**common, "members": len(members)}),
        paths,
        [[np.asarray(cell) / len(members) for cell in cells] for cells in sums],
    )


def combined(members: Sequence[Any]) -> Any:
    """Return the scores of a single member as they are, of several their average."""
    return members[0] if len(members) == 1 else average(members)


def covariance(members: Sequence[Scores]) -> np.ndarray:
    """Return the covariance of the members' total scores over networks drawn uniformly from those that all have rated.

    Exact, float64 `[members, members]`: block after block, boundary states included, without listing networks.

    Raises:
        InputError: no members, different spaces, an infinite score, or a block without a path that all have rated.
    """
    return _centred(members)[2]


def reliability(members: Sequence[Scores]) -> float:
    """Return the mean Pearson correlation of the total scores between pairs of members; NaN where scores do not differ.

    Exact, over all networks that every member has rated (`covariance`).

    Raises:
        InputError: fewer than two members, different spaces, or an infinite score.
    """
    _check_several(members)
    totals = covariance(members)
    if not (np.diag(totals) > 0).all():
        return float("nan")
    deviations = np.sqrt(np.diag(totals))
    pairs = np.triu_indices(len(members), 1)
    return float((totals / np.outer(deviations, deviations))[pairs].mean())


def seed_variances(members: Sequence[Scores]) -> np.ndarray:
    """Return the variance that a path's standardised score has from member to member, by block, float64 `[blocks]`.

    Two networks' averaged scores differ by their error with the variance 2 / members * the sum over the blocks in which they
    differ. The estimate is pooled over the P paths of a block: the squared differences from the mean of n members over
    (n - 1)(P - 1), as the members' mean and each member's own mean over the block are taken off. A teacher, images or a rating
    that all members share may be wrong in the same way for all: that is not in it.

    Raises:
        InputError: fewer than two members, different spaces, or an infinite score.
    """
    _check_several(members)
    _, values, _ = _centred([standardised(scores) for scores in members])
    variances = []
    for cells in values:
        block = np.concatenate(cells, axis=1)
        squares = float(np.square(block - block.mean(axis=0)).sum())
        variances.append(squares / ((len(members) - 1) * max(block.shape[1] - 1, 1)))
    return np.array(variances)


def _check_several(members: Sequence[Scores]) -> None:
    if len(members) < 2:
        raise InputError(
            f"[rating] expected at least two members to compare, got {len(members)}; rate with --seeds 2 or more"
        )


def _centred(members: Sequence[Scores]) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]], np.ndarray]:
    """Return the paths that all members rated, `[n, L]` by block and cell, their centred scores `[members, n]`, and the
    covariance of the totals.
    """
    if not members:
        raise InputError("[rating] expected the scores of at least one member, got none")
    space = members[0].space
    shapes = [[cell.counts for cell in cells] for cells in space.blocks]
    for scores in members:
        if scores.space.name != space.name or [[table.shape for table in cells] for cells in scores.tables] != shapes:
            raise InputError(f"[rating] expected members of one space, got {space} and {scores.space}")
    paths, values = [], []
    for b in range(len(space)):
        rows, block = zip(*(_common([scores[b][c] for scores in members]) for c in range(len(space.blocks[b]))))
        paths.append(list(rows))
        values.append(list(block))
    starts, ends = states_of(space, paths)
    for b, cells in enumerate(values):
        kept = [left >= 0 for left in ends[b]]
        for parts in (paths[b], starts[b], ends[b]):
            parts[:] = [part[keep] for part, keep in zip(parts, kept)]
        cells[:] = [cell[:, keep] for cell, keep in zip(cells, kept)]
        block = np.concatenate(cells, axis=1)
        if block.shape[1] == 0:
            raise InputError(f"[rating] expected paths that every member rated in block {b}, got none")
        if not np.isfinite(block).all():
            raise InputError(f"[rating] expected finite scores, got {block[~np.isfinite(block)][0]} in block {b}")
        # A mean of equal scores may be off by a rounding error, which a division would blow up.
        flat = np.ptp(block, axis=1, keepdims=True) == 0
        cells[:] = [np.where(flat, 0.0, cell - block.mean(axis=1, keepdims=True)) for cell in cells]
    return paths, values, _totals(space.has_states, values, starts, ends)


def _common(tables: Sequence[ScoreTable]) -> tuple[np.ndarray, np.ndarray]:
    """Paths of a cell that all tables rated, int64 `[n, L]`, and their scores, float64 `[tables, n]`."""
    paths, first = tables[0].rated()
    values = np.stack([first, *(table.at(paths) for table in tables[1:])])
    rated = ~np.isnan(values).any(axis=0)
    return paths[rated], values[:, rated]


def _totals(
    linked: bool, values: list[list[np.ndarray]], starts: list[list[np.ndarray]], ends: list[list[np.ndarray]]
) -> np.ndarray:
    """Covariance of the totals `[members, members]` over all networks: moments carried from block to block, by state."""
    members = len(values[0][0])
    # By state: share of the networks, and their sums of totals [members] and of products of totals [members, members].
    moments = {0: (1.0, np.zeros(members), np.zeros((members, members)))}
    for b, cells in enumerate(values):
        after: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}
        for cell, start, end in zip(cells, starts[b], ends[b]):
            for state in np.unique(end).tolist() if linked else [0]:
                chosen = end == state if linked else slice(None)
                scores = cell[:, chosen]
                for before in {0} if b == 0 or not linked else set(start[chosen].tolist()) & set(moments):
                    count, sums, products = moments[before]
                    own, n = scores.sum(axis=1), scores.shape[1]
                    cross = np.outer(sums, own)
                    new = (
                        count * n,
                        sums * n + count * own,
                        products * n + cross + cross.T + count * scores @ scores.T,
                    )
                    old = after.get(state)
                    after[state] = new if old is None else (old[0] + new[0], old[1] + new[1], old[2] + new[2])
        if not after:
            raise InputError(
                f"[rating] expected networks whose every path all members rated, got none that pass block {b}"
            )
        size = sum(count for count, _, _ in after.values())
        moments = {
            state: (count / size, sums / size, products / size) for state, (count, sums, products) in after.items()
        }
    count, sums, products = (sum(each) for each in zip(*moments.values()))
    return products / count - np.outer(sums, sums) / count**2


def _tables(scores: Scores, paths: list[list[np.ndarray]], values: list[list[np.ndarray]]) -> Scores:
    """Scores of these paths, with the space and the metadata of other scores."""
    tables = [
        [ScoreTable.of_paths(table.shape, rows, row, table.metadata) for table, rows, row in zip(*block)]
        for block in zip(scores.tables, paths, values)
    ]
    return Scores(scores.space, tables, scores.metadata)
