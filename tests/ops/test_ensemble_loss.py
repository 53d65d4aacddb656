"""ensemble_loss and its gradient against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pynas import ops
from pynas.errors import InputError
from pynas.ops.ensemble_loss import ensemble_loss_reference

SHAPES = [(1, 1, 1), (4, 8, 256), (3, 5, 7), (2, 130, 33), (17, 2, 64), (1, 3, 1030)]
# Rows of the CUDA kernels: read in one tile or two of each kind; paths for one warp, and for each warp several.
SHAPES += [(1, 1, 256), (40, 2, 12), (3, 2, 700), (9, 2, 2056), (2, 2, 519), (70, 1, 2560)]
VARIANTS = {"plain": (False, False), "normalized": (True, False), "cosine": (True, True)}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def make(*shape: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    online, target = torch.randn(2, *shape, generator=generator) * 3 + 0.2
    return online.to(device, dtype).requires_grad_(), target.to(device, dtype)


def assert_matches(online: torch.Tensor, target: torch.Tensor, variant: tuple[bool, bool]) -> None:
    """Loss and gradient against the reference in float64; the paths' losses count differently."""
    precise = online.detach().double().requires_grad_()
    expected = ensemble_loss_reference(precise, target.double(), *variant)
    loss = ops.ensemble_loss(online, target, *variant)
    assert loss.dtype == (torch.float64 if online.dtype == torch.float64 else torch.float32)
    sums = 1e-12 if online.dtype == torch.float64 else 4e-6
    torch.testing.assert_close(loss.double(), expected, rtol=sums, atol=sums)
    weights = torch.arange(1, len(loss) + 1, device=loss.device)
    (gradient,) = torch.autograd.grad((loss * weights).sum(), online)
    (expected,) = torch.autograd.grad((expected * weights).sum(), precise)
    assert gradient.dtype == online.dtype and gradient.shape == online.shape
    limits = torch.finfo(online.dtype)
    atol = sums * largest_term(precise.detach(), target, variant) + limits.smallest_normal * limits.eps / 2
    torch.testing.assert_close(gradient.double(), expected, rtol=max(limits.eps, sums), atol=atol)


def largest_term(online: torch.Tensor, target: torch.Tensor, variant: tuple[bool, bool]) -> float:
    """Size of the terms that cancel in a gradient: 2 P (u + m) / B, over the row's norm if normalised."""
    if online.numel() == 0:
        return 0.0
    largest = 2.0 if variant[0] else float(online.abs().max() + target.abs().max())
    norm = float(online.norm(dim=2).min().clamp_min(1e-12)) if variant[0] else 1.0
    return 2 * len(online) * largest / online.shape[1] / norm


@variants
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, variant, device, dtype):
    assert_matches(*make(*shape, device=device, dtype=dtype), variant)


@variants
def test_naive_loops(variant, device):
    """BossNAS eq. 3 and 4, written out."""
    online, target = make(3, 2, 5, device=device, dtype=torch.float64)
    normalize, renormalize = variant

    def unit(row: torch.Tensor) -> torch.Tensor:
        return row / row.square().sum().sqrt()

    expected = []
    for path in range(3):
        total = 0.0
        for sample in range(2):
            mean = sum(unit(t[sample]) if normalize else t[sample] for t in target) / 3
            mean = unit(mean) if renormalize else mean
            row = unit(online[path, sample]) if normalize else online[path, sample]
            total += float((row - mean).square().sum().detach())
        expected.append(total / 2)
    loss = ops.ensemble_loss(online, target, *variant)
    torch.testing.assert_close(loss.detach().cpu(), torch.tensor(expected, dtype=torch.float64))


def test_cosine_variant(device):
    online, target = make(4, 6, 9, device=device, dtype=torch.float64)
    mean = F.normalize(target, dim=2).mean(0)
    cosine = F.cosine_similarity(online, mean[None], dim=2)
    torch.testing.assert_close(ops.ensemble_loss(online, target, renormalize=True), (2 - 2 * cosine).mean(1))


