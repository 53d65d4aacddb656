"""Uses of `pynas.compress` beside the common one: other outputs, types, losses, batches, and folders that were used before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

import pynas
from pynas.calls import Call
from pynas.cli import app
from pynas.compress import Compression, distil
from pynas.compress.rate import default_loss
from pynas.errors import InputError
from pynas.report.compress import compression_page


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


class Net(nn.Module):
    def __init__(self, outputs: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.blocks, self.last = nn.Linear(8, 16), nn.Sequential(Block(), Block()), nn.Linear(16, outputs)
        self.eval()

    def forward(self, x, mask=None):
        return self.last(self.blocks(self.first(x)))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("resnet18", num_classes=0, global_pool="", zero_init_last=False)
        self.classes = nn.Conv2d(512, 4, 1)

    def forward(self, x):
        return {"logits": self.classes(self.net(x))}


def batches(dtype=torch.float32, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 8, generator=generator).to(dtype) for _ in range(3)]


def compressed(model: nn.Module, some=None, **options) -> Compression:
    return Compression(model, some or batches(), widths=(1, 0.5), drop=False, **options)


def mse(output, target):
    return F.mse_loss(output, target)


@pytest.mark.parametrize(
    ("model", "example", "loss"),
    [
        (Net(5), torch.randn(4, 8), "kl"),
        (Net(1), torch.randn(4, 8), "mse"),
        (Segmenter().eval(), torch.randn(2, 3, 64, 64), "mse"),
    ],
    ids=["classes", "one number", "maps of classes"],
)
def test_kl_is_taken_for_logits_of_classes_alone(model, example, loss):
    assert default_loss(model, Call.of(example, model)) == loss


def test_a_model_of_one_output_is_cut_where_it_changes_least():
    compression = compressed(Net(1))
    model, report = compression.at({"params": "80%"})
    change = torch.cat([model(x) - compression.plan.model(x) for x in batches()])
    assert report.actual == pytest.approx(change.square().mean().item(), rel=1e-4) and report.predicted > 0
    for call in (lambda: compressed(Net(1), loss="kl"), lambda: distil(Net(1), Net(1), batches(), 1, "kl")):
        with pytest.raises(InputError, match="two classes or more for kl"):
            call()
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("loss", [mse, "relative_l1"], ids=["function", "relative_l1"])
def test_distillation_lowers_a_loss_that_it_has_no_name_for(loss, tmp_path):
    compression = compressed(Net(1), loss=loss)
    model, report = compression.at({"params": "80%"}, distil=100, learning_rate=3e-3)
    assert report.distilled < 0.8 * report.actual
    assert report.loss == ("mse" if loss is mse else loss)
    pynas.compress.save(tmp_path, model, compression.net, report.architecture, report)
    assert pynas.compress.load(Net(1), tmp_path)(batches()[0]).equal(model(batches()[0]))


def test_a_page_of_a_network_without_limits():
    compression = compressed(Net(), loss=mse)
    page = compression_page("net", compression, {"smaller": compression.at({})[1]})
    assert "loss (mse)" in page and "The front of MAdds" in page


@pytest.mark.parametrize("counts", [(4, 1), (1,)], ids=["the last batch", "the only one"])
def test_batch_norm_and_a_batch_of_one_sample(counts):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5, zero_init_last=False).eval()
    some = [torch.randn(count, 3, 32, 32) for count in counts]
    _, report = pynas.compress(model, some, limits={"params": "90%"}, widths=(1, 0.5), drop=False)
    assert report.costs["params"] <= 0.9 * report.reference["params"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_as_single_precision_does(dtype):
    losses, options = [], {"distil": 200, "learning_rate": 1e-3, "loss": "mse"}
    for kind in (torch.float32, dtype):
        compression = compressed(Net().to(kind), batches(kind), loss="mse", train=30)
        model, report = compression.at({"params": "80%"}, **options)
        assert {p.dtype for p in model.parameters()} == {kind}
        losses.append(report.distilled / report.actual)
    assert losses[1] == pytest.approx(losses[0], abs=0.1) and losses[0] < 0.5


def test_pairs_of_an_input_and_labels():
    model, x, labels = Net(), torch.randn(4, 8), torch.randint(5, (4,))
    assert len(Call.of((x, labels), model).args) == 1
    assert len(Call.of((x, torch.ones(4, 8)), model).args) == 2  # a mask
    needed: Callable[..., object] = lambda x, step: x  # noqa: E731
    module = nn.Module()
    module.forward = needed  # type: ignore[method-assign]
    assert len(Call.of((x, labels), module).args) == 2  # a number for each sample that the model cannot do without


def test_another_models_checkpoints_are_not_gone_on_from(tmp_path):
    results = [distil(Net(seed=9), teacher, batches(), 20, run=tmp_path) for teacher in (Net(seed=1), Net(seed=2))]
    alone = distil(Net(seed=9), Net(seed=2), batches(), 20)
    assert all(a.equal(b) for a, b in zip(results[1].parameters(), alone.parameters()))
    assert not any(a.equal(b) for a, b in zip(results[0].parameters(), alone.parameters()))
    assert len(list(tmp_path.iterdir())) == 2


def test_losses_against_labels_need_labels():
    with pytest.raises(InputError, match="labels= with cross_entropy, got no labels"):
        compressed(Net(), loss="cross_entropy")
    with pytest.raises(InputError, match="expected loss to be a callable or one of"):
        compressed(Net(), loss="l3")


def test_inference_mode_is_refused():
    with torch.inference_mode():
        model, some = Net(), batches()
        with pytest.raises(InputError, match="outside of torch.inference_mode"):
            compressed(Net(), some)
    with pytest.raises(InputError, match="outside of torch.inference_mode"):
        compressed(model)
    with pytest.raises(InputError, match="outside of torch.inference_mode"):
        compressed(Net(), some)


BUILDER = """
from __future__ import annotations

from dataclasses import dataclass

import timm
import torch


@dataclass
class Settings:
    classes: int = 5


def build():
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=Settings().classes, zero_init_last=False)
"""


@pytest.mark.integration
def test_a_second_run_into_one_folder_leaves_nothing_of_the_first(tmp_path):
    (tmp_path / "mine.py").write_text(BUILDER)
    torch.save([torch.randn(4, 3, 32, 32) for _ in range(3)], tmp_path / "batches.pt")

    def run(*words):
        command = ["compress", f"{tmp_path}/mine.py:build", "--data", tmp_path / "batches.pt", *words]
        return CliRunner().invoke(app, [*map(str, command)])

    out = tmp_path / "small"
    first = run("--max-params", "90%", "--out", out, "--distil", 2, "--format", "torch-export")
    assert first.exit_code == 0, first.output
    assert (out / "model.pt2").exists() and not (out / "distil").exists()
    second = run("--max-params", "50%", "--out", out)
    assert second.exit_code == 0, second.output
    assert not (out / "model.pt2").exists()

    for words, says in (
        (("--front", "params", "--max-params", "60%"), "expected no limit on params beside --front params"),
        (("--max-params", "60%", "--out", tmp_path / "mine.py"), "expected a folder for the result, got the file"),
        (("--max-params", "60%", "--loss", "error"), "labels= with error, got no labels"),
    ):
        refused = run(*words)
        assert isinstance(refused.exception, InputError) and says in str(refused.exception)
