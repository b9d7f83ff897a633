"""The audit's numbers and names, formatted for people."""

import math

from palate.audits.findings import Findings
from palate.audits.intervals import Estimate
from palate.audits.judges import Judge
from palate.audits.picked import Picked

MORE = {
    "brightness": "brighter",
    "contrast": "higher-contrast",
    "saturation": "more colourful",
    "warmth": "warmer",
    "sharpness": "sharper",
    "off_centre": "less centred",
}
LESS = {
    "brightness": "darker",
    "contrast": "lower-contrast",
    "saturation": "more muted",
    "warmth": "cooler",
    "sharpness": "softer",
    "off_centre": "better centred",
}

_CORRECTED = {"none": "", "context": ", corrected by kind of prompt"}  # anything else: ", corrected"


def source_name(judge: Judge) -> str:
    """The judge's name, and whether it is corrected."""
    return judge.name + _CORRECTED.get(judge.correction, ", corrected")


def step_name(name: str) -> str:
    """The same from "judge/correction", the plan's notation."""
    judge, correction = name.rsplit("/", 1)
    return judge + _CORRECTED.get(correction, ", corrected")


def percent(estimate: Estimate | None) -> str:
    """For example `79 % [68, 91]`; a dash for None."""
    if estimate is None:
        return "–"
    if math.isnan(estimate.low):
        return f"{100 * estimate.value:.0f} % [no interval]"
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def points(estimate: Estimate | None) -> str:
    """A difference of shares in percentage points, with its sign: `+12 [+8, +16]`."""
    if estimate is None:
        return "–"
    if math.isnan(estimate.low):
        return f"{_signed(100 * estimate.value)} [no interval]"
    return f"{_signed(100 * estimate.value)} [{_signed(100 * estimate.low)}, {_signed(100 * estimate.high)}]"


def _signed(value: float) -> str:
    return "0" if round(value) == 0 else f"{value:+.0f}".replace("-", "−")


def number(estimate: Estimate | None, places: int = 2) -> str:
    """For example `0.16 [0.12, 0.20]`."""
    if estimate is None or math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{estimate.value:,.{places}f} [no interval]"
    return f"{estimate.value:,.{places}f} [{estimate.low:,.{places}f}, {estimate.high:,.{places}f}]"


def favoured(statistic: str, estimate: Estimate) -> tuple[str, Estimate]:
    """What a judge prefers more often than people do, in words, and by how much: (`brighter`, a positive estimate)."""
    if estimate.value < 0:
        return LESS.get(statistic, f"less {statistic}"), estimate.mirrored()
    return MORE.get(statistic, f"more {statistic}"), estimate


def bias(judge: Judge) -> str:
    """The judge's clearest bias, for example `brighter +21`; "" if no interval excludes 0."""
    clear = [favoured(name, found) for name, found in judge.favours.items() if found.beyond(0)]
    if not clear:
        return ""
    word, estimate = max(clear, key=lambda found: found[1].value)
    return f"{word} {100 * estimate.value:+.0f}"


def person_line(findings: Findings) -> str:
    """What a person scores where the judges are measured, and the most that a judge can; "" where it is not known."""
    if findings.person is None:
        return ""
    person = findings.person
    interval = "" if math.isnan(person.low) else f" (95 % {100 * person.low:.0f} to {100 * person.high:.0f})"
    told = f"A person, judged by the others in the same way, agrees with people on {100 * person.value:.0f} %{interval}"
    if findings.ceiling is None or findings.skill_ceiling is None:
        return f"{told}: no more than by chance."
    return f"{told}; no judge can on more than {100 * findings.ceiling:.0f} %, nor have a skill above" + (
        f" {100 * findings.skill_ceiling:.0f} %."
    )


def best_judge(judges: list[Judge]) -> Judge | None:
    """The one with the lowest Brier score; None where none was measured."""
    measured = [judge for judge in judges if judge.brier is not None]
    return min(measured, key=lambda judge: judge.brier.value if judge.brier else math.inf, default=None)


def question_lines(findings: Findings) -> list[str]:
    """How questions differ, a line for each couple, and what judges are wrong about on the others."""
    lines = []
    for couple in findings.between:
        if not couple.pairs:
            lines.append(f"{couple.one} and {couple.two}: no pair has people's votes on both.")
            continue
        said = f"{couple.one} and {couple.two}: on {couple.pairs:,} pairs with votes on both"
        if couple.changes:
            said += f", another image wins on {percent(couple.changes)} of the {couple.changes.n:,} that both decide"
        if couple.same_person:
            said += f"; the same person gives both the same answer on {percent(couple.same_person)}"
        lines.append(f"{said}.")
    for asked in findings.questions:
        lines += [f"{asked.name}: {note}" for note in asked.notes]
        lines += [f"{asked.name}: {judge.name}: {judge.finding}" for judge in asked.judges if judge.finding]
    return lines


def configuration(findings: Findings) -> str:
    """The recommended keys of a training configuration, as YAML lines; the power with what it is today."""
    lines = []
    for key, value in findings.recommendation.configuration.items():
        text = f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
        lines.append(f"{key}: {text}")
    return "\n".join(lines)


def picked_lines(picked: Picked) -> list[str]:
    """How labelled pairs were chosen, and what that changes for judges where it was not at random."""
    lines = list(picked.sentences)
    if picked.chance < 0.05:
        lines += [
            f"{name} agrees with people on {percent(alike)} of the labelled pairs, on {percent(all_pairs)} of all"
            " pairs as estimated."
            for name, (alike, all_pairs) in picked.agreement.items()
        ]
    return lines
