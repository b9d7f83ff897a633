"""Training curves as small pictures that follow the colours of the page around them."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.errors import PalateError
from palate.pages import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[tuple[float, float]]  # (step, value), or (drift, value) where the metric is by drift

_DASHES = ("solid", (0, (4, 2)), (0, (1, 1.5)))  # after six runs the colours repeat, dashed
BY_DRIFT = " by drift"  # how metrics end that are drawn over the drift from the base and not over steps
_LEVELS = {"accurac": 0.5, "wins": 0.5, "margin": 0.0, "error": 0.0, "drift": 0.0, "chosen": 0.0,
           "rejected": 0.0}  # if nothing was learned  # fmt: skip
_POINTS = 160  # per line; longer runs are averaged in bins
_INK = "#0a0b0c"  # placeholder for the colour of the page's text


def require_plots() -> None:
    """Raises PalateError if matplotlib is not installed. Called before the work whose page needs it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PalateError(
            "the page's training curves are drawn with matplotlib. pip install 'palate[plots]'."
        ) from error


def curve_panels(runs: Mapping[str, Mapping[str, Curve]]) -> list[tuple[str, str]]:
    """One small plot per metric, all runs in it: [(metric, svg)], metrics in the order in which they first appear.

    runs: run name -> metric name -> curve. A run's colour follows from its position: `var(--run-0)` and so on in the
    svg, with a fixed colour as fallback; text is `currentColor`. Bold lines are running means over a tenth of the run,
    faint lines the values. NaN and infinite values are left out.
    """
    metrics = dict.fromkeys(metric for curves in runs.values() for metric in curves)
    panels = []
    for number, metric in enumerate(metrics):
        lines = [(position, curves[metric]) for position, curves in enumerate(runs.values()) if curves.get(metric)]
        if lines:
            panels.append((metric, _for_page(_panel(metric, lines), number)))
    return panels


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean [N], with a smaller window near the ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _panel(metric: str, lines: list[tuple[int, Curve]]) -> str:
    require_plots()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": metric, "font.size": 9}):
        figure = Figure(figsize=(3.4, 2.1), layout="constrained")
        axes = figure.add_subplot()
        level = next((value for word, value in _LEVELS.items() if word in metric.lower()), None)
        if level is not None:
            axes.axhline(level, color=_INK, alpha=0.45, linewidth=0.8, dashes=(3, 3))
        for position, curve in lines:
            _draw(axes, position, curve, metric.endswith(BY_DRIFT))
        _bare(axes, metric.endswith(BY_DRIFT))
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            text, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
        return text.getvalue()


def _draw(axes: "Axes", position: int, curve: Curve, by_drift: bool) -> None:
    steps, values = _binned(np.asarray(curve, dtype=np.float64))
    style: dict[str, Any] = {"color": COLOURS[position % len(COLOURS)], "solid_capstyle": "round"}
    dashes = _DASHES[position // len(COLOURS) % len(_DASHES)]
    if len(values) > 20:
        axes.plot(steps, values, linewidth=0.7, alpha=0.18, **style)
        window = max(3, len(values) // 10)
        values, steps = smooth(values, window), smooth(steps, window) if by_drift else steps
    axes.plot(steps, values, linewidth=1.6, linestyle=dashes, **style)
    if by_drift and len(values):
        axes.plot(steps[-1:], values[-1:], marker="o", markersize=4, **style)  # where the run ended


def _binned(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curve [N, 2] as at most _POINTS means of neighbours."""
    curve = curve[np.isfinite(curve).all(axis=1)]
    bins = np.array_split(curve, min(len(curve), _POINTS)) if len(curve) else []
    steps, values = np.array([part.mean(axis=0) for part in bins]).reshape(-1, 2).T
    return steps, values


def _bare(axes: "Axes", by_drift: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=_INK, alpha=0.35, linewidth=0.8)
    axes.tick_params(color=_INK, labelcolor=_INK, length=2.5, width=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=not by_drift))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("drift" if by_drift else "step", color=_INK, fontsize=8.5)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)


def _for_page(svg: str, number: int) -> str:
    """The svg element alone, with unique ids, the page's font, and colours that follow light and dark mode."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>panel{number}-", svg)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    svg = svg.replace(_INK, "currentColor")
    for position, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--run-{position}, {colour})")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)  # the page's font is used
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)  # would apply to the whole page
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")  # html needs neither
    return svg.strip()
