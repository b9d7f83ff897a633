"""The keys of a training on the command line: with a file or without, all in the help, one line for what is wrong."""

import re
import sys

import pytest
import yaml
from tiny import refusal

from palate.cli import main
from palate.cli.keys import merged, parse_keys
from palate.data.importing import import_pairs
from palate.errors import PalateError
from palate.evaluation.scorers import load_scorer
from palate.judges.rewards import load_reward
from palate.objectives.links import make_link
from palate.presets import method, methods, preset
from palate.run.config import LoraOptions, TrainConfig
from palate.run.keys import keys
from palate.run.load import load_config


def palate(monkeypatch, *arguments: object) -> str | None:
    """Run the command line in this process; what it says when it refuses, None when it ends well."""
    monkeypatch.setattr(sys, "argv", ["palate", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return None if end.code in (0, None) else str(end.code)
    return None


def given(line: str) -> dict:
    return parse_keys(line.split(), "train", "", "").options


@pytest.mark.parametrize("verb", ["train", "encode"])
def test_options_fill_what_must_be_given_and_no_file_is_needed(
    verb, pipeline_folder, dataset, tmp_path, capsys, monkeypatch
):
    words = [
        "--pretrained-model-name-or-path",
        pipeline_folder,
        "--dataset",
        dataset.path,
        "--output-dir",
        tmp_path / "run",
    ]
    words += ["--lora.rank", 2, "--train-batch-size", 4, "--report-to", "none", "--reference-draws", 1]
    assert palate(monkeypatch, verb, *words, "--dry-run") is None
    told = capsys.readouterr().out
    assert ("parameters would be trained" in told) == (verb == "train") and "pairs would be encoded" in told
    assert not (tmp_path / "run").exists()


def test_adapters_are_options_whatever_the_file_has():
    assert given("--lora.rank 8") == {"lora": {"rank": 8}}
    assert merged({"lora": {"rank": 4, "alpha": 2}}, given("--lora.rank 8")) == {"lora": {"rank": 8, "alpha": 2}}
    assert merged({"lora": True}, given("--lora.target_modules to_q to_k")) == {
        "lora": {"target_modules": ("to_q", "to_k")}
    }
    assert given("--lora") == {"lora": LoraOptions()} and given("--no-lora") == given("--lora none") == {"lora": None}


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("--adaptive", {"adaptive": True}),
        ("--no-adaptive", {"adaptive": False}),
        ("--adaptive=false", {"adaptive": False}),
        ("--learning_rate 1e-4", {"learning_rate": 1e-4}),
        ("--lr-warmup-steps 1e2", {"lr_warmup_steps": 100}),
        ("--judge bright", {"judge": ("bright",)}),
        ("--judge a b", {"judge": ("a", "b")}),
        ("--human-annotators 3", {"human_annotators": ("3",)}),
        ("--leave-out-fold 0 2", {"leave_out_fold": (0, 2)}),
        ("--losses preference 1 winner 0.5", {"losses": {"preference": 1.0, "winner": 0.5}}),
        ("--losses {preference:1.0}", None),
        ("--ema-decay None", {"ema_decay": None}),
        ("--recipe none", {"recipe": "none"}),
        ("--power auto", {"power": "auto"}),
        ("--logit-mean -0.5", {"logit_mean": -0.5}),
        ("--dataset 2024", {"dataset": "2024"}),
    ],
)
def test_an_option_reads_as_the_key_of_a_file(line, options):
    if options is None:
        with pytest.raises(PalateError, match="^--losses: "):
            given(line)
    else:
        assert given(line) == options


def test_the_file_comes_first_or_between_options():
    assert [str(parse_keys(line.split(), "train", "", "").file) for line in
            ("x.yaml --seed 1", "--dry-run x.yaml", "--seed 1 x.yaml --beta 2")] == ["x.yaml"] * 3  # fmt: skip


def test_a_method_given_as_option_stands_behind_the_keys_of_the_file(tmp_path):
    values = merged(
        {"safeguard": 0.3}, given("--method sdpo --pretrained-model-name-or-path m --dataset d --output-dir o")
    )
    assert load_config(values).safeguard == 0.3 != methods()["sdpo"].config["safeguard"]


