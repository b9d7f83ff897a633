"""`import palate`: every verb of the command line is there, quick to load, shown to editors, and lenient in what it takes."""

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import palate
from palate.cli import VERBS
from palate.command import command_line, given_command, said_as
from palate.data.samples import Sampling
from palate.verbs.given import names

ROOT = Path(palate.__file__).parent
FACE = {verb: "import_pairs" if verb == "import" else verb for verb in VERBS}
RECORDS = {"ImportReport", "Exported", "Simulated", "Annotated", "Findings", "Method", "Mine", "Run", "Samples", "Scored", "Comparison", "Contest", "Sending", "Page"}  # fmt: skip
IN_ORDER = "import_pairs info label votes annotate audit methods encode train sample score compare report export push demo".split()
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


def test_the_page_runs_from_votes_to_a_report(tmp_path, monkeypatch):
    """docs/python.md, block after block, as one reads it."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT.parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    seen: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(compile(block, "docs/python.md", "exec"), seen)
    assert (seen["counts"].pairs_added, seen["counts"].votes_added) == (48, 96)
    assert seen["done"].report.votes == 48 and seen["done"].calibration.after.n == 48
    assert seen["findings"].pairs == 48 and Path("audit.html").is_file()
    assert len(seen["run"].metrics) == 4 and seen["run"].path == Path("runs/dedpo")
    assert yaml.safe_load(Path("runs/dedpo/config.yaml").read_text())["dataset"] == "prefs"
    assert seen["samples"].images().shape == (12, 64, 64, 3)
    assert {Path(one.samples.folder).name for one in palate.score("runs/dedpo", "world")} == {"samples", "base-samples"}
    assert seen["comparison"].rows[0].win.n == 12 and json.loads(Path("runs/dedpo/compare.json").read_text())["scorers"]
    assert seen["page"] == Path("runs/dedpo/report.html") and seen["page"].is_file()
    assert Path("runs/dedpo/model/README.md").is_file() and seen["weights"].suffix == ".safetensors"
    finished = seen["run"].metrics
    assert palate.train("runs/dedpo/config.yaml", output_dir=Path("runs/dedpo")).metrics == finished


def test_the_page_lists_every_verb():
    page = (ROOT.parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `palate\.(\w+)` \|", page, re.M) == IN_ORDER
    assert set(IN_ORDER) == set(FACE.values()) and set(re.findall(r"\b[A-Z]\w+", page)) >= RECORDS


def test_one_prompt_as_text_makes_one_picture_and_one_name_is_enough(pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = Sampling(steps=2, guidance=2.0)
    samples = palate.sample(str(pipeline_folder), "a red circle", "a", quick)
    assert (
        samples.prompts == ["a red circle"] and samples.paths == [Path("a/000000.png")] and samples.paths[0].is_file()
    )
    assert "prompts: 1 from a list" in capsys.readouterr().out
    (scored,) = palate.score("a", "brightness")  # letter by letter, "a" and "brightness" would be many
    assert list(scored.means) == ["brightness"]
    (again,) = palate.score([samples], ["brightness"], settings={})
    assert again.means["brightness"][0] == scored.means["brightness"][0]
    other = palate.sample(pipeline_folder, ["a red circle"], Path("b"), Sampling(steps=3, guidance=2.0, seed=1))
    with pytest.raises(palate.PalateError, match="not sampled alike"):
        palate.compare("a", other)
    with pytest.raises(palate.PalateError, match="prompts.txt"):
        palate.sample(pipeline_folder, "prompts.txt", "c", quick)  # a file that is missing is no prompt
    Path("suite.txt").write_text("a blue square\na red circle\n")
    assert len(palate.sample(pipeline_folder, "suite.txt", "d", quick, limit=1).prompts) == 1
    with pytest.raises(palate.PalateError, match="about a file of prompts"):
        palate.sample(pipeline_folder, "a red circle", "e", quick, limit=1)
    with pytest.raises(palate.PalateError, match="no prompts"):
        palate.sample(pipeline_folder, [], "f", quick)


def test_a_comparison_is_stored_where_it_was_made_and_votes_and_scorers_are_two(pipeline_folder, tmp_path):
    a, b = (palate.sample(pipeline_folder, "a cat", tmp_path / name, Sampling(steps=2, guidance=2.0)) for name in "ab")
    palate.compare(a, b, scorer="brightness", out=str(tmp_path / "kept.json"))
    assert (tmp_path / "kept.json").is_file() and not (tmp_path / "a" / "compare.json").exists()
    palate.compare(str(tmp_path / "a"), b.folder, scorer=["brightness"])
    assert (tmp_path / "a" / "compare.json").is_file()
    for wrong, words in (
        ({"votes": tmp_path, "scorer": "brightness"}, "two comparisons"),
        ({"judge": "clip"}, "give that dataset"),
        ({"limit": 3}, "about --prompts"),
    ):
        with pytest.raises(palate.PalateError, match=words):
            palate.compare(a, b, **wrong)


def test_people_are_one_text_or_several():
    assert names("ana") == ("ana",) and names(["ana", "bo"]) == ("ana", "bo") and names("") == ()
    assert names("ana, bo,chen", split=True) == ("ana", "bo", "chen") and names("ana,bo") == ("ana,bo",)


def test_the_votes_of_the_page_are_exported_and_an_action_that_is_none_is_refused(dataset):
    with pytest.raises(palate.PalateError, match="'exprot' is not one of export, import, simulate"):
        palate.votes("exprot", dataset)
    with pytest.raises(palate.PalateError, match="no votes of people yet"):
        palate.votes("export", dataset)
    file = dataset.path / "tasks.json"
    assert palate.votes("export", str(dataset.path), label_studio=str(file))["tasks"] == len(
        json.loads(file.read_text())
    )
    assert palate.votes("import", dataset, label_studio=file)["added"] == 0


def test_a_missing_extra_is_one_line_when_the_verb_is_called_and_not_before(dataset, monkeypatch):
    monkeypatch.setitem(sys.modules, "palate.web.serve", None)
    with pytest.raises(palate.PalateError, match=r"pip install 'palate\[web\]'"):
        palate.label(dataset)


def test_a_run_is_a_judge_without_the_loader_of_other_judges(dataset, tmp_path):
    with pytest.raises(palate.PalateError, match="not a finished run"):
        palate.annotate(dataset, f"self:{tmp_path}")


def test_a_stored_command_is_the_one_of_its_block():
    own = command_line()
    with said_as(["palate", "score", "a b"]):
        assert command_line() == given_command() == "palate score 'a b'"
        with said_as("palate train x.yaml"):
            assert command_line() == "palate train x.yaml"
        assert command_line() == "palate score 'a b'"
    assert command_line() == own and given_command() is None
