"""Corrections by context: a judge that is wrong about some kinds of prompts alone."""

from itertools import product

import numpy as np
import pytest
from real_votes import needs_tifa160, tifa160_votes
from scipy.special import expit
from tiny import picture_bytes

from palate.audits.findings import audit
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.judges.contexts import find_contexts, given_contexts
from palate.judges.correction import calibrate_judge, correct_judge
from palate.labels.votes import prepare_rows
from palate.run.load import load_config

NAMES = np.array(["food", "animals", "tools", "places"])


def voted(seed: int, n: int, wrong: tuple[int, ...] = (), own: float = 0.0):
    """Judge, human votes, prompts and kinds of 600 pairs of which n are labelled; the judge's taste is turned around in
    the kinds `wrong`."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(4, size=600)
    prompt = kind * 15 + rng.integers(15, size=600)
    utility = 2 * rng.normal(size=600)
    human = (rng.random(600) < expit(utility)).astype(float)
    believed = np.where(np.isin(kind, wrong), -1, 1) * utility + own * rng.normal(size=600)
    truth = expit(utility)
    human[rng.permutation(600)[n:]] = np.nan
    return expit(2 * believed), human, prompt, kind, truth


def corrected(judge, human, prompt, kind, **options):
    nothing = np.empty((len(judge), 0))
    contexts = None if kind is None else given_contexts(NAMES[kind])
    return correct_judge(judge, nothing, human, names=(), contexts=contexts, groups=prompt, **options)


def error(probability, truth):
    return np.mean((probability - truth) ** 2)


def test_a_judge_that_is_wrong_about_some_groups_is_set_right_by_context():
    gains = []
    for seed in range(6):
        judge, human, prompt, kind, truth = voted(seed, 60, wrong=(2,))
        by_kind, common = (corrected(judge, human, prompt, kinds) for kinds in (kind, None))
        gains.append(error(common.probability, truth) - error(by_kind.probability, truth))
    assert min(gains) > 0 and np.mean(gains) > 0.02
    told = corrected(*voted(1, 200, wrong=(2,))[:4])
    assert "For tools people prefer what the judge does not." in told.sentence()


def test_context_costs_little_where_the_error_does_not_follow_it():
    costs = []
    for seed in range(8):
        judge, human, prompt, kind, truth = voted(seed, 80, own=2.0)
        by_kind, common = (corrected(judge, human, prompt, kinds) for kinds in (kind, None))
        costs.append(error(by_kind.probability, truth) - error(common.probability, truth))
    assert np.mean(costs) < 0.004


def test_a_bias_on_a_picture_statistic_in_one_kind_is_found_and_said():
    rng = np.random.default_rng(3)
    kind = rng.integers(4, size=800)
    gloss, rest = rng.normal(size=800), rng.normal(size=800)
    human = (rng.random(800) < expit(2 * rest - np.where(kind == 0, 2.0, 0) * gloss)).astype(float)
    found = correct_judge(
        expit(2 * rest), gloss[:, None], human, names=("gloss",), contexts=given_contexts(NAMES[kind]),
        groups=kind * 20 + rng.integers(20, size=800),
    )  # fmt: skip
    assert "For food people prefer less-gloss pictures than the judge does." in found.sentence()
    assert "For places" not in found.sentence()


def test_a_context_without_votes_has_the_common_correction_and_no_vote_sees_itself():
    judge, human, prompt, kind, _ = voted(0, 120, wrong=(2,))
    human = np.where(kind == 3, np.nan, human)
    found = corrected(judge, human, prompt, kind)
    there = kind == 3
    z = np.log(found.probability / (1 - found.probability))[there]
    assert np.corrcoef(z, np.log(judge / (1 - judge))[there])[0, 1] > 0.6  # each fold has a slope of its own
    labelled = np.flatnonzero(~np.isnan(human))[:5]
    for row in labelled:
        turned = human.copy()
        turned[row] = 1 - turned[row]
        after = corrected(judge, turned, prompt, kind).probability
        assert after[row] == pytest.approx(found.probability[row])


def test_swapping_the_images_mirrors_a_correction_by_context():
    judge, human, prompt, kind, _ = voted(5, 100, wrong=(1,))
    here, there = (corrected(j, h, prompt, kind).probability for j, h in ((judge, human), (1 - judge, 1 - human)))
    np.testing.assert_allclose(here, 1 - there, atol=1e-9)


def test_contexts_are_found_from_the_words_and_named_by_them():
    things = {"food": ["apple pie", "cherry pie", "plum pie", "pear pie", "lemon pie"],
              "beast": ["grey wolf", "white wolf", "old wolf", "young wolf", "sad wolf"]}  # fmt: skip
    prompts = [prompt for own in things.values() for prompt in own] * 3
    found = find_contexts(prompts)
    assert len(found.names) == 2 and not found.given
    assert len({found.place[i] for i in range(5)}) == 1 and found.place[0] != found.place[5]
    assert any("pie" in name for name in found.names) and any("wolf" in name for name in found.names)
    np.testing.assert_array_equal(found.place, find_contexts(prompts).place)
    assert find_contexts(["a cat"] * 50).names == ("all prompts",)
    assert given_contexts(["tools", None, "food"]).names == ("food", "other", "tools")


def test_the_names_of_the_emoji_world_have_its_groups():
    found = find_contexts(["red apple", "penguin", "banana", "hammer"])
    assert found.names == ("animals", "food", "tools") and found.given
    assert found.place.tolist() == [1, 0, 1, 2]
    assert not find_contexts(["red apple", "penguin", "a red wolf"]).given


def grouped_dataset(folder, kinds: list[str | None], seed: int = 3) -> PreferenceDataset:
    """Pairs of two pictures whose prompts' words say nothing of their kind, and a judge that is wrong about tools."""
    rng = np.random.default_rng(seed)
    dataset = PreferenceDataset.create(folder, name="kinds")
    images = {f"image_{side}": {"bytes": picture_bytes(rng, 16, 16, "PNG"), "path": None} for side in (0, 1)}
    dataset.add_pairs(
        {"pair_id": f"p{i:03}", "prompt": f"thing {i // 3}", "group_id": kind, **images} for i, kind in enumerate(kinds)
    )
    utility = 2 * rng.normal(size=len(kinds))
    votes = []
    for i, kind in enumerate(kinds):
        believed = expit(2 * (-utility[i] if kind == "tools" else utility[i]))
        said = "0" if rng.random() < expit(utility[i]) else "1"
        common = {"pair_id": f"p{i:03}", "annotator_id": "ana", "source": "human", "choice": said}
        votes += [common] if i % 2 else []
        judged = {"annotator_id": "critic", "source": "judge", "choice": "0" if believed > 0.5 else "1"}
        votes.append(common | judged | {"probability": float(believed)})
    dataset.append_votes(votes)
    return dataset


