"""The plan of the claims benchmark, its labels and its intervals; the runs themselves are hours of work and not made here."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from palate.audits.advice import Recommendation
from palate.run.load import load_config
from palate.world.pictures import PROMPTS

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks.claims import __main__ as benchmark  # noqa: E402
from benchmarks.claims import (  # noqa: E402
    advice,
    answers_labels,
    answers_losses,
    estimates,
    evidence,
    figures,
    measure,
    results,
    tables,
    tuning,
)
from benchmarks.claims import conditions as plan  # noqa: E402


def test_every_condition_is_a_configuration_that_training_takes_and_a_name_means_one_thing():
    settings = {}
    for conditions in plan.questions().values():
        for condition in conditions:
            load_config(plan.COMMON | condition.settings | {"dataset": "data", "output_dir": "run"})
            told = (json.dumps(condition.settings, sort_keys=True), condition.pairs, condition.seeds)
            assert settings.setdefault(condition.name, told) == told
    assert len(set(settings.values())) == len(settings)  # and nothing is made twice under two names


def test_a_change_of_settings_is_another_run(tmp_path):
    keys = {measure.Job(plan.Condition(name, changes), seed, tmp_path, steps).key for name, changes, seed, steps in (
        ("a", {}, 0, 10), ("a", {"beta": 1.0}, 0, 10), ("a", {}, 1, 10), ("a", {}, 0, 11),
    )}  # fmt: skip
    assert len(keys) == 4
    longer = measure.Job(plan.Condition("longer", {"max_train_steps": 20}), 0, tmp_path, 10)
    assert longer.settings["max_train_steps"] == 20
    assert measure.Job(plan.Condition("renamed", {}), 0, tmp_path, 10).key in keys


def test_intervals_over_seeds_cover():
    rng, inside, ratios = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        clean = dict(enumerate(rng.normal(1.0, 0.1, 5)))
        found = estimates.estimate(clean)
        inside += found.low <= 1.0 <= found.high
        share = estimates.kept({seed: 0.6 * value + rng.normal(0, 0.05) for seed, value in clean.items()}, clean)
        ratios += share.low <= 0.6 <= share.high
    assert 0.93 < inside / 1000 < 0.97 and 0.93 < ratios / 1000 < 0.97


def test_a_share_of_nothing_has_no_interval():
    share = estimates.kept({0: 0.1, 1: 0.2, 2: 0.0}, {0: 0.1, 1: -0.2, 2: 0.05})
    assert np.isnan(share.low) and np.isnan(share.high)
    assert share.text() == f"{share.mean:.2f} [no interval]"


def write_run(folder: Path, name: str, seed: int, gain: float, **readings: float | str) -> str:
    prompts = [PROMPTS[k % 3] for k in range(6)]
    job = measure.Job(plan.Condition(name, {"output_dir": name}), seed, folder, 10)
    about = {"key": job.key, "condition": name, "seed": seed, "seconds": 1.0, **{"commit": "abc", **readings}}
    images = np.zeros((6, 64, 64, 3), np.uint8)
    path = folder / "results" / f"{job.key}.parquet" if name != "base" else folder / "results" / "base.parquet"
    measure.write_result(path, about | ({"key": "base"} if name == "base" else {}), images, prompts)
    return job.key


def test_results_are_collected_once_and_kept_when_the_work_folder_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "true_utility", lambda shown: np.arange(6.0))
    write_run(tmp_path, "base", 0, 0.0)
    monkeypatch.setattr(measure, "true_utility", lambda shown: np.arange(6.0) + 0.5)
    names = ["human-100", *(condition.name for condition in plan.hesitant())]
    planned = {
        write_run(tmp_path, f"once-{name}", seed, 0.5, winner_error=0.01): name for name in names for seed in (0, 1)
    }
    stale = write_run(tmp_path, "an-old-plan", 0, 0.5)
    out = tmp_path / "out"
    results.collect(tmp_path / "results", out, planned)
    results.collect(tmp_path / "nowhere", out, planned)  # a fresh clone: the committed tables are all there is
    found = results.load(out)
    assert results.known(out) == planned.keys() | {"base"} and stale not in results.known(out)
    assert found.gain("human-100") == {0: pytest.approx(0.5), 1: pytest.approx(0.5)}
    assert found.wins("human-100") == {0: 1.0, 1: 1.0}
    evidence.write_evidence(plan.questions(), out, tmp_path / "evidence.md")
    page = (tmp_path / "evidence.md").read_text()
    assert "| `hesitant-100` | 0.50 [0.50, 0.50] | 1.00 [1.00, 1.00] |" in page and "[0.00, 0.00]" in page
    assert (
        "Not enough runs yet: 1 of" in page
        and "clearly" not in page.split("## And when people hesitate")[1].split("##")[0]
    )


def test_a_run_that_is_made_again_says_by_how_much_its_pictures_differ(tmp_path, monkeypatch):
    out, planned = tmp_path / "out", {}
    for commit, utility in (("abc", 1.0), ("def", 1.25)):
        monkeypatch.setattr(measure, "true_utility", lambda shown, utility=utility: np.full(6, utility))
        write_run(tmp_path, "base", 0, 0.0)
        planned = {write_run(tmp_path, "human-100", 0, 0.0, commit=commit): "human-100"}
        results.collect(tmp_path / "results", out, planned)
    assert results.load(out).of("human-100")[0]["repeated"] == pytest.approx(0.25)
    results.collect(tmp_path / "nowhere", out, planned)
    assert "1 runs of older commits were made again" in evidence.introduction(results.load(out))
    assert "differed by more than 0.2" in evidence.introduction(results.load(out))


def test_the_share_of_the_residual_is_chosen_by_held_out_votes_and_not_by_the_truth():
    found = results.Results(
        [{"key": f"{share}", "condition": f"residual-{share}-12/calibrated", "seed": 0, "validation/cross_entropy": loss} for share, loss in ((0.0, 0.6), (0.5, 0.5))],
        {"base": {"utility": np.zeros(2)}, "0.0": {"utility": np.ones(2)}, "0.5": {"utility": np.full(2, 0.3)}},
    )  # fmt: skip
    assert tables.shrunk(found, "calibrated") == {0: pytest.approx(0.3)}


def test_what_the_audit_advises_is_the_condition_with_that_configuration(tmp_path):
    by_name = {c.name: c.settings for conditions in plan.questions().values() for c in conditions}
    told = {"method": "dedpo", "judge": "chance", "power": "auto"}
    for correction in ("covariates", "calibrate", "none"):
        name = advice.condition(Recommendation("", "", told | {"correction": correction}), "chance")
        assert by_name[name] == told | {"correction": correction, "human_votes": plan.FRACTIONS["12"]}
    assert advice.condition(Recommendation("", "", {"method": "dpo"}), "chance") == "human-12"
    advice.remember(tmp_path, {1: {"chance": "human-12"}})
    assert advice.remember(tmp_path, {0: {"chance": "b"}}) == {0: {"chance": "b"}, 1: {"chance": "human-12"}}
    assert advice.read_advice(tmp_path)[1] == {"chance": "human-12"}


def test_the_gain_of_the_advice_is_that_of_each_seeds_own_condition():
    def run(condition: str, seed: int) -> dict:
        return {"key": f"{condition}{seed}", "condition": condition, "seed": seed}

    found = results.Results(
        [run(name, seed) for name in ("a", "b") for seed in (0, 1)],
        {"base": {"utility": np.zeros(2)}} | {f"{name}{seed}": {"utility": np.full(2, value + seed)} for name, value in (("a", 10.0), ("b", 20.0)) for seed in (0, 1)},
        {0: {"chance": "a"}, 1: {"chance": "b"}, 2: {"chance": "a"}},
    )  # fmt: skip
    assert answers_labels.advised(found) == {"chance": {0: 10.0, 1: 21.0}}


def found_runs(gains: dict[str, list[float]], seeds: range = range(5)) -> results.Results:
    """Results of conditions with these gains, one per seed; the base's utility is 0."""
    runs = {
        f"{name}{seed}": (name, seed, gain)
        for name, each in gains.items()
        for seed, gain in zip(seeds, each, strict=False)
    }
    return results.Results(
        [{"key": key, "condition": name, "seed": seed} for key, (name, seed, _) in runs.items()],
        {key: {column: np.full(2, gain) for column in ("utility", "fidelity")} for key, (_, _, gain) in runs.items()}
        | {"base": {"utility": np.zeros(2), "fidelity": np.zeros(2)}},
    )  # fmt: skip


