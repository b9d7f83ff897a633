"""The presets of `palate methods` as variants of a training step, with what they compute before or between the steps.

All train the same adapters (a classifier: all of its own weights) on the same dataset, and differ in nothing but their
preset and what a preset cannot do without: the name of a judge, of a reward.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from step_data import JUDGE, SECOND_JUDGE, Options
from step_variants import Parts, Step, put_together, run_step

from palate.data.dataset import open_dataset
from palate.errors import PalateError
from palate.presets import method, methods, preset
from palate.run.checks import SELF, UNVOTED
from palate.run.config import TrainConfig
from palate.run.load import load_config
from palate.training import assemble

BASE = "dpo"
# What a model that ranks its own steps needs: a reward, here one that is nearly free, under which any two candidates are a
# pair; one prompt, sampled before the first step and never again.
STEPS_NEED = {"reward": "brightness", "reward_gap": 0.0, "reward_temperature": 0.01, "prompts_per_round": 1, "refresh_steps": 10**9}  # fmt: skip


@dataclass(frozen=True)
class Preparation:
    """What one optimiser step owes to work outside the steps; the sum of both parts."""

    what: str
    processor: float = 0.0  # seconds summed over threads, measured once, scaled as `what` says
    base_steps: float = 0.0  # of BASE's own


class Seen:
    """Images that a network has seen, with and without a gradient, since this was last asked."""

    def __init__(self, network: torch.nn.Module):
        self.images = [0, 0]
        network.register_forward_pre_hook(self._count)

    def _count(self, network: torch.nn.Module, inputs: tuple) -> None:
        self.images[0 if torch.is_grad_enabled() else 1] += len(inputs[0])

    def take(self) -> tuple[int, int]:
        """(with, without) a gradient."""
        images, self.images = tuple(self.images), [0, 0]
        return images


@dataclass(frozen=True)
class MethodStep:
    """One preset, ready to take steps."""

    parts: Parts  # whose parameters and optimiser
    gradient: Step
    seen: Seen
    preparation: Preparation | None


def choose(names: tuple[str, ...]) -> list[str]:
    """The presets asked for, BASE among them. Raises PalateError for a name that is none."""
    chosen = list(methods()) if names == ("all",) else [method(name).name for name in names]
    return list(dict.fromkeys([BASE, *chosen]))


def make_methods(folder: Path, options: Options, names: list[str]) -> dict[str, MethodStep]:
    """Every preset around one policy, one reference and one optimiser; a classifier has its own."""
    parts = Parts(folder, options, is_lora=True)
    seen = Seen(parts.policy.network)
    made = {}
    for name in names:
        try:
            made[name] = _make_method(name, parts, seen)
        except PalateError as error:
            raise PalateError(f"{name}: {error}") from error
        if name == BASE:
            made[name].gradient(0)  # so that no preparation is timed in a cold process
    return made


def _make_method(name: str, parts: Parts, seen: Seen) -> MethodStep:
    config = configuration(name, parts)
    if config.trains == "classifier":
        parts = Parts(parts.folder, parts.options, is_lora=False, trains="classifier")
        seen = Seen(parts.policy.network)
    votes = None
    if config.judge == SELF and config.self_judge == "cross-fitted":  # as if the models of the folds had voted
        votes = np.full(len(open_dataset(config.dataset)), 0.6)
    first, made = _timed(lambda: put_together(parts, config, votes))
    preparation = prepared(name, config, made, lambda: first - _timed(lambda: put_together(parts, config, votes))[0])
    seen.take()
    return MethodStep(parts, run_step(parts, made), seen, preparation)


def configuration(name: str, parts: Parts) -> TrainConfig:
    """The preset at the size of the benchmark, with what it cannot do without."""
    keys = {"source": "pairs", "target": "human", "judge": None, "madpo": None} | preset(name)
    needs = {}
    if keys["source"] == "steps":
        needs = STEPS_NEED
    elif keys["source"] == "samples":
        needs = {"human_votes": parts.options.batch}  # as many preferred images to sample against
    elif keys["source"] not in UNVOTED and not keys["judge"] and (keys["target"] != "human" or keys["madpo"]):
        several = keys.get("judges_together") == "majority"
        needs = {"judge": [JUDGE, SECOND_JUDGE] if several else JUDGE}
    return load_config(
        {"pretrained_model_name_or_path": parts.config.pretrained_model_name_or_path, "dataset": parts.config.dataset, "method": name,
         "output_dir": f"{parts.config.output_dir}/{name}", "train_batch_size": parts.options.batch, **needs}
    )  # fmt: skip


def prepared(
    name: str, config: TrainConfig, made: assemble.Parts, extra_seconds: Callable[[], float]
) -> Preparation | None:
    """What the preset computes outside its steps, measured on a part of it; `extra_seconds`: what putting the run together took
    longer for the first time than it does later. None where there is nothing."""
    batch, networks = config.train_batch_size, made.stepper.networks
    if config.source == "steps":
        prompts, steps = (preset(name).get(k, getattr(TrainConfig, k)) for k in ("prompts_per_round", "refresh_steps"))
        seconds, _ = _timed(lambda: made.stepper.source(0))
        what = f"sampling of {prompts} prompts for every {steps} steps, {config.sampling_steps} steps with {config.candidates} candidates each, measured on 1"
        return Preparation(what, seconds * prompts / steps)
    if config.source == "samples":
        what = f"one sample of {config.sampling_steps} steps for every preferred image, as if each were used once; measured on {len(made.rows)}"
        return Preparation(what, extra_seconds() / len(made.rows) * batch)
    if config.judge == SELF and config.self_judge == "cross-fitted":
        seconds, _ = _timed(lambda: networks.logits(made.stepper.source(0)))
        votes = config.self_draws * config.self_folds
        what = f"{config.self_folds} runs of {BASE} of as many steps, and {votes} votes on every pair, as if each were used once; measured on 1 vote"
        return Preparation(what, seconds * votes, config.self_folds)
    return None


def _timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds of the processor, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result
