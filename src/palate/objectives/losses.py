"""Every loss that a run can minimise, as a function of the networks' outputs on the images of a step.

A step has B rows of K images: pairs (K = 2), single images (K = 1) or ranked lists. Losses are per row, [B]; the caller
weighs and averages them. Adding a loss is adding a function here: nothing in the loop knows their names.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.objectives.dspo import dspo_sd15, dspo_sdxl
from palate.objectives.kto import balanced_offset, kto, mean_offset
from palate.objectives.links_pulling import sigmoid
from palate.objectives.mapo import mapo, winner_error
from palate.objectives.nft import drift, nft
from palate.objectives.ranking import plackett_luce, rankdpo

HUBER_WIDTH = 1e-3  # Self-NPO's c (arXiv 2505.11777, released code)


@dataclass(frozen=True)
class Measured:
    """The outputs of policy and reference on K images of each of B rows."""

    error: Tensor  # [K, B] the policy's denoising errors, the other image's gradient damped where a safeguard acts
    ref_error: Tensor  # [K, B] the reference's, zero where there is none
    logit: Tensor  # [B] from these errors; zero where K is not 2
    margin: Tensor  # [B] subtracted from the logit
    target: Tensor  # [B]
    beta: float
    plain_error: Tensor  # [K, B] as `error`, without a safeguard
    residual: Tensor | None = None  # [K, B, C, h, w] prediction - regression target
    shift: Tensor | None = None  # [K, B, C, h, w] policy's prediction - reference's
    moved: Tensor | None = None  # [K, B, C, h, w] policy's prediction - that of the model that the run started from
    x0_scale: Tensor | None = None  # [K, B] the residual times this is the residual of x_0
    rank: Tensor | None = None  # [B, K] of a list, 0 the best, ties share one
    present: Tensor | None = None  # [B, K] bool: lists shorter than K are padded
    link: Callable[[Tensor, Tensor], Tensor] = sigmoid
    gather: Callable[[Tensor], Tensor] = lambda own: (
        own
    )  # [B, ...] to that of a batch spread over processes, no gradient
    mapo_beta: float = 0.1
    dspo_beta: float = 0.001
    kto_utility: str = "sigmoid"
    kto_offset: str = "mean"
    kto_liked: float = 1.0
    kto_disliked: float = 1.0
    nft_beta: float = 1.0
    nft_kl: float = 2e-5

    @property
    def scores(self) -> Tensor:
        """Implicit reward of every image, (beta/2)*(ref_error - error), [B, K]."""
        return (0.5 * self.beta * (self.ref_error - self.error)).T


def preference(m: Measured) -> Tensor:
    """The link of logit minus margin."""
    return m.link(m.logit - m.margin, m.target)


def winner(m: Measured) -> Tensor:
    """The preferred image's denoising error (SFT); of a single image, its error times the share of votes that like
    it."""
    if len(m.plain_error) == 1:
        return m.target * m.plain_error[0]
    return winner_error(m.plain_error[0], m.plain_error[1], m.target)


def mapo_odds(m: Measured) -> Tensor:
    """MaPO's odds term with its published weight beta_M."""
    return m.mapo_beta * mapo(m.error[0], m.error[1], m.target)


def score_sd15(m: Measured) -> Tensor:
    """DSPO as trained on SD 1.5."""
    residual, shift = given(m.residual), given(m.shift)
    return dspo_sd15((residual[0], residual[1]), (shift[0], shift[1]), m.logit, m.target, m.dspo_beta)


def score_sdxl(m: Measured) -> Tensor:
    """DSPO as trained on SDXL."""
    shift = given(m.shift)
    return dspo_sdxl((shift[0], shift[1]), m.logit, m.target, gather=m.gather)


def utility(m: Measured) -> Tensor:
    """Diffusion-KTO, its offset taken over the batch."""
    gain = (m.ref_error - m.error)[0]
    everyone = m.gather(gain.detach())
    offset = balanced_offset(everyone, m.gather(m.target)) if m.kto_offset == "balanced" else mean_offset(everyone)
    return kto(gain, m.target, m.beta, offset, m.kto_utility, m.kto_liked, m.kto_disliked)


def single(m: Measured) -> Tensor:
    """The sigmoid link of a single image's gain, (beta/2)*(ref_error - error), and its target (threshold-guided
    optimisation, arXiv 2605.04653)."""
    return sigmoid(m.scores[:, 0], m.target)


def towards_liked(m: Measured) -> Tensor:
    """DiffusionNFT on images that are there, its old policy the reference, with its penalty on the change since the
    start; of a pair the mean over both images, liked with p and 1 - p."""
    residual, shift, moved, scale = given(m.residual), given(m.shift), given(m.moved), given(m.x0_scale)
    liked = (m.target,) if len(residual) == 1 else (m.target, 1 - m.target)
    each = [
        nft(residual[k], residual[k] - shift[k], scale[k], r, m.nft_beta) + m.nft_kl * drift(moved[k])
        for k, r in enumerate(liked)
    ]
    return torch.stack(each).mean(dim=0)


def anchor(m: Measured) -> Tensor:
    """How far the predictions have moved since the start: (beta/2) times the mean square of the change, over the row's
    images. Times beta like a log ratio, so that its weight has no unit."""
    return 0.5 * m.beta * torch.stack([drift(one) for one in given(m.moved)]).mean(dim=0)


def ranking(m: Measured) -> Tensor:
    """Plackett-Luce over a ranked list; two images are a list."""
    return plackett_luce(m.scores, *_lists(m))


def ranking_gains(m: Measured) -> Tensor:
    """RankDPO, with gains that fall linearly from the best image of a list, 1, to the last, 0."""
    rank, present = _lists(m)
    last = torch.where(present, rank, 0).amax(dim=1, keepdim=True).clamp_min(1)
    return rankdpo(m.scores, 1 - rank / last, present)


def self_npo(m: Measured) -> Tensor:
    """Pseudo-Huber distance to the teacher's x_0, mean over elements of sqrt(d^2 + c^2) - c (Self-NPO)."""
    distance = given(m.residual)[0] * given(m.x0_scale)[0].view(-1, 1, 1, 1)
    return ((distance.square() + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH).flatten(1).mean(dim=1)


def given(tensor: Tensor | None) -> Tensor:
    """The quantities that some losses need, and that the step therefore computes."""
    assert tensor is not None
    return tensor


def _lists(m: Measured) -> tuple[Tensor, Tensor]:
    if m.rank is not None:
        return m.rank, given(m.present)
    second = (m.target > 0.5).long()  # a pair: the preferred image first, a tie shares the rank
    first = (m.target < 0.5).long()
    return torch.stack([first, second], dim=1), torch.ones(len(second), 2, dtype=torch.bool, device=second.device)


LOSSES = {
    "preference": preference,
    "winner": winner,
    "mapo": mapo_odds,
    "dspo-sd15": score_sd15,
    "dspo-sdxl": score_sdxl,
    "kto": utility,
    "single": single,
    "nft": towards_liked,
    "anchor": anchor,
    "ranking": ranking,
    "rankdpo": ranking_gains,
    "self-npo": self_npo,
}
REFERENCE_FREE = {"winner", "mapo", "self-npo"}
NEEDS_START = {"nft", "anchor"}
NEEDS_SHIFT = {"dspo-sd15", "dspo-sdxl"} | NEEDS_START
