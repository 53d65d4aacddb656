"""The feature cache against the teacher itself, over kills, other processes and damage."""

import copy
import importlib.util
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pynas
from pynas.errors import InputError
from pynas.methods import DNA
from pynas.methods.dna import feature_cache
from pynas.methods.dna.feature_cache import FeatureCache

from .nets import small_net, small_teacher

lmdb = pytest.importorskip("lmdb")


class Counting(torch.nn.Module):
    """Counts the images that a teacher sees."""

    def __init__(self, teacher):
        super().__init__()
        self.images, original = 0, teacher.features_and_logits

        def count(images):
            self.images += len(images)
            return original(images)

        teacher.features_and_logits = count


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return small_teacher()


@pytest.fixture
def images():
    return torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def same(found, expected):
    for ours, theirs in zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_each_image_is_computed_once_whatever_its_batch(tmp_path, teacher, images):
    expected, counting = teacher.features_and_logits(images), Counting(teacher)
    cache = FeatureCache(tmp_path, teacher, 10**7)
    same(cache(images[:8]), ([f[:8] for f in expected[0]], expected[1][:8]))
    order = torch.tensor([5, 19, 3, 11, 5, 0, 19])
    same(cache(images[order]), ([f[order] for f in expected[0]], expected[1][order]))
    same(cache(images.to(memory_format=torch.channels_last)), expected)
    assert counting.images == len(cache) == 20
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in cache(images)[0])


def test_two_caches_of_a_folder_share_its_rows(tmp_path, teacher, images):
    counting = Counting(teacher)
    first, second = FeatureCache(tmp_path, teacher, 10**7), FeatureCache(tmp_path, teacher, 10**7)
    found = first(images[:12])
    assert len(second) == 12
    assert all(torch.equal(a, b) for a, b in zip(found[0], second(images[:12])[0]))
    second(images)
    assert len(first) == counting.images == 20
    found, copied = first(images), copy.deepcopy(first)
    assert copied is first
    del first, second, copied
    resumed = FeatureCache(tmp_path, teacher, 10**7)
    assert all(torch.equal(a, b) for a, b in zip(found[0], resumed(images)[0]))
    assert counting.images == 20
    shutil.rmtree(resumed.folder)  # while it is open
    again = FeatureCache(tmp_path, teacher, 10**7)
    assert len(again) == 0
    again(images[:3])
    assert len(resumed) == 20 and len(again) == 3


@pytest.mark.parametrize("count", [1, 5])
def test_rows_are_read_back_bit_equal(tmp_path, teacher, count):
    """Types of other widths, so that a row's parts do not begin at multiples of their own; no logits."""
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(count, 3, generator=generator).bfloat16(), torch.randn(count, 2, 3, 3, generator=generator),
                torch.randn(count, 4, 5, generator=generator).double()]  # fmt: skip
    features[1][0, 0, 0] = torch.tensor([-0.0, float("nan"), float("inf")])
    teacher.features_and_logits, teacher.taps = lambda images: (features, None), ("0", "1", "2")
    images = torch.randn(count, 3, 8, 8, generator=generator)
    cache = FeatureCache(tmp_path, teacher, 10**7)
    for _ in range(2):
        found, logits = cache(images)
        assert logits is None and len(found) == 3
        for ours, theirs in zip(found, features):
            assert ours.dtype == theirs.dtype and ours.device == images.device
            assert torch.equal(ours.contiguous().view(torch.uint8), theirs.view(torch.uint8))


def test_killed_processes_leave_whole_batches(tmp_path, teacher):
    """Two processes write, are killed from outside at random moments, and stop neither each other nor this process."""
    program = (
        f"import torch, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from methods.nets import small_teacher\nfrom pynas.methods.dna.feature_cache import FeatureCache\n"
        "torch.manual_seed(0); cache = FeatureCache(sys.argv[1], small_teacher(), 10**8); print('ready', flush=True)\n"
        "generator = torch.Generator().manual_seed(int(sys.argv[2]))\n"
        "while True: cache(torch.randn(3, 3, 8, 8, generator=generator)); print(len(cache), flush=True)\n"
    )
    cache = FeatureCache(tmp_path, teacher, 8 * mmap.PAGESIZE)  # soon less than the others have written
    own = torch.randn(3, 3, 8, 8)
    before, counting = cache(own), Counting(teacher)
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(seed)], stdout=subprocess.PIPE, text=True)
               for seed in (1, 2)]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        for _ in range(10):
            assert writer.stdout.readline().strip().isdigit()
            assert all(torch.equal(a, b) for a, b in zip(before[0], cache(own)[0]))
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert len(cache) >= 63 and len(cache) % 3 == 0
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(10):
            part = torch.randn(3, 3, 8, 8, generator=generator)
            found = cache(part)
            assert counting.images == 0
            same(found, small_features(teacher, part))
    count, more = len(cache), torch.randn(500, 3, 8, 8)
    with pytest.raises(InputError, match="raise cache_bytes"):
        cache(more)
    FeatureCache(tmp_path, teacher, 10**8)(more)
    assert len(cache) == count + 500


def small_features(teacher, images):
    return type(teacher).features_and_logits(teacher, images)


def test_other_weights_have_other_features(tmp_path, teacher, images):
    before = FeatureCache(tmp_path, teacher, 10**7)(images)
    with torch.no_grad():
        teacher.module[0][0].weight[0, 0, 0, 0] += 1
    other = FeatureCache(tmp_path, teacher, 10**7)
    assert len(other) == 0
    assert not torch.equal(other(images)[0][0], before[0][0])


