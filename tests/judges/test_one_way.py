"""Data goes one way: judges know nothing of what comes after them."""

import ast
from pathlib import Path

import pytest

import palate

JUDGES = sorted((Path(palate.__file__).parent / "judges").glob("*.py"))
LATER = {"audit", "training", "evaluation", "report", "web", "cli"}


def imports(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("file", JUDGES, ids=lambda file: file.name)
def test_a_judge_imports_nothing_later_in_the_line(file):
    rooms = {name.split(".")[1] for name in imports(file) if name.startswith("palate.")}
    assert not rooms & LATER
