"""The demo, scaled down: every stage runs, going on after an interruption repeats nothing, the page tells what happened."""

import json

from palate.demos.demo import Scale, demo, rows_of_demo

TINY = Scale(pairs=192, steps=2, repetitions=1)


def test_every_row_of_the_demo_is_trained_compared_and_reported(tmp_path, capsys):
    page = demo(tmp_path / "demo", scale=TINY)
    titles = [title for title, _ in rows_of_demo(24).values()]
    assert [row.name for row in page.rows] == titles and page.base.name == "base"
    assert all(row.win.n == 30 and row.utility for row in page.rows)
    printed, html = capsys.readouterr().out, (tmp_path / "demo" / "report.html").read_text()
    for title in titles:
        assert title[:12] in printed and title in html
    eighth = json.loads((tmp_path / "demo" / "dedpo" / "labels.json").read_text())
    assert eighth["pairs with human votes"] == 24 and eighth["pairs used"] == 192
    errors = list((tmp_path / "demo" / "dataset" / "cache").glob("*/reference-*/visited.safetensors"))
    assert len(errors) == 1  # one file of reference errors serves all five models


def test_the_demo_goes_on_where_it_was_interrupted(tmp_path):
    first = demo(tmp_path / "demo", quick=True, scale=TINY)
    kept = (tmp_path / "demo" / "mix" / "samples" / "000000.png").stat().st_mtime_ns
    (tmp_path / "demo" / "dedpo-corrected" / "samples" / "000003.png").unlink()
    again = demo(tmp_path / "demo", quick=True, scale=TINY)
    assert (tmp_path / "demo" / "mix" / "samples" / "000000.png").stat().st_mtime_ns == kept
    assert [row.win for row in again.rows] == [row.win for row in first.rows]
