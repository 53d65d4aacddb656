"""queue_nce and its gradients against plain torch."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pynas import ops
from pynas.errors import InputError
from pynas.ops.queue_nce import queue_nce_reference

module = importlib.import_module("pynas.ops.queue_nce")

# Batch, dimension, queue.
SHAPES = [(1, 1, 1), (5, 7, 13), (16, 128, 600), (3, 33, 1025), (64, 2, 256)]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Several chunks even of a small queue, and on CUDA several slices of a row of each."""
    monkeypatch.setattr(module, "_SLICE", 32)
    monkeypatch.setattr(module, "_CHUNK", dict.fromkeys(("cpu", "cuda"), 64))


def make(batch: int, size: int, length: int, *, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    rows = [F.normalize(torch.randn(n, size, generator=generator), dim=1) for n in (batch, batch, length)]
    query, key, queue = (row.to(device, dtype) for row in rows)
    return [query.requires_grad_(), key.requires_grad_(), queue]


def assert_matches(query, key, queue, temperature=0.2) -> None:
    """Loss and both gradients against the reference in float64; the samples count differently."""
    precise = [x.detach().double().requires_grad_() for x in (query, key)]
    expected = queue_nce_reference(*precise, queue.double(), temperature)
    loss = ops.queue_nce(query, key, queue, temperature)
    assert loss.dtype == (torch.float64 if query.dtype == torch.float64 else torch.float32)
    sums = 1e-12 if query.dtype == torch.float64 else 4e-6
    torch.testing.assert_close(loss.double(), expected, rtol=sums, atol=sums)
    weights = torch.arange(1, len(loss) + 1, device=loss.device)
    gradients = torch.autograd.grad((loss * weights).sum(), (query, key))
    rounding = max(torch.finfo(query.dtype).eps, sums)
    for gradient, right in zip(gradients, torch.autograd.grad((expected * weights).sum(), precise)):
        assert gradient.dtype == query.dtype and gradient.shape == query.shape
        atol = sums * len(loss) / temperature
        torch.testing.assert_close(gradient.double(), right, rtol=rounding, atol=atol)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, device, dtype):
    assert_matches(*make(*shape, device=device, dtype=dtype))


def test_naive_loops(device):
    """Pi-NAS eq. 4, written out."""
    query, key, queue = make(3, 4, 5, device=device, dtype=torch.float64)
    expected = []
    for q, k in zip(query.tolist(), key.tolist()):
        positive = math.exp(sum(a * b for a, b in zip(q, k)) / 0.5)
        negative = sum(math.exp(sum(a * b for a, b in zip(q, n)) / 0.5) for n in queue.tolist())
        expected.append(-math.log(positive / (negative + positive)))
    loss = ops.queue_nce(query, key, queue, 0.5).detach().cpu()
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_gradcheck(device):
    query, key, queue = make(3, 4, 300, device=device, dtype=torch.float64)
    assert gradcheck(lambda q, k: ops.queue_nce(q, k, queue, 0.3), (query, key), fast_mode=False)


@pytest.mark.parametrize("scale", [1e-3, 30, 3000])
def test_no_overflow(scale, device):
    """Logits far apart, with the maximum in the first, a middle or the last chunk, or at the positive key."""
    query, key, queue = make(6, 8, 900, device=device, dtype=torch.float32)
    with torch.no_grad():
        queue[[0, 500, 899]] = query[:3] * 2
        key[3] = query[3] * 3
    assert_matches(query, key, queue, 1 / scale)


def test_the_exponential_is_accurate(device):
    """A chunk of one logit each: the probability of the positive key is a plain exponential."""
    logits = torch.linspace(0, 95, 601, device=device)
    query, key, queue = logits[:, None], torch.zeros(601, 1, device=device), torch.ones(1, 1, device=device)
    _, probability, _ = torch.ops.pynas.queue_nce(query, key, queue, 1.0, False)
    expected = torch.sigmoid(-logits.double())
    kept = logits < 87
    torch.testing.assert_close(probability.double()[kept], expected[kept], rtol=5e-7, atol=0)
    assert probability[~kept].max() < 2e-38


