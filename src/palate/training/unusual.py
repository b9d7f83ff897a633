"""Settings that are legal and hardly meant: each is said before training, and followed."""

from palate.backbones import Backbone
from palate.network.model import meta_network
from palate.run.config import LoraOptions, TrainConfig

HIGHEST_RATE = 1e-2  # of what anybody has published for these models, adapters included, 1e-3 is high


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
    found = [sentence for sentence, so in told.items() if so]
    return found + (_ranks(config.lora, backbone) if config.lora else [])


def _ranks(lora: LoraOptions, backbone: Backbone) -> list[str]:
    """Adapters of a higher rank than the weight that they change: more parameters, and nothing more to say."""
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
