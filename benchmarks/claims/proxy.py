"""A world small enough for thousands of trainings: a policy over four styles for each of sixty prompts in six groups.

The taste is a table group x style and a deviation of every prompt's own. A vote is Bradley-Terry; a judge is too sure of
itself and wrong in one of two ways: its taste is turned around in some groups (the error follows the context), or it has
an error of its own for each prompt and style (no feature of the context can tell). A run is gradient descent on
the loss of palate's links, summed over the 360 kinds of pairs that there are, so that many runs are one array.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palate.objectives.adaptive import adaptive_weight, minority_metric
from palate.objectives.links import Link, make_link

GROUPS, PROMPTS, STYLES, PAIRS = 6, 60, 4, 1024
DEVIATION, TEMPERATURE = 0.35, 0.7
SURE = 2.0  # a judge's logits are so many times those of a person
DRIFT = 0.1  # mean KL from the base at which ways are compared
BETA_OF_LOSSES = 5.0  # where losses are compared: beta so large that votes can be met, which is where losses differ
STEPS = 150  # of the comparison at equal steps
_STEPS_TO_DRIFT, _MOST_STEPS_TO_DRIFT = 40, 160
BETA = 0.02  # the logit of a pair is beta times the difference of two log-probabilities: far from where a soft target is met
RATE, OWN = 5.0, 0.5  # step size; how much of a gradient a prompt keeps for itself, beside what its group shares
GROUP = np.arange(PROMPTS) * GROUPS // PROMPTS  # [P]
FIRST, SECOND = np.triu_indices(STYLES, 1)  # the two styles of each of the six kinds of pairs
KINDS = len(FIRST)
_ENDS = torch.tensor(np.eye(STYLES)[FIRST] - np.eye(STYLES)[SECOND])  # [KINDS, S]
_SHARED = torch.tensor((GROUP[:, None] == GROUP) * GROUPS / PROMPTS + OWN * np.eye(PROMPTS))  # [P, P]


@dataclass(frozen=True)
class World:
    """One repetition: a taste, pairs of the base's samples, what a person would say of each of them, and the judge."""

    taste: np.ndarray  # [P, S]
    prompt: np.ndarray  # [N]
    styles: np.ndarray  # [N, 2]
    human: np.ndarray  # [N] 1 for image 0
    judge: np.ndarray  # [N] the probability that it gives image 0
    order: np.ndarray  # [N] in which pairs are shown to people: the first m of it are labelled

    @property
    def group(self) -> np.ndarray:
        return GROUP[self.prompt]

    def labelled(self, votes: int) -> np.ndarray:
        """The human votes [N], NaN beyond the first so many pairs."""
        human = np.full(len(self.human), np.nan)
        human[self.order[:votes]] = self.human[self.order[:votes]]
        return human


def draw_world(seed: int, wrong: int = 0, own: float = 0.0, flips: float = 0.0) -> World:
    """A repetition. wrong: groups in which the judge's taste is turned around; own: standard deviation of its own error
    per prompt and style; flips: share of the human votes that are turned around. The same seed has the same taste, pairs
    and votes whatever the judge is like."""
    rng = np.random.default_rng([seed, 1])
    taste = rng.normal(size=(GROUPS, STYLES))[GROUP] + DEVIATION * rng.normal(size=(PROMPTS, STYLES))
    prompt = rng.integers(PROMPTS, size=PAIRS)
    styles = np.argsort(rng.random((PAIRS, STYLES)), axis=1)[:, :2]  # two different ones
    human = (rng.random(PAIRS) < _prefers(taste, prompt, styles, 1 / TEMPERATURE)).astype(float)
    human = np.where(rng.random(PAIRS) < flips, 1 - human, human)
    order = rng.permutation(PAIRS)
    turned = np.where(np.isin(GROUP, rng.permutation(GROUPS)[:wrong]), -1.0, 1.0)
    believed = turned[:, None] * taste + own * rng.normal(size=taste.shape)
    return World(taste, prompt, styles, human, _prefers(believed, prompt, styles, SURE / TEMPERATURE), order)


def _prefers(taste: np.ndarray, prompt: np.ndarray, styles: np.ndarray, slope: float) -> np.ndarray:
    """P(image 0 is preferred) [N]."""
    difference = taste[prompt, styles[:, 0]] - taste[prompt, styles[:, 1]]
    return 1 / (1 + np.exp(-slope * difference))


