"""Stand-ins of other projects' supernets: pynas's scores are those of each path run alone by the project's own code."""

from __future__ import annotations

import pytest

from bench.families import FAMILIES, NORMS

# Layer norms alone, or batch norms that never store statistics.
ONE_RATING = (
    "autoformer",
    "autoformer-networks",
    "prenas",
    "timm-vit",
    "timm-convnext",
    "torch-encoder",
    "nasbench201-untracked",
)


@pytest.fixture(scope="module")
def families():
    """Build each family once."""
    made = {}
    yield lambda name: made.setdefault(name, FAMILIES[name]("test"))
    made.clear()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_are_those_of_each_path_alone(families, name, norm):
    family = families(name)
    before = {key: value.clone() for key, value in family.module.state_dict().items()}
    table, alone = family.rate(norm), family.alone(norm)
    assert len(table) == len(alone) > 2
    assert {path: table[path] for path in alone} == pytest.approx(alone, rel=2e-6)
    # Both ways leave the supernet as it was, and the scores differ enough that a wrong path would be seen.
    assert all(value.equal(before[key]) for key, value in family.module.state_dict().items())
    assert max(alone.values()) > 1.003 * min(alone.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_norm_modes_differ_where_there_is_batch_norm(families, name):
    """The three norm modes are three ratings, so that agreement in each says something."""
    family = families(name)
    path = family.paths()[-1]
    scores = [family.alone(norm, [path])[path] for norm in NORMS]
    assert len(set(scores)) == (1 if name in ONE_RATING else 3)
