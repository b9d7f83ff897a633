"""How long after a key press the next pair of pictures is on screen, in Chromium: `palate label` as one person uses it.

    python benchmarks/label_latency.py

From the key's event to the frame after the one that paints both pictures. Needs Playwright and a Chromium (`--chromium`).
"""

import argparse
import os
import signal
import tempfile
from pathlib import Path

import numpy as np
from label_load import make_dataset, serve
from playwright.sync_api import sync_playwright

WATCH = """() => {
  window.waits = [];
  addEventListener("keydown", () => {
    const pressed = performance.now(), before = document.body.dataset.number;
    const look = () => {
      const images = [...document.querySelectorAll("#left img, #right img")];
      const there = document.body.dataset.number !== before && images.length === 2 && images.every((i) => i.complete && i.naturalWidth);
      requestAnimationFrame(there ? () => window.waits.push(performance.now() - pressed) : look);
    };
    requestAnimationFrame(look);
  }, true);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="pixels of a picture's side")
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--pause", type=float, default=700, help="milliseconds between two answers")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, links = serve(make_dataset(Path(folder, "prefs"), 200, options.size), ["me"], None)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.goto(links["me"])
                page.wait_for_selector("#left img")
                page.wait_for_timeout(2000)
                page.evaluate(WATCH)
                for k in range(options.presses):
                    page.keyboard.press(("ArrowLeft", "ArrowRight")[k % 2])
                    page.wait_for_timeout(options.pause)
                waits = np.array(page.evaluate("window.waits"))
                browser.close()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    middle, high = np.percentile(waits, [50, 99])
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, pictures of {options.size} px, an answer every {options.pause:g} ms"
    )
    print(
        f"next pair on screen after {middle:.0f} ms (median), {high:.0f} ms (99 %), {waits.max():.0f} ms at most; n {len(waits)} of {options.presses}"
    )


if __name__ == "__main__":
    main()
