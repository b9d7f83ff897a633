"""docs/map.md and its figure, from the results of the map."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.claims.figures import COLOURS
from benchmarks.claims.map import (
    ADVISED,
    ALL,
    ALONE,
    COLUMNS,
    FIRST_SEED,
    JUDGES,
    PUBLISHED,
    RATES,
    REPEATS,
    STEPPED,
    TOLD,
    VOTES,
    holds,
)
from benchmarks.claims.ways import ROBUST
from palate.files import write_text

CEILING = Path(__file__).parent / "results" / "ceiling.json"
TOLERANCE = 0.05
SHOWN = {ALL: 2, ALONE: 5, "mix": 1, "DeDPO": 4, "context, residual 0.25": 3, ADVISED: 0}  # way: colour


def write_page(found: dict, docs: Path) -> None:
    """The page and the figure beside it."""
    figure(found, docs / "map.png")
    write_text(docs / "map.md", page(found))


def figure(found: dict, path: Path) -> None:
    """Gain at equal drift of some ways for every judge, one panel per number of votes."""
    shown, axes = plt.subplots(1, len(VOTES), figsize=(9.0, 3.6), sharey=True)
    for axis, votes in zip(axes, VOTES, strict=True):
        for k, (way, colour) in enumerate(SHOWN.items()):
            there = [(i, found[key]["ways"][way]) for i, j in enumerate(JUDGES) if (key := _key(votes, j)) in found]
            axis.errorbar(
                [i + 0.1 * (k - 2.5) for i, _ in there], [one["drift"] for _, one in there],
                yerr=[1.96 * one["error"] for _, one in there], fmt="o", color=COLOURS[colour], markersize=3, linewidth=1,
                label=way,
            )  # fmt: skip
        axis.set_xticks(range(len(JUDGES)), list(JUDGES), rotation=60, fontsize=7)
        axis.set_title(f"{votes} human votes", fontsize=9)
        axis.axhline(0, color="black", linewidth=0.8)
    axes[0].set_ylabel("gain at equal drift")
    axes[-1].legend(frameon=False, fontsize=7)
    shown.tight_layout()
    shown.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(shown)


def page(found: dict) -> str:
    """The page as Markdown."""
    told = holds(found)
    parts = [{k: v for k, v in found.items() if k.endswith(f"flips {f:g}")} for f in (0, 0.2)]
    (plain, turned), known = (holds(part) for part in parts), [holds(part, TOLD) for part in parts]
    return f"""# The map: which way to train is best

Every number of this page that is not said to be of an earlier program comes from [`results/map.json`](../benchmarks/claims/results/map.json) and
[`results/ceiling.json`](../benchmarks/claims/results/ceiling.json), and can be made again:

```sh
python -m benchmarks.claims.map                    # resumes where it stopped
python -m benchmarks.claims.map --quick            # a small grid, printed alone
python -m benchmarks.claims.ceiling                # how near to the best any choice could come
```

**A world of milliseconds.** A policy over 4 styles for each of 60 prompts in 6 groups; people's taste is a table group × style with deviations
of every prompt; 1,024 pairs; votes are Bradley–Terry, a person agrees with the truth on 79 %. A judge is twice too sure and wrong in one of two
ways: `w` groups in which its taste is turned around, or an error of its own of standard deviation `i` for every prompt and style, which
no feature can tell. Targets, corrections, links and the choice are palate's own functions. **Gain** is that in expected utility over
the base, where the mean KL from the base reaches 0.1 (equal drift); {REPEATS} repetitions, the same for every way, standard errors near .01.
A policy this small says which effects there are, not how large they are in a diffusion model.

## Which way, for which judge?

**The way that `method: auto` trains is within 10 % of the best way in {_share(told)} of {told["points"]} points of the map: in {_share(plain)} of those without flipped votes,
in {_share(turned)} of those with one vote in five turned around, where nobody told it that. It is not clearly worse than human votes alone in {100 * told["not worse"]:.0f} % of all{_worse(found)}.**
Where it is known how far people agree, which pairs with votes of several people tell, the shares are {_share(known[0])} and {_share(known[1])}.

These worlds have seeds of their own ({FIRST_SEED:,} and on): no constant of the choice was chosen on them, only on others of the same kind. On those (seeds 5,000 and on, 30 repetitions, 24
points each) the same choice came to 92 % without flips and 58 % with them, 88 % and 71 % where it was told how far people agree. All points of a map share their worlds, so they move together, and
between the two maps lies what chance does: take the share with flips as somewhere from 58 to {_share(turned)}, and the target of 80 % over the map as met here and not proven. An earlier
choice, which this program does not make any more (a quantile of a bootstrap, people taken to agree on 74 % of pairs), came to 83 % and 50 % on the worlds on which its constants were
chosen, the 50 % with the agreement told; on others, with 30 repetitions and without that, to 12 % of 24 points with flipped votes.

**How near could any choice come?** A forest that has learned from the other repetitions of these very points what each way gains where votes and judge look so comes
to {_ceiling("flips 0, unknown")} without flips and {_ceiling("flips 0.2, unknown")} with them ([`ceiling.py`](../benchmarks/claims/ceiling.py): 24 points each, 30 repetitions, other seeds; told whether votes are flipped, {_ceiling("flips 0, known")}
and {_ceiling("flips 0.2, known")}: by so much such shares vary). So some points cannot be won: 32 votes of which one in five is wrong say too little of a judge, and the best way of a point is known
only after the event. What is left between the two numbers is for a prior that knows more of judges than that each is equally likely to be right or useless.

