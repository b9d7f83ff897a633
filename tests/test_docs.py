"""The pages say what the code does: keys, options, names, numbers, links and tests that they mention exist."""

import ast
import importlib
import re
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from families import FAMILIES

import palate
from palate.cli import VERBS
from palate.cli.keys import merged, parse_keys
from palate.cli.options import parse
from palate.errors import PalateError
from palate.objectives.links import LINK_PARAMETERS, LINKS, linear_in_label, make_link
from palate.objectives.losses import LOSSES, REFERENCE_FREE
from palate.presets import Method, methods, preset
from palate.run.config import LoraOptions, TrainConfig
from palate.run.load import load_config
from palate.training.readings import PairReadings, summarise
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
    return (
        TrainConfig if verb in ("train", "encode") else importlib.import_module(f"palate.cli.{VERBS[verb][0]}").Options
    )


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
    if options_of(verb) is TrainConfig:
        given = parse_keys(arguments, verb, "", "")
        assert (given.file is None) == (set(REQUIRED) - {"output_dir"} <= given.options.keys())
        load_config(merged(REQUIRED, given.options))
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
        known = {f.name for f in fields(options_of(own))} | {
            n for n in known if own in ("train", "encode") or n == "help"
        }
    for option in re.findall(r"`--([a-z][\w.-]*)[^`]*`", prose(page)):
        if (own, option) not in {("world", "vae-steps"), ("world", "unet-steps"), ("demo", "quick")}:
            assert option.removeprefix("no-").replace("-", "_") in known, option


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
    assert all(len(re.findall(r"\[`test_\w+`\]\(", PAGES[page])) >= 8 for page in ("docs/works.md", "docs/methods.md"))


def test_every_cell_of_the_table_of_models_is_a_test_and_every_family_is_there():
    """The column's test takes this family, with adapters and with all weights; those of two processes take both ways."""
    section = PAGES["docs/works.md"].split("## Models")[1].split("\n## ")[0]
    named = dict(re.findall(r"`(\w+)`(?: and `\w+`)?\s+\[`(test_\w+)`\]", section))
    named["FSDP2"] = named["DDP"]
    modules = [importlib.import_module(name) for name in ("backbones.test_every_family", "training.test_processes_families", "sharing.test_export_families")]  # fmt: skip
    taken = {}
    for column, name in named.items():
        marks = next(getattr(module, name) for module in modules if hasattr(module, name)).pytestmark
        taken[column] = {value for mark in marks for values in (*mark.args[1:2], mark.kwargs.get("ids", ())) for value in values if isinstance(value, str)}  # fmt: skip
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    (_, *columns), _, *rows = table
    families = {re.search(r"`(.+)`", name)[1]: cells for name, *cells in rows}
    assert families.keys() == FAMILIES.keys() and columns == ["train", "resume", "DDP", "FSDP2", "export"]
    for family, cells in families.items():
        for column, cell in zip(columns, cells, strict=True):
            assert cell == ("LoRA, full" if family in taken[column] else "–"), (family, column)
            assert {"lora", "full"} <= taken[column] and (
                column not in ("DDP", "FSDP2") or column.lower() in taken[column]
            )


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
    """The cells of every table with these first column names."""
    lines = prose(page).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(f"| {' | '.join(header)} |")]
    assert starts, f"{page} has no table {header}"
    table = []
    for start in starts:
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return table


