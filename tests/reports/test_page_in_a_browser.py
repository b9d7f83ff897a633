"""The page in a real browser: the slider by drag, touch and keys; nothing asked for outside; a phone; light and dark."""

import os
import shutil
from dataclasses import replace

import pytest

from palate.reports.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

# The picture that one sees at a share of the first tile's width; what is clipped away is not under the point.
SEEN = """(share) => {
  const box = document.querySelector(".strip").getBoundingClientRect();
  return document.elementFromPoint(box.left + share * box.width, box.top + box.height / 2).alt;
}"""


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here (pip install palate[dev])")
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, page, tmp_path):
    """Open a page as on some device; what it asks of the outside and every message in its console fail the test."""
    contexts, errors = [], []

    def open_(shown=page, **device):
        path = tmp_path / f"report-{len(contexts)}.html"
        write_report(shown, path)
        context = chromium.new_context(**device)
        tab = context.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda said: errors.append(said.text))
        tab.on("request", lambda asked: None if asked.url.startswith(("data:", path.as_uri())) else errors.append(asked.url))  # fmt: skip
        tab.goto(path.as_uri())
        contexts.append(context)
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert not errors


def value(tab) -> int:
    return int(tab.input_value("#cut"))


def strip_box(tab) -> dict:
    return tab.locator(".strip").first.bounding_box()


def test_a_drag_uncovers_one_picture_or_the_other_and_goes_on_beyond_the_edge(visit):
    tab = visit()
    after, before = "a red circle, DPO · every human vote", "a red circle, base"
    assert (tab.evaluate(SEEN, 0.25), tab.evaluate(SEEN, 0.75)) == (before, after)
    box = strip_box(tab)
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.9 * box["width"], middle)
    assert abs(value(tab) - 90) <= 1 and tab.evaluate(SEEN, 0.75) == before
    tab.mouse.move(box["x"] + 3 * box["width"], middle - 100)  # over other things: still held
    assert value(tab) == 100
    tab.mouse.move(box["x"] - 20, middle)
    tab.mouse.up()
    assert value(tab) == 0 and tab.evaluate(SEEN, 0.25) == after
    tab.mouse.move(box["x"] + box["width"] / 2, middle)  # not held any more
    assert value(tab) == 0


def test_keys_move_the_slider_from_anywhere_and_say_what_is_shown(visit):
    tab = visit()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight", "ArrowLeft"):
        tab.keyboard.press(key)
    assert value(tab) == 62
    tab.focus("#cut")
    tab.keyboard.press("ArrowLeft")  # the slider's own step
    assert value(tab) == 61
    slider = tab.get_by_role("slider", name="Where base ends and the other model begins, in percent of the picture")
    assert slider.get_attribute("aria-valuetext") == "base up to 61 % of the width, then DPO · every human vote"
    tab.focus("#which")
    tab.keyboard.press("ArrowDown")  # chooses, and leaves the slider alone
    assert value(tab) == 61 and tab.evaluate(SEEN, 0.9) == "a red circle, DPO · as is"
    tab.check("#every")
    assert slider.is_disabled() and tab.locator(".tile").first.locator("img:visible").count() == 4
    assert tab.locator("img:not([alt])").count() == 0


def test_a_finger_moves_the_slider_and_still_scrolls_the_page(visit):
    tab = visit(**PHONE)
    box = strip_box(tab)
    tab.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2)
    assert abs(value(tab) - 20) <= 2
    touch = tab.context.new_cdp_session(tab)

    def swipe(x0, y0, x1, y1):
        points = [(x0 + k * (x1 - x0) / 8, y0 + k * (y1 - y0) / 8) for k in range(9)]
        for k, (x, y) in enumerate(points):
            kind = "touchStart" if k == 0 else "touchMove"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        tab.wait_for_timeout(300)

    middle = box["y"] + box["height"] / 2
    swipe(box["x"] + 0.2 * box["width"], middle, box["x"] + 0.8 * box["width"], middle)
    assert abs(value(tab) - 80) <= 3 and tab.evaluate("scrollY") == 0
    swipe(box["x"] + 0.5 * box["width"], middle, box["x"] + 0.5 * box["width"], middle - 300)
    assert tab.evaluate("scrollY") > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_every_text_can_be_read(visit, full_page, scheme):
    long = "an-unreasonably-long-name-of-a-run-" * 4
    rows = [replace(full_page.rows[0], name=long, labels=long, command=long), *full_page.rows[1:]]
    for shown in (full_page, replace(full_page, rows=rows, title=long, facts={long: long}, limits=[long])):
        for width in (360, 1200):
            tab = visit(shown, viewport={"width": width, "height": 740}, color_scheme=scheme)
            tab.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert min(tab.evaluate(CONTRASTS)) >= 4.5


# WCAG contrast of every text with the page behind it.
CONTRASTS = """() => {
  const light = (css) => {
    const [r, g, b] = css.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const one of document.querySelectorAll("h1, h2, h3, p, small, th, td, dt, dd, li, figcaption, summary, label, option, code")) {
    if (!one.offsetWidth) continue;
    let ground = one;
    while (ground && getComputedStyle(ground).backgroundColor.endsWith(", 0)")) ground = ground.parentElement;
    const [a, b] = [light(getComputedStyle(one).color), light(getComputedStyle(ground || document.body).backgroundColor)];
    found.push((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return found;
}"""