![Gain at equal drift of six ways for every judge and number of votes](map.png)

{_grid(found, 0.0)}

With one human vote in five turned around, and the choice not told:

{_grid(found, 0.2)}

Advice: the way chosen most often by the repetitions, and in how many of them. The estimate was given what a user has: the votes, the judge, and the groups. It takes a taste to have
eight parts for each group ([labels](labels.md#the-way-chosen-by-risk)), which suits this world; in another one it may not. Losses are not chosen: far from where votes are met all
losses pull the same way.

## At equal steps

**After equally many steps DeDPO gains more than at equal drift, because it moves further**: a part of what it is credited with is drift. Mean gain after 150 steps:

{_steps(found)}

## Does it reproduce a first version of this world?

**{_reproduced(found)} of {sum(len(row) for row in _kept(found).values())} numbers of an earlier program are met within ± {TOLERANCE:g}.** Gains at equal drift, here / there; those further apart are bold:

{_rows(found)}

What differs: palate holds out whole prompts when it corrects a judge and chooses the ridge of each part by itself. With 32 votes parts then scale a weak
judge unequally, and `calibrated, mix` loses what the parts disagree on. Corrections with contexts leave the judge's own ridge at 1 for that reason.

## All pairs voted on, some of them turned around

**Robust DPO, told the rate, keeps most, Hölder-DPO next; IPO and hinge keep less than DPO, and Adaptive-DPO as much as DPO**: gains at equal drift with
human votes on every pair, beta 5 in place of 0.02: the same in all losses where beta is small, and less for all where votes are met (a run that comes to rest before is read there).

{_flips(found)}

Adaptive-DPO counts every kind of pair (prompt and two styles) once here, with two averages of the weights as further annotators.
"""


def _share(told: dict[str, float]) -> str:
    return f"{100 * told['near']:.0f} %"


def _ceiling(name: str) -> str:
    return _share(json.loads(CEILING.read_text())[name])


def _worse(found: dict) -> str:
    """Where it is, in words."""
    grid = {key: one for key, one in found.items() if not key.startswith("all votes")}
    lost = [key for key, one in grid.items() if holds({key: one})["not worse"] < 1]
    told = [
        f"{key} ({_two(grid[key]['ways'][ADVISED]['drift'])} against {_two(grid[key]['ways'][ALONE]['drift'])})"
        for key in lost
    ]
    return f" (it is at {'; '.join(told)})" if told else ""


def _key(votes: int, judge: str, flips: float = 0.0) -> str:
    return f"{votes} votes, {judge}, flips {flips:g}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _two(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)


def _grid(found: dict, flips: float) -> str:
    ways = [
        ALL,
        ALONE,
        "mix",
        "DeDPO",
        "DeDPO, tuned",
        "context, residual 0",
        "context, residual 0.25",
        "context, residual 0.5",
    ]
    rows = []
    for votes in VOTES:
        for judge in JUDGES:
            if (one := found.get(_key(votes, judge, flips))) is None:
                continue
            gains = one["ways"]
            best = max((way for way in gains if way not in (ALL, ADVISED, TOLD)), key=lambda way: gains[way]["drift"])
            way, times = next(iter(sorted(one["advice"].items(), key=lambda item: -item[1])))
            rows.append(
                [str(votes), f"{judge} ({_two(one['agreement'])})", *(_two(gains[way]["drift"]) for way in ways),
                 f"**{_two(gains[ADVISED]['drift'])}**", f"{_two(gains[best]['drift'])}, {best}", f"{way} ({times})"]
            )  # fmt: skip
    return _table(["votes", "judge (agrees)", *ways, "advised", "best", "advice"], rows)


def _steps(found: dict) -> str:
    there = [(votes, judge) for votes in VOTES[:2] for judge in JUDGES if _key(votes, judge) in found]
    rows = [[str(v), j, *(_two(found[_key(v, j)]["ways"][way]["steps"]) for way in STEPPED)] for v, j in there]
    return _table(["votes", "judge", *STEPPED], rows)


def _kept(found: dict) -> dict[tuple[int, str], tuple[float, ...]]:
    return {point: row for point, row in PUBLISHED.items() if _key(*point) in found}


def _reproduced(found: dict) -> int:
    return sum(
        abs(found[_key(*point)]["ways"][way]["drift"] - there) <= TOLERANCE
        for point, row in _kept(found).items()
        for way, there in zip(COLUMNS, row, strict=True)
    )


def _rows(found: dict) -> str:
    rows = []
    for point, row in _kept(found).items():
        cells = []
        for way, there in zip(COLUMNS, row, strict=True):
            here = found[_key(*point)]["ways"][way]["drift"]
            text = f"{_two(here)} / {_two(there)}"
            cells.append(text if abs(here - there) <= TOLERANCE else f"**{text}**")
        rows.append([str(point[0]), point[1], *cells])
    return _table(["votes", "judge", *COLUMNS], rows)


def _flips(found: dict) -> str:
    there = [rate for rate in RATES if f"all votes, flips {rate:g}" in found]
    ways = [ALONE, *(way.name for way in ROBUST)]
    rows = [[way, *(_two(found[f"all votes, flips {rate:g}"]["ways"][way]["drift"]) for rate in there)] for way in ways]
    return _table(["way", *(f"{100 * rate:.0f} % flipped" for rate in there)], rows)
