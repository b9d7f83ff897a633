"""The demo with a taste of one's own: forty votes, four critics who vote on the rest, a model, and the wall."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import sqlalchemy as sa

from palate.arithmetic import HALF_95
from palate.arrays import Floats
from palate.data.dataset import PreferenceDataset
from palate.data.labels import collect_labels
from palate.data.schema import content_id
from palate.data.store import Settings, default_store, open_store, progress, settings_of
from palate.demos.demo import COMMON, SAMPLING, a_console
from palate.demos.emoji_dataset import measure_emoji_pairs
from palate.demos.emoji_pool import make_pool_dataset
from palate.demos.simulate import simulate_votes
from palate.demos.wall import draw_wall, shares
from palate.errors import PalateError, did_you_mean
from palate.judges.ridge import curvature, fit_ridge
from palate.reports.words import and_
from palate.sampling.samples import sample
from palate.training.train import train
from palate.world import EMOJI
from palate.world.emoji_measure import measure_emoji
from palate.world.emoji_pictures import GROUP_OF, GROUPS, STYLES
from palate.world.emoji_voters import EMOJI_VOTERS

OF_MINE = ("food", "animals", "vehicles", "tools")  # four of eight, so that forty votes are ten of each
CRITICS = tuple(f"{style}-critic" for style in STYLES)
QUESTION = "Which emoji do you like better?"
_SURE = 0.75  # probability that a style is the best liked one, from which on it is said
_RIDGE = 0.25  # on the liking of a style
_DRAWS = 4000


@dataclass(frozen=True)
class Small:
    """The size of this demo."""

    each: int = 3  # pictures of every name in every style
    pairs: int = 384
    votes: int = 40
    steps: int = 80  # of training
    names: int = 8  # of each of the four groups


@dataclass(frozen=True)
class Mine:
    """What came of it."""

    folder: Path
    words: str  # what the votes say of the taste
    style: dict[str, tuple[Floats, Floats]]  # group -> how probable each style is in the base's pictures and in the new
    wall: Path


def mine(
    out: Path = Path("demo-mine"), taste: str = "", seed: int = 0, scale: Small | None = None, browse: bool = True
) -> Mine:
    """Ask for votes in the browser (or of the simulated person `taste`), let the critics vote on all pairs, train as
    advised, and draw the wall in the folder `out`. The same call resumes.

    Raises PalateError for a taste that nobody has, votes that stopped before the last, and without the extra `web`.
    """
    people = [name for name, voter in EMOJI_VOTERS.items() if voter.source == "human"]
    if taste and taste not in people:
        raise PalateError(f"--taste {taste}: the simulated people are {', '.join(people)}{did_you_mean(taste, people)}")
    began, console, scale = time.monotonic(), a_console(), scale or Small()
    names = tuple(name for group in OF_MINE for name in GROUPS[group][: scale.names])
    console.print(
        f"palate demo --mine · {scale.pairs:,} pairs of emoji, two styles each · {scale.votes} votes are yours"
    )
    dataset = make_pool_dataset(out / "dataset", names, scale.each, scale.pairs, seed, CRITICS, SAMPLING)
    _vote(dataset, taste, seed, scale.votes, browse)
    dataset = PreferenceDataset.open(out / "dataset")
    words = taste_in_words(dataset, "You like" if not taste else f"{taste} likes")
    console.print(f"\n[bold]{words}[/]\n")

    settings = {"method": "auto", "judge": list(CRITICS), "human_annotators": None}
    folders = {"dataset": str(dataset.path), "output_dir": str(out / "run")}
    train({**COMMON, **settings, **folders}, seed=seed, max_train_steps=scale.steps)

    sampling = replace(SAMPLING, seed=seed)
    base, aligned = (
        sample(model, list(names), out / place, sampling)
        for model, place in ((EMOJI, "base"), (str(out / "run"), "aligned"))
    )
    before, after = (measure_emoji(samples.images(), samples.prompts) for samples in (base, aligned))
    style = {
        group: (own, shares(names, after.style)[group]) for group, own in shares(names, before.style).items()
    }  # fmt: skip
    wall = out / "wall.png"
    draw_wall(names, base.images(), aligned.images(), ("emoji", "emoji as you like them"),
              words, wall)  # fmt: skip
    for group, (own, new) in style.items():
        told = ", ".join(f"{name} {100 * a:.0f} → {100 * b:.0f} %" for name, a, b in zip(STYLES, own, new, strict=True))
        console.print(f"{group}: {told}")
    if taste:
        console.print(_how_liked(EMOJI_VOTERS[taste].utility(after) - EMOJI_VOTERS[taste].utility(before), taste))
    console.print(
        f"\nwhom to trust, in numbers: palate audit {dataset.path}\nthe wall: {wall}   "
        f"({time.monotonic() - began:.0f} s)"
    )
    return Mine(out, words, style, wall)


def _vote(dataset: PreferenceDataset, taste: str, seed: int, count: int, browse: bool) -> None:
    """The person's votes, in the dataset: by the page, or simulated. Nothing is asked twice."""
    try:
        from palate.web.export import export_votes
        from palate.web.plan import dataset_key, prepare_plan
        from palate.web.serve import label
    except ImportError as error:
        raise PalateError(f"demo --mine needs {error.name}: pip install 'palate[web]'") from error
    engine = open_store(default_store(dataset.path))
    if taste:
        wanted = Settings(dataset_key(dataset), (count,), "uniform", seed, 0.0, 0.0, 0.0, QUESTION,
                          content_id("question", QUESTION)[:12])  # fmt: skip
        prepare_plan(engine, dataset, wanted)
        simulate_votes(engine, dataset, taste, seed=seed)
    elif _left(engine, count):
        label(dataset.path, budget=count, repeats=0.0, shared=0.0, question=QUESTION, seed=seed, port=0, browse=browse,
              until_done=True)  # fmt: skip
    if left := _left(engine, count):
        raise PalateError(f"demo --mine: {left} of the {count} votes are missing. The same command goes on with them.")
    export_votes(engine, dataset)


