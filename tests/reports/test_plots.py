import re
import sys

import numpy as np
import pytest
from tiny import refusal

import palate
from palate.demos.demo import demo
from palate.reports.numbers import decimals, with_interval
from palate.reports.plots import COLOURS, curve_panels, smooth


def _line(colour: int, svg: str) -> np.ndarray:
    """Points [N, 2] of the bold line of a run, in svg units (y grows downward)."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="[^"]*var\(--run-(\d)[^"]*stroke-width: 1.6', svg)
    (path,) = [path for path, run in paths if int(run) == colour]
    return np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), dtype=float)


def test_one_panel_per_metric_with_the_runs_that_have_it():
    loss, scale = [(1, 0.7), (2, 0.6)], [(1, 1.0), (2, 0.9)]
    (loss, first), (safeguard, second) = curve_panels({"a": {"loss": loss}, "b": {"loss": loss, "lambda/mean": scale}})
    assert (loss, safeguard) == ("loss", "lambda/mean")
    assert "--run-0" in first and "--run-1" in first
    assert "--run-0" not in second and "--run-1" in second  # a run keeps its colour


def test_lines_follow_the_values():
    runs = {"up": {"x": [(s, s / 10) for s in range(10)]}, "down": {"x": [(s, -s / 10) for s in range(10)]}}
    ((_, svg),) = curve_panels(runs)
    up, down = _line(0, svg), _line(1, svg)
    assert np.all(np.diff(up[:, 0]) > 0) and np.all(np.diff(up[:, 1]) < 0) and np.all(np.diff(down[:, 1]) > 0)


def test_long_runs_stay_small_and_values_that_are_not_finite_are_left_out():
    steps = np.arange(20_000)
    curve = [(int(s), float("nan") if s % 7 == 0 else 1.0) for s in steps]
    ((_, svg),) = curve_panels({"long": {"loss": curve}})
    assert len(svg) < 40_000 and "nan" not in svg.lower()
    assert len(curve_panels({"empty": {"loss": [(1, float("nan"))]}})) == 1
    assert curve_panels({"none": {"loss": []}, "no": {}}) == []


def test_panels_can_stand_in_one_page():
    metrics = {name: [(1, 0.1), (2, 0.4)] for name in ("winner_error", "loser_error", "a $x_{ <b>")}
    svgs = [svg for _, svg in curve_panels({"run": metrics})]
    ids = [name for svg in svgs for name in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids)) > 10
    for svg in svgs:
        used = re.findall(r'(?:href="#|url\(#)([^")]*)', svg)
        assert used and set(used) <= set(re.findall(r'\bid="([^"]*)"', svg))
        assert "http" not in svg and "<style" not in svg and "<metadata" not in svg
        assert "currentColor" in svg and "#000000" not in svg and "#ffffff" not in svg  # legible on light and dark
    assert svgs == [svg for _, svg in curve_panels({"run": metrics})]  # the same page for the same run


def test_runs_beyond_the_colours_are_dashed():
    runs = {str(i): {"loss": [(1, 0.1 * i), (2, 0.2 * i)]} for i in range(len(COLOURS) + 1)}
    ((_, svg),) = curve_panels(runs)
    assert svg.count("stroke-dasharray") == 1


def test_running_mean_by_hand():
    assert smooth(np.array([1.0, 2.0, 6.0, 3.0]), 3) == pytest.approx([1.5, 3.0, 11 / 3, 4.5])


@pytest.mark.parametrize(
    ("intervals", "most", "places"),
    [
        ([(2.57, 2.41, 2.73)], 4, 2),
        ([(2.57, 2.41, 2.73), (2.5, 0.5, 4.5)], 4, 1),  # the widest decides
        ([(0.89, 0.85, 0.92)], 2, 2),
        ([(0.89, 0.85, 0.92)], 4, 3),
        ([(310.0, 290.0, 330.0)], 4, 0),
        ([(1.0, float("nan"), float("nan"))], 4, 2),
        ([], 4, 2),
    ],
)
def test_digits_follow_the_interval(intervals, most, places):
    assert decimals(intervals, most) == places


def test_text_of_an_interval():
    assert with_interval((2.568, 2.41, 2.72), 2) == "2.57 [2.41, 2.72]"
    assert with_interval((1.0, float("nan"), float("nan")), 2) == "1.00 [no interval]"


@pytest.mark.parametrize("begin", [lambda path: palate.report(path), lambda path: demo(path)], ids=["report", "demo"])
def test_without_the_extra_plots_what_needs_it_is_refused_before_any_work(begin, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'palate[plots]'" in refusal(lambda: begin(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_page_without_curves_needs_no_plots(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert curve_panels({"a": {}}) == []
