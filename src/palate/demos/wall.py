"""The wall: emoji of two models side by side, one row for each group of names, as one picture."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from palate.arrays import Pixels
from palate.files import atomic_path
from palate.world.emoji_pictures import GROUP_OF, GROUPS, SIZE

TILE, GAP, MARGIN, LABEL = 72, 5, 24, 88  # pixels: a picture's side, between them, around all, for a group's name
BLOCK = 36  # between the two models
INK, QUIET, PAPER, GROUND = (30, 30, 34), (110, 110, 118), (255, 255, 255), (246, 246, 248)


def draw_wall(
    prompts: Sequence[str],
    before: Pixels,
    after: Pixels,
    titles: tuple[str, str],
    caption: str,
    path: Path,
    columns: int = 8,
) -> None:
    """Draw up to `columns` pictures of each group that `prompts` [N] has, `before` beside `after`, both uint8 [N, 64,
    64, 3] from the same noise, and write the picture (PNG). The first picture of every name comes first, then the
    second. `titles` stand above the two, `caption` below."""
    rows = {group: _places(prompts, group)[:columns] for group in GROUPS}
    rows = {group: places for group, places in rows.items() if places}
    columns = max(len(places) for places in rows.values())
    step, block = TILE + GAP, columns * (TILE + GAP) - GAP
    width = 2 * MARGIN + LABEL + 2 * block + BLOCK
    top = MARGIN + 34
    wall = Image.new("RGB", (width, top + len(rows) * step + 34 + MARGIN), GROUND)
    draw = ImageDraw.Draw(wall)
    starts = (MARGIN + LABEL, MARGIN + LABEL + block + BLOCK)
    for x, title in zip(starts, titles, strict=True):
        draw.text((x, MARGIN), title, INK, ImageFont.load_default(20))
    for row, (group, places) in enumerate(rows.items()):
        y = top + row * step
        draw.text((MARGIN, y + TILE // 2), group, QUIET, ImageFont.load_default(17), anchor="lm")
        for x, pictures in zip(starts, (before, after), strict=True):
            for k, place in enumerate(places):
                draw.rounded_rectangle((x + k * step, y, x + k * step + TILE - 1, y + TILE - 1), 10, PAPER)
                tile = Image.fromarray(pictures[place])
                edge = (TILE - SIZE) // 2
                wall.paste(tile, (x + k * step + edge, y + edge))
    draw.text((MARGIN, top + len(rows) * step + 12), caption, QUIET, ImageFont.load_default(15))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        wall.save(temporary, format="PNG", optimize=True)


def _places(prompts: Sequence[str], group: str) -> list[int]:
    """Where the group's pictures are: of each of its names the first, then of each the second, and so on."""
    seen: Counter[str] = Counter()
    found = []
    for i, prompt in enumerate(prompts):
        if GROUP_OF[prompt] == group:
            found.append((seen[prompt], i))
            seen[prompt] += 1
    return [i for _, i in sorted(found)]


def shares(prompts: Sequence[str], style: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> mean style probabilities [4] of its pictures; `style` [N, 4] as measured."""
    group = np.array([GROUP_OF[prompt] for prompt in prompts])
    return {name: style[group == name].mean(axis=0) for name in GROUPS if (group == name).any()}
