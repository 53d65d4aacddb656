"""`check` on supernets that are right, and on one for each fault that it must find."""

import copy
import json
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pynas
from pynas.errors import InputError
from pynas.evaluation.plain_loop import PlainLoop
from pynas.evaluation.sample_paths import SamplePaths
from pynas.rating import Settings, configured, encoded, set_attributes
from pynas.rating.state import RandomState


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def conv(kernel=1, inputs=4, outputs=4):
    """Convolution, batch norm and ReLU, with statistics unlike those of any batch."""
    layer = nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU())
    nn.init.normal_(layer[1].running_mean, 0, 0.3)
    nn.init.uniform_(layer[1].running_var, 0.5, 1.5)
    return layer


def some_batches(outputs=4, count=2):
    return [(torch.randn(4, 4, 6, 6), torch.randn(4, outputs, 6, 6)) for _ in range(count)]


def text_of(checked):
    """The table, checked to fit a terminal."""
    text = str(checked)
    assert max(map(len, text.splitlines())) <= 100
    return " ".join(text.split())


class Between(nn.Module):
    """Runs a function on a convolution's output."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(4, 4, 1), function

    def forward(self, x):
        return self.function(self.conv(x))


class DynamicNorm(nn.Module):
    """Batch norm of the leading channels of a wider one, called as a function on slices, as elastic layers do."""

    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        nn.init.normal_(self.bn.running_mean, 0, 0.3)
        nn.init.uniform_(self.bn.running_var, 0.5, 1.5)

    def forward(self, x):
        bn, width = self.bn, x.shape[1]
        if width == bn.num_features:
            return bn(x)
        factor = 0.0
        if bn.training and bn.track_running_stats:
            bn.num_batches_tracked += 1
            factor = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
        parts = (part[:width] for part in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return F.batch_norm(x, *parts, bn.training or not bn.track_running_stats, factor, bn.eps)


class Elastic(nn.Module):
    """A bottleneck whose middle has `width` of 8 channels and a kernel of `kernel`."""

    def __init__(self, inputs=4):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(inputs, 8, 3, padding=1, bias=False), DynamicNorm(8), nn.Conv2d(8, 4, 1)
        self.width, self.kernel = 8, 3

    def forward(self, x):
        low = (3 - self.kernel) // 2
        weight = self.a.weight[: self.width, :, low : 3 - low, low : 3 - low]
        y = F.relu(self.norm(F.conv2d(x, weight, padding=self.kernel // 2)))
        return F.conv2d(y, self.b.weight[:, : self.width], self.b.bias)


def narrow(layer, config, shape):
    """Plain module of one configuration of `Elastic`."""
    kernel, width, low = layer.kernel, layer.width, (3 - layer.kernel) // 2
    plain = nn.Sequential(
        nn.Conv2d(4, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4, 1),
    )
    bn = layer.norm.bn
    with torch.no_grad():
        plain[0].weight.copy_(layer.a.weight[:width, :, low : 3 - low, low : 3 - low])
        plain[1].load_state_dict({k: v[:width] if v.ndim else v for k, v in bn.state_dict().items()})
        plain[3].weight.copy_(layer.b.weight[:, :width])
        plain[3].bias.copy_(layer.b.bias)
    return plain


CONFIGS = [{"width": width, "kernel": kernel} for width in (4, 8) for kernel in (1, 3)]


def elastic_layers(extract=narrow, configs=CONFIGS, depth=2):
    return [configured(Elastic(), configs, set_attributes, extract=extract) for _ in range(depth)]


def test_a_plain_supernet_is_ok_and_stays_as_it_is():
    layers, batches = [[conv(1), conv(3)] for _ in range(4)], some_batches()
    layers[1][0].eval()
    modules = nn.ModuleList(nn.ModuleList(layer) for layer in layers)
    before, modes = copy.deepcopy(modules.state_dict()), [part.training for part in modules.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    checked = pynas.check(layers, batches)
    assert checked.ok and [norm.ok for norm in checked.norms] == [True] * 3, str(checked)
    assert [norm.norm for norm in checked.norms] == ["running", "batch", "recalibrate"]
    assert all(norm.alone > 0 and norm.engine > 0 and norm.path in checked.paths for norm in checked.norms)
    assert len(checked.paths) == 8 and checked.candidates == (8, 8)
    assert checked.tree.widths == (2, 4, 8, 16) and checked.tree.engine > 0
    assert checked.costs.ok and checked.exports.ok
    assert not (checked.problems or checked.warnings or checked.together or checked.shapes)
    text = text_of(checked)
    assert "16 paths share prefixes: 30 layer runs instead of 64 (2.1x fewer)" in text
    assert all((value == before[name]).all() for name, value in modules.state_dict().items())
    assert [part.training for part in modules.modules()] == modes
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_tail_a_loss_of_ones_own_and_settings():
    layers, tail = [[conv(1), conv(3)], [conv(1), conv(3)]], nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    batches = [(torch.randn(4, 4, 6, 6), torch.randint(3, (4,))) for _ in range(2)]
    for loss in ("cross_entropy", lambda y, target: F.cross_entropy(y, target)):
        checked = pynas.check(layers, batches, loss, tail=tail, engine=Settings(stack=1), calibration=[batches[0][0]])
        assert checked.ok and len(checked.paths) == 4 and checked.tree.engine is None


def test_the_plain_loop_recalibrates_slices_of_a_shared_norm():
    """Path after path, the statistics are those of the two calibration batches, whatever ran before."""
    layers, batches = elastic_layers(depth=1), some_batches()
    calibration = [torch.randn(4, 4, 6, 6) for _ in range(2)]
    loop = PlainLoop(layers, None, batches, calibration, "mse", RandomState(torch.device("cpu")))
    layer = layers[0][0].layer.requires_grad_(False)
    for path, width, kernel in (((3,), 8, 3), ((0,), 4, 1), ((2,), 8, 1)):
        low = (3 - kernel) // 2
        weight = layer.a.weight[:width, :, low : 3 - low, low : 3 - low]
        made = [F.conv2d(x, weight, padding=kernel // 2) for x in calibration]
        mean, var = (sum(getattr(y, f)((0, 2, 3)) for y in made) / 2 for f in ("mean", "var"))
        expected = 0.0
        for x, target in batches:
            y = (F.conv2d(x, weight, padding=kernel // 2) - mean.view(-1, 1, 1)) / (var + 1e-5).sqrt().view(-1, 1, 1)
            y = F.conv2d(F.relu(y), layer.b.weight[:, :width], layer.b.bias)
            expected += float(F.mse_loss(y, target)) / 2
        assert loop.score(path, "recalibrate")[0] == pytest.approx(expected, rel=1e-5)


def test_the_plain_loop_leaves_norms_without_statistics_to_the_batch():
    layers = [[nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()) for _ in "ab"] for _ in "cd"]
    batches, far = some_batches(), [5 + 3 * torch.randn(4, 4, 6, 6)]
    checked = pynas.check(layers, batches, calibration=far)
    assert checked.ok and all(norm.difference < 1e-6 for norm in checked.norms), str(checked)
    loop = PlainLoop(layers, None, batches, far, "mse", RandomState(torch.device("cpu")))
    assert len({loop.score((0, 1), norm)[0] for norm in ("running", "batch", "recalibrate")}) == 1


def test_elastic_layers_with_extract_have_costs_and_exports():
    checked = pynas.check(elastic_layers(), some_batches())
    assert all(norm.ok for norm in checked.norms) and checked.costs.ok and checked.exports.ok, str(checked)
    # 4*4*1 + 2*4 + 4*4 + 4 = 44 parameters of the narrowest layer, 4*8*9 + 2*8 + 8*4 + 4 = 340 of the widest
    assert "88 to 680 parameters" in text_of(checked)


def test_a_wrong_score_of_the_engine_is_found(monkeypatch):
    """Statistics that `rate` gets wrong, as functions on slices of a batch norm once were."""
    layers, batches = [[conv(1), conv(3)], [conv(1), conv(3)]], some_batches()
    right = pynas.rating.rate

    def wrong(layers, batches, loss, norm, **options):
        return right(layers, batches, loss, "running" if norm == "batch" else norm, **options)

    monkeypatch.setattr(sys.modules["pynas.evaluation.check"], "rate", wrong)
    checked = pynas.check(layers, batches)
    assert not checked.ok and [norm.ok for norm in checked.norms] == [True, False, True]
    assert "with norm='batch', rate gives the path" in checked.problems[0]
    assert "NOT ok" in text_of(checked)


def test_samples_that_meet_are_named():
    layers = [[Between(lambda x: x - x.mean(0, keepdim=True)), conv(3)] for _ in range(3)]
    checked = pynas.check(layers, some_batches(), engine=Settings(stack="memory"))
    assert checked.ok and "samples of a batch apart" in text_of(checked) and "Between" in checked.warnings[0]


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.runs = nn.Conv2d(4, 4, 1), 0

    def forward(self, x):
        self.runs += 1
        return self.conv(x) * self.runs


def test_state_in_evaluation_is_a_problem():
    checked = pynas.check([[conv(1), Counts()], [conv(1), conv(3)]], some_batches())
    assert not checked.ok and all(norm.ok for norm in checked.norms)
    assert checked.problems[0].startswith("candidate 1 of layer 0 (Counts) keeps state in evaluation mode")
    assert "Counts keeps state" in checked.warnings[0]


def test_random_numbers_are_a_problem():
    layers = [[conv(1), conv(3)], [conv(1), Between(F.dropout)]]
    checked = pynas.check(layers, some_batches())
    assert not checked.ok and all(norm.ok for norm in checked.norms)
    assert checked.problems == ("candidate 1 of layer 1 (Between) draws random numbers in evaluation mode",)


def test_a_setting_that_the_next_candidate_inherits_is_a_problem():
    partial = [{"width": 4}, {"kernel": 1}, {"width": 8, "kernel": 3}]
    checked = pynas.check(elastic_layers(configs=partial, extract=None), some_batches())
    assert not checked.ok
    assert any("candidate 1 of layer 0" in line and "depends on what ran before" in line for line in checked.problems)
    assert not any("candidate 2" in line for line in checked.problems)  # it sets everything


def test_an_extract_with_other_outputs_is_wrong():
    def wrong(layer, config, shape):
        plain = narrow(layer, config, shape)
        nn.init.zeros_(plain[3].bias)
        return plain

    checked = pynas.check(elastic_layers(wrong, depth=1), some_batches(), sample=2)
    assert checked.exports.ok is False and "gives other outputs" in checked.exports.text
    assert not checked.ok and all(norm.ok for norm in checked.norms)
    assert "NOT ok" in text_of(checked) and "export WRONG" in text_of(checked)


def test_an_extract_with_too_few_parameters_is_wrong():
    def wrong(layer, config, shape):
        plain = narrow(layer, config, shape)
        weight = plain[3].weight
        del plain[3].weight
        plain[3].register_buffer("weight", weight.detach())
        return plain

    checked = pynas.check(elastic_layers(wrong, depth=1), some_batches(), sample=2)
    assert checked.exports.ok is False and "outputs depend on" in checked.exports.text


def test_an_extract_with_parameters_to_spare_is_mentioned():
    def wrong(layer, config, shape):
        plain = narrow(layer, config, shape)
        plain[2].more = nn.Parameter(torch.zeros(1000))
        return plain

    checked = pynas.check(elastic_layers(wrong, depth=1), some_batches(), sample=2)
    assert "has 1,044 parameters, and reads 44 of them" in checked.exports.text


class Generated(nn.Module):
    """Centre of a kernel times a matrix, as once-for-all makes its smaller kernels."""

    def __init__(self):
        super().__init__()
        self.weight, self.matrix = nn.Parameter(torch.randn(4, 1, 5, 5)), nn.Parameter(torch.randn(9, 25))

    def kernel(self):
        return F.linear(self.weight.flatten(1), self.matrix).view(4, 1, 3, 3)

    def forward(self, x):
        return F.conv2d(x, self.kernel(), padding=1, groups=4)


def test_a_kernel_that_is_computed_and_dead_channels_are_no_fault_of_an_export():
    """The path's outputs depend on more numbers than the export has, and on few of another layer's, as ReLU is 0 there."""

    def plain(layer, config, shape):
        conv = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        conv.weight = nn.Parameter(layer.kernel().detach().clone())
        return conv

    dead = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
    nn.init.constant_(dead[0].bias, -1e3)
    sums = nn.Conv2d(4, 4, 1)
    layers = [[encoded(Generated(), [0], lambda layer, x, _: layer(x), extract=plain)[0]], [sums]]
    for some in (layers, [[nn.Sequential(dead, sums)]]):
        checked = pynas.check(some, some_batches())
        assert checked.ok and checked.exports.ok and "parameters" not in checked.exports.text, str(checked)


def test_an_extract_that_differs_from_call_to_call_has_other_costs():
    calls = []

    def wrong(layer, config, shape):
        calls.append(config)
        plain = narrow(layer, config, shape)
        plain[2].more = nn.Parameter(torch.zeros(len(calls)))
        return plain

    checked = pynas.check(elastic_layers(wrong, depth=1), some_batches(), sample=2)
    assert checked.costs.ok is False and "params by the tables" in checked.costs.text


def test_candidates_of_one_module_without_extract_are_refused_costs():
    checked = pynas.check(elastic_layers(extract=None), some_batches())
    assert checked.costs.ok is None and "extract" in checked.costs.text


def test_an_extract_that_fails_is_told():
    def wrong(layer, config, shape):
        raise KeyError("width")

    checked = pynas.check(elastic_layers(wrong, depth=1), some_batches(), sample=2)
    assert checked.costs.ok is not True and checked.exports.ok is not True and "width" in checked.exports.text


class FunctionalNorm(nn.Module):
    """Batch norm without a module of its own, which follows the mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.register_buffer("mean", torch.full((4,), 0.5))
        self.register_buffer("var", torch.full((4,), 2.0))

    def forward(self, x):
        return F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)


