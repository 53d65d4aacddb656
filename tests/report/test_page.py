"""The page and its sections: well-formed, self-contained, and with the values they were given."""

import base64
import html.parser
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pynas.rating import Scores, ScoreTable
from pynas.report import page, sections
from pynas.report.charts import Point, network_chart
from pynas.report.figures import inline, page_style
from pynas.report.network import Layer, chosen_layers, measured_layers
from pynas.report.training import read_metrics, training_figure
from pynas.spaces import Architecture, get

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(html.parser.HTMLParser):
    """HTML parser that checks that elements close in order, and collects tags, ids, references and text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references, self.tags, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src", "srcset", "data", "action"):
                self.references.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


SCRIPT = re.compile(r"<script[^>]*>(.*?)</script>", re.S)


def read(document):
    """Parse a document; check that it is well-formed and self-contained, whatever plotly's own script can do."""
    reader = Reader()
    reader.feed(document)
    reader.close()
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    for reference in reader.references:
        assert reference.startswith(("data:", "#")), reference
        assert not reference.startswith("#") or reference[1:] in reader.ids, reference
    rest = SCRIPT.sub("", document)
    for target in re.findall(r"url\(([^)]*)\)", rest):
        assert target.startswith("#") and target[1:] in reader.ids, target
    assert not {"iframe", "img", "object", "embed"} & set(reader.tags) and "@import" not in rest
    return reader


def charts(document):
    """Data and layout of every chart of a document, by its id."""
    found = {}
    decoder = json.JSONDecoder()
    for match in re.finditer(r'Plotly\.newPlot\(\s*"([^"]+)",\s*', document):
        data, end = decoder.raw_decode(document, match.end())
        layout, _ = decoder.raw_decode(document, re.compile(r"\s*,\s*").match(document, end).end())
        found[match[1]] = (data, layout)
    return found


