"""The model card: the report's content for the hub, as RUN/model/README.md."""

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from palate.errors import PalateError
from palate.evaluation.contest import Contest, VoteRate
from palate.evaluation.results import warnings
from palate.evaluation.winrate import WinRate
from palate.files import read_object, short_hash, write_text
from palate.reports.commands import commands_of
from palate.reports.labels import labels_of, sources_of
from palate.reports.numbers import ONE_PROMPT, change_places, change_text, with_interval
from palate.reports.page import contest_rates, rate_places, rate_text
from palate.reports.parts import Labels, Page, Row, Section, Votes, verdict
from palate.reports.public import public
from palate.reports.training import AGAIN, command_of, folder_of, training_of, versions_of
from palate.reports.words import and_, contest_words, shortened, summary
from palate.run.config import TrainConfig
from palate.run.load import load_config
from palate.world import EMOJI, SHIPPED, WORLD

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_NOTHING_MEASURED = (
    "This model was not compared with its base model, so there is no evidence on which of them is better."
)
_COMMANDS = "## The exact commands"
_MARK = re.compile(r"\n<!-- written by palate report ([0-9a-f]{16}) -->\n$")


def card_path(run: Path) -> Path:
    """Where the run's card goes. Raises PalateError without a model, or if the card there was not written by palate."""
    folder = run / "model"
    if not folder.is_dir():
        raise PalateError(
            f"{run}: has no model yet, so no card for it. Finish the training: its `palate train` command resumes it."
        )
    path = folder / "README.md"
    if path.is_file() and not _untouched(path.read_text(encoding="utf-8", errors="replace")):
        raise PalateError(
            f"{path}: was written or edited by hand, and is left alone. Move it away, or leave out --card."
        )
    return path


def write_card(page: Page, name: str, run: Path) -> Path:
    """Write the card of this run, the page's row `name`, atomically."""
    text = card_of(page, name, run)
    path = card_path(run)
    write_text(path, f"{text}\n<!-- written by palate report {short_hash(text)} -->\n")
    return path


def card_of(page: Page, name: str, run: Path) -> str:
    """The card as text: front matter in the hub's format, then the page's content about this model in Markdown.

    It contains no names of voters, no paths of this machine, and no secrets.
    """
    config = load_config(run / "config.yaml")
    sections = sorted((_of(name, one) for one in [page.headline, *page.others]), key=lambda one: bool(one.no_evidence))
    contests = [found for found in page.contests if name in (found.a, found.b)]
    first = sections[0]
    told = [
        summary(first.base, first.rows, None, first.trained_on, first.scorer, first.unknown),
        *map(contest_words, contests),
    ]
    row = next(row for row in page.rows if row.name == name)
    about = {name, page.base.name}
    lost = {one: what for one, what in page.lost.items() if one in about}
    older = tuple(one for one in page.older if one in about)
    told = [*warnings(lost, older), *told]
    results = [] if older else _results(page, sections, contests)
    return _text(config, run, page, row, " ".join(told), sections, contests, results, _kind(config, run))


