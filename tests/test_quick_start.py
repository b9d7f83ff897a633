"""The README's commands through the program itself, in a folder that has nothing but its `dpo.yaml`: each gets as far as the
first thing that is missing there, so that the verb, its options and their values were read."""

import shlex
import sys

import pytest
from test_docs import blocks, commands

from palate.cli import main

MISSING = ("no dataset here", "not writable", "not a run", "neither a run", "o such file", "a file, not a folder")
ALONE = ("palate methods",)  # these need nothing


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configuration = next(text for text in blocks("README.md", "yaml") if "pretrained_model_name_or_path" in text)
    for name in ("dpo.yaml", "train.yaml", "sdxl.yaml"):
        (tmp_path / name).write_text(configuration)
    return tmp_path


@pytest.mark.parametrize("command", commands("README.md"))
def test_the_readmes_commands_get_as_far_as_what_is_missing(command, empty, monkeypatch):
    words = shlex.split(command, comments=True)
    if words[1:3] == ["import", "world"]:
        (empty / "prefs").touch()  # it needs nothing, and would draw pictures
    if words[1] == "demo":
        (empty / "demo-mine").touch()  # the same
    monkeypatch.setattr(sys, "argv", words)
    if command.startswith(ALONE):
        main()
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert any(words in str(ended.value.code) for words in MISSING), ended.value.code


def test_a_misspelled_option_does_not_get_that_far(empty, monkeypatch):
    for words in (["label", "prefs", "--budgt", "120"], ["train", "dpo.yaml", "--bta", "3"]):
        monkeypatch.setattr(sys, "argv", ["palate", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not any(words in str(ended.value.code) for words in MISSING), ended.value.code
