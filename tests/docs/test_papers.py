"""The page of the papers' tables and figures: it names all of them, and its commands start."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pynas import runs, tabular
from pynas.cli import app, options
from pynas.runs import finetune, isomers, retrain, select
from pynas.runs.folders import options_of, wanted_settings
from pynas.runs.recipes import recipe_of
from pynas.runs.request import Request
from pynas.runs.robustness import variants
from pynas.runs.scale import compound_scaling
from pynas.spaces import get
from pynas.spaces.networks import published

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "papers.md").read_text(encoding="utf-8")
# Tables and figures of each paper, counted in its text; BossNAS's with its supplement (table 6, figures 8 to 10).
COUNTS = {"BossNAS": (6, 10), "Pi-NAS": (7, 5), "DNA family": (15, 13), "PreNAS": (9, 6)}
COMMANDS = get_command(app).commands
LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
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


def test_rows_have_six_cells_and_letters_stand_for_commands():
    for paper in COUNTS:
        letters = set(re.findall(r"^# ([A-Z]):", section(paper), re.M))
        for row in re.findall(r"^\| (?:Table|Figure)s? .*$", section(paper), re.M):
            cells = row.strip("|").split("|")
            assert len(cells) == 6 and all(cell == " " or cell.strip() for cell in cells), row
            assert set(re.findall(r"\b([A-Z])\b(?!\+)", re.sub(r"`[^`]*`|table \w+|\(C4\)|-[A-Z]\b|, R\b|\b[A-Z]-", "", cells[2]))) <= letters, row  # fmt: skip


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
            name: given[name] for name in ("recipe", "phi", "epochs", "batch_size", "distill", "image_size", "test_size")
        },
        distill_kind=given["kind"],
    ),
    "finetune": lambda given: finetune.Request(data=given["data"], image_size=given["image_size"]),
    "scale": lambda given: [compound_scaling(phi) for phi in given["phi"]],
    "correlate": lambda given: [tabular.load(name, given["data"]) for name in [given["bench"]] if name],
    "stability": lambda given: Request(options.limits(madds=given["max_madds"], params=given["max_params"])),
    "robustness": lambda given: [
        wanted_settings(None, options.settings(given)),
        variants(0, given["seeds"], [float(part) for part in given["fractions"].split(",")]),
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
    if given.get("architecture"):
        assert published(given["architecture"], origin["space"]) != given["architecture"]
    if name == "correlate":
        assert runs.correlate.bench_of(get(origin["space"])).name == (given["bench"] or tabular.load(
            runs.correlate.bench_of(get(origin["space"])).name).name)  # fmt: skip
    if name == "stability":
        assert origin["keep_epochs"]
