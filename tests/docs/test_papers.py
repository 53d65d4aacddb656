"""The page of the papers' tables and figures: it names all of them, and its commands start."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from pages import DOCS, blocks
from typer.main import get_command
from typer.testing import CliRunner

from pynas import tabular
from pynas.cli import app, options
from pynas.runs import finetune, isomers, retrain, select
from pynas.runs.correlate import bench_of
from pynas.runs.folders import options_of, wanted_settings
from pynas.runs.recipes import recipe_of
from pynas.runs.request import Request
from pynas.runs.robustness import seeds_of, variants
from pynas.runs.scale import compound_scaling
from pynas.spaces import get, network
from pynas.spaces.networks import published

PAGE = (DOCS / "papers.md").read_text(encoding="utf-8")
# Tables and figures of each paper, counted in its text; BossNAS's with its supplement (table 6, figures 8 to 10).
COUNTS = {"BossNAS": (6, 10), "Pi-NAS": (7, 5), "DNA family": (15, 13), "PreNAS": (9, 6)}
COMMANDS = get_command(app).commands
LINES = [
    line.split("#")[0].strip()
    for block in blocks(PAGE, "sh")
    for line in block.splitlines()
    if line.startswith("pynas ")
]
TRAININGS = [line for line in LINES if line.split()[1] in ("run", "train")]
OTHERS = [line for line in LINES if line not in TRAININGS]


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def arguments(line):
    """Return the command's name and its arguments by name, converted and checked as the command line does."""
    _, name, *words = shlex.split(line)
    return name, COMMANDS[name].make_context(name, words).params


@pytest.mark.parametrize("paper", COUNTS)
def test_every_table_and_figure_has_one_row_in_its_order(paper):
    for kind, count in zip(("Table", "Figure"), COUNTS[paper]):
        rows = re.findall(rf"^\| {kind}s? ([\d, ]+) \|", section(paper), re.M)
        assert [int(number) for row in rows for number in row.split(",")] == list(range(1, count + 1))


@pytest.mark.parametrize("paper", COUNTS)
def test_rows_have_six_cells_and_every_letter_is_used(paper):
    rows = re.findall(r"^\| (?:Table|Figure)s? .*$", section(paper), re.M)
    assert {len(row.strip("|").split("|")) for row in rows} == {6}
    used = " ".join(re.sub(r"`[^`]*`", "", row.split("|")[3]) for row in rows)
    assert set(re.findall(r"^# ([A-Z]):", section(paper), re.M)) <= set(re.findall(r"\b[A-Z]\b", used))


def test_links_into_the_results_lead_to_a_heading():
    headings = re.findall(r"^#+ (.*)$", (DOCS / "results.md").read_text(encoding="utf-8"), re.M)
    # As mkdocs names them: https://python-markdown.github.io/extensions/toc.
    anchors = {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())
        for heading in headings
    }
    linked = set(re.findall(r"\(results\.md#([^)]*)\)", PAGE))
    assert len(linked) > 5 and linked <= anchors


@pytest.mark.parametrize("line", TRAININGS)
def test_trainings_have_settings_that_their_method_takes(line):
    name, given = arguments(line)
    wanted = wanted_settings(None, options.settings(given))
    recipe, space = recipe_of(wanted.method, wanted.space), get(wanted.space)
    options_of(wanted).filled(wanted.recipe, wanted.options)
    # The whole page is about the papers' own settings.
    assert wanted.recipe.startswith("paper")
    if name == "run":
        limits = options.limits(madds=given["max_madds"], params=given["max_params"])
        Request(limits)
        recipe.defaults.check_rating(given["loss"], given["norm"])
    assert space.size > 1


# What each other command asks for, refused where it is wrong.
REQUESTS = {
    "search": lambda given: Request(options.limits(madds=given["max_madds"], params=given["max_params"])),
    "retrain": lambda given: retrain.Request(
        **{
            name: given[name]
            for name in ("recipe", "phi", "epochs", "batch_size", "distill", "image_size", "test_size")
        },
        distill_kind=given["kind"],
    ),
    "finetune": lambda given: finetune.Request(data=given["data"], image_size=given["image_size"]),
    "scale": lambda given: [compound_scaling(phi) for phi in given["phi"]],
    "correlate": lambda given: [tabular.load(name, given["data"]) for name in [given["bench"]] if name],
    "stability": lambda given: [
        Request(options.limits(madds=given["max_madds"], params=given["max_params"])),
        retrain.Request(recipe=given["retrain"], epochs=given["epochs"]),
    ],
    "benchmark": lambda given: [network(name) for name in given["architecture"]],  # of any space
    "robustness": lambda given: [
        wanted_settings(None, options.settings({**given, "method": "dna", "seeds": None})),
        variants(0, seeds_of(given["seeds"]), [float(part) for part in given["fractions"].split(",")]),
    ],
    "isomers": lambda given: isomers.case_of(
        get("autoformer-tiny"), "mlp", isomers.Isomers(dim=given["dim"], depth=given["depth"], sample=99), 0
    ),
    "select": lambda given: [
        get(given["space"]),
        select.Selection(interval=1e6, normaliser=given["normaliser"], cost=given["cost"]),
    ],
}


