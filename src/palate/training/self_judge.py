"""The model itself as the judge, cross-fitted: no pair is judged by a model that was trained on its human vote.

In-sample votes of a model shrink the residual that debiasing lives on, and DeDPO silently becomes training on
pseudo-labels (dedpo as a learner of itself); votes of models that did not see a pair do not.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from scipy.special import expit

from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.files import atomic_path
from palate.progress import progress_bar
from palate.training.batches import Batches
from palate.training.cache import encode_pairs
from palate.training.checks import SELF
from palate.training.config import TrainConfig
from palate.training.labels import folds_of
from palate.training.model import load_trained_unet, make_policy, starting_unet
from palate.training.networks import Networks
from palate.training.reference import make_reference
from palate.training.rows import pairs_of_two, rows_of_pairs
from palate.training.sources import Setting, rows_problem


def cross_fitted_votes(dataset: PreferenceDataset, config: TrainConfig, train: Callable) -> np.ndarray | None:
    """Probabilities [N] of image 0 by models trained on the human votes of other folds; None where the judge is another.

    A pair with a human vote is judged by the model of its fold, which did not see it; the others by the mean logit of
    all. Fold runs are ordinary runs beneath the run's folder, so an interrupted one goes on; the votes are kept there. Votes held out for validation are
    held out of all of them.
    """
    if config.judge != SELF or config.self_judge != "cross-fitted":
        return None
    folder = Path(config.output_dir) / "self-judge"
    path = folder / "votes.parquet"
    pairs = pairs_of_two(dataset)
    pair_ids, prompts = pairs["pair_id"].to_pylist(), pairs["prompt"].to_pylist()
    if not path.exists():
        logits = np.stack(
            [_fold_logits(dataset, config, train, k, folder / f"fold-{k}") for k in range(config.self_folds)]
        )
        with atomic_path(path) as temporary:
            pq.write_table(
                pa.table({"pair_id": pair_ids} | {f"fold_{k}": logits[k] for k in range(len(logits))}), temporary
            )
    table = pq.read_table(path)
    logits = np.stack([table[f"fold_{k}"].to_numpy() for k in range(config.self_folds)])  # [F, N]
    fold = folds_of(prompts, config.self_folds, config.seed)
    votes = dataset.votes()
    voted = {p for p, s in zip(votes["pair_id"].to_pylist(), votes["source"].to_pylist(), strict=True) if s == "human"}
    labelled = np.array([pair_id in voted for pair_id in pair_ids])
    own = logits[fold, np.arange(len(fold))]
    return expit(np.where(labelled, own, logits.mean(axis=0)))


def _fold_logits(
    dataset: PreferenceDataset, config: TrainConfig, train: Callable, fold: int, folder: Path
) -> np.ndarray:
    """Logits [N] of a model trained on the human votes outside one fold, averaged over draws of their own."""
    settings = replace(  # the same run on human votes alone: what acts on targets acts on those of the run itself, later
        config, target="human", judge=None, power=1.0, residual=1.0, ramp=False, swap=False, label_smoothing=0.0, flip_rate=0.0, madpo=None, uncertainty=None,
        output_dir=str(folder), leave_out_fold=(fold, config.self_folds), early_stop=None, report_to="none",
    )  # fmt: skip
    run = train(settings)
    backbone = load_backbone(config.pretrained_model_name_or_path, config.revision)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    backbone.device = accelerator.device
    plain = replace(config, lora=None)
    reference = make_reference(
        make_policy(starting_unet(backbone, config), plain)
    )  # a frozen copy, before it is changed
    policy = make_policy(load_trained_unet(backbone.unet, run.model_path).to(accelerator.device), plain)
    encoded = encode_pairs(dataset, backbone, config.resolution)
    rows = rows_of_pairs(pairs_of_two(dataset))
    networks = Networks(backbone, policy, reference, config.beta, accelerator)
    setting = Setting(
        settings, backbone, encoded, rows, Batches(rows.labelled, 1, None, 0), networks, accelerator.device
    )
    logits = dict.fromkeys(rows.id.tolist(), 0.0)
    readable = np.flatnonzero([pair_id in encoded for pair_id in rows.id])
    with progress_bar(f"voting of fold {fold}", len(readable)) as advance:
        for start in range(0, len(readable), config.train_batch_size):
            row = readable[start : start + config.train_batch_size]
            problems = [
                rows_problem(setting, row, [f"vote {k}"] * len(row), np.ones(len(row)))
                for k in range(config.self_draws)
            ]
            mean = torch.stack([networks.logits(problem) for problem in problems]).mean(dim=0)
            logits |= dict(zip(rows.id[row].tolist(), mean.double().cpu().tolist(), strict=True))
            advance(len(row))
    return np.array(list(logits.values()))
