"""The report of run folders: samples, scores, votes, metrics and labels become one page and a model card per run."""

import shlex
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

from palate.addresses import number
from palate.command import given_command
from palate.errors import PalateError
from palate.evaluation.compare import Comparison, Evaluated, compare
from palate.evaluation.results import warnings
from palate.evaluation.scorers import DIVERSITY, statistic_names
from palate.evaluation.scores import scored_alike, stored_scores
from palate.evaluation.seeds import Group
from palate.evaluation.strengths import Table
from palate.evaluation.winrate import Interval, mean_interval
from palate.reports.card import card_path, write_card
from palate.reports.commands import evaluation_commands
from palate.reports.labels import labels_of, sources_of
from palate.reports.page import write_report
from palate.reports.parts import UNKNOWN, USED, Page, Row, Section, Source
from palate.reports.plots import require_plots
from palate.reports.training import account_of, command_of, curves_of, folder_of, is_run, training_of, versions_of
from palate.reports.votes import contests_of
from palate.reports.words import and_, limits, summary
from palate.sampling.naming import require_models
from palate.world import SHIPPED

Changes = dict[str, tuple[float, Interval | None]]  # scorer -> (mean, its change from the base)


def report(
    runs: list[str | Path] | str | Path,
    out: Path | None = None,
    scorer: str | list[str] | None = None,
    pictures: int = 24,
    *,
    votes: str | Path | None = None,
    judge: str | None = None,
    group: bool = False,
    card: bool = False,
) -> Path:
    """Write the page of one or several runs that have samples; returns its path (RUN/report.html when `out` is absent).

    `scorer` and `group` are as in `palate.compare`. `votes` is a dataset of votes on these pictures, and `judge` the
    judge whose votes support people's; when absent, those that `palate compare --votes` used last. With `card` each run
    gets a model card, RUN/model/README.md.

    Raises PalateError for a folder that is not a run, runs without samples or with different sampling, a card for a run
    without a model or with an edited card, and if matplotlib (the extra `plots`) is missing.
    """
    folders = [Path(run) for run in (runs if isinstance(runs, list) else [runs])]
    require_plots()
    require_models(folders, "report")
    for run in folders:
        if not is_run(run):
            raise PalateError(f"{run}: not a run (no config.yaml).")
        if card:
            card_path(run)
    comparison = compare(folders, scorer=scorer, group=group)
    contests, missing = contests_of(comparison.models, Path(votes) if votes else None, judge)
    labels, lost = labels_of(folders)
    page = page_of(
        comparison,
        title=f"palate · {and_([run.name for run in folders])}",
        command=given_command() or _command(folders, comparison, votes, group),
        pictures=pictures,
    )
    page = replace(page, contests=contests, labels=labels)
    far = [comparison.unequal] if comparison.unequal else []
    page = replace(page, limits=[*limits(page, comparison.scorer in SHIPPED), *far, *missing, *lost])
    for warning in warnings(page.lost, page.older):
        print(f"WARNING: {warning}")
    place = Path(out) if out else folders[0] / "report.html"
    write_report(page, place)
    if card:
        for run, row in zip(folders, comparison.rows, strict=True):
            write_card(page, row.name, run)
    return place


def page_of(
    comparison: Comparison, title: str, command: str, *, names: dict[str, str] | None = None, judged_by: str = "",
    sources: list[Source] | None = None, facts: dict[str, str] | None = None, pictures: int = 24,
) -> Page:  # fmt: skip
    """The page of a comparison. `names` maps models' names to display names."""
    names = {row.name: row.name for row in comparison.models} | (names or {})
    samples = comparison.base.samples
    shown = _spread(samples.prompts, pictures)
    headline = _section(comparison, names, comparison.lost)
    changes = _diversity(comparison)
    base = _with_pictures(headline.base, comparison.base, shown, changes)
    paths = {names[row.name]: row for row in comparison.rows}
    rows = [_with_pictures(row, paths[row.name], shown, changes) if row.name in paths else row for row in headline.rows]
    settings = samples.settings
    repetitions = f", {settings['repetitions']} of each prompt" if settings["repetitions"] > 1 else ""
    told = {
        "pictures": (
            f"{len(samples.prompts):,} per model{repetitions}, {settings['sampler']}, {settings['steps']} steps,"
            f" guidance {settings['guidance']:g}, seed"
            f" {settings['seed']}{'' if settings['mixed_precision'] == 'no' else ', ' + settings['mixed_precision']}"
        ),
        "prompts": (
            f"{f'{samples.suite}: ' if samples.suite else ''}{len(set(samples.prompts)):,} prompts, sha256"
            f" {settings['prompts']}"
        ),
        "scorers": ", ".join(f"{one.scorer} (version {one.version})" for one in (comparison, *comparison.others)),
        **next((versions_of(row.path) for row in comparison.rows if versions_of(row.path)), {}),
        **(facts or {}),
    }
    table = _renamed(comparison.table, names)
    return Page(
        title=title,
        sentence=summary(base, rows, table, headline.trained_on, comparison.scorer, headline.unknown),
        base=base,
        rows=rows,
        prompts=[samples.prompts[i] for i in shown],
        sources=sources if sources is not None else sources_of([row.path for row in comparison.rows]),
        judged_by=judged_by or _judge_words(comparison.scorer),
        facts=told,
        command=command,
        folder=str(Path.cwd()),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        utility_name="true utility" if comparison.scorer in SHIPPED else f"mean {comparison.scorer}",
        scorer=comparison.scorer,
        version=comparison.version,
        statistic=headline.statistic,
        trained_on=headline.trained_on,
        others=[_section(other, names, comparison.lost) for other in comparison.others],
        table=table,
        lost={names[name]: what for name, what in comparison.lost.items()},
        older=tuple(names[name] for name in comparison.older),
        commands=evaluation_commands(comparison),
    )