def pulls(world: World, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How much weight pulls each kind of pair either way, [2, P, KINDS]: cross-entropy, and every link that is linear in
    the label, needs no more of targets [N] and weights [N]."""
    low, high = world.styles.min(axis=1), world.styles.max(axis=1)
    kind = np.array([[np.flatnonzero((FIRST == a) & (SECOND == b))[0] if a < b else -1 for b in range(STYLES)] for a in range(STYLES)])  # fmt: skip
    place = world.prompt * KINDS + kind[low, high]
    target = np.where(world.styles[:, 0] < world.styles[:, 1], target, 1 - target)
    sums = [np.bincount(place, weights=weight * side, minlength=PROMPTS * KINDS) for side in (target, 1 - target)]
    return np.stack(sums).reshape(2, PROMPTS, KINDS) / weight.sum()


def gains_at_drift(
    pull: np.ndarray,
    taste: np.ndarray,
    link: str = "sigmoid",
    parameter: float | None = None,
    adaptive: bool = False,
    beta: float = BETA,
) -> np.ndarray:
    """Gains in expected utility over the base, [B], of B runs at once, each where its mean KL from the base reaches DRIFT:
    pull [B, 2, P, KINDS] of `pulls`, taste [B, P, S]. Every run has a step size of its own, for which some fifty steps are
    enough; one that comes to rest before is read there."""
    value = make_link(link, parameter)
    towards, away = (torch.tensor(pull[:, side]) for side in (0, 1))  # [B, P, KINDS]
    truth = torch.tensor(taste)
    policy, averages = _start(truth)
    first = _step(policy, averages, towards, away, value, False, beta)
    size = first.square().sum(dim=2).mean(dim=1).sqrt().clamp_min(1e-12)  # [B]
    rate = (np.sqrt(2 * DRIFT * STYLES) / _STEPS_TO_DRIFT / size)[:, None, None]
    ends = torch.full((len(truth),), torch.nan, dtype=torch.float64)
    gain, drift = torch.zeros_like(ends), torch.zeros_like(ends)
    for step in range(_MOST_STEPS_TO_DRIFT):
        policy = policy + rate * _step(policy, averages, towards, away, value, adaptive and step > 1, beta)
        _follow(averages, policy)
        before, (gain, drift) = (gain, drift), _measured(policy, truth)
        part = ((DRIFT - before[1]) / (drift - before[1]).clamp_min(1e-12)).clamp(0, 1)
        ends = torch.where(ends.isnan() & (drift >= DRIFT), before[0] + part * (gain - before[0]), ends)
        if not ends.isnan().any():
            break
    return torch.where(ends.isnan(), gain, ends).numpy()


def gains_at_steps(pull: np.ndarray, taste: np.ndarray, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Gains [B] after equally many steps of equal size, and the drift [B] that they are at."""
    towards, away = (torch.tensor(pull[:, side]) for side in (0, 1))
    truth = torch.tensor(taste)
    policy, averages = _start(truth)
    for _ in range(steps):
        policy = policy + RATE * _step(policy, averages, towards, away, make_link("sigmoid"), False)
    gain, drift = _measured(policy, truth)
    return gain.numpy(), drift.numpy()


def _start(truth: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The base, and two averages of the weights that follow: more annotators of the adaptive metric."""
    return torch.zeros_like(truth), [torch.zeros_like(truth), torch.zeros_like(truth)]


def _follow(averages: list[Tensor], policy: Tensor) -> None:
    for average, rate in zip(averages, (0.3, 0.1), strict=True):
        average += rate * (policy - average)


def _measured(policy: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and drift [B] of logits [B, P, S]."""
    log = policy.log_softmax(dim=2)
    gain = (log.exp() * truth).sum(dim=2).mean(dim=1) - truth.mean(dim=(1, 2))
    return gain, (log.exp() * (log + np.log(STYLES))).sum(dim=2).mean(dim=1)


def _step(
    policy: Tensor,
    averages: list[Tensor],
    towards: Tensor,
    away: Tensor,
    link: Link,
    adaptive: bool,
    beta: float = BETA,
) -> Tensor:
    """Minus the gradient, as the logits [B, P, S] feel it: what a prompt learns is shared with its group."""
    z = (beta * (policy[..., FIRST] - policy[..., SECOND])).requires_grad_()
    weights = _adaptive(policy, averages, towards, away) if adaptive else (1.0, 1.0)
    loss = weights[0] * towards * link(z, torch.ones_like(z)) + weights[1] * away * link(z, torch.zeros_like(z))
    (slope,) = torch.autograd.grad(loss.sum(), z)
    return torch.einsum("pq,bqk,ks->bps", _SHARED, -slope, _ENDS)


def _adaptive(policy: Tensor, averages: list[Tensor], towards: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
    """Adaptive-DPO's weights of the votes for either side, [B, P, KINDS] each: a kind of pair counts as one."""
    annotators = torch.stack([policy, *averages])  # [M, B, P, S]
    z = (annotators[..., FIRST] - annotators[..., SECOND]).flatten(2)  # [M, B, P * KINDS]
    there = torch.cat([towards, away], dim=1).flatten(1) > 0  # [B, 2 * P * KINDS]
    margins = torch.cat([z, -z], dim=2) * there
    weights = torch.stack([adaptive_weight(minority_metric(margins[:, b])) for b in range(margins.shape[1])])
    either = weights.view(len(weights), 2, PROMPTS, KINDS)
    return either[:, 0], either[:, 1]
