"""The dry run: memory close to what is really used, time, and every reason to refuse before any work starts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import refusal

import palate
from palate.backbones import load_backbone
from palate.run.load import load_config
from palate.training.encode import encode
from palate.training.estimate import GIB, estimate_memory

LORA = {"rank": 4}


def settings(pipeline_folder: Path, dataset, output_dir: Path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(output_dir), "beta": 500.0,
        "train_batch_size": 4, "max_train_steps": 4, "checkpointing_steps": 2, "report_to": "none", **changes,
    }  # fmt: skip


def memory(pipeline_folder, dataset, **changes):
    backbone = load_backbone(str(pipeline_folder))
    told = {"embeddings": torch.zeros(1, 8, 32)}
    return estimate_memory(backbone, load_config(settings(pipeline_folder, dataset, "run", **changes)), told)


MEASURE = """
import sys, torch, peft.tuners.lora.bnb, psutil
from accelerate import Accelerator
from palate.backbones import load_backbone
from palate.training.assemble import make_any_policy
from palate.run.load import load_config
from palate.training.estimate import estimate_memory, measure_step
config = load_config(eval(sys.argv[1]))
backbone = load_backbone(config.pretrained_model_name_or_path)
backbone.device = torch.device("cpu")
told = {"embeddings": torch.zeros(1, 8, 32)}
estimated = estimate_memory(backbone, config, told).total
torch.nn.Conv2d(4, 4, 3)(torch.randn(1, 4, 8, 8)).sum().backward()  # libraries that load on first use
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew: importing had one of its own
before = psutil.Process().memory_info().rss
measure_step(backbone, config, make_any_policy(backbone, config), told, Accelerator(mixed_precision=config.mixed_precision))
# Not ru_maxrss, which remembers how large the process was that started this one
(peak,) = (int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(estimated, peak - before)
"""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="full"),
        pytest.param({"lora": LORA, "gradient_checkpointing": True}, id="lora-checkpointed", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_within_a_quarter_of_the_true_peak(changes, pipeline_folder, dataset):
    config = settings(pipeline_folder, dataset, "run", train_batch_size=12, resolution=256, **changes)
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", MEASURE, repr(config)], env=os.environ | at_once, capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr
    estimated, true = (int(number) for number in result.stdout.split()[-2:])
    assert true > 0.1 * GIB  # else the libraries would be most of it
    assert 0.75 < estimated / true < 1.25, (estimated / GIB, true / GIB)


def test_the_parts_of_the_estimate_in_closed_form(pipeline_folder, dataset):
    full, adapters = memory(pipeline_folder, dataset), memory(pipeline_folder, dataset, lora=LORA)
    parameters = sum(parameter.numel() for parameter in load_backbone(str(pipeline_folder)).network.parameters())
    assert (
        full.trained == full.parameters == parameters
        and full.weights == full.reference == full.gradients == 4 * parameters
    )
    assert full.optimizer == 8 * parameters and full.averages == 0
    assert adapters.reference == 0 and adapters.gradients == 4 * adapters.trained < 0.2 * full.gradients
    small = memory(pipeline_folder, dataset, optimizer="adamw-8bit", ema_decay=0.9, reference="offloaded")
    assert small.optimizer == 2 * parameters and small.averages == 4 * parameters and small.reference == 0
    half = memory(pipeline_folder, dataset, lora=LORA, mixed_precision="bf16", weight_dtype="bf16")
    assert half.weights < 0.6 * adapters.weights and half.activations < 0.7 * adapters.activations
    double = memory(pipeline_folder, dataset, lora=LORA, train_batch_size=8)
    assert double.activations == pytest.approx(2 * adapters.activations, rel=0.05)
    spared = memory(pipeline_folder, dataset, train_batch_size=64, gradient_checkpointing=True)
    assert spared.activations < 0.6 * memory(pipeline_folder, dataset, train_batch_size=64).activations
    whole = adapters.weights + adapters.gradients + adapters.optimizer + adapters.activations
    assert adapters.total == whole and adapters.lasting == whole - adapters.activations


def test_too_little_memory_says_how_much_and_what_would_need_less(pipeline_folder, dataset, tmp_path, monkeypatch):
    config = settings(pipeline_folder, dataset, tmp_path / "run")
    needed = memory(pipeline_folder, dataset).total
    monkeypatch.setattr("palate.training.estimate.free_memory", lambda device: needed - 1)
    line = refusal(lambda: palate.train(config, dry_run=True))
    assert line.startswith("too little memory: training needs about 0.0") and "optimizer" in line
    offered = dict(re.findall(r"(?:with|,) ([\w: -]+?) \((\d+\.\d+)\)", line))
    assert {"lora", "gradient_checkpointing"} <= offered.keys() and all(
        float(value) * GIB <= needed * 1.2 for value in offered.values()
    )
    monkeypatch.setattr("palate.training.estimate.free_memory", lambda device: needed + 1)
    palate.train(config, dry_run=True)
    lasting = memory(pipeline_folder, dataset).lasting
    monkeypatch.setattr("palate.training.estimate.free_memory", lambda device: lasting - 1)  # not even the weights
    assert "too little memory" in refusal(lambda: palate.train(config))
    monkeypatch.setattr("palate.training.estimate.free_memory", lambda device: lasting + 1)  # activations may vary: try
    assert len(palate.train(config).metrics) == 4


def test_a_dry_run_tells_what_it_would_do_and_writes_nothing(pipeline_folder, dataset, tmp_path, capsys):
    config = settings(pipeline_folder, dataset, tmp_path / "run", lora=LORA)
    before = sorted(Path(dataset.path).rglob("*"))
    palate.train(config, dry_run=True)
    told = capsys.readouterr().out
    assert "24 of 24 pairs would be encoded first" in told
    found = memory(pipeline_folder, dataset, lora=LORA)
    assert f"{found.trained:,} of {found.parameters:,} parameters would be trained" in told
    assert f"memory for tensors {found.line()}" in told
    assert re.search(r"\d+\.\d\d s for a step of random inputs, \d+ seconds for 4 of them", told)
    assert sorted(Path(dataset.path).rglob("*")) == before and not (tmp_path / "run").exists()
    encode(config)
    palate.train(config, dry_run=True)
    assert "0 of 24 pairs would be encoded first" in capsys.readouterr().out


def test_a_cache_of_another_autoencoder_is_said_to_be_made_anew(pipeline_folder, dataset, tmp_path, capsys):
    encode(settings(pipeline_folder, dataset, tmp_path / "run"))
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    path = other / "vae/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.5}))
    palate.train(settings(other, dataset, tmp_path / "run"), dry_run=True)
    told = capsys.readouterr().out
    assert "24 of 24 pairs would be encoded first" in told and "made with another vae" in told


def test_what_a_dry_run_refuses(pipeline_folder, dataset, tmp_path):
    def dry(folder=pipeline_folder, **changes) -> str:
        return refusal(lambda: palate.train(settings(folder, dataset, tmp_path / "run", **changes), dry_run=True))

    index = json.loads((pipeline_folder / "model_index.json").read_text())
    unknown = shutil.copytree(pipeline_folder, tmp_path / "unknown")
    (unknown / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))
    assert "KandinskyPipeline" in dry(unknown)
    lacking = shutil.copytree(pipeline_folder, tmp_path / "lacking")
    shutil.rmtree(lacking / "vae")
    assert "'vae'" in dry(lacking)
    assert "blocks of 8 pixels" in dry(resolution=60)
    assert "match no module" in dry(lora={"target_modules": ["to_nothing"]})
    assert "needs a GPU" in dry(mixed_precision="fp16") or torch.cuda.is_available()
    assert "none have been computed" in dry(reference="precomputed", reference_draws=2)
    assert "only 8" in dry(train_batch_size=64)
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run"))
    assert "holds a run with another configuration (beta: 500.0 there, 7.0 here)" in dry(beta=7.0)


def test_a_checkpoint_of_another_configuration_is_refused(pipeline_folder, dataset, tmp_path):
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run", lora=LORA))
    for changes in ({"lora": {"rank": 2}}, {}):
        (tmp_path / "run/config.yaml").unlink()
        line = refusal(lambda changes=changes: palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes)))  # fmt: skip
        assert "step 4 is of another configuration" in line


def test_a_model_in_shards_is_estimated_but_not_built_whole(pipeline_folder, dataset, tmp_path, capsys, monkeypatch):
    changes = {"parallel": "fsdp2", "processes": 2}
    monkeypatch.setattr("palate.training.plan.make_any_policy", None)
    palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes), dry_run=True)
    told = capsys.readouterr().out
    assert "time is not measured" in told and "passes over" in told and "s for a step" not in told


def test_processes_of_a_launcher_count_in_the_estimate(pipeline_folder, dataset, monkeypatch):
    one = memory(pipeline_folder, dataset, parallel="fsdp2")
    monkeypatch.setattr("palate.training.estimate.processes", lambda: 2)
    two = memory(pipeline_folder, dataset, parallel="fsdp2")
    assert two.weights == one.weights // 2 and two.activations < 0.7 * one.activations


def test_what_cannot_be_trained_is_refused_before_anything_is_encoded(pipeline_folder, dataset, tmp_path, monkeypatch):
    def refused(**changes) -> str:
        line = refusal(lambda: palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes)))
        assert not (Path(dataset.path) / "cache").exists()
        return line

    assert "match no module" in refused(lora={"target_modules": ["to_nothing"]})
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    assert "palate[8bit]" in refused(optimizer="adamw-8bit")
