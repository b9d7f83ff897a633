"""How often each person's vote is right, given the model: RE-PO (arXiv 2509.24159), its rates per person.

The posterior that a vote is right is w = sigmoid(z_w + log(eta/(1 - eta))), z_w the model's logit on its side and eta
the rate of its voter; the vote then counts with w for its image and 1 - w for the other one, which is a target without
gradient. After a batch eta becomes (1 - a)*eta + a*(mean of w over the person's votes in it).

Derived: known from accounts, for language models, where a pair has one vote; here the target of a pair is the mean over
its votes, a tie counts as one half and says nothing of its voter. Ours: `prior` votes at the first rate, which hold
back rates of people with few votes, and rates of at least 1/2, as below it a vote would count for the other image.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from palate.arrays import Objects
from palate.data.shards import write_table
from palate.labels.people import VotesOfPeople
from palate.run.config import TrainConfig

LEAST, MOST = 0.5, 1 - 1e-6


def posterior(own: Tensor, rate: Tensor) -> Tensor:
    """The probability that a vote is right: own, the model's logit on the side of the vote; rate of its voter."""
    return torch.sigmoid(own + torch.logit(rate))


def own_logit(link: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    """The log odds of the two images by the losses of a link, f(-z) - f(z), [B]; with the sigmoid link it is z."""
    one = torch.ones_like(z)
    return link(z, 0 * one) - link(z, one)


class Rates:
    """The rates of the people of a run, [P], and the targets that they make of their votes."""

    def __init__(self, votes: VotesOfPeople, config: TrainConfig):
        self.names = votes.people.names
        self.voter, self.vote = torch.tensor(votes.voter), torch.tensor(votes.vote)  # [N, V]
        self.first = torch.tensor(votes.people.rate).clamp(LEAST, MOST)
        self.rate, self.count = self.first.clone(), torch.zeros(len(self.names), dtype=torch.int64)
        self.learned = config.reliability == "learned"
        self.momentum, self.prior = config.reliability_momentum, config.reliability_prior

    def targets(self, row: Tensor, logit: Tensor) -> Tensor:
        """Targets [B], fp64 on the CPU, of these rows [B] at the model's log odds [B]."""
        right, decided, there = self._right(row, logit)
        votes = self.vote[row]
        each = torch.where(decided, torch.where(votes > 0.5, right, 1 - right), 0.5) * there
        return each.sum(dim=1) / there.sum(dim=1)

    def update(self, row: Tensor, logit: Tensor) -> None:
        """After a micro-batch, all its rows [B] and log odds [B]."""
        if not self.learned:
            return
        right, decided, _ = self._right(row, logit)
        voter = self.voter[row][decided]
        seen = torch.bincount(voter, minlength=len(self.names))
        total = torch.bincount(voter, weights=right[decided], minlength=len(self.names))
        mean = (total + self.prior * self.first) / (seen + self.prior).clamp_min(1e-12)
        moved = (1 - self.momentum) * self.rate + self.momentum * mean
        self.rate = torch.where(seen > 0, moved, self.rate).clamp(LEAST, MOST)
        self.count += seen

    def _right(self, row: Tensor, logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior of each vote, whether it is no tie, and whether there is one, [B, V] each."""
        voter, vote = self.voter[row], self.vote[row]
        there, decided = voter >= 0, (vote != 0.5) & (voter >= 0)
        own = torch.where(vote > 0.5, 1, -1) * logit.detach().cpu().double()[:, None]
        return posterior(own, self.rate[voter.clamp_min(0)]), decided, there

    def state(self) -> dict[str, Tensor]:
        return {"rates": self.rate, "rates.count": self.count}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.rate, self.count = state["rates"].clone(), state["rates.count"].clone()

    def save(self, path: Path, row_id: Objects) -> None:
        """A table of the people: annotator_id, rate, and how many votes it was learned from (each draw counts)."""
        columns = {"annotator_id": pa.array(self.names, pa.string()), "rate": np.asarray(self.rate)}
        write_table(path, pa.table(columns | {"votes": np.asarray(self.count)}))
