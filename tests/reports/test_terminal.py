import io
from dataclasses import replace

from rich.console import Console

from palate.reports.page import Row
from palate.reports.terminal import results_table


def _print(page, **options) -> list[str]:
    console = Console(file=io.StringIO(), width=140, **options)
    console.print(results_table(page))
    return console.file.getvalue().splitlines()


def test_one_line_per_model_with_interval_n_and_note(page):
    header, base, all_votes, as_is, level, judged = _print(page)
    for column in ("labels used", "true utility", "wins over base (95 %)", "n", "sign test p"):
        assert column in header
    assert base.split() == ["base", "2.00", "[1.90,", "2.10]", "–"]
    assert "0.80 [0.56, 0.94]" in all_votes and " 100   1.9e-06" in all_votes and "←" not in all_votes
    assert "← worse than base · brighter, as the judge likes it" in as_is
    assert "DeDPO [κ]" in level and "← no winner" in level  # brackets in a name are text, not markup
    assert "judged by the world's truth" in judged


def test_colour_means_better_or_worse(page):
    _, _, better, worse, level, _ = _print(page, force_terminal=True, color_system="standard")
    assert "\x1b[32m0.80" in better and "\x1b[31m0.20" in worse
    assert "\x1b[32m" not in level and "\x1b[31m" not in level


def test_a_note_is_not_said_twice_and_missing_numbers_are_dashes(page):
    rows = [replace(page.rows[1], note="worse than base"), Row("not scored", note="stopped at step 12")]
    _, _, worse, missing, _ = _print(replace(page, rows=rows))
    assert worse.count("worse than base") == 1
    assert missing.count("–") == 2 and "← stopped at step 12" in missing
