"""`palate methods`"""

import json
import textwrap
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from palate.cli.options import parse
from palate.presets import Method
from palate.run.config import TrainConfig
from palate.run.keys import help_of_keys
from palate.verbs.models import methods

DESCRIPTION = """The methods of the literature as presets, and what each one sets.

Examples:
  palate methods                 all of them, with their papers
  palate methods dedpo           one: what it does, sets and was published with, and what of it is ours
  palate methods --json          for a script

Use one by name: `method: dedpo` in the file of `palate train`. Keys that the file gives itself win over the preset."""

WIDTH = 120  # where there is no terminal


@dataclass(frozen=True)
class Options:
    name: Annotated[str | None, tyro.conf.Positional] = None
    """One method to explain; all are listed when absent."""
    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "methods", DESCRIPTION)
    chosen = [methods(options.name)] if options.name else list(methods().values())
    if options.json:
        print(json.dumps([asdict(one) for one in chosen], indent=1, ensure_ascii=False))
    elif options.name:
        explain(chosen[0])
    else:
        overview(chosen)


def overview(chosen: list[Method]) -> None:
    """One line per method."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=WIDTH)
    table = Table("method", "paper", "what it does, and what it sets", box=None, pad_edge=False)
    for one in chosen:
        table.add_row(one.name, one.paper or "", Text(one.says) + Text(f"\n{_inline(one.config)}", style="dim"))
    console.print(table)
    console.print("\n`palate methods NAME` shows what one sets, and what was published with it.")


def explain(one: Method) -> None:
    """Everything about one method, each configuration in a form that a file takes."""
    paper = one.paper or "no paper of its own"
    print(f"{one.name}: {one.title} ({f'arXiv {paper}' if paper[:4].isdigit() else paper})\n{one.says}\n")
    print("sets")
    helps = help_of_keys(TrainConfig)
    for key, value in one.config.items():
        told = textwrap.fill(helps[key], WIDTH, initial_indent="      ", subsequent_indent="      ")
        print(f"  {key}: {_inline(value)}" + (f"\n{told}" if told else ""))
    for recipe, model in (("sd15", "Stable Diffusion 1.5"), ("sdxl", "SDXL")):
        if published := getattr(one, recipe):
            print(f"\npublished for {model} (recipe: {recipe})\n{_yaml(published)}")
    for title, text in (("published as", one.original), ("derived", one.derived), ("when sampling", one.sampling)):
        if text:
            print(f"\n{title}: {text}")
    print(f"\nUse it: `method: {one.name}` in the file of `palate train`; `palate train --help` explains the keys.")


def _inline(value: object) -> str:
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return text.strip("{}") if isinstance(value, dict) else text


def _yaml(values: dict[str, Any]) -> str:
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=WIDTH).rstrip()
    return "\n".join(f"  {line}" for line in text.splitlines())
