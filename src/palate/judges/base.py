"""What a judge is, and what it may answer.

A judge is a class with one method, `vote`, from a batch of pairs to numbers. A package adds its own through the entry
point group `palate.judges`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Pair:
    """What a judge is shown: a prompt and two RGB pictures, in the order in which they are stored."""

    pair_id: str
    prompt: str
    image_0: Image.Image
    image_1: Image.Image

    def swapped(self) -> "Pair":
        """The same pair with its pictures exchanged."""
        return Pair(self.pair_id, self.prompt, self.image_1, self.image_0)


@dataclass(frozen=True)
class Answer:
    """What came of one pair: a probability, with raw scores where the judge has some, or the reason why there is
    none."""

    probability: float | None = None  # that image 0 is preferred
    score_0: float | None = None
    score_1: float | None = None
    failure: str | None = None
    from_scores: bool = False  # the probability is made of the scores, which are one number per picture
    usage: dict[str, float] = field(default_factory=dict)  # requests, tokens


class Judge(Protocol):
    """`vote` is all a judge needs. It may also have `version` (text), `settings` (a dict that JSON can hold: all that
    its answers depend on), `temperature` (see `ask`), `batch_size`, `annotator` (the id under which it votes),
    `uses_pair_id` (True where its answers depend on more than prompt and pictures), `trained_on` (pair_ids: it learned
    from their human votes, and is not asked about them), and `embed` from N pictures to embeddings [N, D], which are
    then covariates of its correction. Where `vote` takes `embeddings` too, [2N, D] of the images 0 and then the images
    1, they cost nothing beside a vote."""

    def vote(self, pairs: list[Pair]) -> np.ndarray | Sequence[Answer]:
        """For N pairs: scores [N, 2], higher is better; or probabilities [N] that image 0 is preferred; or N
        Answers."""


SELF = "self:"  # followed by a run or a configuration
