"""The whole loop on a tiny real pipeline: logits start at 0, resuming equals never stopping, methods combine."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny import make_labelled_dataset

import palate
from palate.backbones import load_backbone
from palate.errors import PalateError
from palate.labels.votes import prepare_rows
from palate.network.model import load_trained
from palate.network.precision import hold_frozen
from palate.run.checkpoint import State, checkpoints, load_newest_checkpoint, save_checkpoint
from palate.run.load import load_config
from palate.training.assemble import assemble, make_any_policy


def settings(pipeline_folder: Path, dataset, output_dir: Path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(output_dir), "beta": 500.0,
        "learning_rate": 1e-3, "train_batch_size": 4, "max_train_steps": 4, "checkpointing_steps": 2, "report_to": "none", **changes,
    }  # fmt: skip


LORA = {"rank": 4}
DEDPO = {"method": "dedpo", "judge": "bright", "correction": "none"}


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
@pytest.mark.parametrize("folder", ["pipeline_folder", "v_pipeline_folder"])
def test_every_logit_of_the_first_step_is_exactly_zero(folder, lora, dataset, tmp_path, request):
    run = palate.train(
        settings(request.getfixturevalue(folder), dataset, tmp_path / "run", lora=lora, max_train_steps=2, **DEDPO)
    )
    first, second = run.metrics
    assert first["rewards/margins"] == first["winner_error"] == first["loser_error"] == 0.0
    assert first["largest_labelled_logit"] == 0.0
    assert second["rewards/margins"] != 0.0  # so the zero above is not a broken logit


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_training_learns_the_votes(lora, pipeline_folder, dataset, tmp_path):
    changes = (
        {"lora": LORA | {"target_modules": ["conv1", "conv2", "to_v", "to_out.0"]}, "learning_rate": 1e-2}
        if lora
        else {}
    )
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=80, beta=5000.0, **changes))
    late = [line["rewards/accuracies"] for line in run.metrics[-40:]]
    assert sum(late) / len(late) > 0.65  # 160 draws: a coin stays below 0.62


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_the_result_is_what_diffusers_loads(lora, pipeline_folder, dataset, tmp_path):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", lora=lora, max_train_steps=2))
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder, safety_checker=None)
    before = {name: p.clone() for name, p in pipeline.unet.named_parameters()}
    if lora:
        pipeline.load_lora_weights(run.model_path)
        assert any(
            "lora" in name and p.abs().max() > 0 for name, p in pipeline.unet.named_parameters() if "lora_B" in name
        )
    else:
        unet = UNet2DConditionModel.from_pretrained(run.model_path, subfolder="unet")
        assert any(not torch.equal(p, before[name]) for name, p in unet.named_parameters())
    assert not list(run.model_path.rglob("*.bin")) and not list(run.model_path.rglob("*.pth"))


@pytest.mark.parametrize(
    "changes",
    [
        dict(lora=LORA),
        dict(),
        dict(
            DEDPO, adaptive=True, safeguard=0.9, gradient_accumulation_steps=2, share_reference=True, prompt_dropout=0.3
        ),
    ],
    ids=["lora", "full", "everything"],
)
def test_a_resumed_run_equals_one_never_stopped_to_the_last_bit(changes, pipeline_folder, dataset, tmp_path):
    whole = palate.train(
        settings(pipeline_folder, dataset, tmp_path / "whole", lr_scheduler="linear", max_train_steps=6, **changes)
    )
    for shared in Path(dataset.path).glob("cache/*/reference-*/visited.safetensors"):
        shared.unlink()
    interrupt_after(
        4, settings(pipeline_folder, dataset, tmp_path / "halves", lr_scheduler="linear", max_train_steps=6, **changes)
    )
    assert [p.name for p in checkpoints(tmp_path / "halves")] == ["step-000002", "step-000004"]
    halves = palate.train(
        settings(pipeline_folder, dataset, tmp_path / "halves", lr_scheduler="linear", max_train_steps=6, **changes)
    )
    assert whole.metrics == halves.metrics
    first, second = (load_file(run.path / "checkpoints/step-000006/weights.safetensors") for run in (whole, halves))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def interrupt_after(steps: int, config: dict) -> None:
    """Train in another process and kill it (SIGKILL) once the checkpoint of `steps` is there."""
    script = f"import palate; palate.train({config!r})"
    slow = "import palate.training.loop as l, time; w = l.MetricsLog.write\n" \
           "def write(self, *a): w(self, *a); time.sleep(0.5)\nl.MetricsLog.write = write\n"  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", slow + script], env=os.environ, stdout=subprocess.DEVNULL)
    checkpoint = Path(config["output_dir"]) / "checkpoints" / f"step-{steps:06}"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert checkpoint.exists()


def test_accumulated_micro_batches_equal_one_batch(pipeline_folder, dataset, tmp_path):
    one = palate.train(settings(pipeline_folder, dataset, tmp_path / "one", train_batch_size=8, max_train_steps=1))
    two = palate.train(
        settings(
            pipeline_folder,
            dataset,
            tmp_path / "two",
            train_batch_size=4,
            gradient_accumulation_steps=2,
            max_train_steps=1,
        )
    )
    assert two.metrics[0]["gradient_norm"] == pytest.approx(one.metrics[0]["gradient_norm"], rel=1e-4)


def test_shared_reference_errors_do_not_change_the_run(pipeline_folder, dataset, tmp_path):
    plain = palate.train(settings(pipeline_folder, dataset, tmp_path / "plain"))
    shared = [
        palate.train(settings(pipeline_folder, dataset, tmp_path / f"shared-{i}", share_reference=True)) for i in (0, 1)
    ]
    assert plain.metrics == shared[0].metrics == shared[1].metrics
    assert list(Path(dataset.path).glob("cache/*/reference-*/visited.safetensors"))


def test_training_on_a_full_cache_loads_neither_vae_nor_text_encoder(pipeline_folder, dataset, tmp_path, monkeypatch):
    palate.train(settings(pipeline_folder, dataset, tmp_path / "first"))

    def refuse(self):
        raise AssertionError("an encoder was loaded")

    from palate.backbones.stable_diffusion import StableDiffusion

    monkeypatch.setattr(StableDiffusion, "vae", property(refuse))
    monkeypatch.setattr(StableDiffusion, "text_encoder", property(refuse))
    palate.train(settings(pipeline_folder, dataset, tmp_path / "second"))


@pytest.mark.parametrize(
    "options",
    [
        dict(gradient_checkpointing=True),
        dict(mixed_precision="bf16"),
        dict(link="ipo", safeguard=0.5),
        dict(link="hinge", adaptive=True),
    ],
)
def test_options_combine(options, pipeline_folder, dataset, tmp_path):
    run = palate.train(
        settings(pipeline_folder, dataset, tmp_path / "run", lora=LORA, max_train_steps=2, **DEDPO, **options)
    )
    assert run.metrics[0]["rewards/margins"] == 0.0 and run.metrics[1]["loss"] == run.metrics[1]["loss"]


def test_metrics_by_source_and_timestep(pipeline_folder, dataset, tmp_path):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", train_batch_size=8, **DEDPO))
    names = {name for line in run.metrics for name in line}
    assert {
        "by_source/human/rewards/accuracies",
        "by_source/bright/winner_error",
        "by_timestep/750-999/rewards/margins",
        "lambda/mean",
    } <= names
    assert len(run.metrics) == 4 and (run.path / "config.yaml").exists() and (run.path / "environment.json").exists()


def test_tensorboard_has_the_same_numbers(pipeline_folder, dataset, tmp_path):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", report_to="tensorboard"))
    events = board.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("rewards/margins")] == pytest.approx(
        [line["rewards/margins"] for line in run.metrics], rel=1e-4
    )


# --- what is refused, and what a failure leaves ----------------------------------------------------------------------


def test_nan_stops_the_run_names_the_pair_and_keeps_the_checkpoint(pipeline_folder, dataset, tmp_path):
    config = settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2)
    palate.train(config)
    cache = next(Path(dataset.path).glob("cache/*/pairs-*.safetensors"))
    from safetensors import safe_open

    with safe_open(cache, "pt") as handle:
        metadata, tensors = handle.metadata(), load_file(cache)
    tensors["latents"][json.loads(metadata["pair_ids"]).index("p005")] = float("nan")
    save_file(tensors, cache, metadata=metadata)
    with pytest.raises(PalateError, match=r"not a number, at pair p005"):
        palate.train(config, max_train_steps=20)
    assert (
        checkpoints(tmp_path / "run")
        and json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["loss"] is not None
    )


def test_another_configuration_is_refused_in_the_same_folder(pipeline_folder, dataset, tmp_path):
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run"))
    with pytest.raises(PalateError, match="beta: 500.0 there, 2000.0 here"):
        palate.train(settings(pipeline_folder, dataset, tmp_path / "run", beta=2000.0))


def test_a_run_whose_rows_changed_does_not_go_on_as_the_same(pipeline_folder, dataset, tmp_path):
    config = settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2)
    finished = palate.train(config)
    model = {path.name: path.read_bytes() for path in finished.model_path.iterdir() if path.is_file()}
    vote = {"vote_id": "late", "pair_id": "p020", "annotator_id": "ana", "source": "human", "choice": "0"}
    dataset.append_votes([vote])
    palate.train(config)  # nothing is left to do
    with pytest.raises(PalateError, match=r"changed since this run began \(8 rows then, 9 now\)") as refused:
        palate.train(config, max_train_steps=4)
    assert "\n" not in str(refused.value)
    assert model == {path.name: path.read_bytes() for path in finished.model_path.iterdir() if path.is_file()}
    palate.train(config, max_train_steps=2, output_dir=str(tmp_path / "other"))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_prolonged_run_has_the_rates_of_one_that_was_that_long(schedule, pipeline_folder, dataset, tmp_path, capsys):
    """The steps after the first end, and not those before, are what the long run's are; and this is said."""
    config = settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2, lr_scheduler=schedule)
    config["lr_warmup_steps"] = 1
    palate.train(config)
    assert "max_train_steps was" not in capsys.readouterr().out
    prolonged = [line["learning_rate"] for line in palate.train(config, max_train_steps=5).metrics]
    told = capsys.readouterr().out
    assert "max_train_steps was 2 before. From step 2 on the learning rates: those of a run of 5 steps" in told
    whole = palate.train(config | {"output_dir": str(tmp_path / "whole"), "max_train_steps": 5}).metrics
    whole = [line["learning_rate"] for line in whole]
    assert prolonged[2:] == whole[2:] and min(whole[1:]) > 0
    assert prolonged[0] == whole[0] == 0  # the warm-up, which does not depend on the length
    capsys.readouterr()
    shorter = palate.train(config, max_train_steps=3)
    assert "5 steps were taken already, more than max_train_steps: 3" in capsys.readouterr().out
    assert len(shorter.metrics) == 5


