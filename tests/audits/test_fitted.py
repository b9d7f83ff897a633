"""Intervals of judges that were fitted on few votes hold on votes that the fit never saw."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit

from palate.audits.intervals import Estimate
from palate.audits.judges import Judge, fitted, measured
from palate.data.labels import Labels
from palate.judges.correction import calibrate_judge


def several_judges(rng, pairs, labelled, judges=8):
    """Judges that share half of their errors, people who tie on 30 %, two pairs to a prompt; and the chance that they
    prefer image 0 where they do not."""
    utility = rng.normal(size=pairs)
    logits = utility[:, None] + rng.normal(size=(pairs, 1)) + rng.normal(size=(pairs, judges))
    chance = expit(1.5 * utility)
    votes = np.where(rng.random(pairs) < 0.3, 0.5, rng.random(pairs) < chance)
    human = np.where(np.arange(pairs) < labelled, votes, np.nan)
    return expit(logits), human, chance, np.arange(pairs) // 2


def measured_judge(probability, human, group, labelled) -> Judge:
    evidence = SimpleNamespace(
        group=group, differences=np.zeros((len(group), 0)), statistics=(), prompts=["a"] * len(group)
    )
    labels = Labels(human, probability, np.full(len(group), labelled / len(group)))
    return Judge(**measured(evidence, "all", "calibrate", labels))


def test_a_fit_widens_what_it_made_and_nothing_else():
    judge, human, _, group = several_judges(np.random.default_rng(0), 400, 80)
    found = calibrate_judge(judge, human, judges=list("abcdefgh"), groups=group).probability
    plain = measured_judge(found, human, group, 80)
    wide = fitted(plain)
    for name in ("brier", "skill", "confidence"):
        before, after = getattr(plain, name), getattr(wide, name)
        assert after.value == before.value and after.high - after.value == pytest.approx(
            1.2 * (before.high - before.value)
        )
    assert wide.gain.variance.high - wide.gain.variance.value == pytest.approx(
        1.2 * (plain.gain.variance.high - plain.gain.variance.value)
    )
    assert wide.gain.worth.low == pytest.approx(80 / wide.gain.variance.high)
    assert (wide.accuracy, wide.gain.power) == (plain.accuracy, plain.gain.power)
    assert fitted(Judge("none", "calibrate", 0)) == Judge("none", "calibrate", 0)
    assert Estimate(0.5, 0.4, 0.7, 9).widened(1.0) == Estimate(0.5, 0.4, 0.7, 9)


@pytest.mark.slow
@pytest.mark.parametrize("labelled", [80, 160, 400])
def test_intervals_of_several_judges_corrected_together_hold_what_they_score_on_other_pairs(labelled):
    held = []
    for seed in range(200):
        judge, human, chance, group = several_judges(np.random.default_rng([1, seed, labelled]), 4000, labelled)
        found = calibrate_judge(judge, human, judges=list("abcdefgh"), groups=group).probability
        told = fitted(measured_judge(found, human, group, labelled))
        square = 0.3 * (found - 0.5) ** 2 + 0.7 * (chance * (1 - found) ** 2 + (1 - chance) * found**2)  # expected
        brier, skill = square.mean(), 1 - square.mean() / (0.7 * 0.25)
        held.append([told.brier.low <= brier <= told.brier.high, told.skill.low <= skill <= told.skill.high])
    assert (np.mean(held, axis=0) >= 0.91).all() and (np.mean(held, axis=0) <= 0.99).all()
