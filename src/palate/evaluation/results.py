"""The result of a comparison: plain records, their text for the terminal, and their JSON for the report."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from palate.data.samples import OF_THE_MODEL, Samples
from palate.evaluation.digits import change_places, change_text, is_change
from palate.evaluation.scorers import statistic_names
from palate.evaluation.seeds import Group
from palate.evaluation.strengths import Table
from palate.evaluation.winrate import Interval, WinRate, interval_text
from palate.files import plain, write_text
from palate.foreign import printable
from palate.run.drift import unequal_drift
from palate.version import __version__


@dataclass(frozen=True)
class Evaluated:
    """One model's samples with a scorer's results."""

    name: str
    path: Path
    samples: Samples
    scores: np.ndarray  # [N]
    mean: Interval  # with its 95 % interval, clustered by prompt
    drift: dict[str, float]  # mean picture statistics
    win: WinRate | None  # against the comparison's base; None for the base itself
    drift_change: dict[str, Interval] = field(default_factory=dict)  # less the base's, paired, with 95 % intervals
    moved: Interval | None = None  # drift that the run measured in training: rise of denoising errors on held-out pairs


@dataclass(frozen=True)
class Comparison:
    """Several models against one by one scorer, the headline; `others` has the comparisons by further scorers."""

    base: Evaluated
    rows: list[Evaluated]
    scorer: str
    version: str = "1"  # of the scorer
    trained_on: tuple[str, ...] = ()  # models trained on this very scorer, for which it is no evidence
    groups: tuple[Group, ...] = ()  # rows that differ only in their training seed, combined
    table: Table | None = None  # of all models, if there are three or more
    others: tuple["Comparison", ...] = ()
    lost: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # model -> missing files that would say what it was trained on
    older: tuple[str, ...] = ()  # models trained further since their pictures were made
    command: str = ""

    @property
    def models(self) -> list[Evaluated]:
        return [self.base, *self.rows]

    @property
    def unequal(self) -> str:
        """One sentence where the models moved unequally far from their base; "" where they did not, or nothing
        tells."""
        return unequal_drift({row.name: row.moved for row in self.models if row.moved is not None})

    def show(self) -> None:
        """Print one line per model, and the conclusion in words."""
        print(printable("\n".join(lines(self))))

    def as_dict(self) -> dict[str, Any]:
        """Everything but pictures and single scores (those are in scores.parquet), as plain values for JSON."""
        settings = self.base.samples.settings
        told: dict[str, Any] = plain(
            {
                "palate": __version__,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "suite": {
                    "source": self.base.samples.suite,
                    "hash": settings["prompts"],
                    "prompts": len(set(self.base.samples.prompts)),
                    "pictures": len(self.base.samples.prompts),
                },
                "sampling": {key: value for key, value in settings.items() if key not in (*OF_THE_MODEL, "prompts")},
                "headline": None if self.trained_on or self.lost or statistic_names(self.scorer) else self.scorer,
                "command": self.command,
                "folder": str(Path.cwd()),  # where the command was typed
                "training_not_known": self.lost,
                "older_weights": self.older,
                "warnings": warnings(self.lost, self.older),
                "unequal_drift": self.unequal,
                "scorers": [_section(section) for section in (self, *self.others)],
            }
        )
        return told


def save(result: Any, path: str | Path) -> None:
    """Write the result's `as_dict` as JSON, atomically."""
    write_text(path, json.dumps(result.as_dict(), indent=1, ensure_ascii=False) + "\n")


def warnings(lost: dict[str, tuple[str, ...]], older: tuple[str, ...]) -> list[str]:
    """Warnings to read before the numbers: models whose weights have changed since, and models whose training is not
    known. `lost` and `older` are those of a comparison."""
    out = []
    if older:
        out.append(
            f"The pictures of {_and(older)} are of older weights: training continued since, so these numbers do"
            " not describe the current model. Delete those samples, and sample again."
        )
    for name, what in lost.items():
        out.append(
            f"It is not known what {name} was trained on: {' and '.join(what)} was not found. So any scorer may have"
            " been used in its training, and none gives the headline."
        )
    return out


def lines(comparison: Comparison) -> list[str]:
    """The comparison as lines for a terminal: every scorer's numbers, and the headline's words."""
    out = []
    for section in (comparison, *comparison.others):
        out += _numbers(section)
    for row in comparison.rows:
        changed = [
            f"{name} {change_text(change, places)}"
            for name, change in row.drift_change.items()
            if is_change(change, places := change_places([change]))
        ]
        if changed:
            out.append(f"drift of {row.name} from {comparison.base.name}: {', '.join(changed)}")
    out += [comparison.unequal] if comparison.unequal else []
    out += [f"WARNING: {warning}" for warning in warnings(comparison.lost, comparison.older)]
    if comparison.lost:
        return [
            *out,
            (
                f"No headline: it is not known whether {_and(tuple(comparison.lost))} learned from {comparison.scorer}."
                " Sample again where the runs and datasets are; then it is recorded."
            ),
        ]
    if comparison.trained_on:
        return [
            *out,
            (
                f"No headline: {_and(comparison.trained_on)} learned from"
                f" {'these scorers' if comparison.others else comparison.scorer}, so its verdict is no evidence. Name a"
                " scorer that was not used in training (--scorer)."
            ),
        ]
    return out + _words(comparison)


