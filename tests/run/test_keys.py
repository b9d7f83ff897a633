"""Everything about a key stands at the key: what is read off it elsewhere, and that none says nothing."""

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from palate.backbones import load_backbone
from palate.network.timesteps import KEYS as TIMESTEPS
from palate.reports.training import OTHERS, training_of
from palate.run.config import LoraOptions, TrainConfig
from palate.run.keys import MISSING, REQUIRED, default_of, help_of_keys, key, keys
from palate.run.load import FREE_ON_RESUME, load_config, refuse_another, save_config
from palate.run.values import parts_of, typed
from palate.training.estimate import remedies
from palate.training.precomputed import _name, describe
from palate.training.self_judge import _fold_config

REQUIRED_KEYS = {"pretrained_model_name_or_path": "world", "dataset": "prefs", "output_dir": "runs/one"}


def silent(kind: type) -> list[str]:
    """What the keys of a configuration leave unsaid."""
    declared, texts = keys(kind), help_of_keys(kind)
    numbers = [f.name for f in fields(kind) if _is_number(f.type)]
    return [
        *(f"{name} has no sentence" for name in declared if not texts[name]),
        *(f"{name} has no bounds" for name in numbers if not declared[name].has_bounds),
    ]


def _is_number(kind: Any) -> bool:
    parts = parts_of(kind)
    held = [one for part in parts if get_origin(part) in (tuple, dict) for one in get_args(part)]
    return bool({int, float} & {*parts, *held})


@dataclass
class Mute:
    """Keys that say too little."""

    steps: int = key(1, "Group", resume="fixed", folds="same", error="no")
    """Has no bounds."""
    name: str = key("a", "Group", resume="fixed", folds="same", error="no")


@dataclass
class Plain:
    """A key that says nothing."""

    steps: int = field(default=1)


@pytest.mark.parametrize("kind", [TrainConfig, LoraOptions])
def test_no_key_says_nothing(kind):
    assert silent(kind) == []


def test_a_key_that_says_nothing_or_too_little_is_found():
    assert silent(Mute) == ["name has no sentence", "steps has no bounds"]
    with pytest.raises(TypeError, match="'steps' says nothing of itself"):
        keys(Plain)
    with pytest.raises(TypeError, match="'error'"):
        key(1, "Group", resume="fixed", folds="same")


@pytest.mark.parametrize("kind", [TrainConfig, LoraOptions])
def test_what_keys_say_of_values_is_of_their_type(kind):
    """Defaults, what folds reset and what reduces memory pass the door as they are."""
    for name, one in keys(kind).items():
        usual = default_of(next(f for f in fields(kind) if f.name == name))
        reset = [] if one.folds != "reset" else [one.reset_to]
        for value in [*([] if usual is REQUIRED else [usual]), *reset, *one.remedies]:
            assert typed({name: value}, kind) == {name: value}
        assert one.remedy_sets.keys() <= keys(kind).keys()


def test_what_may_change_on_resume(tmp_path):
    assert set(FREE_ON_RESUME) == {
        "dataset", "output_dir", "cache", "max_train_steps", "num_train_epochs", "checkpointing_steps", "checkpoints_total_limit",
        "report_to", "processes", "parallel", "on_spike", "spike_factor", "max_drift",
    }  # fmt: skip
    config = load_config(REQUIRED_KEYS)
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    for name in FREE_ON_RESUME:
        refuse_another(tmp_path, replace(config, **{name: another(name)}))
    with pytest.raises(Exception, match="another configuration \\(beta: 5000.0 there, 1.0 here\\)"):
        refuse_another(tmp_path, replace(config, beta=1.0))


def another(name: str) -> Any:
    """A value of this key that is not its default."""
    one = next(f for f in fields(TrainConfig) if f.name == name)
    default, part = default_of(one), parts_of(one.type)[0]
    if get_origin(part) is Literal:
        return next(value for value in get_args(part) if value != default)
    if get_origin(part) is tuple:
        return ("ana",) if get_args(part)[0] is str else (1, 3)
    if get_origin(part) is dict:
        return {"winner": 1.0}
    if part is LoraOptions:
        return LoraOptions()
    return {bool: default is False, int: 3, float: 0.25, str: "another"}[part]


def test_a_fold_is_the_run_without_what_acts_on_its_targets():
    config = load_config(
        {**REQUIRED_KEYS, "method": "self-training-crossfit", "seed": 3, "early_stop": 2, "held_out_votes": 0.1,
         "lora": {"rank": 4}, "report_to": "tensorboard"}
    )  # fmt: skip
    assert _fold_config(config, 1) == replace(
        config, target="human", judge=None, power=1.0, residual=1.0, ramp=False, swap=False, label_smoothing=0.0,
        flip_rate=0.0, madpo=None, uncertainty=None, output_dir=str(Path("runs/one/self-judge/fold-1")),
        leave_out_fold=(1, config.self_folds), early_stop=None, report_to="none",
    )  # fmt: skip