def tried(method: str, best: float) -> dict[str, list[float]]:
    return {plan.tuning(method, rate): [1.0 if rate == best else 0.5] for rate in plan.TUNED_RATES}


def test_each_method_is_ranked_at_the_rate_that_was_best_on_a_repetition_of_its_own(tmp_path, monkeypatch):
    unfinished = {plan.tuning("ipo", 1e-5): [9.0]}
    found = found_runs(tried("dpo", 2e-5) | tried("hinge", 5e-5) | unfinished)
    assert tuning.tuned_conditions(found) == {"dpo": "human-100", "hinge": "hinge-lr-5e-05"}
    monkeypatch.setattr(benchmark, "known", lambda out: {"something"})
    monkeypatch.setattr(benchmark, "load", lambda out: found)
    jobs = benchmark.jobs_of({"methods": plan.every_method()}, range(5), 10, tmp_path)
    made = [(job.condition.name, job.seed) for job in benchmark.called_for(jobs, range(5), tmp_path, tmp_path)]
    final = {name for name, _ in made if not name.startswith("tuning")}
    assert final == {"human-100", "hinge-lr-5e-05"} and made.count(("hinge-lr-5e-05", 4)) == 1
    tuned_on = {seed for name, seed in made if name.startswith("tuning")}
    assert tuned_on == {plan.TUNING_SEED} and plan.TUNING_SEED not in {s for name, s in made if name in final}


