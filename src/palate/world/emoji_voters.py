"""Simulated voters of the emoji world: tastes that depend on what is shown, and judges that are wrong in known ways.

A taste is a table: how much a voter likes each style in each group of names, and by how much every single name
departs from its group. To that come how surely the picture shows what was asked for, and its saturation. Votes are
Bradley-Terry's, as in `palate.world.voters`.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from palate.arrays import Bools, Floats
from palate.world.emoji_measure import EmojiMeasurement
from palate.world.emoji_pictures import GROUP_OF, GROUPS, NAMES, STYLES
from palate.world.voters import bradley_terry

# What the majority likes, from -1 to 1: detailed, bold, flat, glossy. Each group has an order of its own, and over all
# groups no style is liked more than another, so that what was learned in one group says nothing of the next.
MAJORITY = {
    "food": (-0.3, 0.3, -1.0, 1.0),
    "animals": (1.0, 0.3, -0.3, -1.0),
    "nature": (-1.0, -0.3, 0.3, 1.0),
    "vehicles": (-0.3, 1.0, -1.0, 0.3),
    "places": (1.0, -1.0, 0.3, -0.3),
    "clothes": (0.3, -1.0, 1.0, -0.3),
    "tools": (-1.0, -0.3, 1.0, 0.3),
    "play": (0.3, 1.0, -0.3, -1.0),
}
OWN_TASTE = {  # of somebody who likes glossy food and flat tools
    "food": (-0.3, -0.3, -0.4, 1.0),
    "animals": (-0.3, 1.0, -0.4, -0.3),
    "nature": (0.0, 0.0, 0.0, 0.0),
    "vehicles": (1.0, -0.3, -0.4, -0.3),
    "places": (0.0, 0.0, 0.0, 0.0),
    "clothes": (0.0, 0.0, 0.0, 0.0),
    "tools": (-0.3, -0.3, 1.0, -0.4),
    "play": (0.0, 0.0, 0.0, 0.0),
}
CRITICS = tuple((style, np.where(np.arange(len(STYLES)) == k, 1.0, -0.3)) for k, style in enumerate(STYLES))
MINORITY_IN = ("animals", "vehicles", "clothes", "play")  # where the minority likes the opposite


@dataclass(frozen=True)
class EmojiVoter:
    """A taste and how steadily it is applied; `temperature` and `noise` as in `palate.world.voters.Voter`."""

    name: str
    source: str  # "human" | "judge"
    table: Floats = field(repr=False)  # [names, 4]: how much it likes each style of each name
    temperature: float
    fidelity: float = 2.0  # for a picture that surely shows what was asked for
    saturation: float = 0.0  # for a wholly saturated one
    noise: float = 0.0

    def utility(self, shown: EmojiMeasurement) -> Floats:
        """Utility of each picture [N]."""
        index = {name: i for i, name in enumerate(NAMES)}
        liked = self.table[[index[name] for name in shown.asked]]  # [N, 4]
        styled: Floats = (shown.style * liked).sum(axis=1)
        utility: Floats = styled + self.fidelity * shown.right + self.saturation * shown.saturation
        return utility

    def vote(self, shown_0: EmojiMeasurement, shown_1: EmojiMeasurement, seed: int) -> tuple[Bools, Floats]:
        """Votes on pairs: (prefers image 0 [N] bool, probability [N]; a person's is NaN, nobody tells it)."""
        difference = self.utility(shown_0) - self.utility(shown_1)
        return bradley_terry(self.name, self.source, difference, self.temperature, self.noise, seed)


def by_group(table: Mapping[str, tuple[float, ...]]) -> Floats:
    """A table group -> liking of each style, as [names, 4]."""
    return np.array([table[GROUP_OF[name]] for name in NAMES])


def departures(name: str, deviation: float) -> Floats:
    """By how much a voter of that name departs from its group's liking, [names, 4], drawn once and for all."""
    return deviation * np.random.default_rng(zlib.crc32(name.encode())).standard_normal((len(NAMES), len(STYLES)))


def random_table(seed: int) -> Floats:
    """The taste of a person drawn at random, [names, 4]: for each group a majority's values in an order of its own."""
    rng = np.random.default_rng([seed, 7])
    values = np.array(MAJORITY["food"])
    return by_group({group: tuple(rng.permutation(values)) for group in GROUPS}) + departures(
        f"person {seed}", DEPARTURE
    )


def turned(table: Floats, groups: tuple[str, ...]) -> Floats:
    """The table [names, 4] with the opposite liking in some groups."""
    sign = np.array([-1.0 if GROUP_OF[name] in groups else 1.0 for name in NAMES])
    other: Floats = table * sign[:, None]
    return other


DEPARTURE = 0.35
_OF_ALL = by_group(MAJORITY) + departures("majority", DEPARTURE)
_GLOSS = by_group({group: (0.0, -0.3, -0.3, 1.0) for group in GROUPS})

_MAJORITY = EmojiVoter("majority", "human", _OF_ALL, temperature=0.25)
EMOJI_VOTERS = {
    voter.name: voter
    for voter in (
        _MAJORITY,
        replace(_MAJORITY, name="hesitant", temperature=0.6),
        replace(_MAJORITY, name="minority", table=turned(_OF_ALL, MINORITY_IN)),
        *(replace(_MAJORITY, name=f"person-{k}", table=random_table(k)) for k in range(1, 6)),
        # Judges are sure of themselves: believing them costs something that can be seen.
        EmojiVoter("good-judge", "judge", by_group(MAJORITY), temperature=0.2),
        EmojiVoter("context-judge", "judge", turned(by_group(MAJORITY), ("food", "places")), temperature=0.2),
        EmojiVoter("wrong-judge", "judge", turned(by_group(MAJORITY), ("food", "places", "tools")), temperature=0.2),
        EmojiVoter("gloss-judge", "judge", 0.5 * by_group(MAJORITY) + _GLOSS, temperature=0.2),
        EmojiVoter("saturation-judge", "judge", 0.5 * by_group(MAJORITY), temperature=0.2, saturation=4.0),
        EmojiVoter("blind-judge", "judge", np.zeros_like(_OF_ALL), temperature=0.2, noise=0.3),
        # For a taste of one's own (`palate demo --mine`): somebody simulated, and critics of whom none shares it.
        EmojiVoter("glossy-food", "human", by_group(OWN_TASTE), temperature=0.12),
        *(EmojiVoter(f"{style}-critic", "judge", np.tile(liking, (len(NAMES), 1)), 0.2) for style, liking in CRITICS),
    )
}


def true_emoji_utility(shown: EmojiMeasurement) -> Floats:
    """The emoji world's truth: the majority's utility of each picture [N]."""
    return EMOJI_VOTERS["majority"].utility(shown)
