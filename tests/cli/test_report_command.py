"""`pynas report`, and its page in a real browser."""

import html
import itertools
import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

from pynas import runs
from pynas.cli import app
from pynas.costs import cost_range
from pynas.errors import InputError
from pynas.export import subnet
from pynas.quantities import show_cost
from pynas.rating import Scores, ScoreTable
from pynas.runs import commands
from pynas.runs.export import recalibrate
from pynas.runs.report import run_page
from pynas.runs.results import Results
from pynas.runs.settings import Settings
from pynas.runs.truth import read_truth
from pynas.spaces import get
from pynas.teachers import accuracy
from tests.report.test_page import SCRIPT, charts, numbers, read

pytestmark = pytest.mark.integration
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def report(whole_run, tmp_path_factory, pynas):
    path = tmp_path_factory.mktemp("report") / "report.html"
    truth = path.with_name("truth.csv")
    truth.write_text("architecture,accuracy\n0|00|00|00,80\n1:01|00|00|01,81.5\n0|11|11|11,79\n")
    content = pynas("report", whole_run, "--output", path, "--truth", truth, "--json")
    assert content["file"] == str(path)
    return path, content


def test_every_section_is_there(report, whole_run):
    path, content = report
    document = path.read_text(encoding="utf-8")
    assert content["sections"] == ["The architecture", "What was found, and what it costs", "Scores and costs", "Filter",
                                   "Scores of all paths", "Ranking against the truth", "Training", "Teacher and student",
                                   "Repeat it"]  # fmt: skip
    read(document)
    assert list(charts(document)) == ["network", "architectures", "filter", "ranking"]
    shown = SCRIPT.sub("", document)
    assert shown.count("<svg") == 4 + 2 + 1
    words = re.sub(r"""xmlns(:xlink)?="[^"]*"|"data:image/png;base64,[^"]*\"""", "", shown)
    assert "Not there yet" not in words and "http" not in words
    assert not (whole_run / "report.html").exists()
    rows = [row.split("</td><td>") for row in re.findall(r"<tr><td>(.*?)</td></tr>", document)]
    assert [row[0] for row in rows if row[-1][0] in "+-" and len(row) == 6] == [
        "the scores",
        "parameters",
        "MAdds",
        "sum of log widths",
        "random",
    ]
    assert "Only 3 networks" in document


def test_tiles_compare_with_the_largest_and_with_random_networks(report, whole_run):
    """Accuracies are those of networks taken out by hand, costs those of the tables."""
    known = json.loads((whole_run / "baselines.json").read_text())
    rows, run, found = known["networks"], runs.load(whole_run), json.loads((whole_run / "search.json").read_text())
    assert [row["kind"] for row in rows] == ["largest", *["random"] * 3]
    assert rows[0]["madds"] == cost_range(run.space, run.costs, "madds")[1]
    assert (
        all(row[name] <= limit for row in rows[1:] for name, limit in found["limits"].items())
        and len({row["architecture"] for row in rows}) == 4
    )
    model = subnet(run.trained_method()[0].net, rows[1]["architecture"])
    recalibrate(run, model)
    assert accuracy(model, run.data) == pytest.approx(rows[1]["test_accuracy"], abs=1e-6)
    shown = dict(re.findall(r'<div class="tile"><h3>(.*?)</h3>(.*?)</div>', report[0].read_text(encoding="utf-8")))
    own, mean = found["found"][0]["madds"], np.mean([row["madds"] for row in rows[1:]])
    assert list(shown) == ["Top-1, inherited weights", "Parameters", "MAdds", "Architectures"]
    assert f'<p class="value">{show_cost("madds", own)}</p>' in shown["MAdds"]
    assert f"vs largest: {own / rows[0]['madds'] - 1:+.0%} ({show_cost('madds', rows[0]['madds'])})" in shown["MAdds"]
    assert f"vs random: {own / mean - 1:+.0%} ({show_cost('madds', mean)})" in shown["MAdds"]
    assert f"({rows[0]['test_accuracy']:.2%})" in shown["Top-1, inherited weights"]