@pytest.mark.parametrize("verb", ["train", "encode"])
def test_the_help_shows_every_key_under_its_heading_and_ten_first(verb, capsys, monkeypatch):
    assert palate(monkeypatch, verb, "--help") is None
    told = capsys.readouterr().out
    first, _, rest = told.partition("What people change first:")[2].partition("\n\n")
    everything = {**keys(TrainConfig), **{f"lora.{name}": key for name, key in keys(LoraOptions).items()}}
    assert len(first.strip().splitlines()) == 10 == sum(key.first for key in everything.values())
    assert all(f"--{name.replace('_', '-')} " in first for name, key in everything.items() if key.first)
    assert "CONFIG" in rest and "--dry-run" in rest
    headings = {key.group: rest.index(f"\n{key.group}:\n") for key in everything.values()}
    for name, key in everything.items():
        place = rest.index(f"\n  --{name.replace('_', '-')} ")
        assert max((at, group) for group, at in headings.items() if at < place)[1] == key.group, name


WRONG = {
    "trian": "there is no verb 'trian'; did you mean 'train'?",
    "train --lerning-rate 3": "there is no option '--lerning-rate'; did you mean '--learning-rate'?",
    "train --allow_tf32": "there is no option '--allow-tf32'; it is tf32.",
    "train --scale_lr": "there is no option '--scale-lr'; write the learning_rate that you want.",
    "train --lora.rank 0": "--lora.rank: 0 is not a number between 1 and 4096.",
    "train --lora.rank 100000 --dry-run": "--lora.rank: 100000 is not a number between 1 and 4096.",
    "train --seed zero": "--seed: 'zero' is not a whole number; write `--seed 0`.",
    "train --seed": "--seed: expected one argument",
    "train --leave-out-fold 3": "write `--leave-out-fold 0 2`.",
    "train --mixed-precision bf61": "did you mean 'bf16'?",
    "train x.yaml y.yaml": "'y.yaml' belongs to no option.",
    "train": "give a YAML file, as in `palate train dedpo.yaml`, or --pretrained-model-name-or-path, --dataset",
    "encode": "give a YAML file, as in `palate encode dpo.yaml`, or --pretrained-model-name-or-path and --dataset.",
    "methods dedp": "method 'dedp' is not known; did you mean 'dedpo'?",
    "methods --jsn": "there is no option '--jsn'; did you mean '--json'?",
    "import trll x --to p": "format: 'trll' is not one of pickapic, folders, jsonl, rankings, trl, samples, world; did you mean 'trl'?",
    "import world --to p --voters majorty": "did you mean 'majority'?",
    "export run --format kohja": "--format: 'kohja' is not one of diffusers, kohya, comfyui, fused, single-file; did you mean 'kohya'?",
    "votes exprt prefs": "action: 'exprt' is not one of export, import, simulate; did you mean 'export'?",
    "annotate prefs": "missing: --judge",
    "annotate prefs --judge clip --limit x": "--limit: 'x' is not a value that it takes.",
    "sample run --promts p.txt": "there is no option '--promts'; did you mean '--prompts'?",
    "info": "missing: PATH",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_with_a_command_is_one_line_with_the_nearest(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = palate(monkeypatch, *line.split())
    assert told is not None and told.startswith("palate: ") and "\n" not in told and WRONG[line] in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("annotate", "--judge", "pickscor"), "judge 'pickscor' is not known: there are clip, .*; did you mean 'pickscore'\\?"),
        (("annotate", "--judge", "brightnes"), "did you mean 'brightness'\\?"),
        (("annotate", "--judge", "pickscore", "--set", "modl=x"), "takes no setting 'modl': .*; did you mean 'model'\\?"),
        (("annotate", "--judge", "bright", "--dtype", "fp23"), "--dtype: 'fp23' is not one of .*; did you mean 'fp32'\\?"),
    ],
)  # fmt: skip
def test_judges_and_their_settings_are_closed_sets_too(words, message, dataset, monkeypatch):
    verb, *options = words
    told = palate(monkeypatch, verb, dataset.path, *options)
    assert told is not None and "\n" not in told
    assert re.search(message, told), told


def test_a_wrong_key_of_a_file_is_told_with_the_file(tmp_path, monkeypatch):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"beta": "strong"}))
    assert (
        palate(monkeypatch, "train", path) == f"palate: {path}: beta: 'strong' is not a number; write `beta: 5000.0`."
    )


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: load_scorer("hpsv2.2"), "hpsv2.1"),
        (lambda: load_scorer("divresity"), "diversity"),
        (lambda: load_reward("brightnes"), "brightness"),
        (lambda: import_pairs("foldres", ["a"], "prefs"), "folders"),
        (lambda: method("dedop"), "dedpo"),
        (lambda: make_link("ipoo"), "ipo"),
        (lambda: preset("sdpo", "sdlx"), "sdxl"),
    ],
)
def test_closed_sets_of_python_name_the_nearest(call, nearest):
    line = refusal(call)
    assert line.endswith(f"; did you mean {nearest!r}?") and "\n" not in line
