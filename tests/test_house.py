"""The rooms of the house: no arrow up, no circle of files, lazy imports and modules that are named as text included."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import grimp
import pytest
from importlinter import cli as importlinter

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PUBLIC = ("palate",)  # whose names are loaded when they are first used, from every room


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """The imports of the package, with an edge for each module whose name stands somewhere as text."""
    graph = grimp.build_graph("palate", cache_dir=None)
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for named in re.findall(r"""["'](palate(?:\.\w+)+)""", path.read_text(encoding="utf-8")):
            if module not in PUBLIC and named in graph.modules and named != module:
                graph.add_import(importer=module, imported=named)
    return graph


def floors() -> dict[str, int]:
    """Room -> floor, 0 at the ground, as pyproject.toml has them."""
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return {room: floor for floor, rooms in enumerate(reversed(layers)) for room in rooms.split(" | ")}


def room_of(module: str) -> str:
    return (module.split(".") + ["__main__"])[1]


def test_the_contracts_hold(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert importlinter.lint_imports(no_cache=True, is_debug_mode=False) == 0, capsys.readouterr().out


def test_no_module_named_as_text_is_of_a_later_room(graph):
    floor = floors()
    up = [
        f"{importer} -> {imported}"
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
        if room_of(importer) != room_of(imported)
        and room_of(importer) != "__main__"
        and floor[room_of(importer)] <= floor[room_of(imported)]
    ]
    assert up == []


def test_no_circle_of_files_with_modules_named_as_text(graph):
    waiting = {m: set(graph.find_modules_directly_imported_by(m)) - set(PUBLIC) for m in graph.modules}
    while free := {module for module, needs in waiting.items() if not needs}:
        waiting = {module: needs - free for module, needs in waiting.items() if module not in free}
    assert waiting == {}, "these import one another, or what does"


def test_the_types_hold():
    """Strictly, as `make lint` checks them; rooms that are still to come are named in pyproject.toml."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for library in ("mypy", "numpy", "torch", "peft", "pillow", "SQLAlchemy"):
        if version(library).split("+")[0] != pinned[library]:
            pytest.skip(f"types are those of {library} {pinned[library]}, and {version(library)} is installed")
    checked = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_room_says_what_it_holds():
    for init in SOURCE.rglob("__init__.py"):
        assert init.read_text(encoding="utf-8").startswith('"""'), init


def test_no_file_above_400_lines_and_no_line_of_code_above_120_columns():
    """Lines that ruff's formatter leaves long because they are one text, or stand in a table, count too."""
    for path in sorted(SOURCE.rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400, path
        long = [number for number, line in enumerate(lines, 1) if len(line) > 120]
        assert not long, f"{path}: lines {long}"
