"""The model itself as the judge, cross-fitted: no pair is judged by a model that was trained on its human vote.

In-sample votes of a model shrink the residual that debiasing lives on, and DeDPO silently becomes training on
pseudo-labels (dedpo as a learner of itself); votes of models that did not see a pair do not.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit

from palate.arrays import Bools, Floats
from palate.backbones.conditioning import repeat
from palate.data.dataset import PreferenceDataset
from palate.data.shards import read_table, write_table
from palate.distributed import first_alone, first_says
from palate.encoding.cache import encode_pairs
from palate.errors import PalateError
from palate.judges.weights import choose_device
from palate.labels.rows import pairs_of_two
from palate.labels.votes import folds_of
from palate.progress import progress_bar
from palate.run.checks import SELF
from palate.run.config import TrainConfig
from palate.run.keys import keys
from palate.run.load import FREE_ON_RESUME, load_config
from palate.run.votes_used import votes_used
from palate.training.implicit import load_implicit_reward

FOLDER = "self-judge"  # in a run, with one fold run each


def cross_fitted_votes(
    dataset: PreferenceDataset, config: TrainConfig, train: Callable[[TrainConfig], object]
) -> Floats | None:
    """Probabilities [N] of image 0 by models trained on the human votes of other folds; None where the judge is
    another.

    Every pair, labelled or not, is judged by the model of its prompt's fold, so that DeDPO subtracts the judge that it
    added. The logits are kept beneath the run's folder.
    """
    if config.judge != SELF or config.self_judge != "cross-fitted":
        return None
    folds = trained_folds(config, train)
    pairs = pairs_of_two(dataset)
    pair_ids = pairs["pair_id"].to_pylist()
    path = Path(config.output_dir) / FOLDER / "votes.parquet"

    def vote() -> None:
        if path.exists() and read_table(path, columns=["pair_id"])["pair_id"].to_pylist() == pair_ids:
            return
        logits = _logits(dataset, config, folds)
        columns = {f"fold_{k}": logits[k] for k in range(len(folds))}
        write_table(path, pa.table({"pair_id": pair_ids} | columns))

    first_alone(vote)
    table = read_table(path)
    logits = np.stack([table[f"fold_{k}"].to_numpy() for k in range(len(folds))])
    own = folds_of(pairs["prompt"].to_pylist(), len(folds), config.seed)
    if seen_by([votes_used(fold) for fold in folds], pair_ids)[own, np.arange(len(own))].any():
        raise PalateError(
            f"{config.output_dir}: votes or pairs were added since its fold runs were trained, which then judge pairs"
            f" whose votes they saw. Choose another output_dir, or delete {path.parent}."
        )
    votes: Floats = expit(logits[own, np.arange(len(own))])
    return votes


def trained_folds(config: TrainConfig, train: Callable[[TrainConfig], object]) -> list[Path]:
    """The folders of the K = self_folds fold runs of a configuration; those that are not finished are trained first.

    Fold runs are ordinary runs beneath the run's folder, so an interrupted one goes on. Votes held out for validation
    are held out of all of them. Raises PalateError where there are no votes on pairs to be parted, or no denoiser.
    """
    if config.source != "pairs" or config.trains != "denoiser":
        raise PalateError(
            f"{config.output_dir}: a model is its own judge by denoising pairs with human votes, and this configuration"
            f" has source: {config.source}, trains: {config.trains}. Use source: pairs and trains: denoiser."
        )
    folds = [_fold_config(config, k) for k in range(config.self_folds)]
    for fold in folds:
        if not first_says(_finished(fold)):  # as one process sees it: another would see it while the first rewrites it
            train(fold)
            gc.collect()  # fp16's optimiser holds itself, and with it the weights
    return [Path(fold.output_dir) for fold in folds]


def found_folds(run: Path) -> list[Path]:
    """The finished fold runs in the folder of a run, none where it has no folds. Raises PalateError when some are
    missing."""
    found = sorted(path.parent for path in (run / FOLDER).glob("fold-*/config.yaml"))
    if not found:
        return []
    left_out = load_config(found[0] / "config.yaml").leave_out_fold
    assert left_out is not None  # a fold run leaves its fold out
    _, count = left_out
    folds = [run / FOLDER / f"fold-{k}" for k in range(count)]
    unfinished = [fold for fold in folds if not (fold / "model").is_dir()]
    if unfinished:
        raise PalateError(
            f"{unfinished[0]}: this fold run is not finished. The command that began it goes on from there."
        )
    return folds


def seen_by(used: list[frozenset[str]], pair_ids: list[str]) -> Bools:
    """[F, N] bool: whether the pair is among those whose human votes a model was trained on."""
    return np.array([[pair_id in pairs for pair_id in pair_ids] for pairs in used], bool)


def mean_of_unseen(values: Floats, seen: Bools) -> Floats:
    """Means [N, ...] of values [F, N, ...] over those of the F models that did not see the pair; NaN where all did."""
    weight = (~seen).astype(float)
    total = np.einsum("fn,fn...->n...", weight, values)
    count = weight.sum(axis=0).reshape(-1, *[1] * (total.ndim - 1))
    means: Floats = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means


def _fold_config(config: TrainConfig, fold: int) -> TrainConfig:
    """The same run on the human votes outside one fold alone: what acts on targets acts on those of the run itself,
    later."""
    own: dict[str, Any] = {
        "output_dir": str(Path(config.output_dir) / FOLDER / f"fold-{fold}"),
        "leave_out_fold": (fold, config.self_folds),
    }
    reset = keys(TrainConfig, lambda key: key.folds == "reset")
    changes: dict[str, Any] = {name: key.reset_to for name, key in reset.items()}
    return replace(config, **changes, **own)


def _finished(config: TrainConfig) -> bool:
    run = Path(config.output_dir)
    if not (run / "model").is_dir():
        return False
    free = {name: getattr(config, name) for name in FREE_ON_RESUME if name != "max_train_steps"}
    return replace(load_config(run / "config.yaml"), **free) == config


def _logits(dataset: PreferenceDataset, config: TrainConfig, folds: list[Path]) -> Floats:
    """Logits [F, N] of the fold runs, averaged over draws of their own; 0 where an image cannot be read."""
    reward = load_implicit_reward(folds, config, choose_device(None), config.mixed_precision)
    encoded = encode_pairs(dataset, reward.backbone, config.resolution, place=config.cache)
    pairs = pairs_of_two(dataset)
    pair_ids, prompts = (np.array(pairs[name].to_pylist(), object) for name in ("pair_id", "prompt"))
    readable = np.flatnonzero([pair_id in encoded for pair_id in pair_ids])
    logits = np.zeros((len(folds), len(pair_ids)))
    with progress_bar("the folds vote", len(readable)) as advance:
        for start in range(0, len(readable), config.train_batch_size):
            row = readable[start : start + config.train_batch_size]
            ids = pair_ids[row].tolist()
            told = repeat(encoded.prompt_conditioning(prompts[row].tolist()), 2)
            told |= encoded.image_conditioning([(i, side) for side in (0, 1) for i in ids])
            scores = reward.scores(ids, encoded.latents(ids), told, config.self_draws, config.seed)
            logits[:, row] = scores[..., 0] - scores[..., 1]
            advance(len(row))
    return logits