def _words(comparison: Comparison) -> list[str]:
    """The headline's findings: a group counts as one, and with several models only claims that pass Holm's
    correction."""
    base, together = comparison.base.name, {name for group in comparison.groups for name in group.members}
    if statistic_names(comparison.scorer):
        out = [
            group.win.sentence(group.name, group.against, comparison.scorer) for group in comparison.groups if group.win
        ]
        return out + [
            win.sentence(row.name, base, comparison.scorer)
            for row in comparison.rows
            if row.name not in together and (win := row.win)
        ]
    claims = comparison.table.claims if comparison.table else ()
    taken = {(claim.a, claim.b) for claim in claims if claim.win.winner and not claim.winner}  # by the correction
    out = [group.win.sentence(group.name, group.against) for group in comparison.groups
           if group.win and not taken & {(group.name, group.against), (group.against, group.name)}]  # fmt: skip
    if not claims:
        return out + [
            win.sentence(row.name, base) for row in comparison.rows if row.name not in together and (win := row.win)
        ]
    sure = [
        f"{claim.winner} beats {claim.b if claim.winner == claim.a else claim.a} (p {claim.p_corrected:.2g})"
        for claim in claims
        if claim.winner
    ]
    open_ = [f"{claim.a} and {claim.b} (p {claim.p_corrected:.2g})" for claim in claims if not claim.winner]
    out += [f"Sure of {len(claims)} pairs of models together (Holm): {'; '.join(sure)}."] if sure else []
    return out + ([f"No winner between {'; '.join(open_)}."] if open_ else [])


def _section(section: Comparison) -> dict[str, Any]:
    return {
        "scorer": section.scorer,
        "version": section.version,
        "used_in_training_of": section.trained_on,
        "base": _model(section.base),
        "models": [_model(row) for row in section.rows],
        "groups": [asdict(group) | {"win": win_dict(group.win)} for group in section.groups],
        "strengths": [asdict(one) for one in section.table.strengths] if section.table else [],
        "claims": (
            [asdict(claim) | {"win": win_dict(claim.win)} for claim in section.table.claims] if section.table else []
        ),
    }


def _model(row: Evaluated) -> dict[str, Any]:
    own = {key: row.samples.settings.get(key) for key in OF_THE_MODEL}
    return {
        "name": row.name,
        "path": row.path,
        "samples": row.samples.folder,
        **own,
        "n": len(row.scores),
        "mean": row.mean,
        "win": win_dict(row.win),
        "drift": row.drift,
        "drift_change": row.drift_change,
        "denoising_error_rise": row.moved,
    }


def win_dict(win: WinRate | None) -> dict[str, Any] | None:
    """A win rate with its winner spelled out."""
    return None if win is None else asdict(win) | {"winner": win.winner}


def _numbers(section: Comparison) -> list[str]:
    pictures, prompts = len(section.base.samples.prompts), len(set(section.base.samples.prompts))
    mark = f" · used in training {_and(section.trained_on)}: no evidence" if section.trained_on else ""
    out = [f"scored by {section.scorer} · {pictures} pictures each on {prompts} prompts{mark}"]
    for row in section.models:
        out.append(f"  {row.name:<32} mean {interval_text(row.mean, '.3f')}{_wins(row.win)}{_moved(row)}")
    for group in section.groups:
        out.append(
            f"  {group.name:<32} mean {interval_text(group.mean, '.3f')}{_wins(group.win)}{_over(group, section)}"
        )
    if section.table:
        pairs = len(section.table.claims)
        out.append(f"strength in log-odds, from {pairs} pairs of models (mean 0; 0.4 is 60 % of the wins)")
        out += [
            f"  {one.name:<32} {interval_text((one.strength, one.low, one.high), '+.2f')}"
            for one in section.table.strengths
        ]
    return out


def _wins(win: WinRate | None) -> str:
    if win is None:
        return ""
    rate, low, high = (round(100 * x) / 100 if x == x else x for x in (win.rate, win.low, win.high))
    facts = [f"n {win.n}", f"ties {win.ties}", *filter(None, [win.test_words])]
    return f"   wins {interval_text((rate, low, high), '.2f')}  {', '.join(facts)}"


def _moved(row: Evaluated) -> str:
    """How far the model moved in training, if its run measured that."""
    return "" if row.moved is None else f", drift {change_text(row.moved, change_places([row.moved]))}"


def _over(group: Group, section: Comparison) -> str:
    """The opponent, if it is not the base alone but all its training seeds."""
    return f"  against {group.against}" if group.win and group.against != section.base.name else ""


def _and(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
