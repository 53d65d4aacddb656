"""Error rates where batch norms are shared, sliced or of one's own: against each architecture re-estimated on a copy."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.rating import configured, encoded


class Tracked(nn.Module):
    """Leading channels of a wrapped norm, with torch's own rule for the mean over batches."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def momentum(self):
        if not self.bn.training:
            return 0.0
        self.bn.num_batches_tracked += 1
        return 1 / float(self.bn.num_batches_tracked) if self.bn.momentum is None else self.bn.momentum

    def forward(self, x):
        bn, c = self.bn, x.shape[1]
        training = bn.training or not bn.track_running_stats
        return F.batch_norm(x, bn.running_mean[:c], bn.running_var[:c], bn.weight[:c], bn.bias[:c], training,
                            self.momentum(), bn.eps)  # fmt: skip


class ByMode(Tracked):
    """Follows its own mode, not the norm's, at the default momentum."""

    def forward(self, x):
        bn, c = self.bn, x.shape[1]
        return F.batch_norm(x, bn.running_mean[:c], bn.running_var[:c], bn.weight[:c], bn.bias[:c], self.training)


class Handed(nn.BatchNorm2d):
    """A norm that hands its momentum on as it is."""

    def forward(self, x):
        c = x.shape[1]
        return F.batch_norm(x, self.running_mean[:c], self.running_var[:c], self.weight[:c], self.bias[:c], self.training,
                            self.momentum, self.eps)  # fmt: skip


class Operator(Handed):
    def forward(self, x):
        c = x.shape[1]
        return torch.batch_norm(x, self.weight[:c], self.bias[:c], self.running_mean[:c], self.running_var[:c],
                                self.training, self.momentum or 0.0, self.eps, False)  # fmt: skip


class Functional(nn.Module):
    """Statistics that no batch norm of torch's holds."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        c = x.shape[1]
        stored = self.running_mean[:c], self.running_var[:c]
        return F.batch_norm(x, *stored, self.weight[:c], self.bias[:c], self.training)


NORMS = {"tracked": Tracked, "mode": ByMode, "handed": Handed, "operator": Operator, "functional": Functional}


class Elastic(nn.Module):
    """A layer of 4 or 8 channels inside, by `set_width` or a second argument."""

    def __init__(self, norm):
        super().__init__()
        self.wide, self.norm, self.back = nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.Conv2d(8, 3, 1)
        self.width = 8

    def set_width(self, width):
        self.width = width

    def forward(self, x, width=None):
        width = width or self.width
        y = self.norm(F.conv2d(x, self.wide.weight[:width], self.wide.bias[:width], padding=1))
        return x + F.conv2d(y.relu(), self.back.weight[:, :width], self.back.bias)


def images(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(5, 3, 6, 6, generator=generator) + n, torch.arange(5) % 3) for n in range(count)]


def elastic_net(norm, how="configured"):
    torch.manual_seed(0)
    layers = [Elastic(norm) for _ in range(2)]
    if how == "configured":
        cell = [configured(layer, [4, 8], "set_width") for layer in layers]
    else:
        cell = [encoded(layer, [4, 8]) for layer in layers]
    net = pynas.Supernet([[cell]], head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)))
    for name, part in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith(("norm.weight", "bn.weight", "mean", "var")):
            nn.init.uniform_(part, 0.5, 2.0)
    return net.train()


def alone(calibration, x, architecture):
    """Logits of a copy whose norms alone trained on the calibration images, with torch's cumulative average.

    Without calibration images, the norms use the statistics of the batch.
    """
    net = elastic_net(Tracked).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            part.train().momentum = None
    with torch.no_grad():
        for batch, _ in calibration:
            net(batch, architecture)
        return (net.eval() if calibration else net)(x, architecture)


def logits(rating, architecture, x):
    with torch.no_grad(), rating._normed(rating._recalibrated(architecture)):
        return rating.net(x, architecture)


@pytest.mark.parametrize("how", ["configured", "encoded"])
@pytest.mark.parametrize("kind", NORMS)
def test_slices_have_statistics_of_their_architecture(kind, how):
    net, (x, _), calibration = elastic_net(NORMS[kind], how), images(1)[0], images(2)
    before = copy.deepcopy(net.state_dict())
    recalibrated, batch = pynas.ErrorRate(net, images(1), calibration), pynas.ErrorRate(net, images(1), norm="batch")
    running = pynas.ErrorRate(net, images(1), norm="running")
    for text in ("00", "11", "01", "10", "00"):
        architecture = net.space.parse(text)
        torch.testing.assert_close(logits(recalibrated, architecture, x), alone(calibration, x, architecture))
        torch.testing.assert_close(logits(batch, architecture, x), alone([], x, architecture))
        with torch.no_grad():
            torch.testing.assert_close(logits(running, architecture, x), copy.deepcopy(net).eval()(x, architecture))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules() if not hasattr(part, "width"))
    assert all(layer.layer.width == 8 for cell in net.layers(0, 0) for layer in cell)


def test_a_norm_that_runs_at_two_widths_in_one_pass():
    """Channels that one of the two runs lacks are the mean over the other's batches."""
    torch.manual_seed(0)
    layer = Elastic(Tracked)
    net = pynas.Supernet([[[encoded(layer, [4]), encoded(layer, [8])]]], head=nn.Flatten())
    calibration, (x, labels) = [batch for batch, _ in images(2)], images(1)[0]
    rating, seen = pynas.ErrorRate(net, [(x, labels)], calibration), []
    with torch.no_grad(), rating._normed(rating._recalibrated(net.space.parse("00"))):
        found = rating.net(x, net.space.parse("00"))
        # A fresh net, whose norm's inputs are kept, gives the statistics by hand.
        plain = copy.deepcopy(layer).eval()
    plain.norm.forward = lambda y: seen.append(y) or (y - y.mean((0, 2, 3), keepdim=True)) / (
        y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()  # fmt: skip
    with torch.no_grad():
        for batch in calibration:
            plain(plain(batch, 4), 8)
        narrow, wide = seen[::2], seen[1::2]
        both = [torch.stack([getattr(y, f)((0, 2, 3)) for pair in zip(narrow, wide) for y in (pair[0], pair[1][:, :4])]).mean(0)
                for f in ("mean", "var")]  # fmt: skip
        rest = [torch.stack([getattr(y[:, 4:], f)((0, 2, 3)) for y in wide]).mean(0) for f in ("mean", "var")]
        mean, var = (torch.cat(parts)[:, None, None] for parts in zip(both, rest))
        plain.norm.forward = lambda y: (y - mean[: y.shape[1]]) / (var[: y.shape[1]] + 1e-5).sqrt()
        torch.testing.assert_close(found, plain(plain(x, 4), 8).flatten(1), rtol=1e-4, atol=1e-5)


class Frozen(Functional):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False)