@pytest.mark.parametrize("line", OTHERS)
def test_other_commands_ask_for_what_there_is_of_a_run_on_the_page(line):
    made = {given["run"].as_posix(): given for name, given in map(arguments, TRAININGS) if given["run"]}
    made |= {given["run"].as_posix(): given for name, given in map(arguments, OTHERS) if name == "robustness"}
    name, given = arguments(line)
    REQUESTS[name](given)
    folder = given.get("run") if given.get("run") is not None else given.get("scores")
    if folder is None or name in ("select", "robustness") or str(folder) == "published":
        return
    origin = made["/".join(Path(folder).as_posix().split("/")[:2])]
    if given.get("architecture") and name != "benchmark":
        assert published(given["architecture"], origin["space"]) != given["architecture"]
    if name == "correlate":
        bench = bench_of(get(origin["space"]))
        assert bench is not None and given["bench"] in (None, bench.name)
    if name == "stability":
        assert origin["keep_epochs"]


# Not in BigNAS's space, where counting the costs alone takes a minute; tests/cli has its small space.
STARTED = [line for line in TRAININGS if "bignas-cnn" not in line]


def rehearsal(line):
    """Return the words of a dry run with the page's options on digits, as small as the supernet lets it be."""
    _, given = arguments(line)
    wanted = wanted_settings(None, options.settings(given))
    space = get(wanted.space)
    words = ["run", "--method", wanted.method, "--space", wanted.space, "--recipe", wanted.recipe, "--data", "digits"]
    words += ["--limit-images", "50", "--batch-size", "2", "--accumulate", "1", "--dry-run", "--json"]
    # Patches have one size, and the networks of CIFAR are small as they are.
    if space.image_size > 64 and space.kind not in ("autoformer", "vit"):
        words += ["--image-size", "64"]
    if given["teacher"]:
        words += ["--teacher", given["teacher"], "--no-pretrained"]
    if given["taps"]:
        words += ["--taps", given["taps"]]
    if wanted.method == "prenas":
        words += ["--option", "images=2"]
    return (*words, *(word for option in given["option"] or [] for word in ("--option", option)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is untrained", "ignore:.*collapsed")
@pytest.mark.parametrize("words", sorted(set(map(rehearsal, STARTED))), ids=" ".join)
def test_trainings_start(words):
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    content = json.loads(result.stdout)
    assert result.exit_code == 0 and content["seconds_per_step"] > 0 and content["supernet_parameters"] > 1e4


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folders of small finished runs: of DNA, with weights kept, and of PreNAS."""
    few = ["--data", "digits", "--limit-images", "60", "--epochs", "2", "--batch-size", "16"]
    isomers = ["--option", "sampling=autoformer", "--option", "images=2", "--option", "interval=150k"]
    made = {}
    for method, words in (("dna", ["--keep-epochs", "1"]), ("prenas", isomers)):
        made[method] = tmp_path_factory.mktemp("runs") / method
        CliRunner().invoke(app, ["run", "--method", method, *few, *words, "--run", str(made[method])])
    return made


# Smaller values of the other commands' arguments, None to leave them out, and the run that each takes.
SMALLER = {
    "--data": "digits", "--image-size": "32", "--test-size": "48", "--architecture": None, "--distill-kind": None,
    "--max-madds": "50%", "--dim": "64", "--depth": "4", "--interval": "150k", "--sample": "20", "--seeds": "2",
    "--fractions": "0.5,1", "--teacher": "small", "--spaces": "20",
}  # fmt: skip
MORE = {
    "retrain": ["--epochs", "1", "--batch-size", "60"],
    "stability": ["--epochs", "1", "--batch-size", "60"],
    "benchmark": ["--batch-size", "4", "--repeats", "1", "--architecture", "DNA-a", "--image-size", "32"],
    "finetune": ["--epochs", "1", "--batch-size", "1000"],
    "robustness": ["--epochs", "1", "--limit-images", "60", "--batch-size", "20"],
    "isomers": ["--sample", "20", "--images", "2"],
    "select": ["--images", "2"],
}
SPACES = {"robustness": "mbconv-mini", "select": "autoformer-mini"}


def smaller(line, folder):
    """Return the words of a command with small values, on the run in a folder."""
    _, name, *words = shlex.split(line)
    smaller = SMALLER | {"--run": str(folder), "--space": SPACES.get(name)}
    changed = [name]
    for before, word in zip(["", *words], words):
        if word in smaller:
            changed += [] if smaller[word] is None else [word, smaller[word]]
        elif before not in smaller:
            changed.append(str(folder) if word.startswith("runs/") else word)
    more = ["--images", "2"] if "--spaces" in words else MORE.get(name, [])
    return [*changed, *more]


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", {" ".join(smaller(line, "run")): line for line in OTHERS if line.split()[1] != "correlate"}.values()
)
def test_other_commands_run(line, finished, tmp_path):
    folder = tmp_path / "run"
    if line.split()[1] not in SPACES:
        shutil.copytree(finished["prenas" if "isomers" in line else "dna"], folder)
    result = CliRunner().invoke(app, smaller(line, folder), catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_published_scores_are_compared(tmp_path, monkeypatch):
    """The other lines of correlate need a run in a benchmark's space: tests/runs/test_stability.py has one."""
    monkeypatch.chdir(tmp_path)
    for line in (line for line in LINES if "--scores published" in line):
        result = CliRunner().invoke(app, [*shlex.split(line)[1:], "--resamples", "2"], catch_exceptions=False)
        assert result.exit_code == 0 and "0.5336" in result.output
