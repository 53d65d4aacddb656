"""The page of a compression: its numbers are those of the report, of the networks and of an enumeration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner

import pynas
from pynas.cli import app
from pynas.quantities import show_cost
from pynas.report import compress as of_page
from pynas.report.compress import compression_page
from pynas.report.figures import page_style
from pynas.report.units import Group, Row, units_figure
from pynas.spaces import Architecture
from tests.report.test_page import charts, numbers, read


@pytest.fixture(scope="module")
def compression():
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5, zero_init_last=False).eval()
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(2)]
    return pynas.compress.Compression(model, batches, widths=(1, 0.5))


@pytest.fixture(scope="module")
def networks(compression):
    """Networks and reports at two shares."""
    return {f"madds-{share}": compression.at({"madds": f"{share}%"}, distil=2) for share in (70, 40)}


@pytest.fixture(scope="module")
def reports(networks):
    return {name: report for name, (_, report) in networks.items()}


def tables(document):
    """Rows of each table, by the heading of its section."""
    return {
        title: [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", body)]
        for title, body in re.findall(r"<h2>(.*?)</h2>(.*?)</section>", document, re.S)
    }


def test_costs_and_losses_are_those_of_the_report(compression, reports):
    document = compression_page("resnet <18>", compression, reports, ["10%: the least is 20%"])
    text = " ".join(" ".join(read(document).text).split())
    assert "resnet <18>, made smaller" in text and "Out of reach: 10%: the least is 20%" in text
    first, *rows = tables(document)["Costs and losses"]
    assert first[2:4] == [show_cost(name, value) for name, value in reports["madds-70"].reference.items()]
    for (name, report), row in zip(reports.items(), rows, strict=True):
        costs = [f"{show_cost(k, v)} ({v / report.reference[k]:.1%})" for k, v in report.costs.items()]
        losses = [f"{loss:.4g}" for loss in (report.predicted, report.actual, report.distilled)]
        assert row == [name, f"MAdds at most {report.limits['madds']}", *costs, *losses]


def test_units_have_the_channels_of_the_networks(compression, networks, reports):
    rows = tables(compression_page("resnet18", compression, reports))["What stays of each unit"]
    original = compression.plan.model
    assert [row[0] for row in rows] == [f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]
    for name, block, channels, *cuts in rows:  # a ResNet has no heads, and no column of them
        parts = [model.get_submodule(name) for model in (original, *(model for model, _ in networks.values()))]
        whole, *kept = [part.conv1.out_channels if hasattr(part, "conv1") else 0 for part in parts]
        assert channels == f"{whole} → {', '.join(map(str, kept))}"
        assert cuts == [report.units[name] for report in reports.values()]
        assert name in [parts.unit.name for parts, _ in compression.net.blocks[int(block) - 1]]


def test_blocks_cost_what_the_model_with_one_of_them_replaced_loses(compression, reports):
    rows = tables(compression_page("resnet18", compression, reports))
    for name, report in reports.items():
        *blocks, whole = rows[f"{name}, block by block"]
        chosen, original = compression.net.space.resolve(report.architecture), compression.net.original
        assert len(blocks) == len(chosen)
        for number, row in enumerate(blocks):
            choices = [chosen[n] if n == number else choice for n, choice in enumerate(original)]
            alone = compression.net.extract(Architecture(tuple(choices)))
            assert float(row[1]) == pytest.approx(compression.measure(alone), rel=1e-3, abs=1e-6)
            spared = sum(p.numel() for p in compression.plan.model.parameters()) - sum(
                p.numel() for p in alone.parameters()
            )
            assert row[2].split()[0] == show_cost("params", spared)
        assert whole[1] == f"{report.predicted:.4g}"
        assert whole[3].split()[0] == show_cost("madds", report.reference["madds"] - report.costs["madds"])


@pytest.mark.parametrize("whole", [10**6, 0])
def test_no_architecture_is_under_the_front(compression, reports, monkeypatch, whole):
    # All architectures, one by one; of a larger space the best ones within 20 limits and the chosen ones are drawn.
    monkeypatch.setattr(of_page, "_WHOLE", whole)
    (front, found), _ = charts(compression_page("resnet18", compression, reports))["front-madds"]
    points, chosen = (list(zip(numbers(each["x"]), numbers(each["y"]))) for each in (front, found))
    every = list(compression.net.space.architectures())
    known = list(zip([compression.costs.of(a)["madds"] for a in every], compression.scores.total(every)))
    for cost, score in points:
        assert score == pytest.approx(min(s for c, s in known if c <= cost), abs=1e-9)
    if whole:
        assert len(points) == sum(all(c > cost or s > score or (c, s) == (cost, score) for c, s in known)
                                  for cost, score in set(known))  # fmt: skip
    else:
        assert 10 < len(points) <= 22 and points[0][0] == min(known)[0]
    assert {x for x, _ in chosen} <= {x for x, _ in points}
    assert chosen == [(report.costs["madds"], report.predicted) for report in reports.values()]


def test_bars_are_shares_and_long_names_keep_what_differs():
    rows = [Row(f"a_backbone.with_a_long_name.stages.{n}.unit", {"channels": 0.5, "heads": 0.25}) for n in range(2)]
    groups = [Group(rows, 0.125, 0.3), Group([Row("a_backbone.head", {}, "left out")], 0.5, -0.1)]
    with page_style():
        stays, lost, saved = units_figure(groups, "kl", "MAdds").axes
    widths = [[bar.get_width() for bars in axes.containers for bar in bars] for axes in (stays, lost, saved)]
    assert widths == [[1, 0.5, 0.25, 1, 0.5, 0.25, 1], [0.125, 0.5], [0.3, -0.1]]
    assert [bar.get_height() for bars in lost.containers for bar in bars] == [1.75, 0.75]
    assert [text.get_text() for text in stays.texts] == ["left out"]
    labels = [label.get_text() for label in stays.get_yticklabels()]
    assert [label.endswith(end) for label, end in zip(labels, ("stages.0.unit", "stages.1.unit", "…head"))] == [
        True
    ] * 3
    assert max(map(len, labels)) == 26


BUILDER = """
import torch
import timm

