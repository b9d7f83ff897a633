"""What a report shows, as plain records: rows of models, verdicts of scorers, sources of labels, the page of all of
them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from palate.evaluation.winrate import WinRate
from palate.pages import Picture
from palate.reports.numbers import Interval

if TYPE_CHECKING:  # the audit's page is drawn with these, too, and has no use for models and samplers
    from palate.evaluation.contest import Contest
    from palate.evaluation.strengths import Table

USED, UNKNOWN = "used in training", "training not known"  # why a verdict is no evidence
_LEVEL = 0.05  # of Holm's corrected p-value


@dataclass(frozen=True)
class Typed:
    """A command as it was typed, and the folder in which it was; "" where that is not known."""

    command: str
    folder: str = ""


@dataclass(frozen=True)
class Row:
    """One model of the comparison: the base, a run, or several runs that differ in their training seed as one."""

    name: str
    utility: Interval | None = None  # mean, low, high
    win: WinRate | None = None  # over base; None for the base itself
    note: str = ""  # for example "worse than base"
    pictures: list[Picture] = field(default_factory=list)  # one per prompt of the page, same noise in every row
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # metric -> (step, value)
    labels: str = ""  # what labels it used
    command: str = ""
    folder: str = ""  # in which the command was typed
    drift: dict[str, float] = field(default_factory=dict)  # for example brightness, saturation: means over its pictures
    change: dict[str, Interval] = field(default_factory=dict)  # the same less the base's, paired
    training: dict[str, str] = field(default_factory=dict)  # what it was trained on and how
    members: tuple[str, ...] = ()  # the runs that this row combines
    corrected: float | None = None  # Holm's p-value over all pairs of models; None where nothing had to be corrected
    no_evidence: str = (
        ""  # why what judges here is none: the model was "used in training", or its training is not known
    )
    one_of: str = ""  # the training seeds that it is one of: they are claimed as one, and not each of them
    against: str = ""  # whom the wins are over, where that is not the base but all its training seeds

    @property
    def winner(self) -> Literal["a", "b"] | None:
        """Either "a", the model, or "b", the base; None where interval or correction leave it open, or there is no
        evidence; and of one seed among several."""
        unsure = self.corrected is not None and not self.corrected < _LEVEL
        return None if self.win is None or self.no_evidence or self.one_of or unsure else self.win.winner


@dataclass(frozen=True)
class Section:
    """The verdicts of one scorer on all models."""

    scorer: str
    version: str
    base: Row
    rows: list[Row]
    trained_on: tuple[str, ...] = ()  # models that learned from this scorer
    statistic: bool = False  # it describes pictures, and more of it is not better
    unknown: tuple[str, ...] = ()  # models of which it is not known what they learned from

    @property
    def no_evidence(self) -> str:
        """In words why nothing follows from these verdicts; "" where something does."""
        return USED if self.trained_on else UNKNOWN if self.unknown else ""


@dataclass(frozen=True)
class Source:
    """How far one source of labels can be trusted."""

    name: str
    votes: int
    agreement: Interval | None = None  # share of pairs on which it agrees with human votes
    brier: float | None = None
    bias: str = ""  # in words
    n: int | None = None  # pairs with a vote of both


@dataclass(frozen=True)
class Votes:
    """One annotator's votes in a dataset."""

    source: str  # human or judge
    annotator: str
    votes: int
    pairs: int


@dataclass(frozen=True)
class Labels:
    """Whose votes a dataset holds, the busiest annotators first within each source."""

    dataset: str
    pairs: int
    with_human_votes: int
    with_judge_votes: int
    annotators: tuple[Votes, ...]


@dataclass(frozen=True)
class Page:
    """Everything the report shows. `judged_by` says whose verdict the wins are; `utility_name` heads its column."""

    title: str
    sentence: str  # the answer, in plain words
    base: Row
    rows: list[Row]
    prompts: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    judged_by: str = ""
    facts: dict[str, str] = field(default_factory=dict)  # seed, versions, dataset, prompt hash, sampler settings
    command: str = ""
    folder: str = ""  # in which the command was typed
    created: str = ""
    utility_name: str = "true utility"
    scorer: str = ""
    version: str = "1"  # of the scorer
    statistic: bool = False  # the scorer describes pictures, and more of it is not better
    trained_on: tuple[str, ...] = ()  # models that learned from the scorer: then there is no headline
    others: list[Section] = field(default_factory=list)
    table: Table | None = None  # strengths, where there are three models or more
    contests: list[Contest] = field(default_factory=list)  # by votes on the pictures
    labels: list[Labels] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)  # what the numbers do not show
    lost: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # model -> what would say what it was trained on, and is gone
    older: tuple[str, ...] = ()  # models that were trained further since their pictures were made
    commands: list[Typed] = field(default_factory=list)  # that made samples, scores and comparisons, in this order

    @property
    def headline(self) -> Section:
        scorer = self.scorer or self.utility_name
        return Section(scorer, self.version, self.base, self.rows, self.trained_on, self.statistic, tuple(self.lost))


def verdict(row: Row, base: str, statistic: bool = False) -> str:
    """What the win rate over `base` allows to be said, in a few words; "" where nothing was compared.

    More of a statistic of the pictures is more, and not better.
    """
    if row.win is None:
        return ""
    if row.no_evidence:
        return f"{row.no_evidence}: no evidence"
    if row.one_of:
        return f"one of {row.one_of}"
    if math.isnan(row.win.low):
        return "no winner: a single prompt gives no interval"
    if row.win.winner and not row.winner:
        return f"no winner: not sure among all pairs of models (Holm p {row.corrected:.2g})"
    more, less = ("more", "less") if statistic else ("better", "worse")
    words = {"a": f"{more} than {base}", "b": f"{less} than {base}", None: "no winner: the interval includes one half"}
    return words[row.winner]