def test_the_limit_is_kept_and_named(tmp_path, teacher, images):
    limit = 6 * mmap.PAGESIZE - 1
    cache = FeatureCache(tmp_path, teacher, limit)
    cache(images[:2])
    file = cache.folder / "data.mdb"
    with pytest.raises(
        InputError, match=rf"at most {limit + 1:,} bytes, got more than .* with 2 images; raise cache_bytes"
    ):
        cache(torch.cat([images, images + 1]))
    assert len(cache) == 2 and file.stat().st_size <= limit + 1  # none of the batch
    with pytest.raises(InputError, match=r"with \d+ images"):
        for image in torch.cat([images, images + 1]):
            cache(image[None])
    assert 2 < len(cache) < 40 and file.stat().st_size <= limit + 1
    same(cache(images[:2]), small_features(teacher, images[:2]))
    larger = FeatureCache(tmp_path, teacher, 10**7)
    larger(torch.cat([images, images + 1]))
    assert len(larger) == 40


def test_images_of_another_size_are_refused(tmp_path, teacher, images):
    teacher.features_and_logits = lambda images: ([images[:, :1], images[:, 1:]], None)
    cache = FeatureCache(tmp_path, teacher, 10**7)
    cache(images)
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"expected features of the shapes .*8, 8.*, got .*4, 8.* folder of their own"
        ):
            cache(images[:, :, :4])
        assert len(cache) == 20
        del cache
        cache = FeatureCache(tmp_path, teacher, 10**7)
    assert torch.equal(cache(images)[0][1], images[:, 1:])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda content: content[: len(content) - 1], r"expected [\d,]+ bytes of features, got [\d,]+ in .*remove the"),
        (
            lambda content: content[: 2 * mmap.PAGESIZE],
            r"expected [\d,]+ bytes of features, got [\d,]+ in .*remove the",
        ),
        (lambda content: content[:1000], "expected a whole file of lmdb .*MDB_INVALID.*remove the"),
        (lambda content: b"1234", "expected a whole file of lmdb .*MDB_INVALID.*remove the"),
        (lambda content: b"x" * len(content), "expected a whole file of lmdb .*MDB_INVALID.*remove the"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, teacher, images, damage, message):
    cache = FeatureCache(tmp_path, teacher, 10**7)
    cache(images)
    file = cache.folder / "data.mdb"
    del cache
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            FeatureCache(tmp_path, teacher, 10**7)
    shutil.rmtree(file.parent)
    same(FeatureCache(tmp_path, teacher, 10**7)(images), teacher.features_and_logits(images))


def test_a_row_of_another_length_is_refused(tmp_path, teacher, images):
    cache = FeatureCache(tmp_path, teacher, 10**7)
    cache(images)
    folder = cache.folder
    del cache
    with lmdb.open(str(folder), 10**7) as file, file.begin(write=True) as transaction, transaction.cursor() as cursor:
        cursor.first()
        transaction.put(cursor.key(), b"12345")
    with pytest.raises(InputError, match="expected a whole file of lmdb .*remove the folder"):
        FeatureCache(tmp_path, teacher, 10**7)(images)


def test_what_does_not_fit_is_refused(tmp_path, teacher):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="norm 'running', got 'batch'"):
        FeatureCache(tmp_path, small_teacher(norm="batch"), 10**7)
    for limit in (2**60, 2**70):
        with pytest.raises(InputError, match=rf"with at most {limit:,} bytes, got: "):
            FeatureCache(tmp_path, teacher, limit)


def test_without_lmdb_it_says_what_to_install(tmp_path, teacher, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    spec = importlib.util.spec_from_file_location("feature_cache_alone", feature_cache.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(
        InputError, match=r'^\[cache\] expected the package lmdb, got none; run pip install "\.\[cache\]"$'
    ):
        module.FeatureCache(tmp_path, teacher, 10**7)


def make(**options):
    torch.manual_seed(0)
    net, teacher = small_net(), small_teacher()
    return DNA(net, teacher, image_shape=(3, 8, 8), **options)


def test_ratings_and_training_are_those_without_a_cache(tmp_path, images):
    batches = [(images[:10], torch.arange(10) % 5), (images[10:], torch.arange(10) % 5)]
    plain, cached = make(), make(cache=tmp_path, cache_training=True)
    for method in (plain, cached):
        pynas.fit(method, batches, 2)
    assert len(cached.cache) == 20
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], value)
    counting = Counting(cached.teacher)
    for loss in ("relative_l1", "kl"):
        for ours, theirs in zip(cached.rate(batches, loss=loss), plain.rate(batches, loss=loss)):
            for a, b in zip(ours, theirs):
                np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4)
    assert counting.images == 0


def test_training_on_changing_views_leaves_the_cache_alone(tmp_path, images):
    method = make(cache=tmp_path)
    pynas.fit(method, [(images, torch.arange(20) % 5)], 1)
    assert len(method.cache) == 0


def test_a_killed_run_with_a_cache_ends_with_the_same_weights(tmp_path, images):
    rng = np.random.default_rng(0)
    orders = [torch.from_numpy(rng.permutation(20)[:8]) for _ in range(4)]
    batches = [(images[order], order % 5) for order in orders]
    whole = make(cache=tmp_path / "a", cache_training=True)
    pynas.fit(whole, batches, 2)

    def kill(step):
        if step.step == 3:
            raise KeyboardInterrupt

    killed = make(cache=tmp_path / "b", cache_training=True)
    with pytest.raises(KeyboardInterrupt):
        pynas.fit(killed, batches, 2, tmp_path / "run", checkpoint_seconds=0.0, on_step=kill)
    del killed
    again = make(cache=tmp_path / "b", cache_training=True)
    pynas.fit(again, batches, 2, tmp_path / "run")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
