"""Picture of the published networks, and of a run's retrained ones beside."""

import re
from itertools import combinations

import pytest
from matplotlib.text import Annotation, Text

from pynas import data, export, runs
from pynas.errors import InputError
from pynas.report.networks import Measured, networks_figure
from pynas.runs import load
from pynas.spaces import NETWORKS

pytestmark = pytest.mark.integration


def names_of(axes):
    return [note for note in axes.texts if isinstance(note, Annotation)]


@pytest.mark.parametrize("crowd", [0, 60])
def test_names_do_not_cover_each_other(crowd):
    """Crowd: a far network, so that the others are drawn close together."""
    networks = [Measured(name, entry.source, entry.top1, {"flops": entry.flops, "params": entry.flops / 100})
                for name, entry in NETWORKS.items() if entry.top1 and entry.flops]  # fmt: skip
    networks.append(Measured("far", "ours", 75 - crowd, {"flops": 1e7}, ours=True))
    figure = networks_figure(networks, "a title")
    figure.draw_without_rendering()
    for axes, count in zip(figure.axes, (len(networks) - 1, len(networks))):
        boxes = [Text.get_window_extent(note) for note in names_of(axes)]
        assert len(boxes) == count > 12
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        points = [axes.transData.transform(marks.get_offsets()[0]) for marks in axes.collections]
        assert len(points) == count and not any(box.contains(*point) for box in boxes for point in points)
        assert all(axes.bbox.contains(*corner) for box in boxes for corner in (box.p0, box.p1))


def test_published_networks_by_their_printed_figures(pynas, tmp_path):
    text = pynas("spaces", "--networks", "--picture", tmp_path / "nets")
    assert "nets.png" in text and "BossNet-T0" in text
    svg = (tmp_path / "nets.svg").read_text()
    drawn = {name: len(re.findall(rf"<!-- {re.escape(name)} -->", svg)) for name in NETWORKS}
    assert drawn["DNA-c"] == drawn["PreNAS-Ti"] == drawn["Pi-NAS-cls"] == 2
    assert drawn["BossNet-T0"] == 1  # no parameters in the paper
    assert drawn["BossNAS-size"] == drawn["PreNAS-Ti-7M"] == 0  # of CIFAR-10, without printed costs; no accuracy
    papers = [NETWORKS[name].paper for name in ("DNA-T", "DNA-d", "ResNeSt-50", "PreNAS-Ti-7M")]
    assert papers == ["BossNAS", "DNA", "Pi-NAS", "PreNAS"] and all(f"<!-- {paper} -->" in svg for paper in papers)


def test_retrained_networks_beside(pynas, run_copy, half_images, tmp_path):
    words = ("retrain", "--run", run_copy, "--recipe", "small", "--epochs", 1, "--batch-size", 32)
    pynas(*words)
    pynas(*words, "--phi", "b2")
    content = pynas("spaces", "--networks", "--picture", tmp_path / "nets", "--run", run_copy, "--json")
    plain, scaled = content["retrained"]
    assert set(content["networks"]) == set(NETWORKS) and len(content["pictures"]) == 2
    run = load(run_copy)
    counted = run.costs.of(run.space.parse(plain["architecture"]))
    assert (plain["params"], plain["madds"]) == (counted["params"], counted["madds"])
    (wanted,) = pynas("scale", run_copy, "--phi", "b2", "--json")["networks"]
    assert (scaled["params"], scaled["madds"]) == (wanted["params"], wanted["madds"]) and wanted["params"] > plain[
        "params"
    ]
    model, _ = export.load_subnet(run_copy / "retraining" / "small-scratch" / "subnet.safetensors")
    images = data.load(half_images, 32)
    assert plain["top1"] == pytest.approx(100 * export.evaluate(model, images)["top1"], abs=1e-6)
    svg = (tmp_path / "nets.svg").read_text()
    for name in ("small-scratch", "small-scratch-phi_b2"):
        assert svg.count(f"<!-- {run_copy.name}/{name} -->") == 2
    assert "<!-- retrained on halves -->" in svg


def test_bad_requests_are_named(pynas, tmp_path):
    runs.create(tmp_path / "run", method="dna", space="mbconv-mini")
    stem = ("--picture", tmp_path / "nets")
    for words, message in (
        (stem, r"\[spaces\] expected --networks beside --picture"),
        (("--networks", "--run", tmp_path / "run"), "and --picture beside --run"),
        (("--networks", *stem, "--run", tmp_path / "run"), "run with a finished retraining, got none in"),
        (("--networks", *stem, "--run", tmp_path), "expected a run's folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            pynas("spaces", *words)
        assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