def test_the_ramp_of_a_prolonged_run_is_that_of_one_that_was_that_long(
    pipeline_folder, dataset, tmp_path, capsys, monkeypatch
):
    asked = []
    monkeypatch.setattr("palate.training.pair_weights.ramp", lambda step, steps: asked.append((step, steps)) or 0.5)
    options = {"max_train_steps": 2, "method": "doubly-robust", "judge": "bright", "correction": "none"}
    config = settings(pipeline_folder, dataset, tmp_path / "run", **options)
    palate.train(config)
    palate.train(config, max_train_steps=4)
    assert "From step 2 on the ramp: those of a run of 4 steps" in capsys.readouterr().out
    assert set(asked) == {(0, 2), (1, 2), (2, 4), (3, 4)}


def test_a_prolonged_run_with_a_constant_rate_has_nothing_to_say(pipeline_folder, dataset, tmp_path, capsys):
    config = settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2, lr_scheduler="constant")
    palate.train(config)
    palate.train(config, max_train_steps=3)
    assert "max_train_steps" not in capsys.readouterr().out


def test_where_nobody_watches_training_tells_its_progress_in_lines(
    pipeline_folder, dataset, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("palate.progress.SOONEST", 0.0)
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=3))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training run: ")]
    loss, accuracy = run.metrics[0]["loss"], run.metrics[0]["rewards/accuracies"]
    assert lines[0].startswith(f"training run: 1 of 3 (33 %), loss {loss:.3g}, accuracy {accuracy:.3g}, ")
    assert " s a step, " in lines[0] and lines[0].endswith(" left") and lines[-1].startswith("training run: 3 of 3, in")


