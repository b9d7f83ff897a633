"""The verbs that work on a dataset: pairs and votes come in, people and programs vote, and the votes are audited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from palate.errors import PalateError
from palate.verbs.given import Dataset, Place, Places, folder_of, names, opened, places, without_none

if TYPE_CHECKING:
    import sqlalchemy as sa

    from palate.audits.findings import Findings
    from palate.data.dataset import PreferenceDataset
    from palate.data.importers.common import ImportReport
    from palate.data.importing import Format
    from palate.data.summary import Summary
    from palate.demos.simulate import Simulated
    from palate.judges.annotate import Report
    from palate.judges.correction import Correction
    from palate.web.export import Exported


def import_pairs(
    format: "Format | Literal['world']",
    sources: Places = (),
    *,
    to: Place,
    name: str | None = None,
    annotator: str = "unknown",
    source: Literal["human", "judge"] = "human",
    pairs: int = 384,
    world: Literal["shapes", "emoji"] = "shapes",
    voters: str | Sequence[str] = (),
    split: str | None = None,
    config: str | None = None,
    allow_outside: bool = False,
    question: str | None = None,
) -> "ImportReport":
    """Add the pairs and votes of `sources` to the dataset in folder `to`, which is created if it does not exist.

    `name` is the name of a new dataset. `annotator` and `source` say who voted if the files do not, `question` what
    the votes answer (alignment, aesthetics, any name; the overall preference when absent). `split` and
    `config` choose one of a dataset's several. `allow_outside` allows paths that lead outside the source's folder. The
    format "world" has no sources: `pairs` of that `world` are made now, and the simulated `voters` vote on all of them.
    A second call adds only what is missing. Returns counts. Raises PalateError when a source is missing or damaged, or
    nothing could be imported; everything readable is written first.
    """
    if format == "world":
        if world == "emoji":
            from palate.demos.emoji_dataset import import_emoji as made_now
        else:
            from palate.demos.dataset import import_world as made_now

        if given := places(sources):
            raise PalateError(f"world: it has no sources, but {given[0]} was given. Its pairs are made now.")
        return made_now(Path(to), pairs, voters=names(voters), name=name)
    from palate.data.importing import import_pairs as from_files

    return from_files(
        format, places(sources), Path(to), name=name, annotator=annotator, source=source,
        split=split, config=config, allow_outside=allow_outside, question=question,
    )  # fmt: skip


def info(dataset: Dataset) -> "Summary":
    """Count a dataset's pairs and votes by source and annotator, with ties, skips, image sizes and what is lacking.

    Plain values, ready for JSON. Raises PalateError if there is no readable dataset.
    """
    from palate.data.summary import summarise

    return summarise(opened(dataset))


def label(
    dataset: Dataset,
    *,
    budget: int = 0,
    select: Literal["uniform", "uncertainty", "disagreement"] = "uniform",
    judges: str | Sequence[str] = (),
    raters: str | Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8484,
    store: str | None = None,
    repeats: float = 0.05,
    shared: float = 0.1,
    known: Dataset | None = None,
    known_share: float = 0.1,
    question: str | Sequence[str] = "Which picture do you prefer for this prompt?",
    seed: int = 0,
    days: float = 30.0,
    rate: float = 20.0,
    public_url: str | None = None,
    browser: bool = True,
) -> None:
    """Serve a page to vote on until interrupted; every vote is stored at once, and `votes("export", ...)` brings them
    into the dataset.

    `budget` pairs are drawn (0: all) by `select`, which uses the votes of `judges`. `raters` may vote and get a
    personal link each; you alone when absent. `known` is a dataset whose votes are right: `known_share` of the views
    show its pairs. `question` is the wording of the overall one, or one or several names of questions ("name:
    wording"). The other arguments are the options of `palate label`. Raises PalateError, before anything is served, for
    arguments that cannot work, and without the extra `palate[web]`."""
    try:
        from palate.web.serve import label as serve
    except ImportError as error:
        raise PalateError(f"label needs {error.name}: pip install 'palate[web]'") from error
    serve(
        folder_of(dataset),
        budget=budget,
        select=select,
        judges=names(judges, split=True),
        raters=names(raters, split=True),
        host=host,
        port=port,
        store=store,
        repeats=repeats,
        shared=shared,
        known=None if known is None else folder_of(known),
        known_share=known_share,
        seed=seed,
        days=days,
        rate=rate,
        public_url=public_url,
        browse=browser,
        question=names(question),
    )


@overload
def votes(action: Literal["export"], dataset: Dataset, *, store: str | None = None) -> "Exported": ...
@overload
def votes(
    action: Literal["export", "import"], dataset: Dataset, *, label_studio: Place, pictures: bool = False
) -> dict[str, Any]: ...
@overload
def votes(
    action: Literal["simulate"], dataset: Dataset, *, store: str | None = None, voter: str = "majority", count: int = 0
) -> "Simulated": ...
def votes(
    action: Literal["export", "import", "simulate"],
    dataset: Dataset,
    *,
    store: str | None = None,
    label_studio: Place | None = None,
    pictures: bool = False,
    voter: str = "majority",
    count: int = 0,
) -> "Exported | Simulated | dict[str, Any]":
    """Votes from the live store into the dataset, and from and to Label Studio; every action can be repeated.

    export: the page's votes from the database `store` (PALATE_STORE, or votes.sqlite in the dataset's folder). export
    and import with `label_studio`: a file in Label Studio's JSON format instead, with or without `pictures`. simulate:
    a person of the small world votes on `count` of the planned pairs (0: until none is left). Returns counts. Raises
    PalateError for an unknown action, a store without votes, and without the extra `palate[web]`.
    """
    if action not in ("export", "import", "simulate"):
        raise PalateError(f"votes: {action!r} is not one of export, import, simulate.")
    try:
        if label_studio is not None and action != "simulate":
            from palate.web.labelstudio import export_tasks, import_annotations

            data = opened(dataset)
            return (
                export_tasks(data, Path(label_studio), pictures)
                if action == "export"
                else import_annotations(data, Path(label_studio))
            )
        if action == "import":
            raise PalateError(
                "votes import: give the file, as in --label-studio ls.json. `palate import` reads other formats."
            )
        data, engine = _with_store(dataset, store, action)
        if action == "simulate":
            from palate.demos.simulate import simulate_votes

            return simulate_votes(engine, data, voter, count)
        from palate.web.export import export_votes

        return export_votes(engine, data)
    except ImportError as error:
        raise PalateError(f"votes needs {error.name}: pip install 'palate[web]'") from error


def _with_store(dataset: Dataset, store: str | None, action: str) -> "tuple[PreferenceDataset, sa.Engine]":
    """The dataset and its live store, which must exist."""
    from palate.data.database import connect
    from palate.data.store import default_store, open_store

    data = opened(dataset)
    url = store or default_store(data.path)
    where = connect(url).url
    if where.get_backend_name() == "sqlite" and where.database and not Path(where.database).exists():
        raise PalateError(
            f"votes {action}: no votes of people yet ({where.database} is not there). "
            f"Label first: `palate label {data.path}`."
        )
    return data, open_store(url)


@dataclass(frozen=True)
class Annotated:
    """What `annotate` did."""

    report: "Report | None"  # counts of pairs; None if no judge was run
    calibration: "Correction | None"  # on the human votes; None with too few of them


def annotate(
    dataset: Dataset,
    judge: str,
    *,
    name: str | None = None,
    model: Place | None = None,
    server: str | None = None,
    template: Place | None = None,
    device: str | None = None,
    dtype: Literal["fp32", "fp16", "bf16"] | None = None,
    settings: Mapping[str, Any] | None = None,
    temperature: float | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    gpus: float = 0.0,
    embeddings: Literal["auto", "all", "none"] = "auto",
    again: bool = False,
    recalibrate: bool = False,
    question: str = "overall",
    rubric: Place | None = None,
) -> Annotated:
    """Let a program vote on every pair that it has not voted on yet, then calibrate its votes on people's.

    `judge` is a reward model, "vlm", "self:RUN", a statistic of pictures or a plug-in (docs/annotate.md); `name` the
    annotator id of its votes. `model`, `server`, `template`, `device`, `dtype` and further `settings` go to the judge.
    `limit` stops after so many pairs; `again` ignores stored answers and asks about every pair without a vote;
    `recalibrate` runs no judge. `question` is what the votes answer: a name, or "name: wording"; a vlm is asked it.
    `rubric` is a YAML file of names and questions that a vlm answers beside its vote, for its correction. A second call
    costs nothing. Raises PalateError for a judge that cannot be used, and for one that voted before with another
    version or other settings.
    """
    from palate.data.questions import RUBRIC, named_wording, read_rubric, wording_of
    from palate.data.schema import OVERALL
    from palate.judges.annotate import annotate as vote
    from palate.judges.base import SELF
    from palate.judges.calibration import can_calibrate
    from palate.judges.calibration import recalibrate as calibrate
    from palate.judges.load import load_judge

    data = opened(dataset)
    asked, wording = named_wording(question)
    if recalibrate:
        return Annotated(None, calibrate(data, name or judge, question=asked))
    if judge != "vlm" and (rubric is not None or wording != wording_of(asked)):
        raise PalateError(
            f"judge {judge!r} reads no questions: --rubric and a wording are for vlm. Give --question NAME."
        )
    load = load_judge
    if judge.startswith(SELF):
        from palate.training.implicit_judge import load_any_judge

        load = load_any_judge
    told = without_none(model=model, server=server, template=template)
    given = {key: fspath(value) for key, value in told.items()} | without_none(device=device, dtype=dtype)

    def ask(about: str, sentence: str | None) -> "Report":
        return vote(
            data,
            judge,
            settings=given | without_none(question=sentence) | dict(settings or {}),
            annotator=name,
            temperature=temperature,
            batch_size=batch_size,
            limit=limit,
            engine=engine,
            workers=workers,
            gpus=gpus,
            embeddings=embeddings,
            again=again,
            load=load,
            question=about,
        )

    criteria = {} if rubric is None else read_rubric(rubric)
    named = judge == "vlm" and (asked, wording) != (OVERALL, wording_of(OVERALL))
    report = ask(asked, wording if named else None)
    for criterion, sentence in criteria.items():
        report.rubric[criterion] = ask(f"{RUBRIC}{criterion}", sentence)
    enough = can_calibrate(data, report.annotator, asked)
    return Annotated(report, calibrate(data, report.annotator, question=asked) if enough else None)


def audit(
    dataset: Dataset,
    *,
    out: Place | None = None,
    run: Place | None = None,
    config: Place | None = None,
    human_annotators: str | Sequence[str] | None = None,
    human_votes: int | None = None,
    contexts: Literal["words", "group_id"] = "words",
    propensity: Literal["given", "estimated"] = "given",
    seed: int = 0,
    question: str | None = None,
) -> "Findings":
    """How far each source of votes can be trusted, what more votes would buy, and what to train on.

    Writes the page `out` and the recommended configuration `config`, a new file, if they are given. `run` is a run of
    an adaptive method, whose minority metric ranks the suspect votes. `human_annotators`, `human_votes`, `contexts` and
    `propensity` are like the configuration keys of these names. `question` is the one to audit; when absent the overall
    one, with a table of how others differ. Raises PalateError for a dataset without pairs, a run without the metric,
    and a `config` that exists.
    """
    from palate.audits.findings import audit as find
    from palate.audits.page import write_page
    from palate.audits.recommended import write_configuration

    data = opened(dataset)
    if config and Path(config).exists():
        raise PalateError(f"--config {config}: exists already, and may have been edited. Give the name of a new file.")
    people = None if human_annotators is None else names(human_annotators)
    findings = find(
        data, None if run is None else Path(run), human_annotators=people, human_votes=human_votes,
        contexts=contexts, propensity=propensity, seed=seed, question=question,
    )  # fmt: skip
    if out:
        write_page(findings, data, Path(out))
    if config:
        write_configuration(findings, data, Path(config))
    return findings