@variants
def test_gradcheck(variant, device):
    online, target = make(3, 4, 5, device=device, dtype=torch.float64)
    assert gradcheck(lambda x: ops.ensemble_loss(x, target, *variant), (online,), fast_mode=False)


def test_rows_of_zeros_and_tiny_norms(device):
    """Below the floor of 1e-12 a norm is a constant, as in torch.nn.functional.normalize."""
    online, target = make(3, 2, 8, device=device, dtype=torch.float64)
    with torch.no_grad():
        online[0, 0], online[1, 1] = 0, 1e-14
        target[:, 1] = 0
    for variant in VARIANTS.values():
        assert_matches(online, target, variant)


def test_target_gets_no_gradient(device):
    online, target = make(2, 3, 4, device=device, dtype=torch.float32)
    target.requires_grad_()
    ops.ensemble_loss(online, target).sum().backward()
    assert target.grad is None and online.grad is not None
    assert not ops.ensemble_loss(online.detach(), online).requires_grad


def test_second_derivative_is_refused(device):
    online, target = make(2, 3, 4, device=device, dtype=torch.float64)
    scale = torch.ones((), device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad((scale * ops.ensemble_loss(online, target)).sum(), online, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@variants
def test_strided(variant, device, dtype):
    online, target = make(6, 14, 10, device=device, dtype=dtype)
    assert_matches(online.detach()[::2, 1::3].requires_grad_(), target[1::2, ::3], variant)
    assert_matches(online.detach().transpose(1, 2).requires_grad_(), target.transpose(1, 2), variant)
    assert_matches(online.detach()[:1].expand(4, 14, 10).requires_grad_(), target[:4], variant)


def test_expanded_gradient(device):
    online, target = make(2, 3, 4, device=device, dtype=torch.float32)
    loss = ops.ensemble_loss(online, target)
    (gradient,) = torch.autograd.grad(loss, online, torch.ones(1, device=device).expand(2))
    (expected,) = torch.autograd.grad(ensemble_loss_reference(online, target).sum(), online)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 2, 0), (0, 0, 0)], ids=str)
def test_empty(shape, device, dtype):
    online, target = make(*shape, device=device, dtype=dtype)
    loss = ops.ensemble_loss(online, target)
    torch.testing.assert_close(loss, ensemble_loss_reference(online, target).to(loss.dtype), equal_nan=True)
    (gradient,) = torch.autograd.grad(loss.sum(), online)
    assert gradient.shape == shape


def test_nan_stays_in_its_path(device):
    online, target = make(3, 4, 5, device=device, dtype=torch.float32)
    with torch.no_grad():
        online[1, 2, 3] = float("nan")
    assert ops.ensemble_loss(online, target).isnan().tolist() == [False, True, False]


def test_thread_count_changes_nothing(one_or_two_threads):
    online, target = make(4, 300, 65, device="cpu", dtype=torch.float32)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        loss = ops.ensemble_loss(online, target)
        return loss, torch.autograd.grad(loss.sum(), online)[0]

    one, two = one_or_two_threads(run)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.slow
def test_more_than_2_31_elements():
    online = torch.zeros(2**16 + 1, 1, 2**15, dtype=torch.bfloat16)  # untouched pages of zeros need no memory
    online[-1, 0, 5] = 3
    loss = ops.ensemble_loss(online, online, normalize=False)
    mean = 3 / len(online)
    torch.testing.assert_close(loss[[0, -1]], torch.tensor([mean**2, (3 - mean) ** 2]))


@variants
def test_opcheck(variant, device, dtype):
    online, target = make(3, 4, 5, device=device, dtype=dtype)
    online = online.detach()
    torch.library.opcheck(torch.ops.pynas.ensemble_loss, (online, target, *variant))
    loss, *saved = torch.ops.pynas.ensemble_loss(online, target, *variant)
    torch.library.opcheck(torch.ops.pynas.ensemble_loss_backward, (torch.ones_like(loss), online, *saved))