def test_batch_norm_that_is_a_function_follows_the_mode():
    """Statistics of the batch, and the mean of those of two calibration batches, by hand."""
    layers, batches = [[conv(1), FunctionalNorm()], [conv(1), conv(3)]], some_batches()
    calibration = [2 * torch.randn(4, 4, 6, 6) + 1 for _ in range(2)]
    checked = pynas.check(layers, batches, calibration=calibration)
    assert checked.ok and all(norm.difference < 1e-5 for norm in checked.norms), str(checked)
    loop = PlainLoop([layers[0][1:]], None, batches, calibration, "mse", RandomState(torch.device("cpu")))
    linear = layers[0][1].conv.requires_grad_(False)
    made = [linear(x) for x in calibration]
    mean, var = (sum(getattr(y, f)((0, 2, 3), keepdim=True) for y in made) / 2 for f in ("mean", "var"))
    scores = {"running": 0.0, "batch": 0.0, "recalibrate": 0.0}
    for x, target in batches:
        y = linear(x)
        own = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        for norm, (m, v) in {"running": (0.5, torch.tensor(2.0)), "batch": own, "recalibrate": (mean, var)}.items():
            scores[norm] += float(F.mse_loss((y - m) / (v + 1e-5).sqrt(), target)) / 2
    assert {norm: loop.score((0,), norm)[0] for norm in scores} == pytest.approx(scores, rel=1e-5)