def test_a_classifier_is_made_without_loading_the_denoiser(pipeline_folder):
    backbone = load_backbone(str(pipeline_folder))
    keys = {"pretrained_model_name_or_path": str(pipeline_folder), "dataset": "none", "output_dir": "none"}
    config = load_config(keys | {"method": "pc-diffusion"})
    assert make_any_policy(backbone, config).is_classifier and "network" not in vars(backbone)


def test_what_a_kill_left_half_written_is_gone_when_the_run_goes_on(pipeline_folder, dataset, tmp_path):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2))
    cut_short = [run.path / "checkpoints/.step-000004.0a1b2c3d.tmp", run.path / ".model.0a1b2c3d.tmp"]
    for folder in cut_short:
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"half")
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2))
    assert not [folder for folder in cut_short if folder.exists()]
    assert [path.name for path in checkpoints(run.path)] == ["step-000002"]


def test_a_damaged_newest_checkpoint_is_passed_over(pipeline_folder, dataset, tmp_path, capsys):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run"))
    saved = (run.path / "checkpoints/step-000004/weights.safetensors").read_bytes()
    (run.path / "checkpoints/step-000004/weights.safetensors").write_bytes(b"cut off")
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run"))
    assert "step-000004 is damaged" in capsys.readouterr().out
    again = (run.path / "checkpoints/step-000004/weights.safetensors").read_bytes()
    assert again == saved


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [cut, flip_a_bit])
@pytest.mark.parametrize("file", ["weights.safetensors", "beside.safetensors", "optimizer.pt", "sha256.json"])
def test_no_file_of_a_checkpoint_can_be_cut_or_changed_unnoticed(damage, file, tmp_path, capsys):
    for step in (2, 4):
        weights = {"w": torch.full((64,), float(step))}
        save_checkpoint(tmp_path, State(step, weights, {"mean": torch.ones(8)}, {"rate": 0.5}), keep=2)
    damaged = tmp_path / "checkpoints/step-000004" / file
    damaged.write_bytes(damage(damaged.read_bytes()))
    state = load_newest_checkpoint(tmp_path)
    assert state.step == 2 and torch.equal(state.weights["w"], torch.full((64,), 2.0))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 and "step-000004 is damaged" in told[0] and "the one before" in told[0]