def _command(runs: list[Path], comparison: Comparison, votes: str | Path | None, group: bool) -> str:
    scorers = [option for one in (comparison, *comparison.others) for option in ("--scorer", one.scorer)]
    more = [*(["--votes", str(votes)] if votes else []), *(["--group"] if group else [])]
    return shlex.join(["palate", "report", *map(str, runs), *scorers, *more])


def _judge_words(scorer: str) -> str:
    if scorer in SHIPPED:
        return "the world's truth"
    return f"{scorer}, a statistic of the pictures: more of it is not better" if statistic_names(scorer) else scorer


def _section(comparison: Comparison, names: dict[str, str], lost: Iterable[str]) -> Section:
    """A scorer's verdicts: first combined training seeds, then single models. `lost` are models whose training is not
    known."""
    claims = comparison.table.claims if comparison.table else ()
    start = comparison.base.name
    base = next((group.against for group in comparison.groups if group.win), start)  # the base's group, if it has seeds
    corrected = {
        claim.a if claim.b == base else claim.b: claim.p_corrected for claim in claims if base in (claim.a, claim.b)
    }

    def no_evidence(*models: str) -> str:
        about = {start, *models}
        return USED if about & set(comparison.trained_on) else UNKNOWN if about & set(lost) else ""

    rows = [
        replace(
            _combined(group, names, no_evidence(*group.members)),
            corrected=corrected.get(group.name),
            against="" if group.against == start else group.against,
        )
        for group in comparison.groups
        if group.win
    ]
    one_of = {name: group.name for group in comparison.groups for name in group.members}
    for model in comparison.rows:
        rows.append(
            Row(
                names[model.name], model.mean, model.win, corrected=corrected.get(model.name),
                no_evidence=no_evidence(model.name), one_of=one_of.get(model.name, ""), moved=model.moved,
            )
        )  # fmt: skip
    trained_on = tuple(names[name] for name in comparison.trained_on)
    statistic, unknown = statistic_names(comparison.scorer), tuple(names[name] for name in lost)
    return Section(
        comparison.scorer,
        comparison.version,
        Row(names[start], comparison.base.mean),
        rows,
        trained_on,
        statistic,
        unknown,
    )


def _combined(group: Group, names: dict[str, str], no_evidence: str) -> Row:
    members = tuple(names[name] for name in group.members)
    return Row(group.name, group.mean, group.win, members=members, no_evidence=no_evidence)


def _with_pictures(row: Row, model: Evaluated, shown: list[int], changes: dict[str, Changes]) -> Row:
    """The row with its pictures and, if the model is a run, with the run's own account of its training."""
    own = changes.get(model.name, {})
    means = {name: mean for name, (mean, _) in own.items()}
    change = {name: interval for name, (_, interval) in own.items() if interval is not None}
    row = replace(
        row,
        pictures=[model.samples.paths[i] for i in shown],
        drift=model.drift | means,
        change=model.drift_change | change,
    )
    if not is_run(model.path):
        return row
    path = model.path
    return replace(
        row,
        labels=account_of(path).get("used", ""),
        command=command_of(path),
        folder=folder_of(path),
        training=training_of(path),
        curves=curves_of(path),
    )


def _diversity(comparison: Comparison) -> dict[str, Changes]:
    """Model -> scorer -> (mean, change from the base) for diversity of embeddings, if all models have the same
    version."""
    everyone = [model.samples for model in comparison.models]
    versions = [{(s.scorer, s.version) for s in stored_scores(samples)} for samples in everyone]
    common = {name for name, _ in set.intersection(*versions) if name.startswith(f"{DIVERSITY}:")}
    found: dict[str, Changes] = {model.name: {} for model in comparison.models}
    for name in sorted(common):
        base, *_ = scores = scored_alike(everyone, name)
        for model, own in zip(comparison.models, scores, strict=True):
            change = None if own is base else mean_interval(own.values - base.values, model.samples.prompts)
            found[model.name][name] = (float(own.values.mean()), change)
    return found


def _renamed(table: Table | None, names: dict[str, str]) -> Table | None:
    if table is None:
        return None
    claims = [
        replace(
            claim,
            a=names.get(claim.a, claim.a),
            b=names.get(claim.b, claim.b),
            winner=None if claim.winner is None else names.get(claim.winner, claim.winner),
        )
        for claim in table.claims
    ]
    return replace(
        table,
        strengths=tuple(replace(one, name=names.get(one.name, one.name)) for one in table.strengths),
        claims=tuple(claims),
    )


def _spread(prompts: list[str], count: int) -> list[int]:
    """Positions of `count` pictures of as many prompts as possible. The prompts are drawn by their address, as
    `--limit` draws them, because the first ones of a suite often belong to one category."""
    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    drawn = [first[prompt] for prompt in sorted(first, key=lambda prompt: number("suite", prompt))]
    shown = set(drawn)
    rest = (i for i in range(len(prompts)) if i not in shown)
    return sorted(islice(chain(drawn, rest), count))
