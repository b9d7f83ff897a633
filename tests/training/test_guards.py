"""What keeps a run honest: held-out votes and early stop, votes of models that did not see a pair, suspicion on record."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_labelled_dataset
from training.test_train import settings

import palate
from palate.data.dataset import PreferenceDataset
from palate.errors import PalateError
from palate.labels.targets import steadiest_number
from palate.labels.votes import folds_of, prepare_rows
from palate.run.load import load_config
from palate.run.votes_used import save_votes_used, votes_used
from palate.training.snapshots import MinorityRecord

LORA = {"rank": 4}


@pytest.fixture
def voted(tmp_path) -> PreferenceDataset:
    return make_labelled_dataset(tmp_path / "data", pairs=24, labelled=18)


def configuration(dataset, **changes):
    return load_config(
        {"pretrained_model_name_or_path": "world", "dataset": str(dataset.path), "output_dir": "run", **changes}
    )


def test_held_out_votes_are_whole_prompts_and_not_trained_on(voted):
    rows = prepare_rows(voted, configuration(voted, held_out_votes=0.3))
    held, trained = set(rows.held_out.id), set(rows.id)
    assert held and trained and not held & trained
    assert set(rows.held_out.prompt).isdisjoint(rows.prompt)
    everything = prepare_rows(voted, configuration(voted))
    votes = dict(zip(everything.id, everything.target, strict=True))
    assert all(votes[i] == t for i, t in zip(rows.held_out.id, rows.held_out.target, strict=True))


def test_held_out_pairs_stay_in_the_pool_of_dedpo_as_pairs_without_a_vote(voted):
    options = dict(method="dedpo", judge="bright", correction="none")
    whole = prepare_rows(voted, configuration(voted, **options))
    rows = prepare_rows(voted, configuration(voted, held_out_votes=0.3, **options))
    assert set(rows.id) == set(whole.id)
    held = np.isin(rows.id, rows.held_out.id)
    assert not rows.labelled[held].any() and np.isnan(rows.human[held]).all()
    assert rows.propensity[~held].mean() < whole.propensity.mean()  # fewer are labelled, and that is known
    # the mean over the pool of the debiased targets still weighs every labelled residual by what it stands for
    assert rows.weight.mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "held_out_too"),
    [(dict(held_out_votes=0.3), False), (dict(held_out_votes=0.3, early_stop=2), True),
     (dict(held_out_votes=0.3, method="dedpo", judge="bright"), False), (dict(held_out_votes=0.3, target="judge", judge="bright"), False)],
    ids=["held out", "early stop", "debiased", "corrected judge"],
)  # fmt: skip
def test_a_run_knows_every_human_vote_that_had_a_part_in_it(voted, changes, held_out_too):
    rows = prepare_rows(voted, configuration(voted, **changes))
    people = {vote["pair_id"] for vote in voted.votes().to_pylist() if vote["source"] == "human"}
    assert rows.votes_used == (people if held_out_too else people - set(rows.held_out.id))
    assert len(rows.held_out.id) > 0


def test_a_judges_own_votes_and_what_needs_none_use_no_human_vote(voted, tmp_path):
    alone = dict(target="judge", judge="bright", correction="none")
    assert prepare_rows(voted, configuration(voted, **alone)).votes_used == set()
    assert prepare_rows(voted, configuration(voted, method="self-npo")).votes_used == set()
    assert len(prepare_rows(voted, configuration(voted, method="kto")).votes_used) == 18
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
    save_votes_used(tmp_path / "first", {"a"}, None)
    save_votes_used(tmp_path / "second", {"b"}, str(tmp_path / "first"))
    save_votes_used(tmp_path / "second", {"c"}, str(tmp_path / "first"))  # it went on, on other votes
    assert votes_used(tmp_path / "second") == {"a", "b", "c"}
    save_votes_used(tmp_path / "third", {"b"}, str(tmp_path / "nowhere"))
    with pytest.raises(PalateError, match="does not say"):
        votes_used(tmp_path / "third")


def test_training_stops_when_held_out_votes_say_so_and_keeps_the_best_model(pipeline_folder, voted, tmp_path):
    changes = dict(held_out_votes=0.3, validation_steps=1, validation_draws=2, early_stop=2, max_train_steps=40)
    # votes that contradict the held-out ones: what is learned makes held-out votes worse
    run = palate.train(
        settings(pipeline_folder, voted, tmp_path / "run", lora=None, **changes, learning_rate=3e-2, beta=50_000.0)
    )
    values = [line["validation/cross_entropy"] for line in run.metrics]
    assert len(values) < 40
    best = int(np.argmin(values))
    assert len(values) == best + 1 + 2  # two validations without a better one
    again = palate.train(
        settings(pipeline_folder, voted, tmp_path / "run", lora=None, **changes, learning_rate=3e-2, beta=50_000.0)
    )
    assert again.metrics == run.metrics  # the same command does not go on behind the stop
    kept = load_file(run.path / "model/unet/diffusion_pytorch_model.safetensors")
    last = load_file(sorted((run.path / "checkpoints").iterdir())[-1] / "weights.safetensors")
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    assert "validation/accuracy_error" in run.metrics[-1]


def test_no_pair_is_judged_by_a_model_that_saw_its_vote(pipeline_folder, voted, tmp_path):
    """Turn the votes of one fold around: nothing that judges that fold may change, and the other fold's judge must."""
    options = dict(method="self-training-crossfit", self_draws=2, max_train_steps=2, lora=LORA)
    palate.train(settings(pipeline_folder, voted, tmp_path / "run", **options))
    prompts = voted.pairs(columns=["prompt"])["prompt"].to_pylist()
    fold = folds_of(prompts, 2, 0)
    turned = make_labelled_dataset(tmp_path / "turned", pairs=24, labelled=0)
    for row in voted.votes().to_pylist():
        if row["source"] == "human":
            number = int(row["pair_id"][1:])
            choice = row["choice"] if fold[number] else str(1 - int(row["choice"]))
            turned.append_votes(
                [{"pair_id": row["pair_id"], "annotator_id": "ana", "source": "human", "choice": choice}]
            )
    palate.train(settings(pipeline_folder, turned, tmp_path / "other", **options))
    before, after = (pq.read_table(tmp_path / name / "self-judge/votes.parquet") for name in ("run", "other"))
    assert before["fold_0"].equals(after["fold_0"])  # the model of fold 0 was trained without its votes
    assert not before["fold_1"].equals(after["fold_1"])
    assert np.abs(before["fold_0"].to_numpy()).max() > 0