def test_a_refused_mode_is_a_line():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        scripted = torch.jit.script(conv(3).eval())
    checked = pynas.check([[conv(1), scripted], [conv(1), conv(3)]], some_batches())
    running, batch, recalibrate = checked.norms
    assert running.ok and "[rate]" in batch.refused and "[rate]" in recalibrate.refused
    assert "batch refused: [rate] expected batch norms" in text_of(checked)


class Narrows(nn.Module):
    """A convolution on the leading channels of its input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return F.conv2d(x, self.conv.weight[:, : x.shape[1]], self.conv.bias)


def test_shapes_that_differ_are_listed():
    layers = [[conv(1), conv(3, outputs=6)], [Narrows(), Narrows()]]
    checked = pynas.check(layers, some_batches())
    assert checked.ok and checked.shapes == ("layer 0: [4, 6, 6] from candidate 0; [6, 6, 6] from candidate 1",)


def test_a_path_that_is_not_finite_is_a_problem():
    layers = [[conv(1), Between(lambda x: x / 0)], [nn.Identity(), conv(3)]]
    checked = pynas.check(layers, some_batches())
    assert not checked.ok and all(norm.path[0] == 0 and norm.ok for norm in checked.norms)
    assert checked.problems == ("no finite score alone with norm='running', 'batch', 'recalibrate': the paths 10, 11",)


def test_a_path_that_does_not_run_is_a_problem():
    layers = [[conv(1), conv(1, outputs=5)], [conv(1), conv(3)]]
    checked = pynas.check(layers, some_batches())
    assert not checked.ok and checked.paths == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert "the path 10 does not run alone: RuntimeError" in checked.problems[0]


class Slim(nn.Module):
    """Candidates of one weight, of which `run_together` computes the widest only."""

    def __init__(self, weight, width, wrong=False):
        super().__init__()
        self.weight, self.width, self.wrong = weight, width, wrong

    def forward(self, x):
        y = F.conv2d(x, self.weight)
        return torch.cat([y[:, : self.width], torch.zeros_like(y[:, self.width :])], 1)

    @classmethod
    def run_together(cls, candidates, x):
        y = F.conv2d(x, candidates[0].weight)
        widths = [c.width - c.wrong for c in candidates]
        return [torch.cat([y[:, :width], torch.zeros_like(y[:, width:])], 1) for width in widths]


@pytest.mark.parametrize("wrong", [False, True])
def test_candidates_that_share_work_are_named(wrong):
    weight = nn.Parameter(torch.randn(4, 4, 1, 1))
    checked = pynas.check([[Slim(weight, 2), Slim(weight, 4, wrong), conv(1)]], some_batches())
    says = "do not: Slim.run_together gives other outputs than each candidate" if wrong else "by Slim.run_together"
    assert checked.ok and checked.together == (f"layer 0: candidates 0, 1 {says}",)


def test_whole_networks_as_one_layer():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleList([conv(1), conv(3)]) for _ in range(3))

        def forward(self, x, code):
            for layer, choice in zip(self.layers, code):
                x = layer[choice](x)
            return x

    codes = [tuple(map(int, f"{number:03b}")) for number in range(8)] * 3
    checked = pynas.check([encoded(Network(), codes)], some_batches(), sample=3)
    assert checked.ok and checked.paths[0] == (0,) and checked.paths[-1] == (23,) and len(checked.paths) == 3
    assert "24 paths, no prefixes to share: 24 layer runs" in text_of(checked)


def test_a_tree_too_large_for_any_table():
    layers = [[nn.Conv2d(4, 4, 1), nn.Identity()] for _ in range(60)]
    checked = pynas.check(layers, some_batches(count=1), sample=2)
    assert checked.costs.ok and checked.exports.ok and checked.tree.widths[-1] == 2**60 and checked.tree.engine is None
    assert checked.candidates == (120, 120) and "1.2e+18 paths share prefixes" in text_of(checked)


def test_only_listed_and_allowed_paths_run():
    layers = [[conv(1), conv(3)] for _ in range(3)]
    listed = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)]
    checked = pynas.check(layers, some_batches(count=1), paths=listed, allowed=lambda prefix: prefix[0] == 0)
    assert checked.paths == ((0, 0, 1), (0, 1, 0)) and checked.ok


@pytest.mark.parametrize("counts", [(3, 3, 3), (4,) * 20])
def test_samples_keep_the_rule_begin_and_end_and_use_every_candidate(counts):
    def allowed(prefix):
        return sum(prefix) % 2 == 0 or len(prefix) < len(counts)

    some = SamplePaths(counts, None, allowed, 8, seed=0)
    assert some.paths == SamplePaths(counts, None, allowed, 8, seed=0).paths
    assert len(set(some.paths)) == 8 and all(sum(path) % 2 == 0 for path in some.paths)
    assert some.paths[0] == (0,) * len(counts)
    assert {(d, c) for path in some.paths for d, c in enumerate(path)} == {
        (d, c) for d, n in enumerate(counts) for c in range(n)
    }
    assert set(some.paths) < set(some.wider()) and all(sum(path) % 2 == 0 for path in some.wider())
    assert (some.widths is None) == (len(counts) == 20)


def test_input_that_cannot_be_checked():
    with pytest.raises(InputError, match=r"^\[check\] expected at least one batch, got none"):
        pynas.check([[conv(1)]], [])
    with pytest.raises(InputError, match=r"^\[check\] expected sample to be"):
        pynas.check([[conv(1)]], some_batches(), sample=0)
    with pytest.raises(InputError, match=r"expected at least one path"):
        pynas.check([[conv(1)]], some_batches(), allowed=lambda prefix: False)


def test_warnings_of_others_pass():
    layers = [[Between(lambda x: (warnings.warn("mine", stacklevel=2), x)[1])]]
    with pytest.warns(UserWarning, match="mine") as seen:
        checked = pynas.check(layers, some_batches())
    assert len(seen) == 1 and not checked.warnings and json.dumps(checked.problems) == "[]"