def test_baselines_are_measured_again_only_under_other_limits(run_copy, pynas):
    path = run_copy / "baselines.json"
    known = json.loads(path.read_text())
    known["networks"][0]["test_accuracy"] = 0.125
    path.write_text(json.dumps(known))
    pynas("export", "--run", run_copy)
    assert json.loads(path.read_text()) == known
    pynas("export", "--run", run_copy, "--max-madds", "10M")
    again = json.loads(path.read_text())
    assert again["limits"] == {"madds": 10e6} != known["limits"] and again["networks"][0]["test_accuracy"] != 0.125


def test_an_export_does_without_costs_that_have_gone(run_copy, pynas, tmp_path):
    costs, own = runs.load(run_copy).costs, tmp_path / "own.npz"
    costs.renamed({name: f"{name}@own" for name in costs.names}).save(own)
    pynas("search", run_copy, "--costs", own, "--limit", "params@own=400k")
    (run_copy / "baselines.json").unlink()
    own.unlink()
    with pytest.warns(UserWarning, match="no other networks were measured to compare with: .*own.npz"):
        content = pynas("export", "--run", run_copy, "--json")
    assert content["test_accuracy"] >= 0 and not (run_copy / "baselines.json").exists()


def test_runs_are_compared(whole_run, run_copy, pynas, tmp_path):
    scores = Scores.load(run_copy / "scores", get("mbconv-mini"))
    turned = [[ScoreTable(-table.scores) for table in scores[0]], *list(scores)[1:]]
    Scores(scores.space, turned).save(run_copy / "scores")
    pynas("search", run_copy, "--max-madds", "8M")
    (run_copy / "subnet.safetensors").unlink()
    content = pynas("report", whole_run, run_copy, "--output", tmp_path / "both.html", "--json")
    assert content["runs"] == [str(whole_run), str(run_copy)] and content["title"] == "first and run, compared"
    document = (tmp_path / "both.html").read_text(encoding="utf-8")
    read(document)
    assert {"network-0", "network-1", "scores-0", "architectures-0", "architectures-1"} <= set(charts(document))
    rows = {
        row[0]: row[1:]
        for row in (re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", document))
    }
    # Block 0 has its scores turned round, the others are the same.
    assert rows["run"] == ["-1.00", "1.00", "1.00", "1.00"]
    assert "Not there yet in run: an exported network" in document
    networks = [
        json.loads((run / "search.json").read_text())["found"][0]["architecture"] for run in (whole_run, run_copy)
    ]
    assert rows["network"] == networks and networks[0] != networks[1]
    points = charts(document)["scores-0"][0][0]
    first = re.match("<b>(.*?)</b>", points["text"][0])[1]
    assert numbers(points["x"])[0] == pytest.approx(scores.of(get("mbconv-mini").parse(first)))


@pytest.mark.parametrize(
    "given, words", [(["A", "A"], "two or more runs, each once"), (["A", "B", "--truth", "x.csv"], "beside one run")]
)
def test_comparisons_that_make_no_sense_are_refused(whole_run, run_copy, given, words):
    names = {"A": whole_run, "B": run_copy}
    done = CliRunner().invoke(app, ["report", *(str(names.get(name, name)) for name in given)])
    assert isinstance(done.exception, InputError) and words in str(done.exception)


@pytest.mark.parametrize("words", [("--weights", "1,2,0.5,3"), ("--join", "product", "--weights", "1,2,0.5,3")])
def test_points_have_the_scores_that_the_search_went_by(run_copy, pynas, words):
    """What was found lies on the chart where the search says that it does, and so does everything else."""
    found = pynas("search", run_copy, "--max-madds", "60%", *words, "--json")["found"]
    results = Results(run_copy)
    space = get("mbconv-mini")
    again = results.totals([space.parse(entry["architecture"]) for entry in found])
    assert again == pytest.approx([entry["score"] for entry in found], rel=1e-9)
    best = min(point.score for point in results.drawn if point.costs["madds"] <= max(entry["madds"] for entry in found))
    assert best >= found[0]["score"] * (1 - 1e-9)


def test_networks_that_were_not_rated_are_left_out(run_copy, pynas):
    space = get("mbconv-mini")
    scores = Scores.load(run_copy / "scores", space)
    first = scores[0][0].scores.copy()
    first[0] = np.nan
    Scores(space, [[ScoreTable(first), *scores[0][1:]], *list(scores)[1:]]).save(run_copy / "scores")
    truth = run_copy / "truth.csv"
    names = ("0|00|00|00", "1|00|00|01", "1|01|00|00", "1|11|11|11")
    truth.write_text("".join(["architecture,accuracy\n", *(f"{name},{80 + i}\n" for i, name in enumerate(names))]))
    pynas("report", run_copy, "--truth", truth)
    assert "truth.csv, of which 3 of 4 were rated" in (run_copy / "report.html").read_text(encoding="utf-8")
    truth.write_text("\n".join(truth.read_text().splitlines()[:4]))
    with pytest.raises(InputError, match="at least three architectures that the run rated, got 2 of 3 in .*truth.csv"):
        run_page(run_copy, truth)


@pytest.mark.slow
def test_the_commands_on_the_page_give_the_run_again(report, whole_run, tmp_path, pynas, monkeypatch):
    block = re.search(r"<pre><code>(.*?)</code>", report[0].read_text(encoding="utf-8"), re.S)
    lines = html.unescape(block[1]).splitlines()
    assert [line.split()[1] for line in lines] == ["train", "rate", "search", "export"]
    monkeypatch.chdir(tmp_path)
    for line in lines:
        pynas(*shlex.split(line)[1:])
    again = tmp_path / "first-again"
    for name in ("metrics.jsonl", "subnet.safetensors"):
        assert (again / name).read_bytes() == (whole_run / name).read_bytes(), name


def test_a_run_that_has_only_begun(run_copy, pynas):
    for name in ("scores", "search.json", "subnet.safetensors", "costs.npz", "feature_maps.npz"):
        path = run_copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    content = pynas("report", run_copy, "--json")
    assert content["sections"] == ["Training", "Repeat it"]
    document = (run_copy / "report.html").read_text(encoding="utf-8")
    assert f"pynas rate --run {run_copy}" in document and f"pynas search {run_copy}" in document


def test_every_setting_is_in_the_command():
    settings = Settings(
        space="mbconv-dna", taps=["a", "b"], pretrained=False, image_size=64, options={"a": None, "b": [1]}
    )
    words = shlex.split(commands.train_command(settings, "x y"))
    assert words[:4] == ["pynas", "train", "--run", "x y"]
    pairs = dict(itertools.pairwise(words))
    assert pairs["--taps"] == "a,b" and "--no-pretrained" in words and pairs["--image-size"] == "64"
    assert "a=null" in words and "b=[1]" in words and words.count("--option") == 2
    assert pairs["--space"] == "mbconv-dna" and pairs["--seed"] == "0"


def test_search_commands_name_every_wish():
    content = {"limits": {"madds": 1.5e6, "energy": 3.0}, "at_least": {"params": 10}, "top_k": 7, "join": "product",
               "weights": [1, 0.5], "front": {"cost": "params"}}  # fmt: skip
    line = commands.search_command(content, "r")
    for part in ("--limit madds=1500000.0", "--limit energy=3.0", "--at-least params=10", "--top-k 7", "--join product",
                 "--weights 1,0.5", "--front params", "--costs THE-FILE-WITH-energy.csv"):  # fmt: skip
        assert part in line


@pytest.mark.parametrize(
    "text, rule",
    [
        ("architecture,accuracy\n0|00|00|00,80\n", "at least three"),
        ("network,accuracy\nx,80\n", "columns architecture and accuracy"),
        ("architecture,accuracy\n0|00|00|00,good\n", "finite number as accuracy, got 'good' in line 2"),
        ("architecture,accuracy\n0|00,80\n", "4 blocks.* in line 2"),
        ("architecture,accuracy\n0|00|00|00,80\n0:0|00|00|00,81\n", "each architecture once, got .* line 3"),
        (None, "CSV"),
    ],
)
def test_bad_truth_is_refused(tmp_path, text, rule):
    path = tmp_path / "truth.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rule):
        read_truth(path, get("mbconv-mini"))


PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const size = svg => { const box = svg.getBoundingClientRect(); return Math.round(box.width) + "x" + Math.round(box.height) };
  const wide = [...document.querySelectorAll(".js-plotly-plot")].filter(plot =>
    Math.abs(plot.querySelector(".main-svg").getBoundingClientRect().width - plot.getBoundingClientRect().width) > 1);
  document.title = [...document.querySelectorAll("figure > svg")].map(size).join(" ") + " | " +
    document.documentElement.scrollWidth + " of " + window.innerWidth + " | " + getComputedStyle(document.body).color +
    " | " + document.querySelectorAll("figure svg text").length + " | " +
    document.querySelectorAll(".js-plotly-plot").length + " charts, badly wide: " + wide.length + " | " +
    getComputedStyle(document.querySelector(".js-plotly-plot text")).fill;
}, 500));
</script>"""


def browse(path, width, *options):
    """The page's title after a real browser has drawn it, and what it had to complain about."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
               "--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=8000", f"--user-data-dir={path.parent / 'profile'}",
               f"--window-size={width},900", *options, path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return re.search(r"<title>(.*?)</title>", done.stdout)[1], [
        # Without a GPU the browser itself talks of how it draws WebGL.
        line
        for line in done.stderr.splitlines()
        if "CONSOLE" in line and "GL Driver Message" not in line
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width, dark", [(1200, False), (1200, True), (500, False)])
def test_in_a_browser(report, tmp_path, width, dark):
    path = tmp_path / "page.html"
    path.write_text(report[0].read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    title, complaints = browse(path, width, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
    assert complaints == []
    sizes, widths, colour, letters, drawn, of_charts = title.split(" | ")
    boxes = [tuple(map(int, size.split("x"))) for size in sizes.split()]
    assert len(boxes) == 7 and all(w >= 250 and h >= 120 for w, h in boxes)
    assert drawn == "4 charts, badly wide: 0" and of_charts == colour
    # Nothing sticks out to the side, on a narrow screen either.
    inner, outer = map(int, widths.split(" of "))
    assert inner <= outer <= width
    assert colour == ("rgb(231, 231, 234)" if dark else "rgb(28, 29, 33)") and int(letters) > 50


FILTER = """<script>
addEventListener("load", async () => {
  await Plotly.restyle("filter", {"dimensions[1].constraintrange": [[LEAST, MOST]]});
  document.title = document.getElementById("filter-left").textContent;
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_filters_leave_what_is_within(report, tmp_path):
    path, document = tmp_path / "page.html", report[0].read_text(encoding="utf-8")
    (data,), _ = charts(document)["filter"]
    scores, params = (numbers(axis["values"]) for axis in data["dimensions"][:2])
    names = re.search(r'data-names="(.*?)"', document)[1]
    least, most = np.quantile(params, [0.4, 0.6])
    probe = FILTER.replace("LEAST", str(least)).replace("MOST", str(most))
    path.write_text(document.replace("</body>", probe + "</body>"), encoding="utf-8")
    title, complaints = browse(path, 900)
    kept = [n for n, value in enumerate(params) if least <= value <= most]
    best = [json.loads(html.unescape(names))[n] for n in sorted(kept, key=lambda n: scores[n])[:5]]
    assert complaints == [] and title.startswith(f"{len(kept)} left; of least score: ")
    assert re.findall(r"(\S+) \(", title) == best


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_browser_test_hears_complaints(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<title>x</title><script>console.error('no'); missing()</script>", encoding="utf-8")
    assert len(browse(path, 800)[1]) == 2
