"""Spaces that are no product: a small trellis of scales, counted, sampled, searched and costed against enumeration."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from pynas import export, search
from pynas.costs import cost_range, count, count_module
from pynas.errors import InputError
from pynas.rating import Scores, ScoreTable
from pynas.spaces import Architecture, Cell, Choice, Notation, Space, get
from pynas.supernets import Supernet

WIDTHS = (4, 6, 8)


def trellis() -> Space:
    """Two blocks of two layers; every layer keeps its width or takes the next one, the first may take any."""

    def rule(start):
        def allowed(prefix):
            steps = itertools.pairwise(prefix if start is None else (start, *prefix))
            return all(0 <= after - before <= 1 for before, after in steps)

        return allowed

    def cell(start):
        return Cell((WIDTHS, WIDTHS), rule(start), start, lambda path: path[-1])

    def read(text):
        if ":" not in text or "|" in text:
            return None
        a, b, c, d = (WIDTHS.index(int(width)) for width in text.split(":"))
        return Architecture.of([(0, (a, b)), (b, (c, d))])

    def write(architecture):
        return ":".join(str(WIDTHS[k]) for choice in architecture for k in choice.path)

    return Space("trellis", ((cell(None),), tuple(map(cell, range(3)))), notation=Notation(write, read))


class Slice(nn.Module):
    """The first channels of a shared convolution; takes any number of inputs."""

    def __init__(self, whole: nn.Conv2d, width: int) -> None:
        super().__init__()
        self.whole, self.width = whole, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.whole.weight[: self.width, : x.shape[1]], padding=1)

    def extract(self, shape: tuple[int, ...]) -> nn.Module:
        conv = nn.Conv2d(shape[0], self.width, 3, padding=1, bias=False, device=self.whole.weight.device)
        conv.weight.data.copy_(self.whole.weight[: self.width, : shape[0]])
        return conv


class Head(nn.Module):
    """A classifier of any number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(max(WIDTHS), 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.mean((2, 3)), self.linear.weight[:, : x.shape[1]], self.linear.bias)

    def extract(self, shape: tuple[int, ...]) -> nn.Module:
        linear = nn.Linear(shape[0], 5, device=self.linear.weight.device)
        linear.load_state_dict({"weight": self.linear.weight[:, : shape[0]], "bias": self.linear.bias})
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def net() -> Supernet:
    torch.manual_seed(0)
    shared = [nn.Conv2d(3 if n == 0 else 8, 8, 3, padding=1, bias=False) for n in range(4)]
    layers = [[Slice(whole, width) for width in WIDTHS] for whole in shared]
    return Supernet([[layers[:2]], [layers[2:]] * 3], head=Head(), space=trellis())


def everything(space: Space) -> list[Architecture]:
    """All architectures by brute force over the generic form."""
    paths = list(itertools.product(range(3), repeat=2))
    whole = (Architecture.of([(0, a), (c, b)]) for a in paths for c in range(3) for b in paths)
    return [a for a in whole if all(0 <= t - s <= 1 for s, t in itertools.pairwise((*a[0].path, *a[1].path)))
            and a[1].cell == a[0].path[-1]]  # fmt: skip


def test_size_paths_and_membership_are_those_of_enumeration():
    space, whole = trellis(), everything(trellis())
    assert space.size == len(whole) == 12
    assert space.path_counts == (5, 4 + 3 + 1)
    assert all(architecture in space for architecture in whole)
    assert set(space.paths(1)) == {a[1] for a in whole}
    assert Architecture.of([(0, (0, 2)), (2, (2, 2))]) not in space  # a step of two
    assert Architecture.of([(0, (0, 1)), (0, (0, 1))]) not in space  # block 1 starts elsewhere than block 0 ends
    with pytest.raises(InputError, match="starts from 1, as block 0 ends, got one from 0"):
        space.check(Architecture.of([(0, (0, 1)), (0, (0, 1))]))


