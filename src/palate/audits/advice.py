"""What an audit recommends to train, and why."""

from dataclasses import dataclass, field, replace

from palate.audits.choosing import Named
from palate.audits.planning import Gain

CLEAR = 0.95  # a judge is recommended if the whole interval of the variance ratio lies below this


@dataclass(frozen=True)
class Recommendation:
    """What to do, why, and the training configuration's keys for it."""

    sentence: str
    reason: str
    configuration: dict[str, str | float | list[str]] = field(default_factory=dict)
    named: Named | None = None  # the judge's row that was looked at, corrected for the choice


def recommend(
    gains: dict[str, Gain],
    judges: tuple[str, ...],
    labelled: int,
    pairs: int,
    opposed: tuple[str, ...] = (),
    agreeing: tuple[str, ...] = (),
    named: Named | None = None,
) -> Recommendation:
    """The recommendation when `labelled` of `pairs` pairs have human votes.

    `judges` are names; the combination's name stands for all of them. `named` is the row that was chosen of the `gains`
    (`name_a_row`), that of least variance if it is not given. `opposed` people vote against the others, the
    `agreeing` do not. Gains and numbers exclude the votes of the opposed.
    """
    if named is None and gains:
        best = min(gains, key=lambda name: gains[name].variance.value)
        named = Named(best, gains[best], gains[best].variance.value, 0.0, len(gains))
    advice = _main_advice(gains, judges, labelled, pairs, named)
    if not opposed or not agreeing:
        return advice
    them = ", ".join(opposed)
    return replace(
        advice,
        reason=(
            f"{advice.reason} {them} {'votes' if len(opposed) == 1 else 'vote'} against the others more often than with"
            " them: follow one side (human_annotators), or let adaptive: true find the pairs. The numbers of judges"
            f" and of more votes are without {them}."
        ),
        configuration=advice.configuration | {"human_annotators": list(agreeing)},
    )


def _main_advice(
    gains: dict[str, Gain], judges: tuple[str, ...], labelled: int, pairs: int, named: Named | None
) -> Recommendation:
    if not labelled:
        return _without_people(judges)
    alone: dict[str, str | float | list[str]] = {"method": "dpo"}
    if not judges:
        return Recommendation(
            (
                f"Train on the {labelled:,} human votes."
                if labelled == pairs
                else f"Train on the {labelled:,} human votes, or add a judge for the other {pairs - labelled:,} pairs."
            ),
            "There is no judge in the dataset, so human votes are all there is.",
            alone,
        )
    if labelled == pairs:
        return Recommendation(
            f"Train on the human votes: all {pairs:,} pairs have one.",
            "A judge can only stand in for votes that are missing. The table of votes shows how many would have been"
            " enough.",
            alone,
        )
    if named is None:
        return Recommendation(
            f"Label more pairs: {labelled:,} with a human vote are too few to measure a judge.",
            "About 50 pairs drawn at random show whether a judge is better than a coin, some 200 how much it is worth.",
            alone,
        )
    gain, (judge, correction) = named.gain, named.name.rsplit("/", 1)
    which = judge if correction == "none" else f"{judge}, corrected,"
    chosen = judge if judge in judges else list(judges)
    ratio = (
        f"predicted variance {gain.variance.value:.2f} (95 % {gain.variance.low:.2f} to {gain.variance.high:.2f}) of"
        f" that of the human votes alone{_corrected(named)}"
    )
    if gain.variance.high < CLEAR:
        double = min(float(gain.alone / gain.spread(2 * labelled)), pairs)
        return Recommendation(
            f"Train with DeDPO on the human votes and {which.rstrip(',')}: {labelled:,} labelled pairs then count like"
            f" {gain.worth.value:,.0f} (95 % {gain.worth.low:,.0f} to {gain.worth.high:,.0f}), and"
            f" {min(labelled, pairs - labelled):,} more would make that {double:,.0f}.",
            f"It has a {ratio}{_the_others(gains, named)}.",
            {"method": "dedpo", "judge": chosen, "correction": correction, "power": "auto"},
            named,
        )
    needed = _votes_to_halve(labelled, pairs)
    return Recommendation(
        f"Train on the {labelled:,} human votes alone, and label {needed:,} more pairs before trusting a judge.",
        f"No judge is clearly a help: the best, {which} has a {ratio}.", alone, named,
    )  # fmt: skip


def _without_people(judges: tuple[str, ...]) -> Recommendation:
    if not judges:
        return Recommendation(
            "Label some pairs, or let a judge vote: there are no votes.", "Nothing can be trained on."
        )
    return Recommendation(
        "Label about 50 pairs drawn at random before training: without human votes no judge can be checked or"
        " corrected.",
        "Training on a judge alone gives its taste, bias included.",
        {"method": "judge", "judge": judges[0], "correction": "none"},
    )


def _corrected(named: Named) -> str:
    """That the value is not the one in the table, and why."""
    if round(named.gain.variance.value, 2) == round(named.seen, 2):
        return ""
    rows = f"the choice among {named.rows} rows" if named.rows > 1 else "the power tuned on the same votes"
    return f", corrected for {rows} ({named.seen:.2f} as seen)"


def _the_others(gains: dict[str, Gain], named: Named) -> str:
    """The named judge as it is, or the best other row, and whether it was passed over because it is less simple."""
    others = {name: gain.variance.value for name, gain in gains.items() if name != named.name}
    least = min(others, key=lambda name: others[name]) if others else ""
    if least and others[least] < named.seen:
        judge, correction = least.rsplit("/", 1)
        told = judge if correction == "none" else f"{judge}, corrected,"
        return f"; {told} cannot be told from it ({others[least]:.2f} as seen), and is less simple"
    raw = others.get(f"{named.name.rsplit('/', 1)[0]}/none")
    if raw is not None:
        return f"; as it is, not corrected, {raw:.2f}"
    return f"; the best single one, {others[least]:.2f}" if least else ""


def _votes_to_halve(labelled: int, pairs: int) -> int:
    """Three times as many new votes as there are now halve every interval."""
    return min(3 * labelled, pairs - labelled)