def test_the_queue_gets_no_gradient_and_may_change(device):
    query, key, queue = make(4, 5, 300, device=device, dtype=torch.float32)
    expected = torch.autograd.grad(queue_nce_reference(query, key, queue, 0.2).sum(), (query, key))
    loss = ops.queue_nce(query, key, queue.requires_grad_(), 0.2)
    with torch.no_grad():
        queue.zero_()
    loss.sum().backward()
    assert queue.grad is None
    torch.testing.assert_close((query.grad, key.grad), expected)


def test_gradient_to_one_of_them(device):
    query, key, queue = make(4, 5, 300, device=device, dtype=torch.float32)
    expected = torch.autograd.grad(queue_nce_reference(query, key, queue, 0.2).sum(), (query, key))
    (to_query,) = torch.autograd.grad(ops.queue_nce(query, key.detach(), queue, 0.2).sum(), query)
    (to_key,) = torch.autograd.grad(ops.queue_nce(query.detach(), key, queue, 0.2).sum(), key)
    torch.testing.assert_close((to_query, to_key), expected)
    with torch.no_grad():
        assert not ops.queue_nce(query, key, queue, 0.2).requires_grad


def test_second_derivative_is_refused(device):
    query, key, queue = make(4, 5, 300, device=device, dtype=torch.float64)
    scale = torch.ones((), device=device, requires_grad=True)
    loss = (scale * ops.queue_nce(query, key, queue, 0.2)).sum()
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_strided(device, dtype):
    query, key, queue = make(12, 10, 600, device=device, dtype=dtype)
    assert_matches(query.detach()[::2, ::2].requires_grad_(), key.detach()[1::2, 1::2].requires_grad_(), queue[::3, :5])
    square = query.detach()[:10].T.requires_grad_()
    assert_matches(square, key.detach()[:10].T.requires_grad_(), queue[:10].T)
    assert_matches(query.detach()[:1].expand(5, 10).requires_grad_(), key.detach()[:5].requires_grad_(), queue)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 2, 0), (0, 0, 0)], ids=str)
def test_empty(shape, device, dtype):
    assert_matches(*make(*shape, device=device, dtype=dtype))


def test_nan_stays_in_its_row(device):
    query, key, queue = make(4, 5, 300, device=device, dtype=torch.float32)
    with torch.no_grad():
        query[1, 2] = float("nan")
    loss = ops.queue_nce(query, key, queue, 0.2)
    assert loss.isnan().tolist() == [False, True, False, False]
    queue[150] = float("nan")
    assert ops.queue_nce(query, key, queue, 0.2).isnan().all()


def test_threads_change_no_more_than_rounding_and_repeats_nothing(one_or_two_threads):
    query, key, queue = make(64, 32, 3000, device="cpu", dtype=torch.float32)

    def run() -> tuple[torch.Tensor, ...]:
        loss = ops.queue_nce(query, key, queue, 0.2)
        return loss, *torch.autograd.grad(loss.sum(), (query, key))

    one, two = one_or_two_threads(run)
    torch.testing.assert_close(one, two)
    assert all(torch.equal(first, second) for first, second in zip(run(), run()))