def plain_card(run: Path, kind: Literal["component", "pipeline"] | None = None) -> str:
    """The card of a run that was not compared with its base model: everything but the evidence, and a sentence that
    says so.

    `kind` is given if the model is the denoiser with merged adapters, alone or in a whole pipeline.
    """
    config = load_config(run / "config.yaml")
    name = run.resolve().name
    row = Row(name, training=training_of(run), command=command_of(run), folder=folder_of(run))
    labels, lost = labels_of([run])
    page = Page(
        title=name,
        sentence="",
        base=Row("base"),
        rows=[row],
        sources=sources_of([run]),
        labels=labels,
        limits=lost,
        facts=versions_of(run),
        command=f"palate export {name}",
        folder=str(run.resolve().parent),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    text = _text(config, run, page, row, _NOTHING_MEASURED, [], [], [], kind or _kind(config, run))
    return f"{text}\n<!-- written by palate report {short_hash(text)} -->\n"


def _text(
    config: TrainConfig,
    run: Path,
    page: Page,
    row: Row,
    answer: str,
    sections: list[Section],
    contests: list[Contest],
    results: list[EvalResult],
    kind: str,
) -> str:
    license_, remark = license_of(config, run)
    hub, name = on_hub(config, run), config.pretrained_model_name_or_path
    adapters = kind == "lora"
    more: dict[str, Any] = dict(license_)
    data = ModelCardData(
        model_name=public(row.name),
        base_model=name if hub else None,
        base_model_relation=("adapter" if adapters else "finetune") if hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image" if config.trains == "denoiser" else None,
        tags=list(
            dict.fromkeys(
                [
                    "text-to-image",
                    "diffusers",
                    "palate",
                    "preference-alignment",
                    config.method,
                    *(["lora"] if adapters else []),
                ]
            )
        ),
        datasets=[re.sub(r"[^\w./-]+", "-", public(labels.dataset)) for labels in page.labels] or None,
        eval_results=results or None,
        **more,
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    component, component_class = _component(run)
    body = environment.get_template("card.md.j2").render(
        page=page,
        row=row,
        answer=answer,
        sections=sections,
        contests=contests,
        remark=remark,
        base=_base_words(config),
        kind=kind,
        component=component,
        component_class=component_class,
        annotators=_without_names,
        rate_text=rate_text,
        rate_places=rate_places,
        with_interval=with_interval,
        verdict=verdict,
        cell=_cell,
        places=_places,
        contest_rates=contest_rates,
        ONE_PROMPT=ONE_PROMPT,
        change_places=change_places,
        change_text=change_text,
        commands=commands_of(page, row),
        and_=and_,
    )
    if not hub:  # a local folder, also one relative to another folder: not a model of the hub
        told, title, commands = body.partition(_COMMANDS)
        body = told.replace(name, Path(name).name) + title + commands  # commands stay as they were typed
    return f"---\n{data.to_yaml()}\n---\n\n{public(body).strip()}\n"


def _kind(config: TrainConfig, run: Path) -> str:
    """What the run's model folder contains."""
    if config.trains == "classifier":
        return "classifier"
    return "lora" if (run / "model" / "pytorch_lora_weights.safetensors").is_file() else "component"


def _component(run: Path) -> tuple[str, str]:
    """Folder and class of the denoiser in the model folder; those of a UNet if there are only adapters."""
    for config in sorted((run / "model").glob("*/config.json")):
        return config.parent.name, str(read_object(config, AGAIN).get("_class_name", "ModelMixin"))
    return "unet", "UNet2DConditionModel"


def base_folder(config: TrainConfig, run: Path) -> Path | None:
    """The base model's folder on this machine, relative to the current folder or to one above the run; None for a hub
    model."""
    name = config.pretrained_model_name_or_path
    return next((above / name for above in (Path(), *run.resolve().parents) if (above / name).is_dir()), None)


def on_hub(config: TrainConfig, run: Path) -> bool:
    """Whether the base model's name is a hub name, and not a local folder."""
    return bool(_HUB_NAME.fullmatch(config.pretrained_model_name_or_path)) and base_folder(config, run) is None


def license_of(config: TrainConfig, run: Path) -> tuple[dict[str, str], str]:
    """The license from the base model's card, with a remark if it is not known. Looks only at this machine."""
    name = config.pretrained_model_name_or_path
    if name in SHIPPED:
        return {"license": "apache-2.0"}, ""
    card, folder = None, base_folder(config, run)
    if on_hub(config, run):
        card = try_to_load_from_cache(name, "README.md", revision=config.revision)
    elif folder and (folder / "README.md").is_file():
        card = folder / "README.md"
    if isinstance(card, str | Path):
        try:
            known = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
        except ValueError:  # front matter that is not YAML
            known = {}
        keys = ("license", "license_name", "license_link")
        found = {key: known[key] for key in keys if known.get(key) and isinstance(known[key], str)}
        if "license" in found:
            return found, ""
    there = next((file.name for file in sorted(folder.glob("LICENSE*"))), None) if folder else None
    where = f"the file {there} beside the base model" if there else "the base model's page"
    return {
        "license": "unknown"
    }, f"The base model's license is not known here; it holds for this model, too. See {where}."


def _of(name: str, section: Section) -> Section:
    """The section with the rows about this model only: its own, and its group of training seeds."""
    rows = [row for row in section.rows if row.name == name or name in row.members]
    about = {section.base.name}.union(*({row.name, *row.members} for row in rows))
    return replace(
        section,
        rows=rows,
        trained_on=tuple(one for one in section.trained_on if one in about),
        unknown=tuple(one for one in section.unknown if one in about),
    )


def _results(page: Page, sections: list[Section], contests: list[Contest]) -> list[EvalResult]:
    """The win rates that count as evidence, for the hub's index."""
    suite = page.facts.get("prompts", "prompts")
    about: dict[str, Any] = {"task_type": "text-to-image", "dataset_type": "prompts", "dataset_name": public(suite)}
    out = []
    for section in sections:
        for row in section.rows:
            if row.win is None or section.no_evidence or section.statistic:
                continue
            over = row.against or section.base.name
            who = f"{row.name} over {over}" if row.members else f"over {over}"
            name = f"win rate {who} by {section.scorer}"
            out.append(
                EvalResult(
                    **about,
                    metric_type="win_rate",
                    metric_name=public(name),
                    metric_value=round(row.win.rate, 4),
                    metric_args=_interval(row.win),
                )
            )
    for found in contests:
        rate, name = found.headline, f"win rate of {found.a} over {found.b} by votes of people"
        out.append(
            EvalResult(
                **about,
                metric_type="win_rate_by_people",
                metric_name=public(name),
                metric_value=round(rate.rate, 4),
                metric_args=_interval(rate),
            )
        )
    return out


def _interval(rate: WinRate | VoteRate) -> dict[str, float | int | None]:
    low, high = (None if math.isnan(value) else round(value, 4) for value in (rate.low, rate.high))
    return {"low_95": low, "high_95": high, "n": rate.n, "ties": rate.ties, "prompts": rate.prompts}


def _without_names(labels: Labels) -> list[Votes]:
    """The annotators, with people numbered: only the dataset's owner should know who labelled."""
    people = [one for one in labels.annotators if one.source == "human"]
    numbered = [Votes("human", f"person {k + 1}", one.votes, one.pairs) for k, one in enumerate(people)]
    return shortened((*numbered, *(one for one in labels.annotators if one.source != "human")))


def _places(rows: list[Row]) -> int:
    widths = [(row.utility[2] - row.utility[1]) / 2 for row in rows if row.utility and row.utility[2] > row.utility[1]]
    return min(4, max(0, 1 - math.floor(math.log10(max(widths))))) if widths else 2


def _cell(text: str) -> str:
    """A text as one line, or one table cell, in Markdown."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _base_words(config: TrainConfig) -> str:
    if config.pretrained_model_name_or_path == WORLD:
        return "palate's small world, a toy pipeline that comes with the package"
    if config.pretrained_model_name_or_path == EMOJI:
        return "palate's emoji world, a small pipeline that comes with the package (artists and licences: its NOTICE)"
    return config.pretrained_model_name_or_path


def _untouched(text: str) -> bool:
    """Whether the card is unchanged since palate wrote it."""
    mark = _MARK.search(text)
    return mark is not None and short_hash(text[: mark.start()]) == mark[1]