def ticked(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def test_the_tables_of_keys_have_their_defaults():
    by_name = {f.name: f for f in fields(TrainConfig)}
    for keys, told, _ in rows("docs/train.md", "key", "default"):
        told = told.strip("`")
        for key in ticked(keys):
            field = by_name[key]
            default = field.default_factory() if field.default is MISSING else field.default
            if isinstance(default, float | dict):
                assert (float(told) if isinstance(default, float) else yaml.safe_load(told)) == default, key
            else:
                assert told == ("none" if default is None else str(default).lower()), key


def test_every_key_is_named_on_some_page():
    named = {word for page in PAGES for text in ticked(prose(page)) for word in re.findall(r"\w+", text)}
    named |= {key for page in PAGES for text in blocks(page, "yaml") for key in yaml.safe_load(text)}
    assert {f.name for f in fields(TrainConfig)} - named == set()


def test_the_table_of_sources_is_complete_and_names_the_presets_of_each():
    told = rows("docs/train.md", "`source`", "a step compares")
    table = {ticked(source)[0]: ticked(presets) for source, *_, presets in told}
    (allowed,) = (get_args(f.type) for f in fields(TrainConfig) if f.name == "source")
    assert tuple(table) == allowed
    taking = {name: one.config.get("source", "pairs") for name, one in methods().items()}
    for source, named in table.items():
        assert source == "pairs" or set(named) == {name for name, takes in taking.items() if takes == source}


def test_what_a_run_is_said_to_hold_is_written_by_training():
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in [
            *ROOT.glob("src/palate/training/*.py"),
            *ROOT.glob("src/palate/run/*.py"),
            *ROOT.glob("src/palate/labels/*.py"),
            *ROOT.glob("src/palate/network/*.py"),
        ]
    )
    for files, _ in rows("docs/train.md", "in `output_dir`"):
        for part in [part for name in ticked(files) for part in name.strip("/").split("/")]:
            written = re.sub(r"\d+", r"\\{[^}]+\\}", re.escape(part))  # a number is a field of an f-string
            assert re.search(rf"""["/]{written}["/]""", sources), part


# The index of methods -------------------------------------------------------------------------------------------------

INDEX = "docs/methods.md"
BASES = {"code", "formula", "accounts", "derived", "baseline"}


def test_the_index_has_one_row_for_every_preset_in_their_order():
    assert [ticked(cells[0]) for cells in rows(INDEX, "preset", "paper")] == [[name] for name in methods()]


def test_every_row_of_the_index_has_its_paper_a_file_a_basis_and_a_test():
    for name, paper, file, claim, basis, shown in rows(INDEX, "preset", "paper"):
        one = methods()[name.strip("`")]
        if one.paper and one.paper[:4].isdigit():
            assert paper == f"[{one.paper}](https://arxiv.org/abs/{one.paper})", name
        else:
            assert re.sub(r"\[(.*)\]\(.*\)", r"\1", paper) == (one.paper or ""), name
        assert "](../src/palate/" in file and claim and basis in BASES and "](../tests/" in shown, name
        assert basis != "code" or "](../tests/parity/" in shown, name
        assert basis not in ("accounts", "derived") or one.derived, name  # `palate methods NAME` says it too
        ours = basis == "derived" and "ours" in str(one.derived)  # no paper has it, and `palate methods NAME` says so
        assert basis == "baseline" or one.paper or ours, name


def test_every_part_without_a_preset_has_a_file_and_a_test():
    for _, configuration, file, claim, shown in rows(INDEX, "part", "configuration"):
        assert ticked(configuration) and "](../src/palate/" in file and claim and "](../tests/" in shown


def test_every_combination_that_is_said_to_be_refused_is():
    for together, why in rows(INDEX, "together", "why not"):
        with pytest.raises(PalateError) as refusal:
            load_config({**REQUIRED, **yaml.safe_load(together.strip("`"))})
        told, reason = (set(re.findall(r"[a-z]{5,}", text.lower())) for text in (why, str(refusal.value)))
        assert told & reason, together  # not for some other reason


def test_the_preset_that_is_shown_is_one():
    (shown,) = (text for text in blocks(INDEX, "text") if text.startswith("title:"))
    one = Method(name="shown", **yaml.safe_load(shown))
    assert len(shown.splitlines()) <= 15 and one.says.endswith(".")
    load_config({**REQUIRED, **one.config})


# Objective ------------------------------------------------------------------------------------------------------------


