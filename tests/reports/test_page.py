import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from palate.errors import PalateError
from palate.evaluation.winrate import win_rate
from palate.pages import picture_uri
from palate.reports.page import featured, rate_text, render, verdict, write_report


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while tag in self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_part_is_there(page):
    reader = Reader(render(page))
    for text in [
        page.title,
        page.sentence,
        "judged by the world's truth",
        "DPO · every human vote",
        "1,536 human votes",
        "0.80 [0.56, 0.94]",
        "n 100 · sign test p 1.9e-06",
        "80 won, 0 tied, 20 lost; 20 prompts",
        "brighter, as the judge likes it",
        "biased judge",
        "0.71 [0.66, 0.76]",
        "likes bright grounds",
        "Share of pairs on which model and target agree",
        "DDIM, 20 steps",
        "palate demo --seed 0",
        "palate train all.yaml",
        "2025-01-01 12:00 UTC",
    ]:
        assert text in reader.text, text
    assert len(reader.all("h1")) == 1
    assert {"header", "main", "figure", "figcaption", "table", "dl", "details"} <= {tag for tag, _ in reader.elements}


def test_pictures_are_those_given_with_a_text_for_each(page):
    images = Reader(render(page)).all("img")
    assert len(images) == 3 * 4  # prompts x (base and three rows)
    assert [image["alt"] for image in images[:2]] == ["a red circle, base", "a red circle, DPO · every human vote"]
    for image, picture in zip(images[:2], [page.base.pictures[0], page.rows[0].pictures[0]], strict=True):
        assert np.array_equal(_decode(image["src"]), np.asarray(picture))


def _decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def test_texts_are_never_html(page):
    mean = "</title><img src=x onerror=alert(1)>"
    curves = {mean: [(1, 0.1), (2, 0.2)]}
    rows = [replace(page.rows[0], name=mean, note=mean, command=mean, labels=mean, curves=curves), *page.rows[1:]]
    nasty = replace(page, title=mean, sentence=mean, rows=rows, facts={mean: mean}, judged_by=mean, command=mean)
    reader = Reader(render(nasty))
    assert len(reader.all("script")) == 1
    assert "a blue <script>alert(1)</script> square" in reader.text
    assert len(reader.all("img")) == 12
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]


def test_nothing_is_fetched_from_outside(page):
    html = render(page)
    addresses = [
        value
        for _, attributes in Reader(html).elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    ]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert "http://" not in html and "https://" not in html and "@import" not in html
    assert "default-src 'none'" in html  # and the browser enforces it


def test_no_winner_where_the_interval_includes_one_half(page):
    assert verdict(page.rows[0], "base") == "better than base"
    assert verdict(page.rows[1], "base") == "worse than base"
    assert verdict(page.rows[2], "base") == "no winner: the interval includes one half"
    reader = Reader(render(replace(page, rows=[page.rows[2]])))
    assert "no winner: the interval includes one half" in reader.text
    assert "better than base" not in reader.text and "worse than base" not in reader.text
    dots = [attributes["fill"] for attributes in Reader(render(page)).all("circle")]
    assert dots[:3] == ["var(--run-0)", "var(--run-1)", "var(--ground)"]  # hollow: no winner


def test_a_single_prompt_shows_no_interval(page):
    win = win_rate(np.ones(9), np.zeros(9), ["one prompt"] * 9)
    html = render(replace(page, rows=[replace(page.rows[0], win=win)], sources=[]))
    assert "1.00 [no interval: one prompt only]" in html and "no winner: a single prompt gives no interval" in html
    assert "nan" not in re.sub(r'src="[^"]*"', "", html).lower()


def test_whisker_stands_where_the_numbers_are(page):
    win = replace(page.rows[0].win, rate=0.625, low=0.55, high=0.7)
    html = render(replace(page, rows=[replace(page.rows[0], win=win)], sources=[]))
    assert 'cx="62.5%"' in html and 'x1="55.0%" x2="70.0%"' in html


def test_rounding_does_not_put_a_winner_on_one_half(page):
    win = replace(page.rows[0].win, rate=0.574, low=0.502, high=0.644)
    assert rate_text(win, 2) == "0.574 [0.502, 0.644]"
    assert rate_text(replace(win, low=0.497), 2) == "0.57 [0.50, 0.64]"


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"sources": []}, "How each label source was wrong"),
        ({"facts": {}, "created": "", "command": ""}, "The whole page again"),
        ({"judged_by": ""}, "judged by"),
        ({"rows": []}, "better than base"),
    ],
)
def test_optional_parts_leave_no_trace(page, change, gone):
    assert gone in Reader(render(page)).text
    assert gone not in Reader(render(replace(page, **change))).text