def test_the_record_of_suspicion_is_exported_with_means_over_draws(pipeline_folder, voted, tmp_path):
    run = palate.train(settings(pipeline_folder, voted, tmp_path / "run", method="adaptive-dpo", max_train_steps=12))
    table = pq.read_table(run.path / "minority.parquet").to_pandas()
    assert set(table.columns) == {"pair_id", "draws", "doubt", "spread", "minority"}
    assert table["draws"].sum() == 12 * 4 and len(table) == 18
    assert table["minority"].to_numpy() == pytest.approx(table["doubt"] * table["spread"])
    assert table["doubt"].between(0, 1).all() and table["minority"].max() > 0


def test_running_means_are_means_also_of_a_row_that_occurs_twice():
    record = MinorityRecord(3)
    record.add(torch.tensor([1, 1, 2]), torch.tensor([0.2, 0.4, 0.9]), torch.tensor([1.0, 0.0, 0.5]))
    record.add(torch.tensor([1]), torch.tensor([0.6]), torch.tensor([0.5]))
    assert record.draws.tolist() == [0, 3, 1]
    assert record.doubt[1].item() == pytest.approx(0.4) and record.spread[1].item() == pytest.approx(0.5)
    other = MinorityRecord(3)
    other.load_state(record.state())
    assert torch.equal(other.metric(torch.tensor([1, 2])), torch.tensor([record.doubt[1] * record.spread[1], 0.45]))


def test_a_pair_learned_by_heart_is_told_once(pipeline_folder, voted, tmp_path, capsys):
    changes = dict(method="dedpo", judge="bright", correction="none", max_train_steps=12, learning_rate=3e-2, beta=1e6)
    palate.train(settings(pipeline_folder, voted, tmp_path / "run", **changes))
    assert capsys.readouterr().out.count("keep pulling there") == 1


def test_the_exact_safeguard_reports_how_often_the_winner_would_have_risen(pipeline_folder, voted, tmp_path):
    run = palate.train(settings(pipeline_folder, voted, tmp_path / "run", method="sdpo-exact", max_train_steps=8))
    assert {line["lambda/would_rise"] for line in run.metrics} <= {0.0, 1.0}
    assert all(0 <= line["lambda/exact"] <= 1 for line in run.metrics)
    rises = [line for line in run.metrics if line["lambda/would_rise"]]
    assert all(line["lambda/exact"] < 1 for line in rises)
    plain = palate.train(settings(pipeline_folder, voted, tmp_path / "plain", max_train_steps=8))
    assert [line["loss"] for line in run.metrics][:1] == [line["loss"] for line in plain.metrics][:1]


def test_a_kept_share_of_the_residual_lies_between_the_judge_and_dedpo(voted):
    options = dict(method="dedpo", judge="bright", correction="none")
    judge, half, whole = (
        prepare_rows(voted, configuration(voted, residual=share, **options)) for share in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(half.target, (judge.target + whole.target) / 2, atol=1e-12)
    np.testing.assert_array_equal(judge.target, judge.pseudo)
    assert (half.target != whole.target).sum() == (judge.labelled & (judge.target != whole.target)).sum() > 0
    for refused in ({"method": "mix"}, {"ramp": True}):
        with pytest.raises(PalateError, match="residual"):
            configuration(voted, residual=0.5, **(options | refused))


def test_a_ramp_ends_at_the_debiased_target_and_starts_near_the_judge(pipeline_folder, voted, tmp_path):
    options = dict(judge="bright", correction="none", max_train_steps=4, learning_rate=0.0)
    ramped = palate.train(settings(pipeline_folder, voted, tmp_path / "ramp", method="doubly-robust", **options))
    plain = palate.train(settings(pipeline_folder, voted, tmp_path / "plain", method="dedpo", **options))
    pull = [[line["gradient_factor"] for line in run.metrics] for run in (ramped, plain)]
    assert pull[0][-1] == pytest.approx(pull[1][-1], rel=1e-6)
    assert pull[0][0] < pull[1][0]


def test_a_batch_has_half_of_its_pairs_labelled_unless_less_than_the_whole_residual_pulls_there(voted):
    options = dict(method="dedpo", judge="bright", correction="none", train_batch_size=6)
    whole, part = (prepare_rows(voted, configuration(voted, residual=share, **options)) for share in (1.0, 0.1))
    asked = prepare_rows(voted, configuration(voted, residual=0.1, labelled_per_batch=3, **options))
    assert whole.labelled_per_batch == asked.labelled_per_batch == 3
    assert part.labelled_per_batch == steadiest_number(part.target, part.weight, part.labelled, 6)