def test_the_table_of_betas_is_what_presets_and_recipes_set():
    told = {name: here for *_, here, names in rows("docs/objective.md", "code", "its rule") for name in ticked(names)}
    for name, one in methods().items():
        recipes = [r for r in ("sd15", "sdxl") if getattr(one, r)] or ["none"]
        betas = [preset(name, recipe)["beta"] for recipe in recipes if "beta" in preset(name, recipe)]
        if betas:
            assert [float(beta) for beta in told[name].split(" / ")] == list(dict.fromkeys(betas)), name
    assert told["mapo"].startswith(f"`mapo_beta: {methods()['mapo'].config['mapo_beta']}`")


def test_the_table_of_losses_is_complete_and_right_about_the_reference():
    told = {ticked(name)[0]: reference for name, _, reference, _ in rows("docs/objective.md", "loss", "of a row")}
    assert told == {name: "no" if name in REFERENCE_FREE else "yes" for name in LOSSES}


def slope(name: str, z: float) -> float:
    """Of a hard label; alpha-dpo in the middle of its range, because its moving alpha follows the one logit here."""
    value = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    make_link(name, 0.5 if name == "alpha-dpo" else None)(value, torch.ones(1, dtype=torch.float64)).sum().backward()
    return value.grad.item()


def test_the_table_of_links_is_right_about_parameters_and_contradicted_votes():
    table = {ticked(cells[0])[0]: cells for cells in rows("docs/objective.md", "`link`", "loss of a hard label")}
    assert table.keys() == LINKS.keys()
    for name, (_, _, _, contradicted, parameter, _) in table.items():
        assert bool(parameter) == (name in LINK_PARAMETERS), name
        default = LINK_PARAMETERS[name].default if name in LINK_PARAMETERS else None
        assert default is None or f"({default:g})" in parameter, name
        near, far = abs(slope(name, -30)), abs(slope(name, -60))
        found = "given up" if far < 1e-6 else "pulls harder" if far > 1.5 * near else "keeps pulling"
        assert contradicted == found, name
    refused = [name for name in LINKS if not linear_in_label(name)]
    (sentence,) = re.findall(r"Two are not linear(.*?)\. ", PAGES["docs/objective.md"], re.S)
    assert set(ticked(sentence)) & LINKS.keys() == set(refused)


def test_the_table_of_sampling_options_has_their_defaults():
    by_name = {f.name: f.default for f in fields(options_of("sample"))}
    for option, default, _ in rows("docs/sample.md", "option", "default"):
        assert str(by_name[option.strip("`").removeprefix("--").replace("-", "_")]) == default


def test_the_table_of_metrics_is_what_a_step_logs():
    column = torch.tensor([0.5, -0.5])
    readings = PairReadings(logit=column, target=torch.tensor([1.0, 0.0]), gain_0=column, gain_1=column, loss=column, scale=column, weight=column,
                            timestep=torch.tensor([0, 999]), labelled=torch.tensor([True, False]))  # fmt: skip
    logged = {name for name in summarise(readings, 1.0, 1000, "JUDGE")}
    always = {name for name in logged if not name.startswith("by_")} | {"loss", "learning_rate", "gradient_norm"}
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in [
            *ROOT.glob("src/palate/training/*.py"),
            *ROOT.glob("src/palate/run/*.py"),
            *ROOT.glob("src/palate/labels/*.py"),
            *ROOT.glob("src/palate/network/*.py"),
        ]
    )
    sometimes = {f"{kind}/{name}" for kind, name in re.findall(r'"(validation|lambda)/(\w+)"', sources)} - always
    told = {cells[0].strip("`"): cells[1] for cells in rows("docs/objective.md", "name", "meaning")}
    assert told.keys() == always | sometimes and len(sometimes) >= 6
    needed = {"validation": "with `held_out_votes`", "lambda": "with `safeguard_mode: exact`"}
    assert all(told[name].startswith(needed[name.split("/")[0]]) for name in sometimes)
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
