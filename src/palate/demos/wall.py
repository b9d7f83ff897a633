"""The wall: emoji of two models side by side, one row for each group of names, as one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from palate.arrays import Pixels
from palate.files import atomic_path
from palate.world.emoji_pictures import GROUP_OF, GROUPS, SIZE

TILE, GAP, MARGIN, LABEL = 80, 6, 24, 96  # pixels: a picture's side, between them, around all, for a group's name
BLOCK = 40  # between the two models
INK, QUIET, PAPER, GROUND = (30, 30, 34), (110, 110, 118), (255, 255, 255), (246, 246, 248)


def draw_wall(
    prompts: Sequence[str],
    before: Pixels,
    after: Pixels,
    titles: tuple[str, str],
    caption: str,
    path: Path,
    columns: int = 6,
) -> None:
    """Draw the first `columns` names of each group that `prompts` [N] has, `before` beside `after`, both uint8 [N, 64,
    64, 3] from the same noise, and write the picture (PNG). `titles` stand above the two, `caption` below."""
    place = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}  # the first picture of each prompt
    rows = {group: [name for name in names if name in place][:columns] for group, names in GROUPS.items()}
    rows = {group: names for group, names in rows.items() if names}
    step, block = TILE + GAP, columns * (TILE + GAP) - GAP
    width = 2 * MARGIN + LABEL + 2 * block + BLOCK
    top = MARGIN + 34
    wall = Image.new("RGB", (width, top + len(rows) * step + 34 + MARGIN), GROUND)
    draw = ImageDraw.Draw(wall)
    starts = (MARGIN + LABEL, MARGIN + LABEL + block + BLOCK)
    for x, title in zip(starts, titles, strict=True):
        draw.text((x, MARGIN), title, INK, ImageFont.load_default(20))
    for row, (group, names) in enumerate(rows.items()):
        y = top + row * step
        draw.text((MARGIN, y + TILE // 2), group, QUIET, ImageFont.load_default(17), anchor="lm")
        for x, pictures in zip(starts, (before, after), strict=True):
            for k, name in enumerate(names):
                draw.rounded_rectangle((x + k * step, y, x + k * step + TILE - 1, y + TILE - 1), 10, PAPER)
                tile = Image.fromarray(pictures[place[name]]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
                edge = (TILE - SIZE) // 2
                wall.paste(tile, (x + k * step + edge, y + edge))
    draw.text((MARGIN, top + len(rows) * step + 12), caption, QUIET, ImageFont.load_default(15))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        wall.save(temporary, format="PNG", optimize=True)


def shares(prompts: Sequence[str], style: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> mean style probabilities [4] of its pictures; `style` [N, 4] as measured."""
    group = np.array([GROUP_OF[prompt] for prompt in prompts])
    return {name: style[group == name].mean(axis=0) for name in GROUPS if (group == name).any()}
