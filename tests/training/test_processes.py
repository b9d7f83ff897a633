"""Two processes end where one does: with weights shared or in shards, rows that do not divide, statistics over the batch."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from many_runs import BETA, ROUNDING, apart, distance, environment, run_in_two, spoilt
from safetensors.torch import load_file
from tiny import make_labelled_dataset, refusal

import palate
from palate import distributed
from palate.distributed import counts
from palate.encoding.cache import EncodedPairs
from palate.errors import PalateError
from palate.run.checkpoint import checkpoints
from palate.run.load import load_config, save_config
from palate.run.metrics import read_metrics
from palate.training.spikes import Spike, read_spikes
from palate.training.worker import work

LORA = {"lora": {"rank": 4}}
RATE = 1e-3
FSDP2 = {"parallel": "fsdp2"}
DEDPO = {"method": "dedpo", "judge": "bright", "correction": "none"}
# Four of five pairs are labelled, so that both processes have some.
TOGETHER = DEDPO | {
    "adaptive": True, "adaptive_memory": True, "safeguard": 0.5, "safeguard_mode": "batch", "labelled_per_batch": 4,
}  # fmt: skip
CASES = {
    "lora": LORA, "full": {}, "together": TOGETHER,
    "lora in shards": LORA | FSDP2, "full in shards": FSDP2, "together in shards": TOGETHER | FSDP2,
}  # fmt: skip
HALVES = {"from 1 to 2": ({}, FSDP2), "from 2 to 1": (FSDP2, {}), "from 2 to 1, lora": (LORA, LORA)}
# Margins over their spread in the batch, which is small while the model is near its reference: a rounding counts tenfold.
ENLARGED = 10
MORE = {
    "amapo": {"amapo": True},
    "alpha-dpo": {"method": "alpha-dpo", "link": "alpha-dpo"},
    "kto": {"method": "kto"},
    "dspo-sdxl": {"losses": {"dspo-sdxl": 1.0}},
    "exact": LORA | {"safeguard": 0.5, "safeguard_mode": "exact"},
    "shared": LORA | {"share_reference": True},
    "validation": DEDPO | LORA | {"held_out_votes": 0.4, "validation_steps": 1, "validation_draws": 2, "early_stop": 2},
    "drift": DEDPO | LORA | {"held_out_votes": 0.4, "validation_steps": 1, "validation_draws": 2, "max_drift": 2.7e-4},
    "validation in shards": DEDPO | FSDP2 | {"held_out_votes": 0.4, "validation_steps": 1, "validation_draws": 2, "early_stop": 2},
    "own votes in shards": LORA | FSDP2 | {"method": "self-training"},
    "cross-fitted": LORA | {"method": "self-training-crossfit", "train_batch_size": 3},
    "inversion in shards": LORA | FSDP2 | {"method": "inpo"},
    "teacher in shards": FSDP2 | {"method": "self-npo"},
    "samples in shards": FSDP2 | {"method": "spin", "sampling_steps": 2},
    "lists": LORA | {"method": "diffusion-lpo"},
    "average in shards": FSDP2 | {"ema_decay": 0.9},
    "rates of people": LORA | {"method": "re-po"},
    "moving reference": LORA | {"reference": "ema", "reference_decay": 0.5, "losses": {"preference": 1.0, "anchor": 10.0}},
    "moving reference in shards": FSDP2 | {"reference": "ema", "reference_decay": 0.5, "losses": {"preference": 1.0, "anchor": 10.0}},
    "moving adapter in shards": LORA | FSDP2 | {
        "reference": "round", "reference_steps": 2, "held_out_votes": 0.4, "validation_steps": 1, "validation_draws": 2, "method": "dedpo", "judge": "bright",
        "correction": "none",
    },
    "copied reference in shards": LORA | FSDP2 | {"reference": "copy"},
    "adafactor": {"optimizer": "adafactor"},
    "shared in shards": LORA | FSDP2 | {"share_reference": True, "seed": 7},
    "checkpointing in shards": LORA | FSDP2 | {"gradient_checkpointing": True},
    "steps in shards": FSDP2 | {
        "method": "spo", "sampling_steps": 4, "first_sampling_step": 2, "reward": "brightness", "refresh_steps": 2, "prompts_per_round": 3,
        "train_batch_size": 2, "reward_gap": 0.0,
    },
}  # fmt: skip


def settings(folder: Path, name: str, **changes) -> dict:
    """Two micro-batches of 5 rows a step: 3 of each for one process, 2 for the other."""
    return {
        "pretrained_model_name_or_path": str(folder / "pipeline"), "dataset": str(folder / "data"), "output_dir": str(folder / name.replace(" ", "-")),
        "beta": BETA, "learning_rate": RATE, "train_batch_size": 5, "gradient_accumulation_steps": 2, "max_train_steps": 4, "checkpointing_steps": 2,
        "report_to": "none", "adam_epsilon": 1e-2, **changes,
    }  # fmt: skip


def bound(name: str) -> float:
    return ROUNDING * (ENLARGED if "together" in name else 1)


def assert_same_metrics(run: Path, other: Path, rounding: float) -> None:
    one, two = read_metrics(run), read_metrics(other)
    assert [line.keys() for line in one] == [line.keys() for line in two]
    for name in (
        "loss",
        "loss_per_pair",
        "gradient_norm",
        "winner_error",
        "rewards/margins",
        "adaptive_weight/mean",
        "lambda/mean",
    ):
        values = [[line.get(name, 0.0) for line in lines] for lines in (one, two)]
        np.testing.assert_allclose(*values, rtol=10 * rounding, atol=rounding, err_msg=name)
    for name, value in one[0].items():  # nothing has enlarged a rounding yet
        assert two[0][name] == pytest.approx(value, rel=ROUNDING, abs=1e-6), name


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the two processes have: sums over other pieces round otherwise, and Adam enlarges that."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pipeline_folder) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "pipeline").symlink_to(pipeline_folder)
    make_labelled_dataset(folder / "data")
    return folder


@pytest.fixture(scope="module")
def runs(folder) -> Path:
    """Every case in one process and in two; runs whose two halves had different numbers of processes; one that was refused."""
    for name, changes in CASES.items():
        palate.train(settings(folder, f"{name} 1", **changes))
    palate.train(settings(folder, "from 1 to 2", max_train_steps=2, **HALVES["from 1 to 2"][0]))
    two = [(settings(folder, f"{name} 2", **changes), None) for name, changes in CASES.items()]
    two.append((settings(folder, "from 1 to 2", **HALVES["from 1 to 2"][1]), None))
    for name in ("from 2 to 1", "from 2 to 1, lora"):
        two.append((settings(folder, name, max_train_steps=2, **HALVES[name][0]), None))
    two.append((settings(folder, "spoilt", max_train_steps=20), "p005"))
    run_in_two(folder, two)
    for name in ("from 2 to 1", "from 2 to 1, lora"):
        palate.train(settings(folder, name, **HALVES[name][1]))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_where_one_does(name, runs):
    one, two = (runs / f"{name} {n}".replace(" ", "-") for n in (1, 2))
    assert apart(one, two) <= bound(name)
    assert_same_metrics(one, two, bound(name))
    if "together" in name:  # the running means of all processes' pairs
        draws = [load_file(checkpoints(run)[-1] / "beside.safetensors")["minority.draws"] for run in (one, two)]
        assert torch.equal(*draws) and draws[0].sum() == 4 * 2 * 4


@pytest.mark.parametrize("name", CASES)
def test_both_write_the_same_files_for_diffusers(name, runs):
    one, two = (runs / f"{name} {n}".replace(" ", "-") / "model" for n in (1, 2))
    files = [file.relative_to(one) for file in one.rglob("*.safetensors")]
    assert files and files == [file.relative_to(two) for file in two.rglob("*.safetensors")]
    first, second = (load_file(path / files[0]) for path in (one, two))
    assert {key: tensor.shape for key, tensor in first.items()} == {key: tensor.shape for key, tensor in second.items()}
    way = distance(*(load_file(checkpoints(runs / one.parent)[i] / "weights.safetensors") for i in (0, -1)))
    assert distance(first, second) <= bound(name) * way


@pytest.mark.parametrize("name", HALVES)
def test_a_run_goes_on_with_another_number_of_processes(name, runs):
    whole = runs / ("lora-1" if "lora" in name else "full-1")
    other = runs / name.replace(" ", "-")
    assert [path.name for path in checkpoints(other)] == ["step-000002", "step-000004"]
    assert apart(whole, other) <= ROUNDING
    moments = [
        torch.load(checkpoints(run)[-1] / "optimizer.pt", weights_only=True)["optimizer"]["state"]
        for run in (whole, other)
    ]
    assert moments[0].keys() == moments[1].keys() and all(moments[1][i]["step"] == 4 for i in moments[1])
    assert all((moments[0][i]["exp_avg"] - moments[1][i]["exp_avg"]).abs().max() < 1e-3 for i in moments[0])


def test_a_loss_that_is_no_number_in_one_process_stops_all_with_one_line(runs):
    told = [(runs / f"spoilt-refused-{rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1] and "the loss is NaN or infinite, at pair p005." in told[0]


@pytest.mark.slow
def test_other_methods_too_end_in_two_processes_where_they_do_in_one(folder, monkeypatch):
    for name, changes in MORE.items():
        palate.train(settings(folder, f"{name} 1", **changes))
    two = [(settings(folder, f"{name} 2", **changes), None) for name, changes in MORE.items()]
    # Errors known of one process's pairs and not of the other's: the reference runs in both, or in neither.
    (folder / "few").mkdir()
    (folder / "few/pipeline").symlink_to(folder / "pipeline")
    make_labelled_dataset(folder / "few/data")
    few = LORA | {
        "share_reference": True,
        "train_batch_size": 3,
        "gradient_accumulation_steps": 1,
        "max_train_steps": 1,
        "seed": 7,
    }
    palate.train(settings(folder / "few", "three pairs", **few))
    two.append((settings(folder / "few", "shared in shards 2", **MORE["shared in shards"]), None))
    # Steps that cannot be taken are left out by both.
    back = DEDPO | {
        "on_spike": "roll-back",
        "batches": "uniform",
        "gradient_accumulation_steps": 1,
        "max_train_steps": 6,
    }
    with monkeypatch.context() as patched:
        patched.setattr(EncodedPairs, "image_latents", spoilt(EncodedPairs.image_latents, "p005"))
        palate.train(settings(folder, "rolled back 1", **back))
    two.append((settings(folder, "rolled back 2", **back), "p005"))
    run_in_two(folder, two)
    far = {name: apart(*(folder / f"{name} {n}".replace(" ", "-") for n in (1, 2))) for name in (*MORE, "rolled back")}
    far["few"] = apart(folder / "shared-in-shards-1", folder / "few/shared-in-shards-2")
    assert {name: way for name, way in far.items() if not way <= bound(name)} == {}
    assert [len(read_metrics(folder / f"drift-{n}")) for n in (1, 2)] == [3, 3]  # both ended at the same step, of 4
    lines = [read_spikes(folder / f"rolled-back-{n}") for n in (1, 2)]
    assert lines[0] == lines[1] and lines[0][0]["pairs"] == ["p005"]
    assert 0 < len(read_metrics(folder / "rolled-back-2")) < 6


# --- starting several ------------------------------------------------------------------------------------------------


def palate_train(folder: Path, *options: str, **changes) -> list[str]:
    path = folder / f"{changes['output_dir']}.yaml"
    changes["output_dir"] = str(folder / changes["output_dir"])
    path.write_text(yaml.safe_dump(settings(folder, "unused") | LORA | changes))
    return ["palate", "train", str(path), *options]


def test_train_starts_the_processes_and_tells_their_error_once(folder):
    command = palate_train(folder, "--processes", "2", output_dir="launched", learning_rate=1e30)
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("palate:")]
    assert len(lines) == 1 and "the loss is NaN or infinite, at pair" in lines[0] and "Traceback" not in done.stderr
    assert done.stdout.count("labels: 8 of 24 pairs") == 1  # the second process prints nothing
    assert (folder / "launched/command.txt").read_text().startswith("palate train")
    assert load_config(folder / "launched/config.yaml").processes == 2


@pytest.mark.slow
def test_torchrun_and_accelerate_start_it_too(folder):
    launchers = {
        "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "-m"],
        "accelerate": ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"],
    }  # fmt: skip
    palate.train(settings(folder, "alone") | LORA)
    for name, launcher in launchers.items():
        command = palate_train(folder, output_dir=name)
        done = subprocess.run(
            [sys.executable, "-m", *launcher, *command], env=environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert apart(folder / "alone", folder / name) <= ROUNDING
        assert done.stdout.count("train: done") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_all_processes_end_with_the_one_that_started_them(how, folder):
    name = f"stopped-{how.name}"
    command = palate_train(folder, "--processes", "2", output_dir=name, max_train_steps=10**6)
    parent = subprocess.Popen([sys.executable, "-m", *command], env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for((folder / name / "checkpoints/step-000002").exists, 120)
    children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    assert len(children) == 2
    parent.send_signal(how)
    _, errors = parent.communicate(timeout=60)
    wait_for(lambda: not any(alive(pid) for pid in children), 30)
    if how == signal.SIGINT:
        assert parent.returncode == 130 and "interrupted" in errors and "Traceback" not in errors


def wait_for(there, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except OSError:
        return False


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(processes=6), "processes: 6 share each batch, and train_batch_size is 5"),
        (dict(FSDP2, safeguard=0.5, safeguard_mode="exact"), "parallel: fsdp2 frees weights"),
        (dict(FSDP2, mixed_precision="fp16"), "no loss scaling"),
    ],
)
def test_what_cannot_be_spread_is_refused_with_the_reason(changes, reason, folder):
    assert reason in refusal(lambda: load_config(settings(folder, "refused", **changes)))


def test_the_rows_of_a_batch_are_dealt_out_evenly(monkeypatch):
    monkeypatch.setattr("palate.distributed.processes", lambda: 4)
    assert [counts(rows) for rows in (4, 5, 7, 8)] == [[1, 1, 1, 1], [2, 1, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2]]


def test_every_kind_of_refusal_in_a_process_is_told_as_one(folder, monkeypatch):
    def spiked(*_, **__):
        raise Spike(3, "the loss is NaN or infinite", ["p1"])

    save_config(load_config(settings(folder, "never")), folder / "spiked.yaml")
    monkeypatch.setattr("palate.training.loop.train_in_this_process", spiked)
    with pytest.raises(PalateError, match="step 3") as told:
        work(str(folder / "spiked.yaml"), "palate train")
    assert type(told.value) is PalateError  # whose name the process that started this one looks for


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)

    def meet():
        with distributed.together():
            raise AssertionError("not refused")

    assert "process 3 of this machine, which has 2 GPU(s)" in refusal(meet)
