"""DNA's options from the command line, on a few small images."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pynas.cli import app
from pynas.errors import InputError
from pynas.methods import fit_block_weights
from pynas.rating.scores import Scores, load_block
from pynas.spaces import get
from pynas.tensor_files import read_tensors

pytestmark = pytest.mark.integration


def test_options_accumulation_and_functional_ratings(half_images, tmp_path, pynas):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    words = [
        "--data",
        half_images,
        "--limit-images",
        40,
        "--epochs",
        4,
        "--batch-size",
        8,
        "--accumulate",
        2,
        "--run",
        folder,
    ]
    for option in (
        "strategy=progressive-b",
        "keep=2",
        "loss_weights=[1, 2, 1, 1]",
        f"cache={cache}",
        "cache_training=true",
    ):
        words += ["--option", option]
    pynas("train", *words)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 8  # 4 batches of 8 out of 32 images, two to a step, four epochs
    assert [sorted(step["losses"])[0] for step in steps] == [f"block_{b}" for b in (1, 1, 2, 2, 3, 3, 4, 4)]
    (features,) = cache.iterdir()
    count = "import lmdb, sys; print(lmdb.open(sys.argv[1], readonly=True).stat()['entries'])"
    assert int(subprocess.check_output([sys.executable, "-c", count, features])) == 40 + 1  # the layout
    pynas("rate", "--run", folder, "--loss", "error")
    tables, metadata = load_block(folder / "scores" / "block_4.npz")
    assert metadata["loss"] == "error" and len(tables[0]) == 16
    scores = tables[0].scores
    assert np.all((scores >= 0) & (scores <= 1)) and np.allclose(scores * 8, np.round(scores * 8))
    assert pynas("search", folder, "--json")["found"]

    # After a progressive training the search is among the architectures that it kept.
    found = pynas("search", folder, "--json")
    assert found["search"] == "progressive-b" and found["rated"] == 2 and len(found["found"]) <= 2
    with pytest.raises(InputError, match="as dna searches progressive-b only"):
        pynas("search", folder, "--weights", "1,1,1,1", "--json")


def test_block_weights_fitted_to_trained_networks(run_copy, tmp_path, pynas):
    space, rng = get("mbconv-mini"), np.random.default_rng(0)
    nets = [space.sample(rng) for _ in range(6)]
    trained = tmp_path / "trained.csv"
    trained.write_text("architecture,accuracy\n" + "".join(f"{net},{90 + n}\n" for n, net in enumerate(nets)))
    content = pynas("search", run_copy, "--trained", trained, "--json")
    fitted = fit_block_weights(Scores.load(run_copy / "scores"), nets, [90 + n for n in range(6)])
    assert content["weights"] == list(fitted.weights) and content["fitted"]["left_out_tau"] == fitted.left_out_tau
    assert "fitted to 6 nets" in pynas("search", run_copy, "--trained", trained)


@pytest.mark.slow
def test_dna_plus_goes_on_at_every_generation(half_images, tmp_path, pynas):
    words = ["--method", "dna-plus", "--data", half_images, "--limit-images", 40, "--epochs", 1, "--batch-size", 16]
    for option in ("generations=2", "phi=1", "teacher_epochs=1", "dna={decay: 0.5}"):
        words += ["--option", option]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    report = pynas("run", *words, "--run", whole, "--json")
    found = report["search"]["generations"]
    assert [each["folder"] for each in found] == ["generation_1", "generation_2"]
    assert report["search"]["stopped"] == "2 generations" and found[0]["tau_to_last"] is None
    teacher = read_tensors(whole / "generation_2" / "teacher.safetensors", "pynas.scaled_teacher").metadata
    assert teacher["architecture"] == found[0]["architecture"] and teacher["phi"] == 1
    assert report["exported"]["architecture"] == found[1]["architecture"]
    for number in (1, 2):  # each generation is a run of its own
        config = yaml.safe_load((whole / f"generation_{number}" / "config.yaml").read_text())
        assert config["method"] == "dna" and config["options"] == {"decay": 0.5}
        assert pynas("search", whole / f"generation_{number}", "--json")["found"][0]["architecture"] == (
            found[number - 1]["architecture"])  # fmt: skip

    pynas("train", *words, "--run", parts)
    pynas("rate", "--run", parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pynas.methods.dna.dna.DNA.rate_block", stopped)
        with pytest.raises(RuntimeError, match="stopped here"):
            pynas("search", parts)
    before = (parts / "generation_2" / "checkpoints" / "last.safetensors").stat().st_mtime_ns
    again = pynas("run", "--run", parts, "--json")
    assert (parts / "generation_2" / "checkpoints" / "last.safetensors").stat().st_mtime_ns == before
    assert again["search"] == report["search"]
    result = CliRunner().invoke(app, ["search", str(parts), "--max-madds", "9M"])
    assert "expected generation 2 to be taught by" in str(result.exception)


def stopped(*args, **options):
    raise RuntimeError("stopped here")