def test_drift_has_the_digits_of_its_interval_and_bold_is_what_moved(page):
    base = replace(page.base, drift={"brightness": 0.5, "warmth": 0.1234567, "contrast": 0.25})
    change = {"brightness": (0.0312, 0.0301, 0.0324), "warmth": (2e-9, 1e-9, 3e-9), "contrast": (0.1, -0.2, 0.4)}
    row = replace(page.rows[0], drift={"brightness": 0.5312, "warmth": 0.1234567, "contrast": 0.35}, change=change)
    html = render(replace(page, base=base, rows=[row]))
    table = html[html.index("What else changed") :].split("</table>")[0]
    assert '0.5312 <small class="moved">+0.0312 [+0.0301, +0.0324]</small>' in table and ">0.5000<" in table
    assert "0.123457 <small>0.000000 [0.000000, 0.000000]</small>" in table
    assert "0.35 <small>+0.10 [-0.20, +0.40]</small>" in table and table.count('class="moved"') == 1


def test_rows_without_curves_pictures_or_drift(page):
    bare = [replace(row, curves={}, pictures=[], drift={}) for row in page.rows]
    reader = Reader(render(replace(page, rows=bare, base=replace(page.base, pictures=[], drift={}))))
    assert not reader.all("img") and "Training" not in reader.text and "What else changed" not in reader.text
    assert "DPO · every human vote" in reader.text
    base_only = Reader(render(replace(page, rows=bare)))
    assert len(base_only.all("img")) == 3 and not base_only.all("select")


def test_the_best_row_is_shown_first(page):
    assert featured(page.rows) == 0
    assert featured(page.rows[::-1]) == 2
    assert featured([replace(page.rows[0], pictures=[]), *page.rows[1:]]) == 2
    chosen = [attributes["value"] for attributes in Reader(render(page)).all("option") if "selected" in attributes]
    assert chosen == ["0"]


def test_large_pictures_are_scaled_and_the_original_is_left_alone(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 1024, 3), dtype=np.uint8))
    assert _decode(picture_uri(noise)).shape == (160, 320, 3)
    assert noise.size == (1024, 512)
    noise.save(tmp_path / "large.png")
    assert picture_uri(tmp_path / "large.png") == picture_uri(noise)


def test_twenty_four_prompts_and_six_rows_fit_in_three_megabytes(page):
    rng = np.random.default_rng(0)
    smooth = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize((64, 64)) for _ in range(24)]
    rows = [replace(page.rows[0], pictures=smooth)] * 5
    html = render(replace(page, prompts=["a"] * 24, rows=rows, base=replace(page.base, pictures=smooth)))
    assert len(html) < 3_000_000


def test_bad_pictures_get_one_line(page, tmp_path):
    with pytest.raises(PalateError, match="'DPO · as is' has 1 pictures for 3 prompts"):
        render(replace(page, rows=[replace(page.rows[1], pictures=page.rows[1].pictures[:1])]))
    (tmp_path / "broken.png").write_text("<html>")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(PalateError, match=f"{name}: not a readable picture"):
            picture_uri(tmp_path / name)


def test_write_report_is_whole_and_leaves_nothing_beside_it(page, tmp_path):
    path = tmp_path / "run" / "report.html"
    write_report(page, path)
    assert path.read_text(encoding="utf-8") == render(page)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Asks the browser which picture lies under the middle of the first tile; a clipped picture is not under it.
ASK = """
const seen = () => {
  const box = document.querySelector(".strip").getBoundingClientRect();
  return document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2).alt;
};
const set = (id, value) => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event("input", {bubbles: true}));
};
const answers = [];
set("cut", 0); answers.push(seen());
set("cut", 100); answers.push(seen());
set("which", 2); set("cut", 10); answers.push(seen());
document.getElementById("every").checked = true; set("cut", 50);
answers.push([...document.querySelectorAll(".strip img")].slice(0, 4).filter((image) => image.offsetWidth > 50).length);
document.body.dataset.answers = JSON.stringify(answers);
"""


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
def test_slider_and_selector_change_the_visible_picture(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(page).replace("</body>", f"<script>{ASK}</script></body>"), encoding="utf-8")
    arguments = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --window-size=1000,800 --dump-dom"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run([BROWSER, *arguments.split(), profile, path.as_uri()], capture_output=True, text=True)
    body = next(attributes for tag, attributes in Reader(done.stdout).elements if tag == "body")
    after, before, other, side_by_side = json.loads(body["data-answers"])
    assert (after, before) == ("a red circle, DPO · every human vote", "a red circle, base")
    assert (other, side_by_side) == ("a red circle, DeDPO [κ]", 4)
    assert ":CONSOLE" not in done.stderr