class ByHand(nn.BatchNorm2d):
    def forward(self, x):
        return (x - self.running_mean[:, None, None]) / (self.running_var[:, None, None] + self.eps).sqrt()


class Copied(Functional):
    def forward(self, x):
        some = torch.arange(x.shape[1])
        return F.batch_norm(x, self.running_mean[some], self.running_var[some], training=self.training)


def small(norm, head=None):
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Conv2d(3, 3, 1), norm) for _ in range(2)]
    head = head or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    return pynas.Supernet([[[parts]]], head=head)


def test_frozen_and_untracked_norms_and_those_of_several_processes():
    for norm in (Frozen(3), nn.BatchNorm2d(3, track_running_stats=False), nn.SyncBatchNorm(3)):
        net, (x, _) = small(norm), images(1)[0]
        rating, architecture = pynas.ErrorRate(net, images(1), images(2)), pynas.Architecture.parse("1")
        expected = copy.deepcopy(net).eval()
        if isinstance(norm, nn.SyncBatchNorm):
            with torch.no_grad():
                conv = expected.layers(0, 0)[0][1][0]
                seen = [conv(batch) for batch, _ in images(2)]
                mean, var = (torch.stack([getattr(y, f)((0, 2, 3)) for y in seen]).mean(0) for f in ("mean", "var"))
            part = expected.layers(0, 0)[0][1][1]
            part.running_mean, part.running_var = mean, var
        with torch.no_grad():
            torch.testing.assert_close(logits(rating, architecture, x), expected(x, architecture))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("norm", ["recalibrate", "batch"])
