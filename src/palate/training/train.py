"""The verb: one training run, in this process or in several that are started for it."""

from pathlib import Path
from typing import Any

from palate import distributed
from palate.run.config import TrainConfig
from palate.run.load import load_config
from palate.training.launch import launch
from palate.training.loop import Run, train_in_this_process


def train(config: str | Path | dict[str, Any] | TrainConfig, dry_run: bool = False, **overrides: Any) -> Run:
    """Train, or resume training, as `config` says (a YAML file, a dict or a TrainConfig; keywords replace single keys).

    With `dry_run` everything is checked and counted, and nothing is encoded, trained or written into the run. Returns
    the run. Raises PalateError before any work starts when something cannot work, and when the loss becomes NaN, naming
    the pairs; what was reached before is kept.
    """
    config = load_config(config, **overrides)
    if config.processes > 1 and not dry_run and not distributed.launched():
        launch(config)
        return Run(Path(config.output_dir))
    return train_in_this_process(config, dry_run)
