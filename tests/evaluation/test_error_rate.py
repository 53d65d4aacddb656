"""Error rates of whole architectures against exported networks with re-estimated batch norm."""

import copy
import weakref

import numpy as np
import pytest
import torch

import pynas
from pynas import export, spaces
from pynas.errors import InputError
from pynas.evaluation.cells import CellPaths, PathNorms
from pynas.evaluation.error_rate import ErrorRate

SPACE = spaces.nasbench201(n=1, channels=(4, 6), ops=("nor_conv_1x1", "nor_conv_3x3", "skip_connect"), image_size=8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = pynas.supernet(SPACE, 4).train()
    for architecture in [SPACE.sample(np.random.default_rng(n)) for n in range(5)]:
        net(torch.randn(16, 3, 8, 8), architecture)
    return net


def batches(seed, count):
    torch.manual_seed(seed)
    return [(torch.randn(20, 3, 8, 8), torch.randint(0, 4, (20,))) for _ in range(count)]


def naive_error(model, data):
    wrong = [
        float(model(image[None]).argmax() != label) for images, labels in data for image, label in zip(images, labels)
    ]
    return sum(wrong) / len(wrong)


def test_recalibrated_is_an_exported_network_with_statistics_of_its_own(net):
    calibration, data = batches(1, 2), batches(2, 2)
    before = copy.deepcopy(net.state_dict())
    rate = ErrorRate(net, data, calibration)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for architecture in [SPACE.sample(rng) for _ in range(4)]:
            model = export.subnet(net, architecture)
            export.recalibrate(model, calibration)
            assert rate(architecture) == naive_error(model.eval(), data)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and all(norm.momentum == 0.1 for norm in net.modules() if hasattr(norm, "momentum"))


def test_running_and_batch_statistics(net):
    data = batches(2, 2)
    architecture = SPACE.sample(np.random.default_rng(0))
    with torch.no_grad():
        model = export.subnet(net, architecture)
        assert ErrorRate(net, data, norm="running")(architecture) == naive_error(model.eval(), data)
        wrong = sum(int((copy.deepcopy(model).train()(images).argmax(1) != labels).sum()) for images, labels in data)
    before = copy.deepcopy(net.state_dict())
    assert ErrorRate(net, data, norm="batch")(architecture) == wrong / 40
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_architecture_is_rated_once(net):
    rate = ErrorRate(net, batches(2, 1), norm="batch")
    first, second = [SPACE.sample(np.random.default_rng(n)) for n in range(2)]
    done = []
    found = rate.many([first, second, first], lambda n, total: done.append((n, total)))
    assert found[0] == found[2] == rate(first) and set(rate.known) == {first, second}
    assert done[-1] == (3, 3)


class Counted:
    """Batches that count how often they are read, and how many of them are held."""

    def __init__(self, data):
        self.data, self.passes, self.held, self.most = data, 0, 0, 0

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        self.passes += 1
        for images, labels in self.data:
            images = images.clone()
            weakref.finalize(images, self.dropped)
            self.held += 1
            self.most = max(self.most, self.held)
            yield images, labels

    def dropped(self):
        self.held -= 1


@pytest.mark.parametrize("norm", ["recalibrate", "batch", "running"])
def test_batches_stream_once_for_many_architectures(net, norm):
    """The same errors as one by one; a few batches are held at a time, however many there are."""
    architectures, done = [SPACE.sample(np.random.default_rng(n)) for n in range(5)], []
    data, calibration = Counted(batches(1, 12)), batches(1, 2)
    rate = ErrorRate(net, data, calibration, norm, stacked=False)
    before = data.passes
    found = rate.many(architectures, lambda number, total: done.append((number, total)))
    assert data.passes == before + 1 and data.most <= 2
    assert done == sorted(done) and done[-1] == (5, 5) and len(done) >= 12
    alone = ErrorRate(net, iter(batches(1, 12)), calibration, norm, stacked=False)
    assert found.tolist() == [alone(architecture) for architecture in architectures]


def test_batches_that_cannot_be_read_again_are_named(net):
    class Once:
        def __init__(self):
            self.data = iter(batches(2, 1))

        def __iter__(self):
            return self.data

    rate = ErrorRate(net, Once(), norm="batch", stacked=False)
    assert 0 <= rate(SPACE.sample(np.random.default_rng(0))) <= 1
    with pytest.raises(InputError, match="batches that can be read anew"):
        rate(SPACE.sample(np.random.default_rng(1)))


@pytest.mark.parametrize("norm", ["recalibrate", "batch"])
def test_together_is_one_by_one(net, norm, monkeypatch):
    """All 3^6 cells stacked and shared against each run alone; ops without weights share most."""
    space = spaces.nasbench201(n=2, channels=(4, 6), image_size=8)
    torch.manual_seed(0)
    net = pynas.supernet(space, 4)
    for bn in (part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(bn.bias)
    rng = np.random.default_rng(0)
    architectures = [space.sample(rng) for _ in range(60)] + [space.parse("0" * 6), space.parse("1" * 6)]
    calibration, data = batches(1, 2), batches(2, 1)
    together = ErrorRate(net, data, calibration, norm, stacked=True)
    monkeypatch.setattr(together, "_chunk", lambda: 25)
    alone = ErrorRate(net, data, calibration, norm)
    np.testing.assert_allclose(together.many(architectures), [alone(architecture) for architecture in architectures])


def test_features_together_are_those_alone(net):
    """With the statistics of the batch, to rounding."""
    net = net.double().train()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    architectures = [SPACE.sample(np.random.default_rng(n)) for n in range(30)]
    with torch.no_grad():
        features = CellPaths(net, architectures).features(images, PathNorms())
        for found, architecture in zip(features, architectures):
            torch.testing.assert_close(found, net.features(images, architecture))


def test_what_is_alike_is_computed_once(net):
    """In the first cell an edge runs an operation once for every distinct input it has, over all 3^6 paths."""
    runs = {}
    for e, edge in enumerate(net.cells[0].edges):
        for operation in edge:
            if hasattr(operation, "conv"):
                operation.conv.register_forward_hook(
                    lambda module, inputs, output, e=e: runs.setdefault(e, []).append(len(output) // 2)
                )
    everything = [pynas.Architecture((choice,)) for choice in SPACE.paths(0)]
    CellPaths(net, everything).features(torch.randn(2, 3, 8, 8), PathNorms())
    # Two convolutions each; nodes 0, 1, 2 have 1, 3, 27 values.
    assert runs == {0: [1, 1], 1: [1, 1], 2: [3, 3], 3: [1, 1], 4: [3, 3], 5: [27, 27]}


def test_bad_use(net):
    with pytest.raises(InputError, match=r"\[rate\] expected norm"):
        ErrorRate(net, batches(0, 1), norm="own")
    with pytest.raises(InputError, match=r"\[rate\] expected labelled batches, and others"):
        ErrorRate(net, batches(0, 1))
    with pytest.raises(InputError, match=r"\[nasbench201\] expected"):
        ErrorRate(net, batches(0, 1), norm="batch")(pynas.Architecture.parse("000009"))
