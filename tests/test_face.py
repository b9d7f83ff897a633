"""`import palate`: every verb of the command line is there, quick to load, shown to editors, and lenient in what it takes."""

import ast
import inspect
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import palate
from palate.cli import VERBS
from palate.data.samples import Sampling

ROOT = Path(palate.__file__).parent
FACE = {verb: "import_pairs" if verb == "import" else verb for verb in VERBS}
PRINTING = {"json", "prompt_price", "completion_price"}  # options that say how to print


def test_importing_it_loads_nothing_heavy_and_every_verb_is_found_without_torch():
    script = (
        "import sys, palate; quick = set(sys.modules); [getattr(palate, verb) for verb in sys.argv[1:]];"
        "heavy = {'torch', 'numpy', 'pyarrow', 'yaml', 'rich', 'tyro'};"
        "assert not heavy & quick, heavy & quick; assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *FACE.values()], check=True, timeout=120)


def test_everything_is_shown_and_is_what_it_says():
    assert set(FACE.values()) <= set(palate.__all__) <= set(dir(palate))
    for name in palate.__all__:
        assert getattr(palate, name) is not None
    assert not [name for name in palate.__all__ if inspect.ismodule(getattr(palate, name))]
    with pytest.raises(AttributeError, match="no attribute 'import_'"):
        palate.import_  # noqa: B018


def test_type_checkers_see_the_names_that_the_running_program_has():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == palate._HOMES and set(palate.__all__) == {*seen, "__version__"}
    assert all(hasattr(import_module(home), name) for name, home in seen.items())
    assert (ROOT / "py.typed").is_file()


def test_no_name_is_a_module_s_so_that_importing_a_room_never_hides_a_verb():
    modules = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert not modules & (set(palate.__all__) | set(VERBS))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("train", "encode")])
def test_a_verb_takes_what_its_command_takes_with_the_same_defaults(verb):
    options = {field.name: field for field in fields(import_module(f"palate.cli.{VERBS[verb][0]}").Options)}
    takes = inspect.signature(getattr(palate, FACE[verb])).parameters
    expected = set(options) - PRINTING
    if "set" in expected:  # of key=value on the command line, a mapping here
        expected = expected - {"set"} | {"settings"}
    if "sampling" in takes:
        expected -= {field.name for field in fields(Sampling)}
    assert expected <= set(takes), expected - set(takes)
    for name in expected & set(options):
        field, parameter = options[name], takes[name]
        if isinstance(field.default, bool | int | float) or (isinstance(field.default, str) and field.default):
            assert parameter.default == field.default, name
    assert "command" not in takes and getattr(palate, FACE[verb]).__doc__


def test_what_has_a_default_on_the_command_line_is_optional_here():
    for verb, needed in {"sample": ["model", "prompts"], "train": [], "score": ["models", "scorer"], "demo": [],
                         "annotate": ["dataset", "judge"], "import": ["format", "to"], "methods": []}.items():  # fmt: skip
        takes = inspect.signature(getattr(palate, FACE[verb])).parameters.values()
        kinds = (inspect.Parameter.VAR_KEYWORD,)
        assert [p.name for p in takes if p.default is p.empty and p.kind not in kinds] == needed, verb
