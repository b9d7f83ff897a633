"""What an audit recommends to train, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from palate.audits.choosing import Named
from palate.audits.planning import Gain
from palate.judges.choice import ALIKE, Choice

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Recommendation:
    """What to do, why, and the training configuration's keys for it."""

    sentence: str
    reason: str
    configuration: dict[str, str | float | list[str]] = field(default_factory=dict)
    named: Named | None = None  # the judge's row that was looked at, corrected for the choice


def recommend(
    gains: dict[str, Gain],
    choices: dict[str, Choice],
    judges: tuple[str, ...],
    labelled: int,
    pairs: int,
    opposed: tuple[str, ...] = (),
    agreeing: tuple[str, ...] = (),
    keys: Mapping[str, str] = NOTHING,
    named: Named | None = None,
) -> Recommendation:
    """The recommendation when `labelled` of `pairs` pairs have human votes: what `method: auto` would do with the best
    judge, and why.

    `choices` has what it would do with each of the `judges` and with all together, by name. `opposed` people vote
    against the others, the `agreeing` do not. Gains, choices and numbers exclude the votes of the opposed. `keys` are
    those of method: auto beside the judge. `named` is the row that was chosen of the `gains` (`name_a_row`).
    """
    advice = _main_advice(gains, choices, judges, labelled, pairs, keys, named)
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


def best_choice(choices: Mapping[str, Choice], judges: tuple[str, ...]) -> str:
    """The judge whose choice promises most, a single one where several promise nearly as much."""
    top = max(choice.chosen.share for choice in choices.values())
    near = [name for name, choice in choices.items() if choice.chosen.share > top - ALIKE]
    single = [name for name in near if name in judges]
    return max(single or near, key=lambda name: choices[name].chosen.share)


def _main_advice(
    gains: dict[str, Gain], choices: Mapping[str, Choice], judges: tuple[str, ...], labelled: int, pairs: int,
    keys: Mapping[str, str], named: Named | None,
) -> Recommendation:  # fmt: skip
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
    best = best_choice(choices, judges)
    choice = choices[best]
    if choice.chosen.correction:
        to_name = best if best in judges else list(judges)
        which = best if best in judges else ", ".join(judges)
        more = "" if labelled == pairs else f" {_worth(gains, named, best, labelled, pairs)}"
        return Recommendation(
            f"Train with method: auto on the human votes and {which}, which takes {choice.promise()}.",
            f"{_other_judges(choices, best)}{_bias(choice)}{more}",
            {"method": "auto", "judge": to_name, **keys},
            named,
        )
    if labelled == pairs:
        return Recommendation(
            f"Train on the human votes: all {pairs:,} pairs have one.",
            "A judge can only stand in for votes that are missing. The table of votes shows how many would have been"
            " enough.",
            alone,
        )
    if not gains:
        return Recommendation(
            f"Label more pairs: {labelled:,} with a human vote are too few to measure a judge.",
            "About 50 pairs drawn at random show whether a judge is better than a coin, some 200 how much it is worth.",
            alone,
        )
    needed = _votes_to_halve(labelled, pairs)
    return Recommendation(
        f"Train on the {labelled:,} human votes alone, and label {needed:,} more pairs before trusting a judge.",
        f"No judge is clearly a help (method: auto says so, too). {choice.sentence()}", alone, named,
    )  # fmt: skip


def _bias(choice: Choice) -> str:
    kept = choice.chosen.residual
    if kept == 1:
        return "It keeps the whole residual, so it is unbiased however wrong the judge is."
    return "It keeps less than the whole residual: less noise, and some bias toward the judge."


def _other_judges(choices: Mapping[str, Choice], best: str) -> str:
    others = [choice.chosen for name, choice in choices.items() if name != best and choice.chosen.correction]
    if not others:
        return ""
    other = max(others, key=lambda way: way.share)
    return f"The next best judge or combination promises {100 * other.share:.0f} %. "


def _worth(gains: dict[str, Gain], named: Named | None, best: str, labelled: int, pairs: int) -> str:
    """What the judge is worth without any bias: in the form that was named, else in that of least variance."""
    own = {name: gain for name, gain in gains.items() if name.rsplit("/", 1)[0] == best}
    if not own:
        return ""
    gain, corrected = min(own.values(), key=lambda gain: gain.variance.value), ""
    if named is not None and named.name in own:
        gain, corrected = named.gain, _corrected(named)
    double = min(float(gain.alone / gain.spread(2 * labelled)), pairs)
    return (
        f"Without bias, by method: dedpo, {labelled:,} labelled pairs would count like {gain.worth.value:,.0f} (95 %"
        f" {gain.worth.low:,.0f} to {gain.worth.high:,.0f}), and {min(labelled, pairs - labelled):,} more would make"
        f" that {double:,.0f}: a predicted variance {gain.variance.value:.2f} (95 % {gain.variance.low:.2f} to"
        f" {gain.variance.high:.2f}) of that of the human votes alone{corrected}."
    )


def _corrected(named: Named) -> str:
    """That the value is not the one in the table, and why."""
    if round(named.gain.variance.value, 2) == round(named.seen, 2):
        return ""
    rows = f"the choice among {named.rows} rows" if named.rows > 1 else "the power tuned on the same votes"
    return f", corrected for {rows} ({named.seen:.2f} as seen)"


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


def _votes_to_halve(labelled: int, pairs: int) -> int:
    """Three times as many new votes as there are now halve every interval."""
    return min(3 * labelled, pairs - labelled)
