"""A report's content as plain records: rows of models, verdicts of scorers, sources of labels, and the page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from palate.evaluation.winrate import WinRate
from palate.pages import Picture
from palate.reports.numbers import Interval

if TYPE_CHECKING:  # the audit's page uses this file, too, and does not need models and samplers
    from palate.evaluation.contest import Contest
    from palate.evaluation.strengths import Table

USED, UNKNOWN = "used in training", "training not known"  # why a verdict is not evidence
_LEVEL = 0.05  # of Holm's corrected p-value


@dataclass(frozen=True)
class Typed:
    """A command as it was typed, and the folder in which it was typed; "" if unknown."""

    command: str
    folder: str = ""


@dataclass(frozen=True)
class Row:
    """One model of the comparison: the base, a run, or several training seeds of one method combined."""

    name: str
    utility: Interval | None = None  # mean, low, high
    win: WinRate | None = None  # over base; None for the base itself
    note: str = ""  # for example "worse than base"
    pictures: list[Picture] = field(default_factory=list)  # one per prompt of the page, same noise in every row
    curves: dict[str, list[tuple[float, float]]] = field(
        default_factory=dict
    )  # metric -> (step, value), or (drift, ...)
    labels: str = ""  # which labels it used
    command: str = ""
    folder: str = ""  # where the command was typed
    drift: dict[str, float] = field(default_factory=dict)  # mean brightness, saturation, ... of its pictures
    change: dict[str, Interval] = field(default_factory=dict)  # paired differences from the base
    moved: Interval | None = None  # drift that it measured in training: rise of denoising errors on held-out pairs
    training: dict[str, str] = field(default_factory=dict)  # what it was trained on and how
    members: tuple[str, ...] = ()  # the runs that this row combines
    corrected: float | None = None  # Holm's p-value over all pairs of models; None if there was nothing to correct
    no_evidence: str = ""  # why this verdict is not evidence: USED or UNKNOWN
    one_of: str = ""  # its group of training seeds: claims are made for the group, not for each seed
    against: str = ""  # the opponent, if it is not the base alone but all its training seeds

    @property
    def winner(self) -> Literal["a", "b"] | None:
        """Either "a", the model, or "b", the base. None if the interval or the correction leaves it open, if the
        verdict is not evidence, and for one seed of a group."""
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
    statistic: bool = False  # it describes pictures; more is not better
    unknown: tuple[str, ...] = ()  # models whose training is not known

    @property
    def no_evidence(self) -> str:
        """Why these verdicts are not evidence, in words; "" if they are."""
        return USED if self.trained_on else UNKNOWN if self.unknown else ""


@dataclass(frozen=True)
class Source:
    """How reliable one source of labels is."""

    name: str
    votes: int
    agreement: Interval | None = None  # share of pairs on which it agrees with human votes
    brier: float | None = None
    bias: str = ""  # in words
    n: int | None = None  # pairs with votes of both
    brier_reference: float | None = None  # of always saying one half on the same votes; older runs did not keep it


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
    """Everything the report shows. `judged_by` names the scorer of the wins; `utility_name` is the column's heading."""

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
    statistic: bool = False  # the scorer describes pictures; more is not better
    trained_on: tuple[str, ...] = ()  # models that learned from the scorer; if any, there is no headline
    others: list[Section] = field(default_factory=list)
    table: Table | None = None  # strengths, for three models or more
    contests: list[Contest] = field(default_factory=list)  # by votes on the pictures
    labels: list[Labels] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)  # what the numbers do not show
    lost: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # model -> missing files that would say what it was trained on
    older: tuple[str, ...] = ()  # models trained further since their pictures were made
    commands: list[Typed] = field(default_factory=list)  # of samples, scores and comparisons, in this order

    @property
    def headline(self) -> Section:
        scorer = self.scorer or self.utility_name
        return Section(scorer, self.version, self.base, self.rows, self.trained_on, self.statistic, tuple(self.lost))


def verdict(row: Row, base: str, statistic: bool = False) -> str:
    """The conclusion from the win rate over `base` in a few words; "" if nothing was compared.

    For a picture statistic it says "more", not "better".
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
