"""Numbers as people read them: never more digits than the interval supports."""

import math

from palate.evaluation.digits import Interval, change_places, change_text, decimals, is_change

__all__ = ["Interval", "change_places", "change_text", "decimals", "is_change"]

ONE_PROMPT = ": one prompt only"  # why an interval over prompts is missing


def with_interval(interval: Interval, places: int, why: str = "") -> str:
    """For example `2.57 [2.41, 2.72]`; a missing interval is said to be missing, and `why`."""
    mean, low, high = (f"{_rounded(number, places):.{places}f}" for number in interval)
    return f"{mean} [no interval{why}]" if any(map(math.isnan, interval[1:])) else f"{mean} [{low}, {high}]"


def percent(rate: float) -> str:
    """For example `57 %`; on the side of one half where the rate is."""
    return f"{100 * rate:.1f} %" if rate != 0.5 and round(100 * rate) == 50 else f"{round(100 * rate)} %"


def _rounded(number: float, places: int) -> float:
    """A tie such as 0.975 goes where it goes in percent."""
    return number if math.isnan(number) else round(number * 10**places) / 10**places