def build():
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=5, zero_init_last=False)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(BUILDER)
    torch.save(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), tmp_path / "example.pt")
    return tmp_path


def run(folder, *words):
    words = [f"{folder}/mine.py:build", "--example", folder / "example.pt", "--out", folder / "out", *words]
    return CliRunner().invoke(app, ["compress", *map(str, words)])


@pytest.mark.integration
def test_the_command_writes_one_page_for_a_front(folder):
    done = run(folder, "--front", "params", "--no-drop")
    assert done.exit_code == 0 and "report.html" in done.output, done.output
    document = (folder / "out" / "report.html").read_text()
    read(document)
    found = tables(document)
    names = [path.name for path in (folder / "out").iterdir() if path.is_dir()]
    assert {row[0] for row in found["Costs and losses"]} == {"as it is", *names}
    assert {f"{name}, block by block" for name in names} < set(found)
    assert document.count("Out of reach") == 7 - len(names)
    assert not list((folder / "out").glob("*/report.html"))


@pytest.mark.integration
def test_a_page_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    (folder / "out").mkdir()
    (folder / "out" / "report.html").write_text("old")
    write = Path.write_text

    def full(path, text, **options):
        if path.suffix == ".html":
            write(path, text[:100], **options)
            raise OSError("no space left")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert isinstance(run(folder, "--max-madds", "60%").exception, OSError)
    assert (folder / "out" / "report.html").read_text() == "old"
    assert not list((folder / "out").glob(".writing*")) and (folder / "out" / "model.safetensors").exists()


def test_a_front_without_a_network_says_why(folder):
    error = run(folder, "--front", "params", "--max-madds", "1%").exception
    assert isinstance(error, pynas.errors.InfeasibleError) and "madds" in str(error) and "\n" not in str(error)
