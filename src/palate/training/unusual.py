"""Settings that are legal but hardly intended: each is reported before training, and obeyed."""

import re
from pathlib import Path

from palate.backbones import Backbone
from palate.backbones.components import pipeline_index
from palate.network.model import meta_network
from palate.run.config import LoraOptions, TrainConfig

FEW_STEPS = re.compile(r"turbo|lightning|schnell|hyper-?sd|(?<![a-z])lcm(?![a-z])|distilled")
MOST_DISTILLED_STEPS = 8
HIGHEST_RATE = 1e-2  # 1e-3 is already high among published rates for these models, adapters included


def unusual(config: TrainConfig, backbone: Backbone) -> list[str]:
    """A sentence for each setting with which nothing, or nothing good, will be learned."""
    rate, steps = config.learning_rate, config.max_train_steps
    told = {
        f"learning_rate {rate:g} is far above what such models are trained with (1e-8 to 1e-3)": rate > HIGHEST_RATE,
        "learning_rate 0 changes nothing": rate == 0,
        "max_grad_norm 0 clips every gradient to nothing": config.max_grad_norm == 0,
        "beta 0 makes every logit 0, so no preference is learned": config.beta == 0 and "preference" in config.losses,
        "prompt_dropout 1 trains without any prompt": config.prompt_dropout == 1,
        f"lr_warmup_steps {config.lr_warmup_steps} is not over after max_train_steps {steps}: the learning rate is"
        " never reached": config.lr_scheduler != "constant" and config.lr_warmup_steps >= steps,
    }
    if config.ema_decay is not None:
        share = config.ema_decay**steps
        told[f"ema_decay {config.ema_decay:g} over {steps} steps: {share:.0%} of the average are the weights at the"
             " start"] = share > 0.5  # fmt: skip
    found = [sentence for sentence, so in told.items() if so] + _distilled(config, backbone)
    return found + (_ranks(config.lora, backbone) if config.lora else [])


def _distilled(config: TrainConfig, backbone: Backbone) -> list[str]:
    """A model made to sample in few steps, told by its family or by its name."""
    given = Path(config.pretrained_model_name_or_path).name
    names = (given, str(pipeline_index(backbone.folder).get("_name_or_path", "")))
    words = sorted({word for name in names for word in FEW_STEPS.findall(name.lower())})
    if not words and backbone.stock[0] > MOST_DISTILLED_STEPS:
        return []
    why = f"its name says {words[0]}" if words else f"it samples in {backbone.stock[0]} steps"
    return [
        f"the base model is distilled to sample in few steps ({why}). Training at all timesteps, as here, makes it a"
        " model of many steps again: align the model that it was distilled from, or look at samples early"
    ]


def _ranks(lora: LoraOptions, backbone: Backbone) -> list[str]:
    """Adapters of a higher rank than the weight that they change: more parameters without more expressive power."""
    rank, targets = lora.rank, lora.target_modules
    narrow: dict[int, str] = {}
    for name, module in meta_network(backbone).named_modules():
        weight = getattr(module, "weight", None)
        if any(name == end or name.endswith(f".{end}") for end in targets) and weight is not None and weight.ndim > 1:
            narrow.setdefault(min(weight.flatten(1).shape), name)
    width = min(narrow, default=rank)
    if width >= rank:
        return []
    return [f"lora.rank {rank} is more than the {width} of {narrow[width]}: ranks above that add parameters alone"]
