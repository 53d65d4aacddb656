"""Runs from Python: settings and options with their types, one seed one result, and a whole run."""

from pathlib import Path

import pytest
import torch
import yaml

from pynas import runs
from pynas.errors import InputError
from pynas.quantities import assignments, show


def test_options_and_settings_get_their_types(tmp_path):
    options = {"learning_rates": ["2e-3", "5e-3"], "decay": "9e-1", "decay_every": 2.0}
    run = runs.create(tmp_path / "run", taps="a, b", epochs="3", options=options)
    assert run.options["learning_rates"] == (2e-3, 5e-3) and run.options["decay"] == 0.9
    assert run.options["decay_every"] == 2 and run.options["optimizer"] == "adam"
    assert run.settings.taps == ["a", "b"] and run.settings.epochs == 3
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert kept["options"] == {"learning_rates": [2e-3, 5e-3], "decay": 0.9, "decay_every": 2}
    # The same settings in another spelling are the same run; others are not.
    again = runs.create(tmp_path / "run", options={**options, "decay": 0.9})
    assert again.settings == run.settings
    with pytest.raises(InputError, match=r"expected options = .*'decay': 0.9.* use another folder"):
        runs.create(tmp_path / "run", options={**options, "decay": 0.8})
    assert assignments(["energy=5e-05", "madds=1.5M", "latency=2ms"]) == {
        "energy": "5e-05",
        "madds": "1.5M",
        "latency": "2ms",
    }
    with pytest.raises(InputError, match="one value for madds, got '1M' and '2M'"):
        assignments(["madds=1M", "madds=2M"])
    assert [show(value) for value in (0.5, 999, 18_412_345, 2.4e9)] == ["0.5", "999", "18.41M", "2.40G"]


def test_images_and_teacher_may_be_paths(tmp_path, images):
    run = runs.create(tmp_path / "run", data=Path(images), teacher=Path("my/teacher.py"))
    assert run.settings.data == str(images) and run.settings.teacher == str(Path("my/teacher.py"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"decay": "fast"}}, r"\[run\] expected decay to be a valid number.* got 'fast'"),
        ({"options": {"decay": -1}}, r"\[run\] expected decay to be greater than 0, got -1"),
        ({"options": {"learning_rates": [1e-3]}}, r"\[run\] expected learning_rates"),
        ({"options": {"optimizer": "sgd"}}, r"\[run\] expected optimizer to be 'adam' or 'adamw', got 'sgd'"),
        ({"options": {"nothing": 1}}, r"\[run\] expected options of learning_rates, .*, got 'nothing'"),
        ({"method": "bossnas", "options": {"hidden": 0}}, r"expected hidden to be greater than or equal to 1, got 0"),
        ({"epochs": 0}, r"\[settings\] expected epochs to be greater than or equal to 1, got 0"),
        ({"val_fraction": 1}, r"\[settings\] expected val_fraction to be less than 1, got 1"),
        ({"method": "other"}, r"\[run\] expected a method of dna, .*, got 'other'"),
        ({"colour": "red"}, r"\[settings\] expected options of method, .*, got 'colour'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        runs.create(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", runs.METHODS)
def test_one_seed_gives_one_set_of_weights(tmp_path, images, method):
    options = {"images": 2, "interval": "150k"} if method == "prenas" else None
    states = []
    for name in ("first", "second"):
        torch.manual_seed(len(states) + 5)  # the surroundings do not matter
        run = runs.create(tmp_path / name, method=method, data=images, batch_size=8, seed=3, options=options)
        run.rehearsal = True
        states.append(run.method().trained_state())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(one, other) for one, other in zip(states[0].values(), states[1].values()))


@pytest.mark.integration
def test_a_whole_run(tmp_path, images):
    run = runs.create(tmp_path / "run", data=images, batch_size=8, epochs=1)
    run.rehearsal = True
    run.train()
    scores = run.rate()
    found = run.search(limits={"madds": 16e6}, top_k=3)
    best = run.space.parse(found["found"][0]["architecture"])
    assert scores.of(best) == found["found"][0]["score"] and run.costs.of(best)["madds"] <= 16e6
    exported = run.export()
    assert exported["architecture"] == found["found"][0]["architecture"]
    opened = runs.load(tmp_path / "run")
    assert opened.settings == run.settings
    assert [len(table) for table in opened.rate()[0]] == [len(table) for table in scores[0]]  # read, not rated again
    for file in ("config.yaml", "scores/block_1.npz", "costs.npz", "search.json", "subnet.safetensors"):
        assert (tmp_path / "run" / file).is_file()
