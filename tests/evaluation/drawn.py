"""Folders of samples without a model: pictures of one grey each, so that brightness is known."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from palate.data.samples import Samples, Sampling, open_samples
from palate.evaluation.scorers import Scorer
from palate.evaluation.scores import score_samples
from palate.sampling.prompts import prompts_hash

# A judge of these pictures: as brightness says, but a verdict and no statistic.
TASTE = Scorer("taste", "1", ("taste",), lambda images, prompts: np.array([[np.asarray(image).mean() / 255] for image in images]))  # fmt: skip


def judge_all(folder: Path) -> None:
    """Let TASTE score every folder of samples in a folder."""
    for path in sorted(folder.rglob("samples.json")):
        score_samples(open_samples(path.parent), TASTE)


def draw_samples(folder: Path, greys, repetitions: int = 1, model: str = "drawn", size: int = 8, **settings) -> Samples:
    """Samples whose picture i has the brightness greys[i] / 255; prompt i // repetitions. Those of no model learned from nobody;
    others are as an older palate left them, which did not write down what made them."""
    count = len(greys) // repetitions
    prompts = [f"prompt {i}" for i in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    for i, grey in enumerate(greys):
        picture = np.full((size, size, 3), grey, np.uint8)
        picture[0, 0] = (i % 251, i // 251, 7)  # so that equal greys are different files
        Image.fromarray(picture).save(folder / f"{i:06}.png")
    own = {"model": model, "prompts": prompts_hash(prompts)} | asdict(
        Sampling(**{"steps": 25, "guidance": 7.5, "repetitions": repetitions, **settings})
    )
    origin = {"origin": {"learned": {"trained_on": [], "lost": []}}} if model == "drawn" else {}
    text = json.dumps({"settings": own, "prompts": [p for p in prompts for _ in range(repetitions)]} | origin)
    (folder / "samples.json").write_text(text)
    return open_samples(folder)