def test_norms_that_cannot_be_given_statistics_are_named(norm):
    a = pynas.Architecture.parse("0")
    with pytest.raises(InputError, match=r"^\[rate\] .*got ByHand.*norm='running'"):
        pynas.ErrorRate(small(ByHand(3)), images(1), images(2), norm)(a)
    scripted = torch.jit.trace(nn.Sequential(nn.BatchNorm2d(3)).eval(), torch.randn(2, 3, 4, 4))
    with pytest.raises(InputError, match=r"^\[rate\] .*got Sequential"):
        pynas.ErrorRate(small(scripted), images(1), images(2), norm)
    exported = torch.export.export(nn.BatchNorm2d(3).eval(), (torch.randn(2, 3, 4, 4),)).module()
    with pytest.raises(InputError, match=r"^\[rate\] .*batch_norm"):
        few = [(x[:2, :, :4, :4], y[:2]) for x, y in images(1)]
        pynas.ErrorRate(small(exported), few, few, norm)(a)
    if norm == "recalibrate":
        with pytest.raises(InputError, match=r"^\[rate\] .* slices of them"):
            pynas.ErrorRate(small(Copied(3)), images(1), images(2), norm)(a)


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


HEADS = {
    "a plain sequence": (nn.Identity(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))),
    "one module": (nn.Identity(), Pooled()),
    "none": (Pooled(), None),
    "a compiled one": (nn.Identity(), torch.compile(nn.Sequential(Pooled(), nn.Linear(3, 3)), backend="eager")),
}


@pytest.mark.parametrize("norm", ["recalibrate", "batch", "running"])
@pytest.mark.parametrize("kind", HEADS)
def test_any_head(kind, norm):
    end, head = HEADS[kind]
    torch.manual_seed(0)
    layers = [[nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2)], [end]]
    net, data, calibration = pynas.Supernet([[layers]], head=head), images(1), images(2)
    for text in ("00", "10"):
        wrong, copied = 0, copy.deepcopy(net).eval()
        conv, bn = copied.layers(0, 0)[0][int(text[0])]
        with torch.no_grad():
            for x, y in data:
                if norm != "running":
                    seen = [conv(batch) for batch, _ in (calibration if norm == "recalibrate" else [(x, y)])]
                    bn.running_mean = torch.stack([out.mean((0, 2, 3)) for out in seen]).mean(0)
                    bn.running_var = torch.stack(
                        [out.var((0, 2, 3), unbiased=norm == "recalibrate") for out in seen]
                    ).mean(0)
                wrong += int((copied(x, net.space.parse(text)).argmax(1) != y).sum())
        rating = pynas.ErrorRate(net, data, [batch for batch, _ in calibration], norm)
        assert rating(net.space.parse(text)) == wrong / 15


def test_labels_of_every_pixel():
    net, (x, _) = small(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), images(1)[0]
    labels = torch.randint(0, 4, (5, 6, 6), generator=torch.Generator().manual_seed(0))
    error = pynas.ErrorRate(net, [(x, labels)], norm="running")(net.space.parse("0"))
    with torch.no_grad():
        assert error == float((net.eval()(x, net.space.parse("0")).argmax(1) != labels).double().mean())


class Several(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (nn.Identity(), r"labels \[5\] from 0, got \[5, 3, 6, 6\]; give the net a head"),
        (Several(), r"from 0, got tuple"),
        (nn.Linear(7, 3), r"expected 0 to run on images \[5, 3, 6, 6\], got RuntimeError from Supernet"),
    ],
)
def test_outputs_that_are_no_logits(head, reason):
    net = small(nn.BatchNorm2d(3), head).train()
    with pytest.raises(InputError, match=r"^\[rate\] .*" + reason):
        pynas.ErrorRate(net, images(1), images(2))(net.space.parse("0"))
    assert all(part.training for part in net.modules())


def test_one_value_per_channel_is_refused():
    net = small(nn.BatchNorm2d(3))
    one = [(x[:1, :, :1, :1], y[:1]) for x, y in images(1)]
    with pytest.raises(InputError, match=r"^\[rate\] .*more than 1 value per channel"):
        pynas.ErrorRate(net, one, norm="batch")(net.space.parse("0"))


def test_a_net_of_inference_mode_and_a_graph_that_waits():
    """Tensors of inference mode cannot be written to; a backward pass after the rating finds the statistics unchanged."""
    with torch.inference_mode():
        net = small(nn.BatchNorm2d(3))
    assert 0 <= pynas.ErrorRate(net, images(1), images(2))(net.space.parse("0")) <= 1
    net = small(nn.BatchNorm2d(3)).eval()
    loss = net(images(1)[0][0], net.space.parse("0")).sum()
    for norm in ("recalibrate", "batch"):
        pynas.ErrorRate(net, images(1), images(2), norm).many([net.space.parse("0"), net.space.parse("1")])
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.layers(0, 0)[0][0].parameters())
