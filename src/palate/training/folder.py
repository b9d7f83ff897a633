"""The folder of a run: whose it is, and whether a run may go on in it."""

import json
from pathlib import Path

from palate.command import command_line
from palate.errors import PalateError
from palate.files import remove_unfinished, write_text
from palate.labels.rows import Rows
from palate.run.checkpoint import checkpoints, step_of
from palate.run.config import TrainConfig
from palate.run.environment import describe_environment
from palate.run.load import load_config, refuse_another, save_config
from palate.training.spikes import forget_spikes

SHAPED_BY_LENGTH = ("linear", "cosine")  # schedules whose rate at a step depends on max_train_steps


def claim_folder(run: Path, config: TrainConfig) -> None:
    """Write what the run is, or make sure that it is the same as before; clear what a kill left. Raises PalateError
    where the folder holds another run."""
    refuse_another(run, config)
    forget_spikes(run)
    remove_unfinished(run / "checkpoints")  # as large as the model, each
    remove_unfinished(run, "model")
    _tell_other_schedule(run, config)
    save_config(config, run / "config.yaml")
    write_text(run / "command.txt", command_line() + "\n")
    write_text(run / "environment.json", describe_environment())  # and the folder in which it was typed


def _tell_other_schedule(run: Path, config: TrainConfig) -> None:
    """Say what a run with another max_train_steps than before is: from here on one of that length, and where the steps
    that were taken depended on the length, no longer one that was that long from the start."""
    done = [step_of(path) for path in checkpoints(run)[-1:]]
    before = load_config(run / "config.yaml").max_train_steps if done else config.max_train_steps
    if before == config.max_train_steps:
        return
    if config.max_train_steps < done[0]:
        print(
            f"train: {done[0]} steps were taken already, more than max_train_steps: {config.max_train_steps}; the model"
            f" is the one after {done[0]} steps"
        )
        return
    if not (config.ramp or config.lr_scheduler in SHAPED_BY_LENGTH):
        return
    shaped = ["the learning rates"] * (config.lr_scheduler in SHAPED_BY_LENGTH) + ["the ramp"] * config.ramp
    print(
        f"train: max_train_steps was {before} before. From step {done[0]} on {' and '.join(shaped)}: those of a run"
        f" of {config.max_train_steps} steps from the start; the {done[0]} steps before had those of {before}, and the"
        " weights with them"
    )


def claim_rows(run: Path, rows: Rows, config: TrainConfig) -> None:
    """Write which rows the run trains on, or make sure that they are the same as before. Raises PalateError where they
    are not: batches, held-out votes and what was sampled for a row would be others."""
    path, done = run / "rows.json", checkpoints(run)
    begun = (run / "metrics.jsonl").exists() or (run / "reference-samples.safetensors").exists()
    finished = bool(done) and step_of(done[-1]) >= config.max_train_steps
    told = {"rows": len(rows), "name": rows.fingerprint()}
    if begun and path.exists() and not finished and (before := json.loads(path.read_text())) != told:
        raise PalateError(
            f"{run}: votes or pairs of {config.dataset} changed since this run began ({before['rows']:,} rows then,"
            f" {len(rows):,} now), so it cannot go on as the same run. Choose another output_dir, with start_from to go"
            " on from a finished one."
        )
    if not (begun and finished):
        write_text(path, json.dumps(told) + "\n")
