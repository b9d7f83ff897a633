"""A folder of samples as the disk has it: pictures, and in samples.json how they were made and of what."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from palate.arrays import Pixels
from palate.data.images import decode_image
from palate.data.schema import content_id
from palate.errors import PalateError


@dataclass(frozen=True)
class Sampling:
    """How pictures are made. Guidance in diffusers' convention: unconditional + guidance·(conditional -
    unconditional)."""

    steps: int | None = None
    """None is what the model's family is sampled with, 25 for Stable Diffusion 1.x; so for guidance, 7.5 there."""
    guidance: float | None = None
    sampler: str = "default"
    """default is euler for models of flow matching, and dpm++ for all others."""
    seed: int = 0
    repetitions: int = 1
    """Pictures per prompt, each from its own noise."""
    negative: str | None = None
    """A run whose network takes the place of the unconditional one (Diffusion-NPO); needs guidance above 1."""
    negative_mix: float = 0.0
    """The negative network stands around the positive one (0, as published), the base (1), or between."""
    classifier_scale: float = 1.0
    """How strongly a run's preference classifier guides; models without one have nothing to scale."""
    mixed_precision: str = "no"
    """In what the denoiser is held and computes: no (fp32), bf16 or fp16. Encoders, sampler and VAE stay in fp32."""


# Settings that say how the model is guided, not which picture is drawn: samples that differ in these alone are still
# pairs.
OF_THE_MODEL = ("model", "revision", "variant", "vae", "negative", "negative_mix", "classifier_scale")


SHAPES = (
    "latent_shape",
    "picture_size",
)  # [C, h, w] and [H, W]: settings that the model decides; older samples lack them


@dataclass(frozen=True)
class Samples:
    """A folder of samples: pictures in the order of `prompts`, each prompt `repetitions` times in a row."""

    folder: Path
    prompts: list[str]  # one per picture
    settings: dict[str, Any]
    suite: str = ""  # where the prompts came from; their content is in settings["prompts"]
    origin: dict[str, Any] = field(default_factory=dict)  # `origin_of`; empty in folders of older versions

    def __fspath__(self) -> str:
        """Their folder: samples can be given wherever a path can."""
        return str(self.folder)

    @property
    def paths(self) -> list[Path]:
        return [picture_path(self.folder, i) for i in range(len(self.prompts))]

    def images(self) -> Pixels:
        """All pictures, uint8 [N, H, W, 3]. Raises PalateError while some are still to be made."""
        self._require_all()
        return np.stack([np.asarray(decode_image({"path": str(path)}, ".")) for path in self.paths])

    @cached_property
    def contents(self) -> list[str]:
        """A name for the bytes of each picture, as datasets name images. Raises PalateError while some are to be
        made."""
        self._require_all()
        return [content_id(path.read_bytes()) for path in self.paths]

    @property
    def missing(self) -> list[int]:
        """Positions of the pictures that are still to be made."""
        return [i for i, path in enumerate(self.paths) if not path.exists()]

    def _require_all(self) -> None:
        if missing := len(self.missing):
            command = self.origin.get("command")
            told = (
                f"The command that began them goes on: {command}"
                if command
                else "The same `palate sample` command goes on."
            )
            raise PalateError(f"{self.folder}: {missing} of {len(self.paths)} pictures are missing. {told}")


def open_samples(folder: str | Path) -> Samples:
    """Samples made earlier. Raises PalateError when the folder holds none."""
    path = Path(folder) / "samples.json"
    if not path.is_file():
        raise PalateError(f"{folder}: no samples here (no samples.json). Make some with `palate sample`.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        settings, prompts = dict(stored["settings"]), [str(prompt) for prompt in stored["prompts"]]
        suite, origin = str(stored.get("suite", "")), dict(stored.get("origin", {}))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PalateError(f"{path}: not the description of samples. Sample again into another folder.") from error
    settings = {**asdict(Sampling(steps=25, guidance=7.5)), **settings}  # those of older versions lack keys
    return Samples(Path(folder), prompts, settings, suite, origin)


def different_settings(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the settings in which two folders of samples differ; of what the model decides, only where both say
    it."""
    names = [*one, *(name for name in other if name not in one)]
    return [
        name
        for name in names
        if one.get(name) != other.get(name) and not (name in SHAPES and not (name in one and name in other))
    ]


def picture_path(folder: Path, index: int) -> Path:
    """The file of the picture at this position."""
    return folder / f"{index:06}.png"
