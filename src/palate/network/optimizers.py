"""The optimiser that a configuration names."""

from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR

from palate.errors import PalateError
from palate.run.config import TrainConfig

# Bytes that each keeps per trained parameter: two fp32 moments, two of 8 bits, next to nothing
STATE_BYTES = {"adamw": 8.0, "adamw-8bit": 2.0, "adafactor": 0.1}


def make_optimizer(parameters: list[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; AdamW with moments in 8 bits (Dettmers et al., arXiv 2110.02861); or Adafactor (Shazeer and Stern, arXiv
    1804.04235) with learning_rate as it is, neither scaled by the parameters nor by the step.

    Raises PalateError when the library of the 8-bit one is not installed.
    """
    if config.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        adafactor: torch.optim.Optimizer = Adafactor(
            parameters, lr=config.learning_rate, weight_decay=config.adam_weight_decay, clip_threshold=1.0,
            scale_parameter=False, relative_step=False, warmup_init=False,
        )  # fmt: skip
        return adafactor
    adamw: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW if config.optimizer == "adamw" else _adamw_8bit()
    return adamw(
        parameters, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay, eps=config.adam_epsilon,
    )  # fmt: skip


def set_rates(optimizer: torch.optim.Optimizer, schedule: LambdaLR, steps: int) -> None:
    """Put a schedule, and the rates in its optimiser, where `steps` steps from the start would have brought them.

    A stored schedule, and stored rates, are those of the length that the run had then; these are those of its length
    now, so that a run that is prolonged has the rates of one that was that long from the start.
    """
    schedule.last_epoch = steps
    rates = [base * scale(steps) for base, scale in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates  # what get_last_lr tells


def _adamw_8bit() -> Callable[..., torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # type: ignore[attr-defined]  # it lists no names of its own
    except ImportError as error:
        raise PalateError(
            "optimizer: adamw-8bit needs bitsandbytes. pip install 'palate[8bit]', or use optimizer: adafactor."
        ) from error
    return AdamW8bit
