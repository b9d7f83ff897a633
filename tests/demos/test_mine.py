"""A taste of one's own: what forty votes say in words, the whole way by a simulated person, and in a real browser."""

import os
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from palate.data.dataset import open_dataset
from palate.data.store import default_store, live_votes, open_store
from palate.demos.mine import CRITICS, OF_MINE, Small, best_style, mine
from palate.errors import PalateError
from palate.verbs.models import demo
from palate.world.emoji_pictures import STYLES

SMALL = Small(each=1, pairs=40, votes=24, steps=1, names=2)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_the_best_liked_style_is_found_and_nothing_is_claimed_where_votes_say_nothing():
    rng = np.random.default_rng(0)
    styles = np.eye(4)[np.stack([rng.permutation(4)[:2] for _ in range(30)])]  # [n, 2, 4]
    difference = styles[:, 0] - styles[:, 1]
    style, sure = best_style(difference, (difference[:, 2] > 0) + 0.5 * (difference[:, 2] == 0))
    assert style == STYLES[2] and sure > 0.9
    assert best_style(difference, np.full(30, 0.5))[1] < 0.4 and best_style(difference[:0], np.ones(0))[1] < 0.4


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "mine"
    return folder, mine(folder, "glossy-food", scale=SMALL)


def test_the_whole_way_by_somebody_simulated(done):
    folder, found = done
    dataset = open_dataset(folder / "dataset")
    votes = dataset.votes(["annotator_id", "source"]).to_pylist()
    assert {vote["annotator_id"] for vote in votes if vote["source"] == "judge"} == set(CRITICS)
    assert sum(vote["annotator_id"] == "glossy-food" for vote in votes) == 24
    assert dataset.pairs(["propensity"])["propensity"].to_pylist() == [24 / 40] * 40
    assert found.words.startswith("glossy-food likes") or "do not tell" in found.words
    assert set(found.style) == set(OF_MINE) and all(
        np.isclose(new.sum(), 1, atol=1e-4) for _, new in found.style.values()
    )
    assert Image.open(found.wall).size[1] > 300


def test_it_goes_on_without_asking_again(done, capsys):
    folder, first = done
    kept = (folder / "run" / "metrics.jsonl").read_text(), (folder / "aligned" / "000000.png").stat().st_mtime_ns
    assert mine(folder, "glossy-food", scale=SMALL, browse=False).words == first.words
    assert mine(folder, "", scale=SMALL, browse=False).words.removeprefix("You like") in (
        first.words, first.words.removeprefix("glossy-food likes"))  # fmt: skip
    now = (folder / "run" / "metrics.jsonl").read_text(), (folder / "aligned" / "000000.png").stat().st_mtime_ns
    assert now == kept and "label:" not in capsys.readouterr().out


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(PalateError, match="did you mean 'glossy-food'"):
        demo(tmp_path / "a", mine=True, taste="glosy-food")
    with pytest.raises(PalateError, match="--mine --taste"):
        demo(tmp_path / "a", taste="glossy-food")
    with pytest.raises(PalateError, match="one of them"):
        demo(tmp_path / "a", mine=True, quick=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_votes_in_a_browser_end_the_asking_and_the_rest_follows(tmp_path):
    """A person who takes whichever picture is on the left; the program goes on by itself after the last vote."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here (pip install palate[dev])")
    out = tmp_path / "mine"
    script = (
        "from pathlib import Path\nfrom palate.demos.mine import Small, mine\n"
        f"mine(Path({str(out)!r}), scale=Small(1, 40, 16, 1, 2), browse=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said: list[str] = []
    link = ""
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"(http://127\.0\.0\.1:\d+/#\S+)", line):
            link = link or found[1]
        if "every vote is already stored" in line:
            break
    assert link, "".join(said)
    rest = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
    rest.start()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        page.goto(link)
        for _ in range(16):
            page.wait_for_selector("#left img")
            page.wait_for_selector("#tie:enabled")
            number = page.evaluate("document.body.dataset.number")
            page.keyboard.press("ArrowLeft")
            page.wait_for_function("number => document.body.dataset.number !== number", arg=number)
        browser.close()
    process.wait(600)
    rest.join(30)
    assert process.returncode == 0, "".join(said)
    assert (out / "wall.png").exists() and any("You like" in line or "do not tell" in line for line in said)
    votes = live_votes(open_store(default_store(out / "dataset")))
    assert len(votes) == 16 and {vote["choice"] == vote["order_shown"][0] for vote in votes} == {True}
