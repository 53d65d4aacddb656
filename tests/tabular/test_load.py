"""The published tables: complete, in the source's order, equal to the source bit for bit."""

import hashlib
from importlib.resources import files

import numpy as np
import pytest

from pynas import spaces
from pynas.errors import InputError
from pynas.spaces import Architecture
from pynas.spaces.nasbench201 import NASBENCH201_OPS
from pynas.tabular import BENCHMARKS, load
from pynas.tabular.isomorphism import isomorphism_strings


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.fixture(scope="module")
def cells():
    return load("nasbench201")


# Digests of the arrays as their sources give them, float32.
@pytest.mark.parametrize(
    ("name", "data", "count", "best", "source"),
    [
        ("nats-size", None, 32768, 93.65, "4140a270fdbc7e2a"),
        ("nasbench201", None, 15625, 94.37334, "d6d9a3d7d4f08704"),
        ("nasbench201", "cifar100", 15625, 73.513336, "ca2433b6ad6d2194"),
        ("nasbench201", "imagenet16-120", 15625, 47.31111, "c1f40a7c1a77cfbf"),
    ],
)
def test_accuracies_are_those_of_the_source(name, data, count, best, source):
    bench = load(name, data)
    assert len(bench) == len(bench.architectures) == len(set(bench.architectures)) == count
    assert bench.accuracy.dtype == np.float32 and digest(bench.accuracy.tobytes()) == source
    assert bench.accuracy.max() == np.float32(best)
    assert bench.source and bench.licence and bench.data == (data or "cifar10")


def test_nats_size_is_lexicographic():
    bench = load("nats-size")
    assert bench.architectures[:2] == ("8:8:8:8:8", "8:8:8:8:16") and bench.architectures[-1] == "64:64:64:64:64"
    row = bench.architectures.index("64:40:48:64:56")
    assert row == int("74576", 8) and round(float(bench.accuracy[row]), 4) == 93.29


def test_mbconv_23():
    bench = load("mbconv-23")
    assert len(bench) == 23 and bench.architectures[0] == "11|1111|1101|1011|1101"
    assert bench.accuracy[0] == 75.52 == bench.accuracy.max() and bench.accuracy.min() == 73.58
    assert bench.choices.shape == (23, 18) and bench.choices.max() == 3


def test_nasbench201_rows_and_strings(cells):
    assert digest("\n".join(cells.architectures).encode()) == "83abc799e45cf34e"
    assert cells.architectures[0] == (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    )


def test_nasbench201_seeds_are_complete_where_they_say_so(cells):
    complete = ~np.isnan(cells.seeds).any(axis=1)
    assert complete.sum() == 7961 and digest(cells.seeds.tobytes()) == "2d2da6f85ff32863"
    np.testing.assert_allclose(cells.seeds[complete].mean(axis=1), cells.accuracy[complete], rtol=1e-6)
    assert load("nasbench201", "cifar100").seeds is None


def test_isomorphism_classes_are_the_published_ones(cells):
    strings = isomorphism_strings([[cells.ops[code] for code in row] for row in cells.choices])
    assert digest("\n".join(strings).encode()) == "1e56f6310d6e4790"
    numbers: dict[str, int] = {}
    assert cells.classes.tolist() == [numbers.setdefault(text, len(numbers)) for text in strings]
    assert len(numbers) == 6466


def test_other_benchmarks_have_a_class_per_row():
    assert load("mbconv-23").classes.tolist() == list(range(23))


def test_without_leaves_the_729_cells(cells):
    kept = cells.without("none", "skip_connect")
    assert len(kept) == 729 and not any("none" in text or "skip" in text for text in kept.architectures)
    row = cells.index(kept.architectures[5])
    assert cells.accuracy[row] == kept.accuracy[5] and (cells.seeds[row] == kept.seeds[5]).all()
    assert (kept.choices[5] == cells.choices[row]).all()


def test_index_takes_strings_and_what_the_search_finds():
    size, blocks = load("nats-size"), load("mbconv-23")
    widths = Architecture.of([(0, (7, 4)), (0, (5, 7)), (0, (6,))])
    assert size.index(widths, spaces.get("nats-size")) == size.index("64:40:48:64:56")
    assert blocks.index(Architecture.parse("22|2202|2323|2002|0022")) == 22


def test_index_reads_the_numbers_of_a_space_of_fewer_operations(cells):
    few = spaces.nasbench201(ops=NASBENCH201_OPS[-3:])
    architecture = few.sample(np.random.default_rng(0))
    assert cells.architectures[cells.index(architecture, few)] == few.format(architecture)
    with pytest.raises(InputError, match="expected the space beside"):
        cells.index(architecture)


def test_tables_are_small_and_their_sources_named():
    folder = files("pynas.tabular") / "tables"
    sizes = {path.name: len(path.read_bytes()) for path in folder.iterdir()}
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert sum(sizes.values()) < 300_000
    assert all(name in readme for name in sizes if name != "README.md")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("nats-sise"), "did you mean 'nats-size'"),
        (lambda: load("nasbench201", "mnist"), r"\[nasbench201\] expected accuracies on cifar10 or .*, got 'mnist'"),
        (lambda: load("nats-size", "cifar100"), r"\[nats-size\] expected accuracies on cifar10, got 'cifar100'"),
        (lambda: load("mbconv-23").index("11|1111|1111|1111|1111"), "expected one of its 23 architectures"),
        (lambda: load("mbconv-23").where(np.zeros(23, bool)), "at least one of its 23 rows, got none"),
        (lambda: load("mbconv-23").where(np.arange(3)), r"a boolean for each of 23 rows, got int64 \[3\]"),
        (lambda: load("nasbench201").without("conv"), "expected operations of none, skip_connect, .*, got 'conv'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_every_name_loads():
    assert [load(name).name for name in BENCHMARKS] == ["nats-size", "mbconv-23", "nasbench201"]
