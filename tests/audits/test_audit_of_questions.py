"""The audit of several questions: each is shown, and how often the winners differ, against a known truth."""

import json

import numpy as np
import pytest

import palate
from palate.audits.page import render
from palate.cli.audit import main
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError

CHANGED = 0.3  # of the pairs another image is the more beautiful one


@pytest.fixture(scope="module")
def prefs(tmp_path_factory):
    rng = np.random.default_rng(0)
    dataset = PreferenceDataset.create(tmp_path_factory.mktemp("audit") / "prefs", "two questions")
    names = [f"p{k:03}" for k in range(300)]
    dataset.add_pairs([{"pair_id": name, "prompt": f"about {name}"} for name in names])
    rows = []
    for name in names:
        shown, nicer = (fits := rng.random() < 0.5), int(name[1:]) % 10 < 10 * CHANGED
        for who in ("ana", "bo"):
            rows.append(
                {
                    "pair_id": name,
                    "annotator_id": who,
                    "source": "human",
                    "choice": "01"[shown],
                    "question": "alignment",
                }
            )
            if name < "p200":
                beauty = shown != nicer
                rows.append(
                    {
                        "pair_id": name,
                        "annotator_id": who,
                        "source": "human",
                        "choice": "01"[beauty],
                        "question": "aesthetics",
                    }
                )
        said = fits if rng.random() < 0.8 else not fits
        rows.append(
            {
                "pair_id": name,
                "annotator_id": "vlm",
                "source": "judge",
                "choice": "01"[said],
                "probability": 0.9 * (not said) + 0.05,
                "question": "alignment",
            }
        )
        rows.append(
            {
                "pair_id": name,
                "annotator_id": "clip",
                "source": "judge",
                "choice": "01"[said],
                "probability": 0.9 * (not said) + 0.05,
            }
        )
    dataset.append_votes(rows)
    return dataset


def test_every_question_is_shown_and_how_often_the_winners_differ(prefs):
    found = palate.audit(prefs)
    assert found.question == "alignment" and found.labelled == 300  # the busiest, where nobody voted overall
    assert found.recommendation.configuration["question"] == "alignment"
    told = {asked.name: asked for asked in found.questions}
    assert (
        set(told) == {"alignment", "aesthetics"} and told["aesthetics"].pairs == 200 and told["aesthetics"].people == 2
    )
    assert {judge.name for judge in told["aesthetics"].judges} >= {"clip"} and not told["alignment"].judges
    (couple,) = found.between
    assert couple.pairs == couple.changes.n == 200 and couple.changes.value == pytest.approx(CHANGED)
    assert 0.22 < couple.changes.low < 0.26 and 0.34 < couple.changes.high < 0.38  # Wilson's, for 60 of 200
    assert couple.same_person.value == pytest.approx(1 - couple.changes.value) and couple.same_person.n == 400


def test_a_judge_that_did_not_vote_on_a_question_is_measured_by_its_overall_votes_and_it_is_said(prefs):
    found = palate.audit(prefs, question="alignment")
    assert not found.questions and not found.between
    assert [judge.name for judge in found.judges if judge.correction == "none"] == ["clip", "vlm"]
    assert any("No votes of clip on alignment: its overall votes" in note for note in found.notes)
    with pytest.raises(PalateError, match="answers 'beauty'"):
        palate.audit(prefs, question="beauty")


def test_the_terminal_the_page_and_json_say_it(prefs, capsys):
    main([str(prefs.path)])
    told = capsys.readouterr().out
    assert "300 with a human vote on alignment" in told and "another image wins on" in told and "aesthetics" in told
    page = (prefs.path / "audit.html").read_text()
    assert "<h2>Questions</h2>" in page and "another image wins on" in page
    main([str(prefs.path), "--json"])
    assert json.loads(capsys.readouterr().out)["between"][0]["pairs"] == 200


def test_where_there_is_one_question_nothing_is_added(prefs):
    plain = PreferenceDataset.create(prefs.path.parent / "plain", "plain")
    plain.add_pairs([{"pair_id": f"{k}", "prompt": f"about {k}"} for k in range(20)])
    plain.append_votes(
        [{"pair_id": f"{k}", "annotator_id": "ana", "source": "human", "choice": "01"[k % 2]} for k in range(20)]
    )
    found = palate.audit(plain)
    assert found.question == "overall" and not found.questions and not found.between
    assert "<h2>Questions</h2>" not in render(found) and "question" not in found.recommendation.configuration
