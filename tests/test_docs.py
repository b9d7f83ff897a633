"""The pages say what the code does: keys, options, names, numbers, links and tests that they mention exist."""

import ast
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

import palate
from palate.cli import VERBS
from palate.cli.options import parse
from palate.training.config import LoraOptions, TrainConfig, load_config
from palate.training.metrics import PairReadings, summarise
from palate.world.voters import VOTERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]}  # fmt: skip
REQUIRED = {"pretrained_model_name_or_path": "world", "dataset": "prefs", "output_dir": "runs/one"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def blocks(page: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(PAGES[page]) if language in languages]


def prose(page: str) -> str:
    return FENCE.sub("", PAGES[page])


def every(*languages: str) -> list:
    return [
        pytest.param(body, id=f"{page}-{number}")
        for page in PAGES
        for number, body in enumerate(blocks(page, *languages))
    ]


def commands(page: str) -> list[str]:
    lines = "\n".join(blocks(page, "", "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    shown = [line.removeprefix("$ ").strip() for line in lines]
    return [line for line in shown if re.match(r"palate\s", line)]


def options_of(verb: str) -> type:
    return TrainConfig if verb == "train" else importlib.import_module(f"palate.cli.{VERBS[verb][0]}").Options


@pytest.mark.parametrize("text", every("yaml", "yml"))
def test_every_yaml_block_is_a_configuration(text):
    given = yaml.safe_load(text)
    config = load_config({**REQUIRED, **given})
    numbers = {key: value for key, value in given.items() if isinstance(value, int | float)}
    assert {key: getattr(config, key) for key in numbers} == numbers


def test_pages_that_need_a_configuration_show_one():
    assert all(blocks(page, "yaml") for page in ("README.md", "docs/labels.md", "docs/objective.md", "docs/train.md"))


@pytest.mark.parametrize("command", sorted({line for page in PAGES for line in commands(page)}))
def test_every_command_shown_can_be_parsed(command):
    _, verb, *arguments = shlex.split(command, comments=True)
    assert verb in VERBS
    if verb == "train":
        assert arguments and arguments[0].endswith(".yaml")
        rest = [argument for argument in arguments[1:] if argument != "--dry-run"]
        parse(TrainConfig, rest, verb, "", default=load_config(REQUIRED))
    else:
        parse(options_of(verb), arguments, verb, "")


def test_every_verb_has_a_page_with_a_command():
    assert all(any(line.split()[1] == verb for line in commands(f"docs/{verb}.md")) for verb in VERBS)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_in_the_text_exist(page):
    for command in re.findall(r"`palate ([a-z]+)[^`]*`", prose(page)):
        assert command in VERBS
    own = Path(page).stem
    known = {f.name for verb in VERBS for f in fields(options_of(verb))}
    known |= {f"lora.{f.name}" for f in fields(LoraOptions)} | {"help", "dry_run", "version"}
    if own in VERBS:
        known = {f.name for f in fields(options_of(own))} | {n for n in known if own == "train" or n == "help"}
    for option in re.findall(r"`--([a-z][\w.-]*)[^`]*`", prose(page)):
        if (own, option) not in {("world", "vae-steps"), ("world", "unet-steps"), ("demo", "quick")}:
            assert option.replace("-", "_") in known, option


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / page
        assert file.is_relative_to(ROOT) and file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target
    for path in re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./-]+)`", prose(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_every_test_named_exists_where_it_is_said_to_be(page):
    for name, target in re.findall(r"\[`(test_\w+)`\]\(([^)\s]+)\)", prose(page)):
        source = ((ROOT / page).parent / target).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.M), f"{name} is not in {target}"
    linked = set(re.findall(r"\[`(test_\w+)`\]\(", prose(page)))
    assert set(re.findall(r"`(test_\w+)`", prose(page))) == linked  # one without a link would not be checked


def test_the_tables_of_evidence_are_not_empty():
    assert all(len(re.findall(r"\[`test_\w+`\]\(", PAGES[page])) >= 8 for page in ("README.md", "docs/methods.md"))


def names_in(module: str) -> set[str]:
    """What a module of palate defines or imports at its top, from its source: importing some of them takes seconds."""
    path = ROOT / "src" / module.replace(".", "/")
    source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    found = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        found |= {getattr(node, "name", None)} | {alias.asname or alias.name for alias in getattr(node, "names", [])}
        found |= {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("text", every("python", "py"))
def test_python_blocks_name_what_exists(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "palate":
            assert {alias.name for alias in node.names} <= names_in(node.module)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "palate":
            assert node.attr in palate.__all__


def rows(page: str, *header: str) -> list[list[str]]:
    """The cells of the table with these first column names."""
    lines = prose(page).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {' | '.join(header)} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table


def test_the_table_of_keys_has_their_defaults():
    by_name = {f.name: f for f in fields(TrainConfig)}
    for key, default, _ in rows("docs/train.md", "key", "default"):
        expected, told = by_name[key.strip("`")].default, default.strip("`")
        if isinstance(expected, float):
            assert float(told) == expected, key
        else:
            assert told == ("none" if expected is None else str(expected).lower()), key


def test_the_table_of_sampling_options_has_their_defaults():
    by_name = {f.name: f.default for f in fields(options_of("sample"))}
    for option, default, _ in rows("docs/sample.md", "option", "default"):
        assert str(by_name[option.strip("`").removeprefix("--").replace("-", "_")]) == default


def test_the_table_of_metrics_is_what_a_step_logs():
    column = torch.tensor([0.5, -0.5])
    readings = PairReadings(logit=column, target=torch.tensor([1.0, 0.0]), gain_0=column, gain_1=column, loss=column, scale=column, weight=column,
                            timestep=torch.tensor([0, 999]), labelled=torch.tensor([True, False]))  # fmt: skip
    logged = {name for name in summarise(readings, 1.0, 1000, "JUDGE")}
    plain = {name for name in logged if not name.startswith("by_")} | {"loss", "learning_rate", "gradient_norm"}
    assert {cells[0].strip("`") for cells in rows("docs/objective.md", "name", "meaning")} == plain
    for example in re.findall(r"`(by_\w+/[\w-]+/)…`", PAGES["docs/objective.md"]):
        assert any(name.startswith(example) for name in logged), example


def test_the_table_of_voters_has_their_constants():
    told = {cells[0].strip("`"): cells[1:] for cells in rows("docs/world.md", "voter", "source")}
    names = ("fidelity", "centring", "brightness", "temperature", "noise")
    assert told.keys() == VOTERS.keys()
    for name, (source, *numbers) in told.items():
        assert source == VOTERS[name].source
        assert [float(number) for number in numbers] == [getattr(VOTERS[name], attribute) for attribute in names]


def test_no_page_names_a_place_on_somebodys_machine():
    pattern = r"/(?:work|home|Users|root|tmp)/"
    assert not [page for page, text in PAGES.items() if re.search(pattern, text) or "@@" in text]
