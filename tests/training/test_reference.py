"""Where the reference comes from changes no result: copies, copies in the CPU's memory, errors computed beforehand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import make_pipeline, refusal

import palate
from palate.addresses import address
from palate.cli.encode import main
from palate.data.dataset import PreferenceDataset
from palate.training.encode import encode, plan
from palate.training.precomputed import ReferenceErrors

LORA = {"rank": 4}


def settings(pipeline_folder: Path, dataset, output_dir: Path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(output_dir), "beta": 500.0,
        "learning_rate": 1e-3, "train_batch_size": 4, "max_train_steps": 4, "checkpointing_steps": 4, "report_to": "none", **changes,
    }  # fmt: skip


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints/step-000004/weights.safetensors")


def assert_same(run, other) -> None:
    first, second = weights(run), weights(other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert run.metrics == other.metrics


@pytest.mark.parametrize(
    ("lora", "modes"), [(LORA, ("adapter-off", "copy", "offloaded")), (None, ("copy", "offloaded"))]
)
def test_copies_of_the_reference_change_no_bit(lora, modes, pipeline_folder, dataset, tmp_path):
    runs = [
        palate.train(settings(pipeline_folder, dataset, tmp_path / mode, lora=lora, reference=mode))
        for mode in ("auto", *modes)
    ]
    for run in runs[1:]:
        assert_same(runs[0], run)


PRECOMPUTED = {"reference_draws": 2, "max_train_steps": 8, "checkpointing_steps": 4}


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_precomputed_errors_change_no_bit_and_no_reference_is_there(
    lora, pipeline_folder, dataset, tmp_path, monkeypatch
):
    same = dict(lora=lora, prompt_dropout=0.3, **PRECOMPUTED)  # 8 steps of 4 in 8 pairs: 4 visits, the draws come round
    whole = palate.train(settings(pipeline_folder, dataset, tmp_path / "computed", **same))
    done = encode(settings(pipeline_folder, dataset, "unused", **same))
    assert done == {"pairs": 24, "draws": 2, "computed": 48}

    from palate.training.networks import Networks

    def refuse(*_):
        raise AssertionError("the reference was asked for")

    monkeypatch.setattr(Networks, "reference_errors", refuse)
    again = palate.train(settings(pipeline_folder, dataset, tmp_path / "precomputed", reference="precomputed", **same))
    assert_same(whole, again)
    assert whole.metrics[0]["rewards/margins"] == 0.0 != whole.metrics[1]["rewards/margins"]


def test_one_table_serves_methods_strengths_and_seeds(pipeline_folder, dataset, tmp_path, monkeypatch):
    encode(settings(pipeline_folder, dataset, "unused"), reference_draws=2)
    for number, changes in enumerate(
        (
            {"beta": 2000.0},
            {"seed": 7},
            {"method": "sdpo"},
            {"method": "dedpo", "judge": "bright", "correction": "none"},
        )
    ):
        config = settings(pipeline_folder, dataset, tmp_path / f"{number}", reference="precomputed", reference_draws=2, max_train_steps=1, **changes)  # fmt: skip
        assert palate.train(config).metrics[0]["rewards/margins"] == 0.0


def test_a_run_that_shares_reads_what_encode_computed_and_adds_the_rest_to_the_same_folder(
    pipeline_folder, dataset, tmp_path, monkeypatch
):
    from palate.training.networks import Networks

    asked, computed = [], Networks.reference_errors
    monkeypatch.setattr(Networks, "reference_errors", lambda *given: asked.append(given) or computed(*given))
    same = dict(PRECOMPUTED, prompt_dropout=0.3)
    whole = palate.train(settings(pipeline_folder, dataset, tmp_path / "computed", **same))
    steps = len(asked)
    encode(settings(pipeline_folder, dataset, "unused", **same | {"reference_draws": 1}))
    asked.clear()
    first = palate.train(settings(pipeline_folder, dataset, tmp_path / "first", share_reference=True, **same))
    assert 0 < len(asked) < steps  # the second draws alone, and where one of them is in a batch
    asked.clear()
    second = palate.train(settings(pipeline_folder, dataset, tmp_path / "second", share_reference=True, **same))
    assert not asked
    for run in (first, second):
        assert weights_of(run, 8).keys() and whole.metrics == run.metrics
        assert all(torch.equal(value, weights_of(run, 8)[name]) for name, value in weights_of(whole, 8).items())
    (folder,) = Path(dataset.path).glob("cache/*/reference-*")
    assert {path.name for path in folder.iterdir()} == {"settings.json", "errors.safetensors", "visited.safetensors"}
    kept = load_file(folder / "visited.safetensors")
    assert len(kept["pair"]) == len(set(zip(kept["pair"].tolist(), kept["draw"].tolist(), strict=True)))
    known = {tuple(place) for place in torch.stack([kept["pair"], kept["draw"]], 1).tolist() if place[1] == 1}
    assert encode(settings(pipeline_folder, dataset, "unused", **same))["computed"] == 24 - len(known) < 24


def weights_of(run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.path / f"checkpoints/step-{step:06}/weights.safetensors")


def test_runs_share_errors_of_one_arithmetic_alone_and_files_of_before_are_left(pipeline_folder, dataset, tmp_path):
    palate.train(settings(pipeline_folder, dataset, tmp_path / "one", share_reference=True))
    (folder,) = Path(dataset.path).glob("cache/*/reference-*")
    old = folder.parent / "reference-0123456789abcdef.parquet"
    old.write_bytes(b"of an older palate")
    before = (folder / "visited.safetensors").read_bytes()
    palate.train(settings(pipeline_folder, dataset, tmp_path / "half", share_reference=True, mixed_precision="bf16"))
    assert len(list(folder.parent.glob("reference-*/visited.safetensors"))) == 2
    assert (folder / "visited.safetensors").read_bytes() == before and old.exists()


def test_draws_come_round_and_depend_on_the_seed_of_draws_alone(pipeline_folder, dataset, tmp_path):
    from palate.training.sources import draws as made

    asked: list[tuple] = []

    def recorded(seed, ids, numbers, *rest):
        asked.append((seed, set(numbers)))
        return made(seed, ids, numbers, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palate.training.sources.draws", recorded)
        palate.train(settings(pipeline_folder, dataset, tmp_path / "run", seed=3, draw_seed=11, reference_draws=2, max_train_steps=8))  # fmt: skip
    assert {seed for seed, _ in asked} == {11} and set().union(*(numbers for _, numbers in asked)) == {0, 1}


def test_encoding_that_was_interrupted_goes_on_and_grows(pipeline_folder, dataset, tmp_path, monkeypatch):
    import palate.training.precomputed as precomputed

    config = settings(pipeline_folder, dataset, "unused")
    monkeypatch.setattr(precomputed, "PART", 8)
    errors, calls = precomputed._errors, []

    def dying(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return errors(*arguments)

    monkeypatch.setattr(precomputed, "_errors", dying)
    with pytest.raises(KeyboardInterrupt):
        encode(config, reference_draws=2)
    (folder,) = Path(dataset.path).glob("cache/*/reference-*")
    assert len(list(folder.glob("part-*"))) == 3 and not (folder / "errors.safetensors").exists()
    assert plan(config, 2) == {"pairs": 24, "to encode": 0, "draws": 2, "to compute": 24}
    assert encode(config, reference_draws=2)["computed"] == 24 and not list(folder.glob("part-*"))
    two = ReferenceErrors(folder)
    ids = [f"p{i:03}" for i in range(24)]
    assert encode(config, reference_draws=3)["computed"] == 24  # the third draw alone
    assert encode(config, reference_draws=2)["computed"] == 0 and ReferenceErrors(folder).draws == 3
    three = ReferenceErrors(folder)
    for draw in (0, 1):
        assert torch.equal(two.lookup(ids, [draw] * 24), three.lookup(ids, [draw] * 24))
    shutil.rmtree(folder)
    encode(config, reference_draws=3)
    whole = ReferenceErrors(folder)
    assert all(torch.equal(whole.lookup(ids, [draw] * 24), three.lookup(ids, [draw] * 24)) for draw in (0, 1, 2))


def test_the_verb_counts_computes_and_says_how_to_go_on(pipeline_folder, dataset, tmp_path, capsys):
    path = tmp_path / "dpo.yaml"
    path.write_text(yaml.safe_dump(settings(pipeline_folder, dataset, tmp_path / "run", reference="precomputed")))
    main([str(path), "--reference-draws", "2", "--dry-run"])
    told = capsys.readouterr().out
    assert "24 of 24 pairs would be encoded" in told and "48 errors of the reference would be computed" in told
    main([str(path), "--reference-draws", "2"])
    assert f"palate train {path} --reference precomputed --reference-draws 2" in capsys.readouterr().out
    palate.train(path, reference_draws=2)
    main([str(path), "--reference-draws", "2", "--dry-run"])
    assert "0 errors of the reference would be computed" in capsys.readouterr().out


def test_another_batch_size_is_told(pipeline_folder, dataset, tmp_path, capsys):
    config = settings(pipeline_folder, dataset, tmp_path / "run", reference="precomputed", reference_draws=2)
    encode(config)
    run = palate.train(config, train_batch_size=8, max_train_steps=1)
    assert "computed 4 pairs at a time, and a step takes 8" in capsys.readouterr().out
    assert abs(run.metrics[0]["rewards/margins"]) < 1e-3


def test_nothing_to_compute_is_refused(pipeline_folder, dataset):
    for changes, message in (({"method": "mapo"}, "nothing in this objective"), ({"method": "rn-dpo"}, "region")):
        line = refusal(lambda changes=changes: encode(settings(pipeline_folder, dataset, "run", **changes), 2))
        assert message in line


def test_the_table_is_memory_mapped_and_finds_pairs_by_their_address(tmp_path):
    from palate.training.precomputed import _write

    ids = [f"pair-{i}" for i in range(100_000)]
    errors = np.random.default_rng(0).random((len(ids), 4, 2), dtype=np.float32)
    _write(tmp_path / "errors.safetensors", ids, errors)
    (tmp_path / "settings.json").write_text(json.dumps({"batch_size": 4}))
    table = ReferenceErrors(tmp_path)
    assert str(tmp_path / "errors.safetensors") in Path("/proc/self/maps").read_text()
    chosen = [5, 99_999, 0, 31_337]
    found = table.lookup([ids[i] for i in chosen], [3, 0, 1, 2])
    assert torch.equal(found, torch.from_numpy(errors[chosen, [3, 0, 1, 2]]))
    assert table.missing(["pair-7", "nowhere", "pair-8"]) == ["nowhere"]
    assert (np.diff(table._pair) > 0).all() and address("pair-5") in table._pair


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixed_precision": "bf16"}, "mixed_precision: 'no' there, 'bf16' here"),
        ({"prompt_dropout": 0.1}, "prompt_dropout: 0.0 there, 0.1 here"),
        ({"draw_seed": 5}, "draw_seed: 0 there, 5 here"),
        ({"reference_draws": 3}, "computed at 2 draws of each pair"),
        ({"resolution": 32}, "resolution: 64 there, 32 here"),
    ],
)
def test_errors_of_something_else_are_refused_with_the_difference(changes, message, pipeline_folder, dataset, tmp_path):
    encode(settings(pipeline_folder, dataset, "unused"), reference_draws=2)
    config = {"reference": "precomputed", "reference_draws": 2, **changes}
    line = refusal(lambda: palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **config)))
    assert message in line and "palate encode CONFIG --reference-draws" in line


def test_errors_of_another_model_or_without_some_pairs_are_refused(pipeline_folder, dataset, tmp_path):
    config = {"reference": "precomputed", "reference_draws": 2}
    asked = settings(pipeline_folder, dataset, tmp_path / "run", **config)
    assert "none have been computed" in refusal(lambda: palate.train(asked))
    encode(asked)
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    shutil.copytree(make_pipeline(tmp_path / "seed-1", seed=1) / "unet", other / "unet", dirs_exist_ok=True)
    assert "another model" in refusal(lambda: palate.train(asked | {"pretrained_model_name_or_path": str(other)}))
    scheduler = other / "scheduler/scheduler_config.json"
    shutil.copytree(pipeline_folder / "unet", other / "unet", dirs_exist_ok=True)
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    assert "another scheduler" in refusal(lambda: palate.train(asked | {"pretrained_model_name_or_path": str(other)}))
    row = next(iter(dataset.iter_pairs())).to_pylist()[0]
    dataset.add_pairs([row | {"pair_id": "late"}])
    dataset.append_votes([{"vote_id": "v", "pair_id": "late", "annotator_id": "ana", "source": "human", "choice": "0"}])
    assert "1 of 9 pairs have no precomputed errors of the reference, the first being late" in refusal(
        lambda: palate.train(asked)
    )
    assert encode(asked)["computed"] == 2
    palate.train(asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "adapter-off"}, "needs adapters"),
        ({"reference": "precomputed"}, "needs reference_draws"),
        ({"reference": "copy", "method": "mapo"}, "nothing in this objective compares"),
        ({"reference": "precomputed", "reference_draws": 2, "method": "dspo-sdxl"}, "dspo-sdxl"),
        ({"reference": "precomputed", "reference_draws": 2, "method": "inpo"}, "noise: inversion"),
        ({"reference": "precomputed", "reference_draws": 2, "method": "rn-dpo"}, "region"),
        ({"reference": "precomputed", "reference_draws": 2, "method": "self-training"}, "judge: self"),
        ({"reference": "precomputed", "reference_draws": 2, "held_out_votes": 0.2}, "validation has draws of its own"),
        ({"reference": "precomputed", "reference_draws": 2, "share_reference": True}, "give one"),
        ({"reference_draws": 2, "method": "sudo"}, "source is 'mismatch'"),
        ({"draw_seed": 2}, "add reference_draws"),
    ],
)
def test_references_that_cannot_work_are_refused(changes, message, pipeline_folder, dataset, tmp_path):
    assert message in refusal(lambda: palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes)))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_knows_errors_of_another_resolution_and_pairs_that_cannot_be_read(pipeline_folder, dataset, tmp_path):
    rows = [row for batch in dataset.iter_pairs() for row in batch.to_pylist()]
    rows[1] = rows[1] | {"image_0": {"bytes": b"<html>", "path": None}}
    broken = PreferenceDataset.create(tmp_path / "broken", "broken")
    broken.add_pairs(rows)
    broken.append_votes(dataset.votes().to_pylist())
    config = settings(pipeline_folder, broken, tmp_path / "run", reference="precomputed", reference_draws=1)
    encode(config)
    palate.train(config, dry_run=True)
    line = refusal(lambda: palate.train(config, dry_run=True, resolution=32))
    assert "another resolution, autoencoder or text encoder" in line
