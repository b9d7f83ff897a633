"""`palate methods`: all of them, one of them, and a name that is none."""

import json
import subprocess
import sys

from palate.presets import methods

PALATE = [sys.executable, "-c", "from palate.cli import main; main()", "methods"]


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*PALATE, *arguments], capture_output=True, text=True)


def test_the_list_names_every_method_with_its_paper():
    text = run().stdout
    for one in methods().values():
        assert one.name in text and (one.paper or "") in text


def test_one_method_is_explained_with_its_keys_and_what_was_published():
    text = run("adaptive-dpo").stdout
    for part in ("2503.16921", "adaptive_margin: published", "where the model's snapshots suspect", "recipe: sd15", "beta: 2000",
                 "beta 1000 without the half", "derived:"):  # fmt: skip
        assert part in text, part


def test_json_is_whole():
    told = json.loads(run("--json").stdout)
    assert [one["name"] for one in told] == list(methods())
    assert next(one for one in told if one["name"] == "sdpo")["sdxl"]["safeguard"] == 0.6


def test_a_wrong_name_is_one_line_with_the_nearest():
    done = run("dedp")
    assert done.returncode == 1 and done.stderr == "palate: method 'dedp' is not known; did you mean 'dedpo'?\n"
