"""The command line: quick to answer, examples everywhere, one line and an exit code for what goes wrong."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
import yaml

from palate.cli import VERBS, info, main


def palate(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from palate.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def test_help_loads_nothing_heavy():
    script = "import sys; sys.argv = ['palate', '--help']; from palate.cli import main; main(); assert not {'torch', 'pyarrow', 'numpy', 'tyro', 'rich'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(f"  {verb}" in result.stdout for verb in VERBS)


def palate_here(monkeypatch, *arguments: str) -> str | int | None:
    """The same in this process, which has loaded the libraries already: what it exits with."""
    monkeypatch.setattr(sys, "argv", ["palate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(verb, monkeypatch, capsys):
    assert palate_here(monkeypatch, verb, "--help") in (0, None)
    printed = capsys.readouterr().out
    assert "Examples:" in printed and f"palate {verb} " in printed


FAILURES = pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "did you mean 'train'"),
        (("train",), "give a YAML file"),
        (("train", "missing.yaml"), "missing.yaml"),
        (("info", "nowhere"), "nowhere"),
        (("compare", "nowhere"), "nowhere"),
        (("sample", "nowhere/at/all", "--prompts", "world", "--to", "x"), "no such folder"),
        (("report", "nowhere"), "not a run"),
    ],
)


@FAILURES
def test_failures_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = palate_here(monkeypatch, *arguments)
    assert line.startswith("palate: ") and message in line and "\n" not in line


@pytest.mark.parametrize(
    "arguments", [("trian",), ("compare", "nowhere")]
)  # before anything heavy is loaded, and after
def test_a_failure_is_all_that_is_printed_with_exit_code_1(arguments, tmp_path):
    result = palate(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("palate: ") and result.stderr.strip().count("\n") == 0


def write_config(tmp_path, pipeline_folder, dataset, **changes):
    config = {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(tmp_path / "run"), "train_batch_size": 4,
        "max_train_steps": 3, "checkpointing_steps": 1, "learning_rate": "1e-4", "report_to": "none", **changes,
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_options_win_over_the_file_and_dry_run_trains_nothing(pipeline_folder, dataset, tmp_path):
    config = write_config(tmp_path, pipeline_folder, dataset, lora={"rank": 4})
    dry = palate("train", config, "--dry-run", "--lora.rank", "2")
    assert dry.returncode == 0 and "parameters would be trained" in dry.stdout and not (tmp_path / "run").exists()
    result = palate("train", config, "--beta", "77", "--max-train-steps", "1")
    assert result.returncode == 0, result.stderr
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["lora"]["rank"] == 4
    assert stored["beta"] == 77 and stored["max_train_steps"] == 1 and stored["learning_rate"] == 1e-4
    assert "--beta 77" in (tmp_path / "run" / "command.txt").read_text()


def test_ctrl_c_is_one_line_keeps_the_checkpoints_and_the_same_command_goes_on(pipeline_folder, dataset, tmp_path):
    config = write_config(tmp_path, pipeline_folder, dataset, max_train_steps=100_000)
    command = [sys.executable, "-c", "from palate.cli import main; main()", "train", str(config)]
    answering = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # a shell's background jobs ignore it, and hand that down
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ, preexec_fn=answering
    )
    deadline = time.monotonic() + 120
    while (
        not (tmp_path / "run" / "checkpoints" / "step-000002").exists()
        and time.monotonic() < deadline
        and child.poll() is None
    ):
        time.sleep(0.02)
    try:
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130 and "Traceback" not in errors and "interrupted" in errors
    newest = max(int(p.name.removeprefix("step-")) for p in (tmp_path / "run" / "checkpoints").glob("step-*"))
    config = write_config(tmp_path, pipeline_folder, dataset, max_train_steps=newest + 1)
    result = palate("train", config)
    assert result.returncode == 0 and f"going on from step {newest}" in result.stdout


def test_a_full_gpu_is_one_line_with_what_needs_less(monkeypatch):
    def fill(_: list[str]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96 GiB")

    monkeypatch.setattr(info, "main", fill)
    monkeypatch.setattr(sys, "argv", ["palate", "info", "prefs"])
    with pytest.raises(SystemExit, match="the GPU's memory is full.*gradient_checkpointing"):
        main()
    monkeypatch.setattr(info, "main", lambda _: (_ for _ in ()).throw(RuntimeError("a defect of ours")))
    with pytest.raises(RuntimeError, match="a defect of ours"):
        main()
