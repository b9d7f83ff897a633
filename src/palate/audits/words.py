"""Numbers and names of the audit as people read them."""

import math

from palate.audits.findings import Findings
from palate.audits.intervals import Estimate
from palate.audits.judges import Judge

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


def source_name(judge: Judge) -> str:
    """The judge's name, and whether it is corrected."""
    return judge.name if judge.correction == "none" else f"{judge.name}, corrected"


def step_name(name: str) -> str:
    """The same from "judge/correction", as the plan has it."""
    judge, correction = name.rsplit("/", 1)
    return judge if correction == "none" else f"{judge}, corrected"


def percent(estimate: Estimate | None) -> str:
    """For example `79 % [68, 91]`; a dash where there is nothing."""
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
    """What a judge takes more often than people do, in words, and by how much: (`brighter`, a positive estimate)."""
    if estimate.value < 0:
        return LESS.get(statistic, f"less {statistic}"), estimate.mirrored()
    return MORE.get(statistic, f"more {statistic}"), estimate


def bias(judge: Judge) -> str:
    """The pictures that the judge favours most clearly, as `brighter +21`; "" where no interval excludes 0."""
    clear = [favoured(name, found) for name, found in judge.favours.items() if found.beyond(0)]
    if not clear:
        return ""
    word, estimate = max(clear, key=lambda found: found[1].value)
    return f"{word} {100 * estimate.value:+.0f}"


def configuration(findings: Findings) -> str:
    """The recommended keys of a training configuration, as YAML lines; the power with what it is today."""
    lines = []
    for key, value in findings.recommendation.configuration.items():
        text = f"[{', '.join(value)}]" if isinstance(value, list) else str(value)
        lines.append(f"{key}: {text}")
    return "\n".join(lines)
