"""Python of the tabs runs, on a small run in the place of the pages' `runs/dna`; other tabs are checked in test_docs.py."""

import re

import pytest
from pages import DOCS, blocks

from pynas import runs

# What the small space and this machine lack, and what they have instead.
INSTEAD = {
    'data="cifar10.npz"': 'data="digits", limit_images=100, device="cpu"',
    "epochs=20": "epochs=1",
    "00|2:1031|2:3020|000|0000|0": "0|00|00|00",
    "3M..4M": "200k..400k",
    '"params": "==3821992"': '"params": "100k.."',
    "300M+-5%": "16M+-10%",
    "60% of teacher": "90%",
    "kernel=7": "kernel=3",
    "MB6 k7": "MB6 k3",
    "block 5": "block 3",
    "224, 224": "32, 32",
    "160, 160": "16, 16",
    '"cuda"': '"cpu"',
    "ms": "0ms",
}
PLACES = [("command-line.md", heading) for heading in (
    "The stages", "Limits", "Several workloads at once", "Fixing and forbidding choices",
    "Different architectures, not the same one with small changes", "What a limit costs",
    "Why this network, and not another one", "Zero-cost proxies",
)] + [("after-the-search.md", "A network that loads without pynas"), ("after-the-search.md", "On a hub")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run of one epoch on a few images, `runs/dna`."""
    folder = tmp_path_factory.mktemp("tabs")
    options = {"method": "dna", "space": "mbconv-mini", "data": "digits", "limit_images": 150, "epochs": 1}
    run = runs.create(folder / "runs" / "dna", device="cpu", **options)
    run.train()
    run.rate()
    run.search({"madds": "60%"})
    run.export()
    return folder


def programs(page, heading):
    """Return the programs under a heading, with the small space's values."""
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for theirs, ours in INSTEAD.items():
        text = re.sub(r"(?<=\d)ms\b", ours, text) if theirs == "ms" else text.replace(theirs, ours)
    return blocks(text, "python")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "heading"), PLACES, ids=lambda text: text)
def test_a_program_in_a_tab_runs(page, heading, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = {path for path in folder.rglob("*") if path.is_file()}
    for source in programs(page, heading):
        exec(compile(source, f"{page}, {heading}", "exec"), {"__name__": "tab"})
    if page == "after-the-search.md":
        assert {path for path in folder.rglob("*") if path.is_file()} > before


def test_the_programs_are_those_of_tabs():
    for page, heading in PLACES:
        text = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
        assert text.lstrip().startswith('=== "Command line"')