def test_a_checkpoint_of_before_checksums_is_read(tmp_path):
    save_checkpoint(tmp_path, State(2, {"w": torch.ones(4)}, {}, {}), keep=2)
    (tmp_path / "checkpoints/step-000002/sha256.json").unlink()
    assert load_newest_checkpoint(tmp_path).step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(learning_rte=1.0), "did you mean 'learning_rate'"),
        (dict(lora={"rnk": 3}), "did you mean 'rank'"),
        (dict(method="dedpo"), "needs a judge"),
        (dict(judge="bright"), "human votes alone"),
        (dict(method="dedpo", judge="nobody", correction="none"), "nobody"),
        (dict(train_batch_size=64), "only 8"),
        (dict(lora={"target_modules": ["nothing"]}), "match no module"),
        (dict(human_votes=500), "only 8"),
        (dict(human_annotators=["bo"]), "never voted"),
        (dict(resolution=60), "multiple"),
        (dict(beta="strong"), "not a number"),
        (dict(safeguard=2.0), "between 0 and 1"),
    ],
)
def test_bad_configurations_get_one_line(changes, message, pipeline_folder, dataset, tmp_path):
    with pytest.raises(PalateError, match=message) as refused:
        palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes))
    assert "\n" not in str(refused.value)


def test_model_folders_that_cannot_be_trained(pipeline_folder, dataset, tmp_path):
    import shutil

    with pytest.raises(PalateError, match="no such folder"):
        palate.train(settings(tmp_path / "nowhere", dataset, tmp_path / "run-0"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PalateError, match="model_index.json"):
        palate.train(settings(tmp_path / "empty", dataset, tmp_path / "run-1"))
    folder = shutil.copytree(pipeline_folder, tmp_path / "no-unet")
    index = json.loads((folder / "model_index.json").read_text())
    del index["unet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(PalateError, match="no UNet"):
        palate.train(settings(folder, dataset, tmp_path / "run-2"))


def test_pairs_added_later_are_encoded_then(pipeline_folder, tmp_path):
    dataset = make_labelled_dataset(tmp_path / "data", pairs=8, labelled=8)
    palate.train(settings(pipeline_folder, dataset, tmp_path / "first", max_train_steps=1))
    more = make_labelled_dataset(tmp_path / "more", pairs=12, labelled=12, seed=1)
    rows = [row for batch in more.iter_pairs() for row in batch.to_pylist() if row["pair_id"] >= "p008"]
    dataset.add_pairs(rows)
    dataset.append_votes(
        [
            {
                "vote_id": f"late-{r['pair_id']}",
                "pair_id": r["pair_id"],
                "annotator_id": "ana",
                "source": "human",
                "choice": "tie",
            }
            for r in rows
        ]
    )
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "second", train_batch_size=12, max_train_steps=1))
    assert json.loads((run.path / "labels.json").read_text())["pairs used"] == 12


