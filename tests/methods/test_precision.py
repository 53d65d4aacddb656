"""The type of the forward passes: the faster of two, chosen once, kept with the run."""

from __future__ import annotations

import time
from contextlib import nullcontext

import pytest
import torch

import pynas
from pynas.errors import InputError
from pynas.methods import DNA, Bootstrap, BossNAS, Optimization
from pynas.methods.precision import Precision
from tests.killing import Killed, killer
from tests.methods.nets import small_net, small_teacher

BATCHES = [(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(b)), torch.arange(8) % 5) for b in range(3)]


def dna(amp="auto") -> DNA:
    torch.manual_seed(0)
    return DNA(small_net(), small_teacher(), image_shape=(3, 8, 8), amp=amp)


@pytest.fixture(params=[0, 1], ids=["float32", "bfloat16"])
def faster(request, monkeypatch) -> torch.dtype | None:
    """Steps in the other type take longer; the faster type."""
    step = DNA.training_step

    def slowed(self, *batch):
        if int(self.precision.choice) != request.param:
            time.sleep(0.05)
        return step(self, *batch)

    monkeypatch.setattr(DNA, "training_step", slowed)
    return (None, torch.bfloat16)[request.param]


def test_the_faster_type_is_chosen_and_nothing_else_changes(faster):
    method = dna()
    before = {name: value.clone() for name, value in method.trained_state().items()}
    random = torch.get_rng_state()
    batches = list(method.precision.choose(method, iter(BATCHES)))
    assert [images is other for (images, _), (other, _) in zip(batches, BATCHES, strict=True)] == [True] * 3
    assert method.precision.dtype == faster and torch.equal(torch.get_rng_state(), random)
    after = method.trained_state()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "precision.choice")
    assert all(parameter.grad is None for parameter in method.parameters())
    with method.autocast():
        assert torch.is_autocast_enabled("cpu") == (faster is not None)


def test_a_resumed_run_keeps_the_choice(faster, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        pynas.fit(dna(), BATCHES, 2, tmp_path, on_step=killer(4))
    monkeypatch.setattr(Precision, "choose", lambda *_: pytest.fail("chosen again"))
    method = dna()
    pynas.fit(method, BATCHES, 2, tmp_path)
    assert method.precision.dtype == faster


def test_fixed_types():
    assert [Precision(amp).dtype for amp in (None, False, True, "bfloat16", "float16")] == [
        None, None, torch.bfloat16, torch.bfloat16, torch.float16]  # fmt: skip
    assert isinstance(Precision(None).autocast(torch.device("cpu")), nullcontext)
    assert Precision(None).state_dict() == {} and list(Precision("auto").state_dict()) == ["choice"]
    assert Precision(True).choose(None, BATCHES) is BATCHES


def test_the_choice_stays_where_steps_read_it():
    assert Precision("auto").to("meta").choice.device.type == "cpu"


def test_bossnas_chooses_in_a_training():
    method = BossNAS(small_net(), image_shape=(3, 8, 8), bootstrap=Bootstrap(paths=2),
                     optimization=Optimization(amp="auto"))  # fmt: skip
    views = [([images] * method.views, labels) for images, labels in BATCHES]
    pynas.fit(method, views, 1)
    assert method.precision.auto and method.precision.dtype in (None, torch.bfloat16)


def test_an_unknown_type_is_refused():
    with pytest.raises(InputError, match="amp"):
        dna("int8")