def test_samples_are_uniform_over_architectures():
    space, rng = trellis(), np.random.default_rng(0)
    drawn = Counter(space.sample(rng) for _ in range(4000))
    assert set(drawn) == set(everything(space))
    # 333 each; five standard deviations of a binomial are 88.
    assert all(abs(times - 4000 / 12) < 88 for times in drawn.values())


def test_notation_parses_back_and_so_do_digits():
    space = trellis()
    for architecture in everything(space):
        assert space.parse(space.format(architecture)) == space.parse(str(architecture)) == architecture
    assert space.format(Architecture((Choice(0, (0, 1)), Choice(1, (1, 2))))) == "4:6:6:8"


def test_a_space_where_only_some_cells_have_a_start_is_refused():
    cell = Cell(((0, 1),))
    with pytest.raises(InputError, match="start state for all cells after block 0 or for none"):
        Space("mixed", ((cell,), (Cell(((0, 1),), start=0), cell)))


def test_costs_are_those_of_the_exported_networks():
    supernet = net()
    costs = count(supernet, (3, 6, 6))
    totals = []
    for architecture in everything(supernet.space):
        exported = export.subnet(supernet, architecture, (3, 6, 6))
        assert not any(isinstance(module, (Slice, Head)) for module in exported.modules())
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(exported(x), supernet(x, architecture))
        counted, _ = count_module(exported, (3, 6, 6))
        assert costs.of(architecture) == counted
        totals.append(counted["madds"])
    assert cost_range(supernet.space, costs, "madds") == (min(totals), max(totals))


def test_search_over_states_is_that_of_enumeration():
    supernet = net()
    costs, rng = count(supernet, (3, 6, 6)), np.random.default_rng(1)
    tables = []
    for cells in supernet.space.blocks:
        tables.append([])
        for cell in cells:
            scores = np.full(cell.counts, np.nan)
            for path in cell.paths():
                scores[path] = rng.random()
            tables[-1].append(ScoreTable(scores))

    def score(architecture):
        return sum(tables[b][choice.cell].scores[choice.path] for b, choice in enumerate(architecture))

    limit = int(np.median([costs.of(a)["madds"] for a in everything(supernet.space)]))
    kept = [a for a in everything(supernet.space) if costs.of(a)["madds"] <= limit]
    assert 4 < len(kept) < 12
    found = search.best(Scores(supernet.space, tables), costs, {"madds": limit}, top_k=4)
    assert [entry.architecture for entry in found] == sorted(kept, key=score)[:4]
    assert found.certificate.space_size == 12


def test_shared_weights_are_counted_and_kept_once():
    from pynas.train.method import unshared_state

    supernet = net()
    assert sum(p.numel() for p in supernet.parameters()) == 9 * 8 * (3 + 8 + 8 + 8) + 8 * 5 + 5
    state = unshared_state(supernet)
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in supernet.parameters())
    other = net()
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(state, strict=False)
    x, architecture = torch.randn(2, 3, 6, 6), everything(supernet.space)[7]
    assert torch.equal(other(x, architecture), supernet(x, architecture))


@pytest.mark.parametrize("name", ["hytra-mini", "nats-size", "bignas-mini", "mbconv-mini"])
def test_boundary_states_number_the_states_of_the_cells(name: str) -> None:
    space = get(name)
    starts, ends = space.boundary_states
    assert [[array.shape for array in cells] for cells in starts] == [[cell.counts for cell in c] for c in space.blocks]
    numbers: dict = {}
    for cells, first, last in zip(space.blocks, starts, ends):
        for cell, start, end in zip(cells, first, last):
            assert (start == numbers.setdefault(cell.start, int(start.flat[0]))).all()
            for path in list(cell.paths())[:200]:
                assert end[path] == numbers.setdefault(cell.end(path), int(end[path]))
    assert len(set(numbers.values())) == len(numbers) and (space.has_states or set(numbers) == {None})