def test_a_full_disk_is_one_line_and_costs_no_checkpoint(pipeline_folder, dataset, tmp_path, monkeypatch):
    config = settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=2)
    run = palate.train(config)

    def full(path):
        if "step-" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("palate.files._sync", full)
    with pytest.raises(PalateError, match="step-000004: the disk is full"):
        palate.train(config, max_train_steps=4)
    monkeypatch.undo()
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["step-000002"]
    palate.train(config, max_train_steps=4)
    assert len(run.metrics) == 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 1.0}, ["learning_rate 1 is far above what such models are trained with (1e-8 to 1e-3)"]),
        ({"learning_rate": 0.0}, ["learning_rate 0 changes nothing"]),
        ({"lora": {"rank": 40}}, ["lora.rank 40 is more than the 16 of "]),
        ({"lora": {"rank": 16}}, []),
        ({"beta": 0.0, "max_grad_norm": 0.0}, ["max_grad_norm 0 clips", "beta 0 makes every logit 0"]),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 9}, ["lr_warmup_steps 9 is not over after max_train_steps 4"]),
        ({"ema_decay": 0.9999}, ["ema_decay 0.9999 over 4 steps: 100% of the average are the weights at the start"]),
        ({"prompt_dropout": 1.0}, ["prompt_dropout 1 trains without any prompt"]),
        ({}, []),
    ],
)
def test_settings_that_are_hardly_meant_are_said_and_followed(
    changes, told, pipeline_folder, dataset, tmp_path, capsys
):
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes), dry_run=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train: WARNING: ")]
    assert len(lines) == len(told)
    assert all(sentence in line for sentence, line in zip(told, lines, strict=True))
    assert not (tmp_path / "run").exists()


def test_encoding_killed_in_the_middle_goes_on(pipeline_folder, tmp_path, monkeypatch):
    import palate.encoding.cache as cache

    monkeypatch.setattr(cache, "SHARD", 4)
    dataset = make_labelled_dataset(tmp_path / "data", pairs=12, labelled=12)
    backbone, written = load_backbone(str(pipeline_folder)), []
    write = cache._write

    def dying(*arguments, **metadata):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments, **metadata)

    monkeypatch.setattr(cache, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        cache.encode_pairs(dataset, backbone)
    monkeypatch.setattr(cache, "_write", write)
    encoded = cache.encode_pairs(dataset, backbone)
    whole = cache.encode_pairs(make_labelled_dataset(tmp_path / "again", pairs=12, labelled=12), backbone)
    ids = [f"p{i:03}" for i in range(12)]
    assert 0 < len(written) and len(encoded) == 12
    assert torch.equal(encoded.latents(ids), whole.latents(ids))
    prompts = [encoded.prompt[pair_id] for pair_id in ids] + [""]
    told, expected = (each.prompt_conditioning(prompts)["embeddings"] for each in (encoded, whole))
    assert torch.allclose(told, expected, atol=1e-3)


# --- what lies where -------------------------------------------------------------------------------------------------


def test_encoders_are_let_go_of_and_load_again_where_one_is_asked_for(pipeline_folder, dataset, tmp_path):
    config = load_config(settings(pipeline_folder, dataset, tmp_path / "run"))
    backbone = load_backbone(str(pipeline_folder))
    before = backbone.encode_prompts(["a"])["embeddings"]
    assert "text_encoder" in vars(backbone)
    assemble(config, dataset, backbone, prepare_rows(dataset, config), Accelerator(), tmp_path)  # encodes all pairs
    assert not {"vae", "text_encoder"} & vars(backbone).keys()
    assert torch.equal(backbone.encode_prompts(["a"])["embeddings"], before)


def test_frozen_weights_reach_the_device_in_half_precision(pipeline_folder, dataset, tmp_path, monkeypatch):
    config = load_config(settings(pipeline_folder, dataset, "run", lora=LORA, mixed_precision="bf16", weight_dtype="bf16"))  # fmt: skip
    backbone = load_backbone(str(pipeline_folder))
    backbone.device = torch.device("meta")  # stands for a GPU
    held = []

    def hold(network, dtype):
        held.append({parameter.device.type for parameter in network.parameters()})
        hold_frozen(network, dtype)

    monkeypatch.setattr("palate.network.model.hold_frozen", hold)
    policy = make_any_policy(backbone, config)
    assert held == [{"cpu"}] and {parameter.device.type for parameter in policy.network.parameters()} == {"meta"}
    assert backbone.device == torch.device("meta")


def test_a_trained_component_is_loaded_without_the_one_it_replaces(pipeline_folder, dataset, tmp_path):
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", max_train_steps=1))
    backbone = load_backbone(str(pipeline_folder))
    assert isinstance(load_trained(backbone, run.model_path), UNet2DConditionModel)
    assert "network" not in vars(backbone)


def test_the_state_of_an_optimiser_is_read_to_the_cpu(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, State(1, {}, {}, {"optimizer": {"moment": torch.ones(2)}}), keep=1)
    load, asked = torch.load, {}
    monkeypatch.setattr(torch, "load", lambda *place, **options: asked.update(options) or load(*place, **options))
    assert load_newest_checkpoint(tmp_path).optimizer["optimizer"]["moment"].tolist() == [1, 1]
    assert asked["map_location"] == "cpu"  # where it was saved, there may have been a GPU
