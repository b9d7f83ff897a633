"""A trained run as a judge of any dataset, by its implicit reward. It votes on no pair whose human vote it was trained
on.

Where a run has fold runs, each of them trained without a part of the human votes, a pair is judged by the mean of those
that did not see its vote.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from palate.arrays import Floats
from palate.backbones.conditioning import concatenate, move, repeat
from palate.data.schema import content_id
from palate.encoding.cache import at_once, prepare_image
from palate.errors import PalateError
from palate.judges.base import SELF, Judge, Pair
from palate.judges.load import load_judge, make_judge
from palate.judges.weights import choose_device, content_hash
from palate.run.load import load_config
from palate.run.votes_used import votes_used
from palate.training.implicit import ImplicitReward, load_implicit_reward
from palate.training.self_judge import found_folds, mean_of_unseen, seen_by, trained_folds
from palate.training.train import train


def load_any_judge(name: str, **settings: Any) -> Judge:
    """The judge of that name, also `self:RUN` and `self:CONFIG.yaml`: a run, or the models that a configuration trains.

    Raises PalateError as `palate.judges.load.load_judge` does, and for what is no finished run.
    """
    if name.startswith(SELF):
        return make_judge(name, partial(ImplicitJudge, run=name.removeprefix(SELF)), settings)
    return load_judge(name, **settings)


class ImplicitJudge:
    """`run` is the folder of a finished run, whose fold runs vote where it has some; or the configuration of a
    training, whose fold runs are trained first, unless they are finished.

    Both pictures of a pair share its `draws`, addressed by (seed, pair_id). With `in_sample` the run's own model votes
    on every pair.
    """

    version = "2"
    batch_size = 8
    uses_pair_id = True

    def __init__(self, run: str, draws: int = 8, seed: int = 0, in_sample: bool = False, device: str | None = None):
        if draws < 1:
            raise PalateError(f"draws: {draws}, but at least 1 is needed.")
        self.draws, self.seed, self.in_sample, self.device = draws, seed, in_sample, choose_device(device)
        path = Path(run).expanduser()
        if path.suffix in (".yaml", ".yml"):
            if in_sample:
                raise PalateError(f"{run}: in_sample is for votes of a finished run. Give its folder, or leave it out.")
            config = load_config(path)
            path, self.models = Path(config.output_dir), trained_folds(config, train)
        else:
            self.models = ([] if in_sample else found_folds(path)) or [_finished_run(path)]
        self.annotator = f"{SELF}{path.name}"
        self.config = load_config(self.models[0] / "config.yaml")

    @property
    def precision(self) -> str:
        """The run's own, where there is a GPU: it decides what fits there."""
        return "no" if self.device == "cpu" else self.config.mixed_precision

    @cached_property
    def settings(self) -> dict[str, Any]:
        seen = None if self.in_sample else [content_id(*sorted(pairs)) for pairs in self._used]
        return {
            "models": [content_hash(run / "model") for run in self.models],
            "seen": seen,
            "beta": self.config.beta,
            "draws": self.draws,
            "seed": self.seed,
            "resolution": self.config.resolution,
            "precision": self.precision,
        }

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """The pairs whose human votes every model saw."""
        return frozenset() if self.in_sample else frozenset.intersection(*self._used)

    @cached_property
    def _used(self) -> list[frozenset[str]]:
        return [votes_used(run) for run in self.models]

    @cached_property
    def reward(self) -> ImplicitReward:
        return load_implicit_reward(self.models, self.config, self.device, self.precision)

    def vote(self, pairs: list[Pair]) -> Floats:
        """Scores [N, 2]."""
        ids, backbone = [pair.pair_id for pair in pairs], self.reward.backbone
        size = self.config.resolution or backbone.resolution
        images = [prepare_image(image, size) for pair in pairs for image in (pair.image_0, pair.image_1)]
        batches = torch.stack(images).split(at_once(size))
        latents = torch.cat([backbone.encode_images(batch) for batch in batches]).unflatten(0, (-1, 2))
        prompts = backbone.encode_prompts([pair.prompt for pair in pairs])
        shown = [pair.image_0 for pair in pairs] + [pair.image_1 for pair in pairs]
        of_images = concatenate([backbone.image_conditioning(*image.size, size) for image in shown])
        conditioning = repeat(prompts, 2) | move(of_images, backbone.device)
        scores = self.reward.scores(ids, latents, conditioning, self.draws, self.seed)
        return scores[0] if self.in_sample else mean_of_unseen(scores, seen_by(self._used, ids))


def _finished_run(run: Path) -> Path:
    if not (run / "config.yaml").is_file() or not (run / "model").is_dir():
        raise PalateError(
            f"{run}: not a finished run (config.yaml and model/). Give the output_dir of a training, or its"
            " configuration."
        )
    if (run / "model" / "classifier").is_dir():
        raise PalateError(f"{run}: trained a classifier, which has no denoising error. Give a run of a denoiser.")
    return run
