"""Code of Markdown pages, also where it stands indented in a tab; and whether a program's names and arguments exist."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.S | re.M)


def blocks(page, language):
    """Return the fenced blocks of a language, without the indentation of their tab; page: a path, or a page's text."""
    text = page if isinstance(page, str) else page.read_text(encoding="utf-8")
    return [textwrap.dedent(code) for _, name, code in _FENCED.findall(text) if name == language]


class _Names(ast.NodeVisitor):
    """Follows what is imported, and `run`, a `pynas.runs.Run`, and binds the arguments of every call of pynas."""

    def __init__(self):
        self.known, self.calls = {}, 0

    def visit_Import(self, node):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.known[alias.asname or top] = importlib.import_module(alias.name if alias.asname else top)

    def visit_ImportFrom(self, node):
        for alias in node.names:
            owner = importlib.import_module(node.module)
            found = getattr(owner, alias.name, None)
            self.known[alias.asname or alias.name] = (
                importlib.import_module(f"{node.module}.{alias.name}") if found is None else found
            )

    def visit_Assign(self, node):
        self.generic_visit(node)
        made = self._value(node.value.func) if isinstance(node.value, ast.Call) else None
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.known.pop(target.id, None)
                if getattr(made, "__module__", "") == "pynas.runs.folders":
                    self.known[target.id] = importlib.import_module("pynas").runs.Run

    def visit_Attribute(self, node):
        self.generic_visit(node)
        self._value(node)

    def visit_Call(self, node):
        self.generic_visit(node)
        called = self._value(node.func)
        if not getattr(called, "__module__", "").startswith("pynas") or not callable(called):
            return
        given = [None] * len(node.args), {each.arg: None for each in node.keywords}
        if None in given[1] or any(isinstance(each, ast.Starred) for each in node.args):
            return
        of_run = [None] if inspect.isfunction(called) and called.__qualname__.startswith("Run.") else []
        try:
            inspect.signature(called).bind(*of_run, *given[0], **given[1])
        except TypeError as error:
            raise TypeError(f"{ast.unparse(node)}: {error}") from None
        self._check_rest(called, given[1])
        self.calls += 1

    def _check_rest(self, called, given):
        """Arguments that a function only passes on."""
        from pynas import runs

        fields = {"create": runs.Settings.model_fields, "Run.search": runs.Request.__dataclass_fields__}
        allowed = fields.get(getattr(called, "__qualname__", ""))
        own = inspect.signature(called).parameters
        assert allowed is None or {*given} <= {*allowed, *own}, (called, given)

    def _value(self, node):
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if not isinstance(node, ast.Attribute):
            return None
        owner = self._value(node.value)
        if inspect.ismodule(owner) and owner.__name__.startswith("pynas"):
            return getattr(owner, node.attr)
        return inspect.getattr_static(owner, node.attr, None) if inspect.isclass(owner) else None


def check_program(source):
    """Check that a program parses, that its imports and names of pynas exist, and that its calls of pynas have such arguments.

    Returns the number of calls that were checked.
    """
    names = _Names()
    names.visit(ast.parse(source))
    return names.calls
