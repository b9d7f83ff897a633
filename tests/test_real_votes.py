"""The benchmark over real votes: what it carries, what a split is, and that a killed run resumes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.real_votes import __main__ as program
from benchmarks.real_votes.measure import contests, draw, intervals, plans
from benchmarks.real_votes.tables import fill, page_tables, summarise
from benchmarks.real_votes.votes import FILE, read_votes

PAGE = Path(__file__).parents[1] / "docs" / "real-votes.md"


@pytest.fixture(scope="module")
def votes():
    return read_votes()


def test_the_votes_are_carried_without_a_prompt_or_a_picture(votes):
    table = pq.read_table(FILE)
    assert FILE.stat().st_size < 100_000
    text = [name for name in table.column_names if not name.startswith(("judge ", "human ", "panel"))]
    assert text == ["pair_id", "prompt_id", "generator_0", "generator_1"]
    assert all(" " not in value for name in text for value in table[name].to_pylist())
    assert votes.human.shape == (1600, 5) and votes.judge.shape == (1600, 11) and votes.prompt.max() == 159
    assert np.mean(votes.human[~np.isnan(votes.human)] == 0.5) == pytest.approx(0.44, abs=0.005)
    assert np.mean((votes.mean - 0.5) ** 2) == pytest.approx(0.082, abs=5e-4)


def test_a_split_is_prompts_with_replacement_and_a_random_part_labelled(votes):
    split = draw(votes, 3, 0.1)
    assert (split.labelled.sum(), len(split.rows), len(set(split.votes.prompt))) == (160, 1600, 160)
    assert 80 < len(set(split.prompt)) < 130  # 63 % of 160
    assert (votes.prompt[split.rows] == split.prompt).all()
    again, other = draw(votes, 3, 0.1), draw(votes, 4, 0.1)
    assert (again.rows == split.rows).all() and (other.rows != split.rows).any()


def test_every_interval_has_its_truth_and_dedpo_in_a_contest_is_an_estimate_of_it(votes):
    told = list(intervals(votes, 0, 0.1)) + list(plans(votes, 0, 0.1))
    rows = {row for row, *_ in told}
    assert {"judges as they are", "all judges, corrected", "the named row, corrected", "a person"} < rows
    assert np.isfinite([[e.low, e.value, e.high, truth] for *_, e, truth in told]).all()
    assert np.mean([e.low <= truth <= e.high for *_, e, truth in told]) > 0.7
    errors = contests(votes, 0, 0.25)
    assert len(errors["chance/dedpo"]) == 32 and len(errors["generator/human"]) == 10


def test_a_killed_run_resumes_and_its_half_line_is_made_again(tmp_path, monkeypatch):
    made = []

    def quickly(votes, seed, share):
        made.append((seed, share))
        return {"seed": seed, "share": share, "told": [], "errors": {}, "flagged": []}

    monkeypatch.setattr(program, "split", quickly)
    options = program.Options(splits=2, folder=tmp_path)
    assert len(program.run(options)) == 6 and len(made) == 6
    file = tmp_path / "splits.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]) + lines[3][:9])
    assert len(program.run(options)) == 6 and len(made) == 9
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [0, 0, 0, 1, 1, 1]


def test_the_page_says_what_the_committed_results_say():
    found = json.loads(program.RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text, page_tables(found)) == text


def test_coverage_and_errors_are_counted():
    lines = [
        {"seed": s, "share": 0.1, "told": [["row", "number", 0.0, 0.5, 1.0, truth]], "flagged": [["rater1", "rater2"]] * s,
         "errors": {"chance/human": [error], "predicted": [0.5]}}
        for s, (truth, error) in enumerate(((0.4, 0.1), (1.2, 0.3)))
    ]  # fmt: skip
    found = summarise(lines, {})["0.1"]
    assert found["intervals"]["row: number"] | {"spread": 0} == {
        "n": 2, "held": 0.5, "width": 1.0, "value": 0.5, "truth": 0.8, "spread": 0
    }  # fmt: skip
    assert found["contests"]["chance/human"]["rms"] == pytest.approx(np.sqrt(0.05), abs=1e-4)
    assert found["contests"]["chance/human"]["bias"] == pytest.approx(2.0) and found["couple"] == 0.5
