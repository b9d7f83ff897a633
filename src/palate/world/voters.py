"""Simulated voters with known tastes: people who agree, people who do not, and machine judges that are wrong in known
ways.

A voter has a utility, linear in what a picture shows, and votes by Bradley-Terry on the difference of two utilities.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from palate.arrays import Bools, Floats
from palate.world.measure import Measurement


@dataclass(frozen=True)
class Voter:
    """A taste and how steadily it is applied.

    The probability of preferring image 0 is sigmoid((u_0 - u_1) / temperature). A person's vote is drawn from it. A
    judge is a program: it reports that probability and votes for the larger side; `noise` is the standard deviation of
    what it adds to each utility, fixed per picture.
    """

    name: str
    source: str  # "human" | "judge"
    fidelity: float
    centring: float
    brightness: float
    temperature: float
    noise: float = 0.0

    def utility(self, shown: Measurement) -> Floats:
        """Utility of each picture [N]."""
        kept: Floats = self.fidelity * shown.fidelity + self.centring * shown.centring
        return kept + self.brightness * shown.brightness

    def vote(self, shown_0: Measurement, shown_1: Measurement, seed: int) -> tuple[Bools, Floats]:
        """Votes on pairs: (prefers image 0 [N] bool, probability [N]; a person's probability is NaN, because people do
        not give one)."""
        difference = self.utility(shown_0) - self.utility(shown_1)
        return bradley_terry(self.name, self.source, difference, self.temperature, self.noise, seed)


def bradley_terry(
    name: str, source: str, difference: Floats, temperature: float, noise: float, seed: int
) -> tuple[Bools, Floats]:
    """The votes of `Voter.vote` for differences of utility u_0 - u_1 [N]; each voter's name draws numbers of its
    own."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    difference = difference + noise * np.sqrt(2) * rng.standard_normal(len(difference))
    probability = expit(difference / temperature)
    if source == "judge":
        return probability > 0.5, probability
    return rng.random(len(probability)) < probability, np.full(len(probability), np.nan)


# The majority likes a dark ground; the biased judge likes a bright one and is sure of itself, so that believing it
# costs something that can be seen. Agreement with the majority's votes and with its utility is checked in tests/world.
VOTERS = {
    voter.name: voter
    for voter in (
        Voter("majority", "human", fidelity=3, centring=2.5, brightness=-2, temperature=0.16),
        Voter("hesitant", "human", fidelity=3, centring=2.5, brightness=-2, temperature=0.42),
        Voter("minority", "human", fidelity=3, centring=-2.5, brightness=2, temperature=0.16),
        Voter("biased-judge", "judge", fidelity=3, centring=2.5, brightness=0.5, temperature=0.1),
        Voter("poor-judge", "judge", fidelity=3, centring=2.5, brightness=0, temperature=0.3, noise=1.0),
    )
}


def true_utility(shown: Measurement) -> Floats:
    """The world's truth: the majority's utility of each picture [N]."""
    return VOTERS["majority"].utility(shown)