def test_a_stored_error_depends_on_what_keys_say_and_on_nothing_else(pipeline_folder):
    backbone = load_backbone(str(pipeline_folder))
    config = load_config({**REQUIRED_KEYS, "pretrained_model_name_or_path": str(pipeline_folder)})
    usual = describe(backbone, config)
    assert usual.keys() == {
        "model", "scheduler", "draw_seed", "prompt_dropout", "mixed_precision", "timesteps", "compile", "device",
    }  # fmt: skip
    declared = keys(TrainConfig)
    changing = {name for name in declared if describe(backbone, replace(config, **{name: another(name)})) != usual}
    assert changing == {name for name, one in declared.items() if one.error == "value"} | {"seed"}
    limited = replace(config, reference_draws=2)  # then their own seed addresses the draws
    assert describe(backbone, replace(limited, seed=9)) == describe(backbone, limited)
    assert describe(backbone, replace(limited, draw_seed=9))["draw_seed"] == 9
    assert {name for name, one in declared.items() if one.error == "timesteps"} == set(TIMESTEPS)
    assert {name for name, one in declared.items() if one.error == "draws"} == {"seed", "draw_seed", "reference_draws"}


def test_a_table_of_before_is_found_under_the_name_that_it_has():
    """The name is a hash of the description; tables that `palate encode` made stay where they are."""
    old = {
        "model": "m", "scheduler": "s", "draw_seed": 0, "prompt_dropout": 0.0, "mixed_precision": "no",
        "timesteps": [], "compile": False, "device": "cpu",
    }  # fmt: skip
    assert _name(old) == _name(dict(reversed(old.items()))) == "reference-421ab4357be48c46"


def test_remedies_are_those_that_the_other_keys_allow():
    config = load_config(REQUIRED_KEYS)
    assert remedies(config) == {
        "lora": {"lora": LoraOptions()},
        "gradient_checkpointing": {"gradient_checkpointing": True},
        "mixed_precision: bf16": {"mixed_precision": "bf16"},
        "weight_dtype: bf16 and mixed_precision: bf16": {"weight_dtype": "bf16", "mixed_precision": "bf16"},
        "reference: precomputed and reference_draws: 1": {"reference": "precomputed", "reference_draws": 1},
        "train_batch_size: 1": {"train_batch_size": 1},
        "optimizer: adamw-8bit": {"optimizer": "adamw-8bit"},
        "optimizer: adafactor": {"optimizer": "adafactor"},
    }
    without = remedies(replace(config, losses={"mapo": 1.0}, gradient_checkpointing=True, adaptive=False))
    assert not {"gradient_checkpointing", "reference: precomputed and reference_draws: 1"} & without.keys()
    assert "train_batch_size: 1" not in remedies(replace(config, adaptive=True))  # which needs two pairs


def test_a_report_tells_every_key_that_was_changed(tmp_path):
    changes = {"madpo": 2.0, "amapo": True, "ema_decay": 0.9, "link_parameter": 0.3, "link": "dmpo", "judge": "clip"}
    save_config(load_config({**REQUIRED_KEYS, **changes}), tmp_path / "config.yaml")
    told = training_of(tmp_path)
    assert told["weights"] == "madpo 2, amapo" and told[OTHERS] == "link_parameter 0.3, ema_decay 0.9"
    save_config(load_config({**REQUIRED_KEYS, "method": "dmpo"}), tmp_path / "config.yaml")
    assert OTHERS not in training_of(tmp_path)  # what the method sets goes without saying


def test_rows_of_a_report_are_those_that_keys_name(tmp_path):
    everything = {"revision": "r", "start_from": "runs/0", "human_annotators": ["ana"], "question": "alignment", "safeguard": 0.9, "amapo": True,
                  "method": "dedpo", "judge": "clip", "mixed_precision": "bf16", "ema_decay": 0.5}  # fmt: skip
    save_config(load_config({**REQUIRED_KEYS, **everything}), tmp_path / "config.yaml")
    (tmp_path / "labels.json").write_text(json.dumps({"used": "8 pairs"}))
    named = {one.told for kind in (TrainConfig, LoraOptions) for one in keys(kind).values()} - {None, "nowhere"}
    assert training_of(tmp_path).keys() == named | {"used", OTHERS}
    assert MISSING is REQUIRED
