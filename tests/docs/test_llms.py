"""llms.txt has the form of llmstxt.org, lists every page of the site, and its links lead to pages."""

import re

import yaml
from pages import DOCS, ROOT

TEXT = (DOCS / "llms.txt").read_text(encoding="utf-8")
LINES = re.findall(r"^- \[([^\]]+)\]\(([^)]+)\): (\S.*)$", TEXT, re.M)


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whatever tags its plugins use."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def pages(entries):
    for entry in entries:
        (value,) = entry.values()
        yield from pages(value) if isinstance(value, list) else [value]


def sections(text):
    return re.findall(r"^## (.*)$", text, re.M)


def test_the_form():
    heading, rest = TEXT.split("\n\n", 1)
    assert heading == "# pynas" and rest.startswith("> ")
    assert sections(TEXT) == ["Getting started", "Guides", "Results", "Reference"]
    listed = [line for line in TEXT.split("\n## ", 1)[1].splitlines() if line and line not in sections(TEXT)]
    assert [line for line in listed if not line.startswith("## ")] == [
        f"- [{n}]({to}): {about}" for n, to, about in LINES
    ]


def test_every_page_of_the_site_is_listed_once_in_its_order_and_every_link_resolves():
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]
    linked = [to for _, to, _ in LINES]
    assert linked == list(pages(navigation))
    assert all((DOCS / to).is_file() for to in linked)
    assert [next(iter(entry)) for entry in navigation][1:] == sections(TEXT)


def test_every_page_there_is_has_its_place_in_the_navigation():
    assert {to for _, to, _ in LINES} == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
