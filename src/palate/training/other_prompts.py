"""Pairs made of one image and two prompts: its own and a wrong one. No votes are needed.

prompt-mismatch: one noisy image under both prompts; the policy learns to denoise it better under its own (TPO, arXiv
2509.25771). perturbed: one noisy image under its own prompt alone; the two sides have the reference's predictions under
both prompts as regression targets, so the policy moves from the wrong prompt's prediction (DDSPO, arXiv 2512.23426).

Derived: TPO edits prompts by a language model, DDSPO draws five degraded prompts and samples an image from each; here
the wrong prompt is another row's, or the own one without some of its words, and the image is one of the dataset.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from palate.addresses import address
from palate.backbones.conditioning import concatenate, move
from palate.errors import PalateError
from palate.objectives.logit import full_precision
from palate.run.config import TrainConfig
from palate.training.networks import Problem
from palate.training.sources import Setting, rows_problem

FEWEST, MOST = 0.4, 0.7  # share of the words that are dropped (DDSPO, released code)
SOURCES = ("prompt-mismatch", "perturbed")


def without_words(prompt: str, seed: int) -> str:
    """The prompt without 40 to 70 % of its words, at least one, chosen by address; a word alone leaves nothing."""
    words = prompt.split()
    share = FEWEST + (MOST - FEWEST) * (address("share", seed, prompt) % 1000) / 999
    order = sorted(range(len(words)), key=lambda place: address("word", seed, prompt, place))
    kept = sorted(order[max(1, round(share * len(words))) :])
    return " ".join(words[place] for place in kept)


def prompts_beside(config: TrainConfig, prompts: Sequence[str]) -> list[str]:
    """Prompts that a run needs beside those of its rows."""
    if config.source not in SOURCES or config.other_prompt != "words":
        return []
    return sorted({without_words(prompt, config.seed) for prompt in set(prompts)})


def of_two_prompts(setting: Setting) -> Callable[[int], Problem]:
    """One noisy image under its own prompt and under a wrong one (source: prompt-mismatch)."""
    wrong = _wrong_prompts(setting)

    def problem(index: int) -> Problem:
        one, told = _of_one_prompt(setting, index, wrong)
        both = {name: torch.cat([one.conditioning[name], told[name]]) for name in one.conditioning}
        return _twice(replace(one, conditioning=both), one.regression_target)

    return problem


def perturbed(setting: Setting) -> Callable[[int], Problem]:
    """One noisy image under its own prompt, with the reference's predictions under it and under a wrong prompt as the
    regression targets of the two sides (source: perturbed)."""
    wrong, networks = _wrong_prompts(setting), setting.networks

    def problem(index: int) -> Problem:
        one, told = _of_one_prompt(setting, index, wrong)
        with torch.no_grad(), networks.reference() as network:
            right, other = (networks.predict(network, replace(one, conditioning=c)) for c in (one.conditioning, told))
        both = replace(one, conditioning=concatenate([one.conditioning, one.conditioning]), one_input=True)
        return replace(_twice(both, right), regression_target=torch.cat([full_precision(right), full_precision(other)]))

    return problem


def _of_one_prompt(
    setting: Setting, index: int, wrong: Callable[[int, int], str]
) -> tuple[Problem, dict[str, torch.Tensor]]:
    """The problem of single images [B], and the same conditioning with the wrong prompts."""
    batch = setting.batch(index)
    numbers = batch.draw.tolist()
    one = rows_problem(setting, batch.row, numbers, batch.scale)
    prompts = [wrong(int(row), number) for row, number in zip(batch.row, numbers, strict=True)]
    told = move(setting.encoded.prompt_conditioning(prompts), setting.device)
    return one, one.conditioning | told


def _twice(one: Problem, regression_target: torch.Tensor) -> Problem:
    return replace(
        one,
        noisy=one.noisy.repeat(2, 1, 1, 1),
        timestep=one.timestep.repeat(2),
        regression_target=regression_target.repeat(2, 1, 1, 1),
        images=2,
    )


def _wrong_prompts(setting: Setting) -> Callable[[int, int], str]:
    """The wrong prompt of a row at the number of its draw."""
    rows, seed = setting.rows, setting.config.seed
    if setting.config.other_prompt == "words":
        return lambda row, number: without_words(rows.prompt[row], seed)
    if len(set(rows.prompt)) < 2:
        raise PalateError(
            f"source: {setting.config.source} needs a wrong prompt for each image, and all have the same one. Use"
            " other_prompt: words."
        )

    def another(row: int, number: int) -> str:
        place = address("other prompt", seed, rows.id[row], number) % len(rows)
        while rows.prompt[place] == rows.prompt[row]:
            place = (place + 1) % len(rows)
        return rows.prompt[place]

    return another
