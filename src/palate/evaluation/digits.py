"""How many digits of a number are worth reading: as many as its interval supports."""

import math
from collections.abc import Iterable

Interval = tuple[float, float, float]  # mean, low, high


def decimals(intervals: Iterable[Interval], most: int = 4) -> int:
    """Decimals for a column: two significant digits of the widest half width, at most `most`; 2 without any."""
    widths = [(high - low) / 2 for _, low, high in intervals if high > low]
    return min(most, max(0, 1 - math.floor(math.log10(max(widths))))) if widths else min(2, most)


def change_places(intervals: Iterable[Interval]) -> int:
    """Decimals for changes of one statistic, and for its means beside them: pictures change by little."""
    return decimals(intervals, most=6)


def change_text(interval: Interval, places: int) -> str:
    """For example `+0.012 [+0.010, +0.014]`; the change alone where there is no interval, and no sign before a zero."""
    shown = [f"{number:+.{places}f}" if round(number, places) else f"{0:.{places}f}" for number in interval
             if not math.isnan(number)]  # fmt: skip
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def is_change(interval: Interval, places: int) -> bool:
    """Whether the interval excludes no change, also as it is shown: what reads as a change of 0 is none."""
    _, low, high = interval
    return round(low, places) > 0 or round(high, places) < 0 if low == low and high == high else False