def test_a_ranking_claims_only_what_survives_the_number_of_comparisons(tmp_path):
    noise = [0.01, -0.01, 0.02, -0.02, 0.0]
    near = [0.1, 0.5, 1.0, 1.5, 1.9]  # p = 0.04 each: two of them at once are no finding
    gains = {
        "human-100": [0.0] * 5,
        "hinge-lr-5e-05": [2 - x for x in noise],
        "ipo-lr-2e-05": near,
        "cdpo-lr-2e-05": near,
    }
    rates = {"dpo": 2e-5, "hinge": 5e-5, "ipo": 2e-5, "cdpo": 2e-5}
    found = found_runs(
        {name: gain for method, rate in rates.items() for name, gain in tried(method, rate).items()} | gains
    )
    told = answers_losses.tell_methods(found, [], tmp_path).text()
    assert "1 of 3 methods gain more than DPO beyond chance (`hinge`), and 0 less" in told
    assert (
        told.index("| `hinge-lr-5e-05` | 2.00")
        < told.index("| `ipo-lr-2e-05` | 1.00")
        < told.index("| `human-100` | 0.00")
    )
    assert (tmp_path / "evidence-methods.png").exists()


def test_the_page_is_what_the_committed_results_say(tmp_path):
    docs = Path(__file__).parents[1] / "docs"
    shutil.copy(docs / figures.WALL, tmp_path)  # of pictures that are not committed
    evidence.write_evidence(plan.questions(), benchmark.COMMITTED, tmp_path / "evidence.md")
    assert (tmp_path / "evidence.md").read_text() == (docs / "evidence.md").read_text()
    shown = {
        line.rpartition("(")[2].strip(")")
        for line in (docs / "evidence.md").read_text().splitlines()
        if line.startswith("![")
    }
    assert shown == {path.name for path in tmp_path.glob("*.png")}


def test_telling_changes_no_results_and_what_collecting_leaves_out_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "true_utility", lambda shown: np.arange(6.0))
    write_run(tmp_path, "base", 0, 0.0)
    stale = write_run(tmp_path, "an-old-plan", 0, 0.5)
    results.collect(tmp_path / "results", tmp_path / "out", {stale: "an-old-plan"})
    before = (tmp_path / "out" / "runs.jsonl").read_text()
    monkeypatch.setattr(benchmark, "COMMITTED", tmp_path / "out")
    monkeypatch.setattr(benchmark, "HERE", tmp_path / "a" / "b")
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(benchmark, "write_evidence", lambda asked, out, page: None)
    benchmark.main(benchmark.Options(tell=True, folder=tmp_path / "nowhere"))
    assert (tmp_path / "out" / "runs.jsonl").read_text() == before
    results.collect(tmp_path / "nowhere", tmp_path / "out", {})
    assert "1 runs of settings that are no longer planned are left out: an-old-plan" in capsys.readouterr().out