def test_kinds_that_the_pairs_give_are_those_of_the_correction_and_of_auto(tmp_path, capsys):
    kinds = ["tools" if i // 3 % 3 == 0 else "food" if i // 3 % 3 == 1 else None for i in range(240)]
    dataset = grouped_dataset(tmp_path / "data", kinds)
    common = {
        "pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "out", "judge": "critic",
        "method": "dedpo", "correction": "context", "covariates": "statistics",
    }  # fmt: skip

    def finding(**keys):
        config = load_config(common | keys)
        return prepare_rows(dataset, config).account["corrected judge"]

    given, found = finding(contexts="group_id"), finding()
    assert "For tools people prefer what the judge does not." in given["finding"] and "3 kinds" in given["covariates"]
    assert "For tools" not in found["finding"] and given["brier"] < found["brier"] - 0.02
    auto = {"method": "auto", "contexts": "group_id"}
    account = prepare_rows(
        dataset, load_config({k: common[k] for k in common if k not in ("correction", "covariates")} | auto)
    ).account
    assert account["choice"]["correction"] == "context"
    told = audit(dataset, contexts="group_id").recommendation
    assert told.configuration == {"method": "auto", "judge": "critic", "contexts": "group_id"}
    assert account["choice"]["way"] in told.sentence


def test_kinds_that_are_none_are_refused(tmp_path):
    many = grouped_dataset(tmp_path / "many", [f"list {i}" for i in range(120)])
    none = grouped_dataset(tmp_path / "none", [None] * 30)
    for dataset, count in ((many, "120"), (none, "1")):
        with pytest.raises(PalateError, match=f"have {count} different ones"):
            audit(dataset, contexts="group_id")
    keys = {"pretrained_model_name_or_path": "world", "dataset": "d", "output_dir": "out", "judge": "critic"}
    with pytest.raises(PalateError, match="contexts belong to correction: context"):
        load_config(keys | {"method": "dedpo", "contexts": "group_id"})
    with pytest.raises(PalateError, match="group_id"):
        load_config(keys | {"method": "auto", "contexts": "group"})


@needs_tifa160
def test_on_real_votes_kinds_of_prompts_cost_nothing():
    """tifa160: 1,600 pairs of 160 prompts, three to five people each. Squared error on the votes that were not shown."""
    human, judges, prompts = tifa160_votes(("clipscore_vitb32", "tifa_mplug-large"))
    kinds, nothing, found = find_contexts(prompts), np.empty((len(prompts), 0)), []
    for judge, seed in product(judges.values(), range(3)):
        shown = np.random.default_rng(seed).permutation(len(human))[:100]
        seen = np.full(len(human), np.nan)
        seen[shown] = human[shown]
        common = calibrate_judge(judge, seen, groups=prompts).probability
        fine = correct_judge(judge, nothing, seen, names=(), contexts=kinds, groups=prompts).probability
        found.append(np.mean(np.delete((fine - human) ** 2 - (common - human) ** 2, shown)))
    assert np.mean(found) < 0.001 and max(found) < 0.006, found