def numbers(values):
    """Values of a chart, which plotly writes as a list or as the bytes of an array."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return values


@pytest.mark.parametrize(
    "broken",
    [
        "<p><b></p></b>",
        '<a href="http://x.org/y">y</a>',
        '<i id="a"></i><i id="a"></i>',
        "<p>",
        '<use href="#no"/>',
        '<script src="https://x.org/plotly.js"></script>',
    ],
)
def test_the_check_finds_what_is_wrong(broken):
    with pytest.raises(AssertionError):
        read(page.page("t", broken, []))


def scores_of_two_blocks():
    rng = np.random.default_rng(0)
    tables = [[ScoreTable(rng.random((3, 2)))], [ScoreTable(rng.random((2, 2))), ScoreTable(rng.random(4))]]
    return Scores.product(tables)


def test_a_page_of_every_section():
    architecture = Architecture.of([(0, (2, 1)), (1, (3,))])
    found = {"limits": {"madds": 2e6}, "at_least": {}, "space_size": 48, "lower_bound": 0.5, "visited": 3, "pruned": 4,
             "found": [{"architecture": "21|1:3", "score": 0.75, "madds": 1.5e6}]}  # fmt: skip
    metrics = [{"step": n, "steps": 300, "epoch": 1, "losses": {"block_1": 1 / n, "head": 2 / n}, "learning_rate": 0.1}
               for n in range(1, 301)]  # fmt: skip
    scores, accuracy = np.array([0.1, 0.2, 0.3, 0.4]), np.array([90.0, 91.0, 80.0, 70.0])
    layers = [Layer(None, "stem", (8, 4, 4), 10, 100), Layer(0, "MB6 k3 <&>", (16, 2, 2), 20, 200)]
    points = [
        Point("11|0:1", 1.0, {"madds": 1e6, "latency@x": 2.0}),
        Point("21|1:3", 0.75, {"madds": 1.5e6, "latency@x": 3.0}),
    ]
    document = page.page("a <title> & more", "<p>lead</p>", [
        sections.network_section(layers, "21|1:3", lambda name, value: f"{value:g}"),
        sections.found_section(found, ["madds"], lambda name, value: f"{value:g}"),
        sections.architectures_section("madds", {"front of MAdds (2)": points, "found": points[1:]}, {"madds": 2e6}),
        sections.filter_section(points),
        sections.scores_section(scores_of_two_blocks(), architecture),
        sections.ranking_section(scores, accuracy, list("abcd"), "a table", {"params": np.array([1.0, 2.0, 3.0, 4.0])}),
        sections.training_section(metrics),
        sections.repeat_section(["pynas run --run 'a b'"], ["torch"]),
    ])  # fmt: skip
    reader = read(document)
    text = " ".join(" ".join(reader.text).split())
    assert reader.tags.count("svg") == 2 + 2
    for expected in ("a <title> & more", "MB6 k3 <&>, block 0 16×2×2", "2 architectures, a line each",
                     "Block 0: 6 paths rated", "Block 1: 8 paths rated", "cell 1 (4)", "pynas run --run 'a b'"):  # fmt: skip
        assert expected in text, expected
    assert list(charts(document)) == ["network", "architectures", "filter", "ranking"]
    # Kendall's tau of the scores: of six pairs one is out of order; of the ascending parameters the other way round.
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", document)
    assert ("the scores", "0.6667") in rows and ("params", "-0.6667") in rows
    assert "prefers-color-scheme: dark" in document and 'name="viewport"' in document


def drawn(section):
    """Data and layout of the only chart of a section."""
    [chart] = charts(page.page("t", "", [section])).values()
    return chart


def test_scores_and_costs_of_every_architecture_are_under_the_pointer():
    points = [
        Point("11|0:1", 1.0, {"madds": 1e6, "params": 5e3}),
        Point("21|1:3", 0.75, {"madds": 1.5e6, "params": 4e3}),
    ]
    (front, found), layout = drawn(sections.architectures_section(
        "madds", {"front of MAdds (2)": points, "found": points[1:]}, {"params": 4500}))  # fmt: skip
    assert numbers(front["x"]) == [1e6, 1.5e6] and numbers(front["y"]) == [1.0, 0.75] and numbers(found["x"]) == [1.5e6]
    assert front["text"][0] == "<b>11|0:1</b><br>score 1<br>MAdds 1.00M<br>parameters 5.00k"
    madds, params = layout["updatemenus"][0]["buttons"]
    data, changed = params["args"]
    assert (madds["label"], params["label"]) == ("MAdds", "parameters") and changed["xaxis.title.text"] == "parameters"
    # The front is a line over its own cost alone, and the limit stands where it is a limit of the cost shown.
    assert data["x"] == [[5e3, 4e3], [4e3]] and data["mode"] == ["markers", "markers"]
    assert front["mode"] == "lines+markers" and not layout.get("shapes")
    assert [(shape["x0"], shape["x1"]) for shape in changed["shapes"]] == [(4500, 4500)]


def test_axes_to_filter_by_are_the_score_and_every_cost():
    points = [Point(str(n), float(n), {"madds": 1e6 * n, "latency@x": 0.5 * n}) for n in range(1, 4)]
    (data,), _ = drawn(sections.filter_section(points))
    axes = {axis["label"]: numbers(axis["values"]) for axis in data["dimensions"]}
    assert axes == {"score": [1, 2, 3], "MAdds": [1e6, 2e6, 3e6], "latency (ms), x": [0.5, 1, 1.5]}


def test_ranks_are_those_of_scores_and_accuracies():
    section = sections.ranking_section(np.array([0.3, 0.1, 0.2]), np.array([70.0, 80.0, 90.0]), list("abc"), "a table")
    (data,), layout = drawn(section)
    assert numbers(data["x"]) == [70, 80, 90] and numbers(data["y"]) == [0.3, 0.1, 0.2]
    assert data["text"][2] == "<b>c</b><br>accuracy 90.00 %<br>score 0.2<br>rank 1, predicted 2"
    ranks = layout["updatemenus"][0]["buttons"][1]["args"][0]
    assert numbers(ranks["x"][0]) == [3, 2, 1] and numbers(ranks["y"][0]) == [3, 1, 2]


def test_the_drawing_of_a_network_shows_stages_and_resolutions():
    layers = [Layer(None, "stem", (8, 16, 16), 1, 1), Layer(0, "a", (16, 8, 8), 1, 1), Layer(0, "b", (16, 8, 8), 1, 1),
              Layer(1, "c", (32, 8, 8), 1, 1), Layer(2, "d", (64, 32), 1, 1), Layer(None, "head", (10,), 1, 1)]  # fmt: skip
    (bars,), layout = drawn(page.Section("x", network_chart(layers)))
    assert numbers(bars["y"]) == [5, 4, 4, 4, 4, 1]  # 16, 8, 8, 8, the root of 64 tokens, and a vector
    stem, a, b, c, d, _ = numbers(bars["width"])
    assert stem < a == b < c == d  # 8, 16, 16, 32, 32 channels
    assert [note["text"] for note in layout["annotations"]] == ["16×16", "8×8", "64 tokens"]
    assert [note["x"] for note in layout["annotations"]] == [0, 2, 4]
    assert numbers(layout["xaxis"]["tickvals"]) == [1.5, 3, 4] and layout["xaxis"]["ticktext"] == [
        "block 0",
        "block 1",
        "block 2",
    ]
    unmeasured, _ = drawn(page.Section("x", network_chart([Layer(0, "a"), Layer(1, "b")])))
    assert numbers(unmeasured[0]["y"]) == [1, 1]


def test_tiles_and_pages_without_charts():
    document = page.page("t", page.tiles([page.Tile("A < B", "3 ms", ["vs x: -1%"])]), [])
    assert "A &lt; B" in document and '<p class="value">3 ms</p>' in document and "<li>vs x: -1%</li>" in document
    assert "<script" not in document and len(document) < 10_000


def test_the_ranking_says_what_is_found_under_budgets():
    scores, accuracy = np.array([0.4, 0.1, 0.3, 0.2]), np.array([70.0, 80.0, 76.0, 90.0])
    madds = np.array([1.0, 2.0, 10.0, 10.0])
    section = sections.ranking_section(
        scores, accuracy, list("abcd"), "a table", {"MAdds": madds, "random": accuracy}, madds
    )
    rows = re.findall(r"<tr><td>" + "</td><td>".join(["(.*?)"] * 6) + "</td></tr>", section.body)
    # Budgets 1, 2, ..., 10: the first holds one network, eight hold two, the last all four. MAdds find 70, 80 eight times, 83.
    assert [(row[0], *row[2:]) for row in rows] == [
        ("the scores", "79.00 %", "-1.00", "+4.10", "-0.30"),
        ("MAdds", "79.30 %", "-0.70", "+4.40", "+0.00"),
        ("random", "74.90 %", "-5.10", "+0.00", "-4.40"),
    ]
    assert "Only 4 networks, and fewer than 3 of them within 9 of the 10 budgets" in section.body
    without = sections.ranking_section(scores, accuracy, list("abcd"), "a table", {"MAdds": madds})
    assert "minus the largest" not in without.body and "No costs of these networks are known" in without.body
    read(page.page("t", "", [section, without][:1]))


def test_figures_take_the_pages_colour_and_are_xml():
    metrics = [{"step": 1, "losses": {"all": 1.0}}, {"step": 2, "losses": {"all": 0.5}}]
    with page_style():
        svg = inline(training_figure(metrics), "name", 'a "description"')
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'a "description"' and root.get("width") is None and root.get("viewBox")
    assert "currentColor" in svg and "#0a0b0c" not in svg and "#000000" not in svg
    with page_style():
        assert inline(training_figure(metrics), "name", 'a "description"') == svg


def test_layers_of_a_network_against_its_modules():
    import torch

    from pynas.costs.count import count_module
    from pynas.export import standalone

    space = get("mbconv-mini")
    architecture = space.parse("1:13|0:02|2:130|21")
    model = standalone(space, architecture, 10).eval()
    layers = measured_layers(space, architecture, model, (3, 32, 32))
    assert [layer.label for layer in layers[:3]] == ["stem", "MB6 k5", "MB3 k5"] and layers[-1].label == "head"
    assert [layer.block for layer in layers] == [None, 0, 0, 1, 1, 2, 2, 2, 3, 3, None]
    x = model.block_2(model.block_1(model.stem(torch.zeros(1, 3, 32, 32))))
    assert layers[4].shape == tuple(x.shape[1:])
    whole, _ = count_module(model, (3, 32, 32))
    assert sum(layer.params for layer in layers) == whole["params"]
    assert sum(layer.madds for layer in layers) == whole["madds"]
    assert chosen_layers(space, architecture) == [Layer(layer.block, layer.label) for layer in layers[1:-1]]
    assert measured_layers(space, architecture, model.stem, (3, 32, 32)) == chosen_layers(space, architecture)


def test_metrics_of_a_run_that_is_being_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
