"""A dataset that lacks something is told what it gives, and why it cannot give the rest; the page and the table say it."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from audits.drawn_world import PAIRS, with_votes, world_votes
from rich.console import Console

from palate.audits.findings import audit
from palate.audits.page import render, suspect_pictures, write_page
from palate.audits.terminal import print_findings
from palate.cli.audit import main
from palate.command import said_as
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError

PEOPLE = np.arange(60)


def told(findings) -> str:
    return " ".join(findings.notes + [note for judge in findings.judges for note in judge.notes])


def test_without_any_vote(unvoted):
    found = audit(unvoted)
    assert not found.judges and not found.people.persons and not found.suspects and not found.plan
    assert "no votes" in found.recommendation.sentence and "No human votes" in told(found) and "No judge" in told(found)
    assert "Label some pairs" in render(found)


def test_without_human_votes_judges_are_listed_and_not_measured(tmp_path, unvoted, shown):
    found = audit(with_votes(unvoted, tmp_path / "data", world_votes("biased-judge", shown, np.arange(PAIRS))))
    (judge,) = found.judges
    assert judge.votes == PAIRS and judge.accuracy is None and judge.gain is None
    assert "0 pairs have both" in told(found) and "cannot be corrected: only 0 pairs" in told(found)
    assert found.recommendation.configuration == {"method": "judge", "judge": "biased-judge", "correction": "none"}
    assert "biased-judge" in render(found)


def test_without_judges_people_are_measured_and_flips_come_from_the_pictures(tmp_path, unvoted, shown):
    found = audit(with_votes(unvoted, tmp_path / "data", world_votes("majority", shown, np.arange(PAIRS))))
    assert found.judges == [] and found.recommendation.configuration == {"method": "dpo"}
    assert "One person voted" in told(found) and "No judge voted" in told(found) and "shown twice" in told(found)
    assert found.people.persons[0].agrees is None and found.people.first.n == PAIRS
    assert found.suspects[0].flip > 0.6


def test_two_people_are_not_told_apart(tmp_path, unvoted, shown):
    votes = world_votes("majority", shown, PEOPLE) + world_votes("hesitant", shown, PEOPLE)
    found = audit(with_votes(unvoted, tmp_path / "data", votes))
    assert found.people.alpha.n == 60 and all(p.dawid_skene is None is p.bradley_terry for p in found.people.persons)
    assert "not which of them is right" in told(found)


def test_a_judge_that_misses_labelled_pairs_or_always_says_the_same_is_pointed_out(tmp_path, unvoted, shown):
    votes = world_votes("majority", shown, PEOPLE) + world_votes("poor-judge", shown, np.arange(20, PAIRS))
    votes += [
        {"vote_id": f"b{i}", "pair_id": f"p{i:04}", "annotator_id": "bored", "source": "judge", "choice": "0", "probability": 0.7}
        for i in range(PAIRS)
    ]  # fmt: skip
    found = audit(with_votes(unvoted, tmp_path / "data", votes))
    assert "did not vote on 20 pairs that have a human vote" in told(found) and "always says 0.7" in told(found)
    assert next(judge for judge in found.judges if judge.name == "poor-judge").accuracy.n == 40


def test_a_judge_with_position_bias_is_found_where_the_order_is_known(tmp_path, unvoted, shown):
    rng = np.random.default_rng(0)
    votes = world_votes("majority", shown, PEOPLE)
    for i in range(200):
        for order in ("01", "10"):
            first = rng.random() < 0.75
            votes.append(
                {"vote_id": f"v{i}{order}", "pair_id": f"p{i:04}", "annotator_id": "vlm", "source": "judge", "order_shown": order,
                 "choice": order[0] if first else order[1]}
            )  # fmt: skip
    judge = audit(with_votes(unvoted, tmp_path / "data", votes)).judges[0]
    assert judge.first.beyond(0.5) == 1 and judge.first.n == 400 and judge.first.value == pytest.approx(0.75, abs=0.06)
    assert judge.flips.n == 200 and judge.flips.value == pytest.approx(0.75**2 + 0.25**2, abs=0.1)


def test_a_judge_whose_two_orders_were_averaged_still_shows_its_position_bias(tmp_path, unvoted, shown):
    rng = np.random.default_rng(1)
    ahead, behind = rng.uniform(0.5, 0.9, 200), rng.uniform(0.3, 0.9, 200)
    votes = world_votes("majority", shown, PEOPLE) + [
        {"vote_id": f"v{i}", "pair_id": f"p{i:04}", "annotator_id": "vlm", "source": "judge", "choice": "0" if a > b else "1",
         "probability": (a + 1 - b) / 2, "score_0": a, "score_1": b}
        for i, (a, b) in enumerate(zip(ahead, behind, strict=True))
    ]  # fmt: skip
    dataset = with_votes(unvoted, tmp_path / "data", votes)
    assert audit(dataset).judges[0].first is None  # scores of pictures, for all that is known
    dataset.add_provenance({"annotator": "vlm", "answers": "probabilities"})
    judge = audit(dataset).judges[0]
    assert judge.first.value == pytest.approx(np.mean(ahead + behind) / 2) and judge.first.beyond(0.5) == 1
    assert judge.flips.value == pytest.approx(np.mean(behind > 0.5))


def test_one_prompt_and_pictures_that_are_gone_still_give_an_audit(tmp_path):
    dataset = PreferenceDataset.create(tmp_path / "data", name="bare <b>")
    dataset.add_pairs(
        {
            "pair_id": f"p{i:04}",
            "prompt": "a <script>",
            "image_0": {"path": f"{i}a.png"},
            "image_1": {"path": f"{i}b.png"},
        }
        for i in range(40)
    )
    dataset.append_votes(
        {"pair_id": f"p{i:04}", "annotator_id": name, "source": source, "choice": str((i * k) % 3 % 2), "vote_id": f"{name}{i}"}
        for k, (name, source) in enumerate((("ana", "human"), ("vlm", "judge")), 1)
        for i in range(40 if source == "judge" else 25)
    )  # fmt: skip
    found = audit(dataset)
    assert "one prompt" in told(found) and "40 of 40 pairs have a picture that cannot be read" in told(found)
    assert {judge.correction for judge in found.judges} == {"none", "calibrate"}
    assert np.isfinite(found.judges[0].accuracy.low)
    page = render(found, suspect_pictures(found, dataset))
    assert "<script>" not in page and "bare &lt;b&gt;" in page and "a &lt;script&gt;" in page


def test_a_dataset_without_pairs_is_refused_in_one_line(tmp_path):
    with pytest.raises(PalateError, match="no pair of two images"):
        audit(PreferenceDataset.create(tmp_path / "data", name="empty"))


class Reader(HTMLParser):
    """Collects tags that are left open and addresses that lead outside."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_needs_nothing_else(tmp_path, world, findings):
    with said_as("palate audit data"):
        write_page(findings, world, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and all(address.startswith("data:") for address in reader.addresses)
    assert page.count("data:image/webp") == 2 * len(findings.suspects) == 48
    assert findings.recommendation.sentence in page and "method: auto" in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert "nan" not in re.sub(r"data:image[^\"]*", "", page).lower().replace("dominant", "")
    for judge in ("biased-judge", "poor-judge, corrected"):
        assert judge in page
    assert "votes against the others" in page and "Krippendorff" in page


@pytest.mark.parametrize("width", [80, 120, 200])
def test_words_and_intervals_stay_whole_in_terminals_of_any_width(findings, width):
    console = Console(width=width, force_terminal=True, no_color=True, file=io.StringIO())
    print_findings(findings, console)
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    assert max(len(line) for line in text.splitlines()) <= width
    for whole in (
        "biased-judge,",
        "poor-judge,",
        "all judges",
        "corrected",
        "majority",
        "Bradley-",
        "Skene",
        "minority votes",
    ):
        assert whole in text
    assert text.count("[") == len(re.findall(r"\[[^\[\]\n]*\]", text)) >= 36
    piped = Console(width=width, file=io.StringIO())
    print_findings(findings, piped)
    assert findings.recommendation.reason in piped.file.getvalue()  # a file or a pipe gets whole lines


def test_the_verb_prints_a_table_and_json_and_writes_the_page(tmp_path, world, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main([str(world.path), "--out", str(tmp_path / "a.html"), "--human-votes", "60"])
    text = capsys.readouterr().out
    assert "biased-judge, corrected" in text and "Krippendorff" in text and "labelled pairs" in text
    assert (tmp_path / "a.html").stat().st_size > 10_000
    main([str(world.path), "--json", "--human-votes", "60"])
    record = json.loads(capsys.readouterr().out)
    assert record["labelled"] == 60 and record["judges"][0]["accuracy"]["n"] == 60
    assert not (world.path / "audit.html").exists()  # --json alone writes nothing
    with pytest.raises(PalateError, match="no dataset"):
        main([str(tmp_path / "nowhere")])
