"""The folder of a run: which run it belongs to, and whether a run may resume in it."""

import json
from pathlib import Path

from palate.command import command_line
from palate.errors import PalateError
from palate.files import read_object, remove_unfinished, write_text
from palate.labels.rows import Rows
from palate.run.checkpoint import checkpoints, step_of
from palate.run.config import TrainConfig
from palate.run.environment import describe_environment
from palate.run.load import load_config, refuse_another, save_config
from palate.training.spikes import forget_spikes

_ROWS = "It says which rows the run trains on; choose another output_dir, or delete that folder."
SHAPED_BY_LENGTH = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
)  # schedules whose rate at a step depends on max_train_steps


def claim_folder(run: Path, config: TrainConfig) -> None:
    """Write the run's configuration, or check that it is the same as before; delete leftovers of a kill. Raises
    PalateError where the folder holds another run."""
    refuse_another(run, config)
    forget_spikes(run)
    remove_unfinished(run / "checkpoints")  # as large as the model, each
    remove_unfinished(run, "model")
    if not (run / "config.yaml").exists():
        save_config(config, run / "config.yaml")  # `claim_rows` writes it anew, with the number of steps
    write_text(run / "command.txt", command_line() + "\n")
    write_text(run / "environment.json", describe_environment())  # with the folder in which the command was typed


def _tell_other_schedule(run: Path, config: TrainConfig) -> None:
    """Tell what a changed max_train_steps means: the run has the new length from here on, but it differs from a run
    that had this length from the start where its earlier steps depended on the length."""
    done = [step_of(path) for path in checkpoints(run)[-1:]]
    if not done or not (run / "config.yaml").is_file():
        return
    before = load_config(run / "config.yaml").max_train_steps
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
    """Write which rows the run trains on and for how many steps, or check that the rows are the same as before. Raises
    PalateError where they changed: batches, held-out votes and the samples of a row would change with them."""
    path, done = run / "rows.json", checkpoints(run)
    begun = (run / "metrics.jsonl").exists() or (run / "reference-samples.safetensors").exists()
    finished = bool(done) and step_of(done[-1]) >= config.max_train_steps
    told = {"rows": len(rows), "name": rows.fingerprint()}
    if begun and path.exists() and not finished and (before := read_object(path, _ROWS)) != told:
        raise PalateError(
            f"{run}: votes or pairs of {config.dataset} changed since this run began ({before.get('rows')} rows then,"
            f" {len(rows):,} now), so it cannot resume. Choose another output_dir, with start_from to"
            " continue a finished run."
        )
    _tell_other_schedule(run, config)
    save_config(config, run / "config.yaml")
    if not (begun and finished):
        write_text(path, json.dumps(told) + "\n")
