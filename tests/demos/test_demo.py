"""The demo, scaled down: every stage runs, going on after an interruption repeats nothing, the page tells what happened."""

import contextlib
import io
import json

import pytest

from palate.demos.demo import QUICK, Scale, demo, rows_of_demo

TINY = Scale(pairs=192, steps=2, repetitions=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a whole demo, the page that it returned, what it printed, and its html."""
    folder, printed = tmp_path_factory.mktemp("demo") / "demo", io.StringIO()
    with contextlib.redirect_stdout(printed):
        page = demo(folder, scale=TINY)
    return folder, page, printed.getvalue(), (folder / "report.html").read_text()


def test_every_row_of_the_demo_is_trained_compared_and_reported(made):
    folder, page, printed, html = made
    titles = [title for title, _ in rows_of_demo(24).values()]
    assert [row.name for row in page.rows] == titles and page.base.name == "base"
    assert all(row.win.n == 30 and row.utility for row in page.rows)
    for title in titles:
        assert title[:12] in printed and title in html
    eighth = json.loads((folder / "dedpo" / "labels.json").read_text())
    assert eighth["pairs with human votes"] == 24 and eighth["pairs used"] == 192
    errors = list((folder / "dataset" / "cache").glob("*/reference-*/visited.safetensors"))
    assert len(errors) == 1  # one file of reference errors serves all five models


def test_the_demo_goes_on_where_it_was_interrupted_and_the_quick_one_has_two_of_its_rows(made):
    folder, first, _, _ = made
    kept = (folder / "mix" / "samples" / "000000.png").stat().st_mtime_ns
    (folder / "dedpo-corrected" / "samples" / "000003.png").unlink()
    again = demo(folder, quick=True, scale=TINY)
    assert (folder / "mix" / "samples" / "000000.png").stat().st_mtime_ns == kept
    titles = [rows_of_demo(24)[name][0] for name in QUICK]
    assert [row.name for row in again.rows] == titles
    assert [row.win for row in again.rows] == [row.win for row in first.rows if row.name in titles]