def peak_bytes(function) -> int:
    """Most bytes that torch had allocated on the CPU at a time while the function ran, above those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_peak_memory_does_not_grow_with_the_logits(monkeypatch):
    """Forward and backward in a few chunks of logits; the plain loss holds all of them several times over."""
    monkeypatch.setattr(module, "_CHUNK", dict.fromkeys(("cpu", "cuda"), 2**14))
    query, key, queue = make(64, 16, 65536, device="cpu", dtype=torch.float32)
    measured = {}
    for name, loss in (("pynas", ops.queue_nce), ("eager", queue_nce_reference)):
        measured[name] = peak_bytes(lambda: loss(query, key, queue, 0.2).sum().backward())  # noqa: B023
    logits = 4 * 64 * 65536
    assert measured["eager"] > 2 * logits
    assert measured["pynas"] < 4 * (2**14 + 12 * 64 * 16)


def test_peak_memory_of_one_query_in_half_precision(monkeypatch):
    """The queue is converted chunk by chunk."""
    monkeypatch.setattr(module, "_CHUNK", dict.fromkeys(("cpu", "cuda"), 2**14))
    query, key, queue = make(1, 64, 16384, device="cpu", dtype=torch.bfloat16)
    assert peak_bytes(lambda: ops.queue_nce(query, key, queue, 0.2).sum().backward()) < 4 * (2 * 2**14 + 12 * 64)


@pytest.mark.slow
def test_more_than_2_31_elements(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", dict.fromkeys(("cpu", "cuda"), 2**24))
    queue = torch.zeros(2**24 + 5, 128, dtype=torch.bfloat16)  # untouched pages of zeros need no memory
    query = torch.zeros(1, 128, dtype=torch.bfloat16)
    query[0, 7], queue[-1, 7] = 8, 8
    expected = math.log(math.exp(64 / 4) + len(queue))
    assert float(ops.queue_nce(query, query * 0, queue, 4.0)) == pytest.approx(expected, rel=1e-5)


def test_opcheck(device, dtype):
    query, key, queue = (x.detach() for x in make(3, 4, 600, device=device, dtype=dtype))
    for weigh in (False, True):
        torch.library.opcheck(torch.ops.pynas.queue_nce, (query, key, queue, 0.2, weigh))


def test_compiles_as_one_graph(device):
    query, key, queue = make(3, 4, 600, device=device, dtype=torch.float32)
    compiled = torch.compile(lambda *x: ops.queue_nce(x[0] * 2, *x[1:], 0.2).sum(), fullgraph=True, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(query, key, queue), (query, key))
    expected = torch.autograd.grad(queue_nce_reference(query * 2, key, queue, 0.2).sum(), (query, key))
    torch.testing.assert_close(gradients, expected)


def test_exports(device):
    class Loss(torch.nn.Module):
        def forward(self, query, key, queue):
            return ops.queue_nce(query, key, queue, 0.2)

    inputs = [x.detach() for x in make(3, 4, 600, device=device, dtype=torch.float32)]
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(Loss(), tuple(inputs), dynamic_shapes=(batch, batch, None))
    inputs[:2] = inputs[0].repeat(2, 1), inputs[1].repeat(2, 1)
    torch.testing.assert_close(program.module()(*inputs), queue_nce_reference(*inputs, 0.2))


def test_bad_input(device):
    query, key, queue = make(3, 4, 6, device=device, dtype=torch.float32)
    for arguments, message in [
        ((query[0], key, queue, 0.2), r"query of shape \[B, D\], got \[4\]"),
        ((query, key[:2], queue, 0.2), r"key of the query's shape \[3, 4\], got \[2, 4\]"),
        ((query, key, queue[:, :3], 0.2), r"queue of shape \[K, 4\], got \[6, 3\]"),
        ((query, key, queue[0], 0.2), r"queue of shape \[K, 4\], got \[4\]"),
        ((query, key.double(), queue, 0.2), "key of dtype torch.float32, got torch.float64"),
        ((query, key, queue.half(), 0.2), "queue of dtype torch.float32, got torch.float16"),
        ((query, key, queue.to("meta"), 0.2), f"queue on {device}.*, got meta"),
        ((query, key, [1.0], 0.2), "queue to be a tensor, got list"),
        ((query, key.detach().to_sparse(), queue, 0.2), "key to be a dense tensor, got torch.sparse_coo"),
        ((query, key, queue, 0), "a positive, finite temperature, got 0.0"),
        ((query, key, queue, -1), "a positive, finite temperature, got -1.0"),
        ((query, key, queue, float("nan")), "a positive, finite temperature, got nan"),
        ((query, key, queue, float("inf")), "a positive, finite temperature, got inf"),
    ]:
        with pytest.raises(InputError, match=r"\[queue_nce\] expected " + message):
            ops.queue_nce(*arguments)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz(data, device):
    """Random shapes, strides, dtypes and temperatures: the right answer or an InputError."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    batch, size, length = (data.draw(st.integers(0, most)) for most in (9, 40, 900))
    step, temperature = data.draw(st.integers(1, 2)), data.draw(st.floats(0.05, 10))
    inputs = [
        x.detach()[::step, ::step] for x in make(batch * step, size * step, length * step, device=device, dtype=dtype)
    ]
    if data.draw(st.booleans()):
        inputs = [x.T.contiguous().T for x in inputs]
    if data.draw(st.integers(0, 9)) == 0:
        with pytest.raises(InputError):
            ops.queue_nce(inputs[0], inputs[1][None], inputs[2], temperature)
    else:
        assert_matches(inputs[0].requires_grad_(), inputs[1].requires_grad_(), inputs[2], temperature)
