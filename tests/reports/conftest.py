from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from palate.evaluation.contest import Contest, vote_rate
from palate.evaluation.strengths import strengths
from palate.evaluation.winrate import mean_interval, win_rate
from palate.reports.page import Page, Row, Source
from palate.reports.parts import Labels, Section, Votes

PROMPTS = ["a red circle", "a blue <script>alert(1)</script> square", 'a "green" star & more']


def picture(shade: int, size: int = 64) -> Image.Image:
    ramp = np.linspace(0, 40, size)[None, :, None] + np.array([shade, 255 - shade, 90])
    return Image.fromarray(np.broadcast_to(ramp, (size, size, 3)).clip(0, 255).astype(np.uint8))


def make_row(name: str, wins_of_five: int, shade: int, **more) -> Row:
    """A row that wins the given number of every five of 100 comparisons on 20 prompts."""
    prompts, wins = np.repeat(np.arange(20), 5), (np.arange(100) + np.arange(100) // 5) % 5 < wins_of_five
    values = wins + 0.1 * np.sin(np.arange(100))
    return Row(
        name,
        mean_interval(values, prompts),
        win_rate(wins.astype(float), np.full(100, 0.5), prompts),
        pictures=[picture(shade + 10 * i) for i in range(len(PROMPTS))],
        curves={"rewards/accuracies": [(step, 0.5 + wins_of_five * step / 800) for step in range(1, 81)]},
        **more,
    )


@pytest.fixture
def page() -> Page:
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(20), 5)
    level = win_rate(rng.integers(0, 2, 100), np.full(100, 0.5), prompts)
    rows = [
        make_row("DPO · every human vote", 4, 30, labels="1,536 human votes", command="palate train all.yaml"),
        make_row("DPO · as is", 1, 120, note="brighter, as the judge likes it", drift={"brightness": 0.75}),
        Row("DeDPO [κ]", (2.1, 1.95, 2.25), level, pictures=[picture(200)] * 3, drift={"brightness": 0.25}),
    ]
    return Page(
        title="palate demo · small world",
        sentence="Every human vote made the model better.",
        base=Row("base", (2.0, 1.9, 2.1), pictures=[picture(0)] * 3, drift={"brightness": 0.5}),
        rows=rows,
        prompts=PROMPTS,
        sources=[
            Source("biased judge", 1344, (0.71, 0.66, 0.76), 0.24, "likes bright grounds", 96, 0.22),
            Source("an unused judge", 7),
        ],
        judged_by="the world's truth",
        facts={"seed": "0", "sampler": "DDIM, 20 steps"},
        command="palate demo --seed 0",
        created="2025-01-01 12:00 UTC",
    )


@pytest.fixture
def full_page(page) -> Page:
    """The page with everything that it can show."""
    rng, prompts = np.random.default_rng(1), np.repeat(np.arange(20), 5)
    names = [page.base.name, *(row.name for row in page.rows)]
    table = strengths(names, [rng.normal(shift, 1, 100) for shift in (0, 1, -1, 0)], prompts)
    y = np.where(np.arange(100) % 3 == 0, rng.integers(0, 2, 100), np.nan)
    g = rng.random(100)
    human, judged, powered = vote_rate(y, prompts), vote_rate(g > 0.5, prompts), vote_rate(y, prompts, judge=g)
    contest = Contest(
        names[1], "base", Path("contest"), 100, 20, 7, human, "bright", True, judged, powered, propensities=False
    )
    changed = replace(page.rows[1], change={"brightness": (0.25, 0.2, 0.3)}, training={"method": "dpo", "beta": "2000"})
    rows = [replace(page.rows[0], training={"method": "mix", "beta": "2000"}), changed, page.rows[2]]
    annotators = tuple(Votes("human", f"person-{k}", 40 - k, 40 - k) for k in range(20))
    return replace(
        page, rows=rows, table=table, contests=[contest], scorer="world", limits=["One training seed per model."],
        others=[Section("bright", "1-abc", page.base, [replace(rows[0], no_evidence="used in training"), rows[1]], (names[1],))],
        labels=[Labels("prefs", 1536, 192, 1536, (*annotators, Votes("judge", "biased-judge", 1536, 1536)))],
    )  # fmt: skip
