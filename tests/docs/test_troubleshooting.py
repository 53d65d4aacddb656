"""The messages that the page of troubleshooting explains stand in the source, word by word."""

import ast
import re

import pytest
from pages import DOCS, ROOT

PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.*)$", PAGE, re.M)
ENTRIES = dict(zip(HEADINGS, re.split(r"^### .*$", PAGE, flags=re.M)[1:]))


def texts(path):
    """Every text in a module's code, joined where it stands on several lines; {} for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


MESSAGES = [text for path in sorted((ROOT / "pynas").rglob("*.py")) for text in texts(path)]


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_words_of_a_heading_are_a_message_of_pynas(heading):
    """And what is quoted as a further message in the entry is one too."""
    quoted = re.findall(r"says? `([^`]+)`", ENTRIES[heading])
    for words in [heading, *quoted]:
        assert any(words in message for message in MESSAGES), words


@pytest.mark.parametrize("heading", HEADINGS)
def test_an_entry_is_two_or_three_lines(heading):
    entry = ENTRIES[heading].split("\n## ")[0].strip()
    assert 1 <= len(entry.splitlines()) <= 3


def test_other_words_are_no_message():
    assert not any("expected a trained supernet, found no" in message for message in MESSAGES)


def test_the_way_to_a_check_of_everything_comes_first_and_headings_are_different():
    assert "`pynas doctor --fix-hints`" in PAGE.split("\n## ")[0]
    assert len(set(HEADINGS)) == len(HEADINGS) >= 25


def test_cmakes_own_message_is_in_its_file():
    words = re.search(r"\*\*(PYNAS_CUDA=1, but [^*]*)\*\*", PAGE)[1]
    assert words in (ROOT / "cmake" / "cuda.cmake").read_text(encoding="utf-8")
