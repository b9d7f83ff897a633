"""Types, shapes and bounds, before anything else: what can only mean one thing is taken, all else refused in a line."""

import math
from pathlib import Path

import numpy as np
import pytest
from tiny import refusal

from palate.errors import did_you_mean
from palate.run.config import LoraOptions, TrainConfig
from palate.run.load import load_config, read_yaml

REQUIRED = "pretrained_model_name_or_path: world\ndataset: prefs\noutput_dir: runs/one\n"
BASE = {"pretrained_model_name_or_path": "world", "dataset": "prefs", "output_dir": "runs/one"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(REQUIRED + text)
    return path


TAKEN = {
    "adaptive: 'false'": ("adaptive", False),
    "adaptive: 'True'": ("adaptive", True),
    "lora: true": ("lora", LoraOptions()),
    "lora: false": ("lora", None),
    "lora: {target_modules: to_q}": ("lora", LoraOptions(target_modules=("to_q",))),
    "lora: {rank: 8.0, alpha: 4}": ("lora", LoraOptions(rank=8, alpha=4.0)),
    "train_batch_size: 4.0": ("train_batch_size", 4),
    "lr_warmup_steps: 1e2": ("lr_warmup_steps", 100),
    "lr_warmup_steps: '1e2'": ("lr_warmup_steps", 100),
    "learning_rate: 1e-5": ("learning_rate", 1e-5),
    "learning_rate: 5e-05": ("learning_rate", 5e-5),
    "beta: 500": ("beta", 500.0),
    "human_annotators: ana": ("human_annotators", ("ana",)),
    "human_annotators: [ana, bo]": ("human_annotators", ("ana", "bo")),
    "leave_out_fold: [1, 3]": ("leave_out_fold", (1, 3)),
    "mixed_precision: no": ("mixed_precision", "no"),  # false, to YAML
    "losses: {preference: 1, winner: 1e-1}": ("losses", {"preference": 1.0, "winner": 0.1}),
    "{method: dedpo, judge: [bright], power: auto}": ("judge", "bright"),
    "resolution: null": ("resolution", None),
    "max_grad_norm: .inf": ("max_grad_norm", math.inf),  # no clipping
}


@pytest.mark.parametrize("text", TAKEN)
def test_a_form_that_can_mean_one_thing_is_taken(text, tmp_path):
    name, value = TAKEN[text]
    whole = text if text[0] != "{" else text.strip("{}").replace(", judge", "\njudge").replace(", power", "\npower")
    found = getattr(load_config(written(tmp_path, whole)), name)
    assert found == value and type(found) is type(value)


REFUSED = {
    "adaptive: maybe": "adaptive: 'maybe' is not true or false; write `adaptive: false`.",
    "lora: 16": "lora: 16 is not keys with values; write `lora: {rank: 16}`.",
    "lora: {rank: 0}": "lora: rank: 0 is not a number between 1 and 4096.",
    "lora: {rank: many}": "lora: rank: 'many' is not a whole number; write `rank: 16`.",
    "lora: {rnk: 3}": "lora: there is no key 'rnk'; did you mean 'rank'?",
    "leave_out_fold: 3": "leave_out_fold: 3 is not a list of 2 whole numbers; write `leave_out_fold: [0, 2]`.",
    "leave_out_fold: [0, 2, 4]": "leave_out_fold: [0, 2, 4] is not a list of 2 whole numbers",
    "leave_out_fold: [-1, 2]": "leave_out_fold: -1 is not a number of at least 0.",
    "max_train_steps: 2.5": "max_train_steps: 2.5 is not a whole number; write `max_train_steps: 1000`.",
    "seed: zero": "seed: 'zero' is not a whole number; write `seed: 0`.",
    "seed: 1e20": "seed: 1e+20 is not a whole number",
    "seed: 100000000000000000000": "seed: 100000000000000000000 is not a number between 0 and 9223372036854775807.",
    "seed: -1": "seed: -1 is not a number between 0 and",
    "train_batch_size: true": "train_batch_size: True is not a whole number; write `train_batch_size: 8`.",
    "beta: .nan": "beta: nan is not a number of at least 0.",
    "logit_mean: .nan": "logit_mean: nan is not a number that training can use.",
    "beta: strong": "beta: 'strong' is not a number; write `beta: 5000.0`.",
    "resolution: 4": "resolution: 4 is not a number of at least 8 (pixels).",
    "judge: 3": "judge: 3 is not text or a list of texts; write `judge: '3'`.",
    "human_annotators: [ana, 3]": "human_annotators: ['ana', 3] is not a list of texts",
    "losses: preference": "losses: 'preference' is not names with numbers; write `losses: {preference: 1.0}`.",
    "losses: {preference: heavy}": "losses: {'preference': 'heavy'} is not names with numbers",
    "mixed_precision: bf61": "'bf61' is not one of no, fp16, bf16; did you mean 'bf16'?",
    "power: atuo": "power: 'atuo' is not a number or auto; write `power: 1.0`.",
    "method: 3": "method: 3 is not text; write `method: '3'`.",
    "safegard: 0.9": "there is no key 'safegard'; did you mean 'safeguard'?",
    "allow_tf32: true": "there is no key 'allow_tf32'; it is tf32.",
    "scale_lr: true": "there is no key 'scale_lr'; write the learning_rate that you want.",
    "beta: 1\nseed: 2\nbeta: 3": "beta stands in lines 4 and 6; remove one of them.",
    "lora: {rank: 4, rank: 8}": "rank stands in line 4 twice; remove one of them.",
}


@pytest.mark.parametrize("text", REFUSED)
def test_everything_else_is_refused_in_one_line_with_the_right_spelling(text, tmp_path):
    path = written(tmp_path, text)
    line = refusal(lambda: load_config(path))
    assert line.startswith(f"{path}: ") and REFUSED[text] in line


def test_values_of_python_are_taken_too():
    config = load_config(
        {**BASE, "output_dir": Path("runs/two")}, seed=np.int64(3), beta=np.float32(0.5), lora={"rank": 2}
    )
    assert (config.output_dir, config.seed, config.beta, config.lora) == ("runs/two", 3, 0.5, LoraOptions(rank=2))
    assert type(config.seed) is int and type(config.beta) is float


def test_a_configuration_made_by_hand_passes_the_same_door():
    given = TrainConfig(**BASE, lora=LoraOptions(rank=0))
    assert refusal(lambda: load_config(given)) == "configuration: lora: rank: 0 is not a number between 1 and 4096."
    assert "overrides: seed: 'x' is not" in refusal(lambda: load_config(TrainConfig(**BASE), seed="x"))


def test_yaml_keeps_its_other_words(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("a: &x {k: 1}\nb: {<<: *x, k: 2}\nc: 1e5\nd: e5\ne: 1.5e-3\nf: 0x10\ng: 12:30\n")
    assert read_yaml(path) == {
        "a": {"k": 1}, "b": {"k": 2}, "c": 1e5, "d": "e5", "e": 1.5e-3, "f": 16, "g": 750,
    }  # fmt: skip


def test_did_you_mean_names_the_nearest_of_a_set():
    assert did_you_mean("Trian", ["train", "sample"]) == "; did you mean 'train'?"
    assert did_you_mean("zzz", ["train"], "ask.") == "; ask." and did_you_mean("zzz", ["train"]) == "."
