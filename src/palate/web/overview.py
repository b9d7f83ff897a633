"""How labelling goes, for its owner: pace, and agreement of each person with themselves and with others."""

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import combinations
from statistics import median
from typing import Any

import sqlalchemy as sa

from palate.data.store import live_votes, progress, repeated_choices

LATELY = timedelta(minutes=10)


def overview(engine: sa.Engine, raters: list[str]) -> dict[str, Any]:
    """Progress, pace and agreement, ready for JSON.

    Self-agreement: the share of pairs that a person judged twice with the same choice. Agreement between people: over
    all pairs and all two people who voted on them, the share with equal first votes; a tie equals only a tie. Right:
    the share of right votes on pairs with a known answer; a tie is wrong. Skips are left out. Each comes with n and a
    95 % interval (Wilson), and is None without such pairs.
    """
    votes = live_votes(engine)
    right = known_right(votes)
    first, repeated = _first_and_repeated(votes)
    couples = _couples(first)
    now = datetime.now(UTC)
    lately = [vote["created_at"] for vote in votes if vote["created_at"] >= now - LATELY]
    since = (now - min(lately, default=now)).total_seconds()
    minutes = max(since / 60, 1.0)  # since labelling began, ten at most
    people = {}
    for name in sorted({*raters, *(vote["rater"] for vote in votes)}):
        mine = [vote for vote in votes if vote["rater"] == name]
        seconds = [vote["seconds"] for vote in mine if vote["seconds"] is not None]
        people[name] = {
            "votes": len(mine),
            "ties": sum(vote["choice"] == "tie" for vote in mine),
            "skips": sum(vote["choice"] == "skip" for vote in mine),
            "left": share([vote["choice"] == vote["order_shown"][0] for vote in mine if vote["choice"] in "01"]),
            "a_minute": sum(vote["created_at"] >= now - LATELY for vote in mine) / minutes,
            "median_seconds": median(seconds) if seconds else None,
            "with_self": share([a == b for a, b in repeated[name]]),
            "with_others": share([same for who, same in couples if name in who]),
            "right": share(right[name]),
        }
    return {
        **progress(engine),
        "votes": len(votes),
        "a_minute": sum(person["a_minute"] for person in people.values()),
        "with_self": share([a == b for one in repeated.values() for a, b in one]),
        "between_people": share([same for _, same in couples]),
        "right": share([one for person in right.values() for one in person]),
        "people": people,
    }


def known_right(votes: list[dict[str, Any]]) -> dict[str, list[bool]]:
    """By person, whether each vote on a pair with a known answer is right; skips are left out."""
    told: dict[str, list[bool]] = defaultdict(list)
    for vote in votes:
        if vote["answer"] is not None and vote["choice"] != "skip":
            told[vote["rater"]].append(vote["choice"] == vote["answer"])
    return told


def self_agreement(engine: sa.Engine, rater: str) -> dict[str, Any] | None:
    """How often one person gave a repeated pair the same choice; see `overview`."""
    return share([before == after for before, after in repeated_choices(engine, rater)])


def share(outcomes: list[bool]) -> dict[str, Any] | None:
    """Share of True with n and its 95 % interval (Wilson); None for an empty list."""
    if not outcomes:
        return None
    n, p, z = len(outcomes), sum(outcomes) / len(outcomes), 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"share": p, "low": max(low, 0.0), "high": min(high, 1.0), "n": n}


def _first_and_repeated(
    votes: list[dict[str, Any]],
) -> tuple[dict[tuple[str, str], dict[str, str]], dict[str, list[tuple[str, str]]]]:
    """First choices by pair, question and person, and the two choices of each repeated pair by person."""
    said = [vote for vote in votes if vote["choice"] != "skip" and vote["answer"] is None]
    first: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    repeated: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for vote in said:
        if not vote["slot"].startswith("again "):
            first[_about(vote)][vote["rater"]] = vote["choice"]
    for vote in said:
        if vote["slot"].startswith("again ") and vote["rater"] in first[_about(vote)]:
            repeated[vote["rater"]].append((first[_about(vote)][vote["rater"]], vote["choice"]))
    return first, repeated


def _about(vote: dict[str, Any]) -> tuple[str, str]:
    """What a vote is about: answers to different questions neither agree nor disagree."""
    return vote["pair_id"], vote["question"]


def _couples(first: dict[tuple[str, str], dict[str, str]]) -> list[tuple[set[str], bool]]:
    return [
        ({a, b}, choices[a] == choices[b]) for choices in first.values() for a, b in combinations(sorted(choices), 2)
    ]
