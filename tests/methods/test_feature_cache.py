"""The feature cache against the teacher itself, over kills, other processes and damage."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pynas
from pynas.errors import InputError
from pynas.methods import DNA
from pynas.methods.dna.feature_cache import FeatureCache

from .nets import small_net, small_teacher


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
    first = cache(images)
    again = FeatureCache(tmp_path, teacher, 10**7)  # a second one only reads
    assert not again.writes and len(again) == 20
    assert all(torch.equal(a, b) for a, b in zip(first[0], again(images)[0]))
    assert counting.images == 20
    same(again(images + 1), teacher.features_and_logits(images + 1))
    assert len(again) == 20


def test_rows_outlast_a_kill(tmp_path, teacher, images):
    cache = FeatureCache(tmp_path, teacher, 10**7)
    cache(images[:12])
    (folder,) = tmp_path.iterdir()
    cache.close()
    with (folder / "index.bin").open("ab") as file:
        file.write(b"half a k")  # what a kill may leave
    counting = Counting(teacher)
    resumed = FeatureCache(tmp_path, teacher, 10**7)
    assert len(resumed) == 12
    same(resumed(images), teacher.features_and_logits(images))
    assert counting.images == 8 + 20
    resumed.close()
    assert len(FeatureCache(tmp_path, teacher, 10**7)) == 20


def test_a_killed_process_leaves_whole_rows(tmp_path, teacher):
    """Killed at random moments, from outside."""
    program = (
        f"import torch, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from methods.nets import small_teacher\nfrom pynas.methods.dna.feature_cache import FeatureCache\n"
        "torch.manual_seed(0); cache = FeatureCache(sys.argv[1], small_teacher(), 10**8); print('ready', flush=True)\n"
        "generator = torch.Generator().manual_seed(1)\n"
        "while True: cache(torch.randn(3, 3, 8, 8, generator=generator)); print(len(cache), flush=True)\n"
    )
    started = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for line in started.stdout:
        if line.strip().isdigit() and int(line) >= 30:
            break
    started.kill()
    started.wait()
    started.stdout.close()
    cache, counting = FeatureCache(tmp_path, teacher, 10**8), Counting(teacher)
    assert len(cache) >= 30
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        part = torch.randn(3, 3, 8, 8, generator=generator)
        found = cache(part)
        assert counting.images == 0
        same(found, small_features(teacher, part))


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
    row = 4 * (6 * 16 + 8 * 4 + 5)
    cache = FeatureCache(tmp_path, teacher, 15 * row)
    cache(images[:10])
    with pytest.raises(InputError, match=rf"at most {15 * row:,} bytes, got 16 images of {row} bytes each"):
        cache(images[:16])
    cache(images[:15])
    (folder,) = tmp_path.iterdir()
    assert (folder / "features.bin").stat().st_size <= 15 * row


def test_what_does_not_fit_is_refused(tmp_path, teacher, images):
    torch.manual_seed(0)
    with pytest.raises(InputError, match="norm 'running', got 'batch'"):
        FeatureCache(tmp_path, small_teacher(norm="batch"), 10**7)
    cache = FeatureCache(tmp_path, teacher, 10**7)
    cache(images)
    (folder,) = tmp_path.iterdir()
    cache.close()
    (folder / "features.bin").write_bytes(b"1234")
    with pytest.raises(InputError, match="features of 20 images, got 4 bytes"):
        FeatureCache(tmp_path, teacher, 10**7)


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
    killed.cache.close()
    again = make(cache=tmp_path / "b", cache_training=True)
    pynas.fit(again, batches, 2, tmp_path / "run")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