def test_compiles_as_one_graph(device):
    online, target = make(3, 4, 5, device=device, dtype=torch.float32)
    compiled = torch.compile(lambda o, t: ops.ensemble_loss(o * 2, t).sum(), fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(online, target), online)
    (expected,) = torch.autograd.grad(ensemble_loss_reference(online * 2, target).sum(), online)
    torch.testing.assert_close(gradient, expected)


def test_exports(device):
    class Loss(torch.nn.Module):
        def forward(self, online, target):
            return ops.ensemble_loss(online, target, True, True)

    online, target = make(3, 4, 5, device=device, dtype=torch.float32)
    batch = {1: torch.export.Dim("batch")}
    program = torch.export.export(Loss(), (online.detach(), target), dynamic_shapes=(batch, batch))
    online, target = make(3, 6, 5, device=device, dtype=torch.float32)
    torch.testing.assert_close(
        program.module()(online.detach(), target), ops.ensemble_loss(online, target, True, True).detach()
    )


def test_bad_input(device):
    online, target = make(3, 4, 5, device=device, dtype=torch.float32)
    for arguments, message in [
        ((online[0], target), r"online of shape \[P, B, D\], got \[4, 5\]"),
        ((online, target[:2]), r"target of the online shape \[3, 4, 5\], got \[2, 4, 5\]"),
        ((online, target.double()), "target of dtype torch.float32, got torch.float64"),
        ((online.detach().to_sparse(), target), "online to be a dense tensor, got torch.sparse_coo"),
        ((online, [1.0]), "target to be a tensor, got list"),
        ((online.long(), target), "online of dtype float32, float64, float16 or bfloat16, got torch.int64"),
        ((online, target.to("meta")), f"target on {device}.*, got meta"),
        ((online, target, False, True), "normalize=True where renormalize=True"),
    ]:
        with pytest.raises(InputError, match=r"\[ensemble_loss\] expected " + message):
            ops.ensemble_loss(*arguments)


@pytest.mark.parametrize("index", range(5))
def test_bad_input_of_the_backward_operator(index, device):
    online, target = make(3, 4, 5, device=device, dtype=torch.float32)
    loss, *saved = torch.ops.pynas.ensemble_loss(online.detach(), target, True, False)
    arguments = [torch.ones_like(loss), online.detach(), *saved]
    arguments[index] = arguments[index].flatten()[:-1]
    with pytest.raises(InputError, match=r"\[ensemble_loss_backward\] expected .* of shape"):
        torch.ops.pynas.ensemble_loss_backward(*arguments)
    arguments[index] = arguments[index].int()
    with pytest.raises(InputError, match=r"\[ensemble_loss_backward\] expected .* of dtype"):
        torch.ops.pynas.ensemble_loss_backward(*arguments)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz(data, device):
    """Random shapes, strides, dtypes and variants: the right answer or an InputError."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    shape = data.draw(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 70)))
    order = data.draw(st.permutations(range(3)))
    step = data.draw(st.integers(1, 2))
    online, target = make(*(shape[axis] * step for axis in order), device=device, dtype=dtype)
    back = [order.index(axis) for axis in range(3)]
    online, target = (x.detach()[::step, ::step, ::step].permute(back) for x in (online, target))
    if data.draw(st.integers(0, 9)) == 0:
        with pytest.raises(InputError):
            ops.ensemble_loss(online, target[..., None])
    elif 0 not in shape[:2]:
        variant = data.draw(st.sampled_from(list(VARIANTS.values())))
        mean = F.normalize(target.double(), dim=2).mean(0)
        assume(not variant[1] or mean.norm(dim=1).min() > 0.05)  # targets that cancel leave no direction but rounding
        assert_matches(online.requires_grad_(), target, variant)
    else:
        assert ops.ensemble_loss(online, target).isnan().all()