def _left(engine: sa.Engine, count: int) -> int:
    """How many of the person's pairs have no answer yet."""
    if settings_of(engine) is None:
        return count
    done = progress(engine)
    return done["pairs"] - done["answered"]


def taste_in_words(dataset: PreferenceDataset, who: str) -> str:
    """Which style the human votes prefer in each group, where they tell: "You like glossy food and flat tools"."""
    shown_0, shown_1, ids = measure_emoji_pairs(dataset)
    votes = dataset.votes(["pair_id", "annotator_id", "source", "choice", "probability"])
    human = collect_labels(ids, votes.filter(pc.equal(votes["source"], "human"))).human
    group = np.array([GROUP_OF[name] for name in shown_0.asked])
    liked: list[str] = []
    open_: list[str] = []
    for name in OF_MINE:
        here = (group == name) & ~np.isnan(human)
        if not (group == name).any():
            continue
        style, sure = best_style((shown_0.style - shown_1.style)[here], human[here])
        (liked if sure >= _SURE else open_).append(f"{style} {name}" if sure >= _SURE else name)
    told = f"{who} {and_(liked)}" if liked else "These votes do not tell yet what is liked"
    return told + (f"; about {and_(open_)} these votes do not tell yet." if liked and open_ else ".")


def best_style(difference: Floats, human: Floats) -> tuple[str, float]:
    """The style that is most probably the best liked, and how probably: a logistic regression of votes [n] on the
    difference of style probabilities [n, 4], shrunk, its uncertainty that of the curvature at its maximum."""
    ridge = np.full(len(STYLES), _RIDGE)
    weight = fit_ridge(difference, human, ridge)
    covariance = np.linalg.inv(curvature(difference, weight, ridge))
    drawn = np.random.default_rng(0).multivariate_normal(weight, covariance, _DRAWS)
    share = np.bincount(drawn.argmax(axis=1), minlength=len(STYLES)) / _DRAWS
    return STYLES[int(share.argmax())], float(share.max())


def _how_liked(gain: Floats, taste: str) -> str:
    """How often a simulated person prefers the new picture, by a utility that nobody was trained on."""
    wins: Floats = np.where(gain == 0, 0.5, gain > 0)
    rate, half = float(np.mean(wins)), HALF_95 * float(np.std(wins, ddof=1)) / np.sqrt(len(gain))
    return (f"{taste} prefers the new picture to the base's for {100 * rate:.0f} % [{100 * max(rate - half, 0):.0f}, "
            f"{100 * min(rate + half, 1):.0f}] of {len(gain)} names.")  # fmt: skip
