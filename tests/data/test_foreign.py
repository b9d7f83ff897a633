"""Text and files that users bring: one policy for encodings, plain files only, nothing outside the folder."""

import json
import os
import socket

import pytest

from palate import foreign
from palate.data.importing import import_pairs
from palate.errors import PalateError
from palate.judges.vlm import load_template
from palate.reading import decode_text, inside, open_plain, quoted, read_plain, read_text, shown, text_lines
from palate.run.load import read_yaml
from palate.sampling.prompts import load_prompts

TEXT = "ein Löffel\r\nzwei 🥄"
READ = {"utf-8": b"", "utf-8-sig": b"", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}


@pytest.mark.parametrize("encoding", READ)
def test_utf_8_with_or_without_a_mark_and_utf_16_with_one_are_the_same_text(encoding, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(READ[encoding] + TEXT.encode(encoding))
    assert read_text(file) == TEXT.replace("\r\n", "\n")
    lines = [(number, line.rstrip("\r")) for number, _, line in text_lines(file)]
    assert lines == [(1, "ein Löffel"), (2, "zwei 🥄")]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("it\u2019s".encode("cp1252"), r"a.txt byte 2: not text in UTF-8 \(92\)"),
        (b"\xef\xbb\xbfab\xff", "a.txt byte 5: not text in UTF-8"),
        ("ab".encode("utf-16-le"), "a.txt byte 1: a NUL"),
        (b"\xff\xfea\x00b", "a.txt byte 4: not text in UTF-16"),
        ("a".encode("utf-32"), "a.txt byte 0: text in UTF-32"),
    ],
)
def test_anything_else_is_refused_by_file_and_byte(data, told):
    with pytest.raises(PalateError, match=told):
        decode_text(data, "a.txt")


def test_a_bad_line_is_named_and_the_lines_around_it_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "LARGEST_LINE", 16)
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbffirst\nsec\x92nd\n" + b"x" * 100 + b"\nlast")
    first, second, third, last = (line for _, _, line in text_lines(file))
    assert first == "first" and last == "last"
    assert str(second) == f"{file} line 2 byte 12: not text in UTF-8 (92). Save it as UTF-8"
    assert str(third) == f"{file} line 3: longer than 16 bytes"


def unusual(tmp_path) -> dict[str, str]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.close()
    (tmp_path / "process").symlink_to("/proc/self/environ")
    return {
        "/dev/zero": "a device", str(tmp_path / "fifo"): "a FIFO", str(tmp_path / "loop"): "cannot be read",
        str(tmp_path / "gone"): "no such file", str(tmp_path / "socket"): "a socket", str(tmp_path): "a folder",
        "/proc/self/environ": "of the kernel", str(tmp_path / "process"): "of the kernel", "a\0b": "cannot be read",
    }  # fmt: skip


def test_what_is_no_plain_file_is_refused_before_it_is_read(tmp_path):
    for path, told in unusual(tmp_path).items():
        with pytest.raises(PalateError, match=told) as error:
            open_plain(path)
        assert "\n" not in str(error.value) and "\0" not in str(error.value)


def test_a_huge_file_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)  # a terabyte of nothing
    with pytest.raises(PalateError, match="1,099,511,627,776 bytes, more than"):
        read_plain(tmp_path / "huge")


@pytest.mark.parametrize("path", ["../a", "/etc/hostname", "sub/../../a", "link/a", 5, None, "a\0b"])
def test_a_path_that_leaves_its_folder_is_refused(path, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(PalateError, match="leaves the folder|is no path"):
        inside(folder, path)
    assert inside(folder, "sub/a") == folder / "sub" / "a"
    if path in ("../a", "link/a"):
        assert inside(folder, path, outside=True) == folder / path


def test_messages_quote_one_short_line():
    assert shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert len(shown("x" * 10_000)) == 240
    assert len(quoted("x" * 10_000)) <= 60 and len(quoted(b"\xff" * 10_000)) <= 60
    assert quoted(10**5000) == "a int"
    nested: list = []
    for _ in range(10_000):
        nested = [nested]
    assert len(quoted(nested)) <= 60


# --- everywhere where text comes from a user ---


@pytest.mark.parametrize("encoding", READ)
def test_prompts_templates_and_configurations_are_read_in_each(encoding, tmp_path):
    def write(name: str, text: str):
        (tmp_path / name).write_bytes(READ[encoding] + text.encode(encoding))
        return tmp_path / name

    assert load_prompts(write("a.txt", "ein Löffel\n")) == ["ein Löffel"]
    assert load_prompts(write("a.csv", "prompt,style\nein Löffel,x\n")) == ["ein Löffel"]
    assert load_prompts(write("a.json", '["ein Löffel"]')) == ["ein Löffel"]
    assert load_prompts(write("a.jsonl", '{"prompt": "ein Löffel"}\n')) == ["ein Löffel"]
    assert read_yaml(write("a.yaml", "method: dpo\n")) == {"method": "dpo"}
    assert load_template(str(write("a.tpl", "{prompt} {first} {second} Löffel"))) == "{prompt} {first} {second} Löffel"


@pytest.mark.parametrize("encoding", READ)
def test_captions_prompts_and_lines_of_an_import_are_the_same_prompt_in_each(encoding, tmp_path, picture):
    for side, seeds in (("win", (0, 1)), ("lose", (2, 3))):
        (tmp_path / "f" / side).mkdir(parents=True)
        for name, seed in zip("ab", seeds, strict=True):
            (tmp_path / "f" / side / f"{name}.jpg").write_bytes(picture(seed))
    mark = READ[encoding]
    (tmp_path / "f" / "win" / "a.txt").write_bytes(mark + "ein Löffel".encode(encoding))
    (tmp_path / "f" / "captions.jsonl").write_bytes(
        mark + json.dumps({"file": "b.jpg", "caption": "ein Löffel"}, ensure_ascii=False).encode(encoding)
    )
    line = {"prompt": "ein Löffel", "image_0": "win/a.jpg", "image_1": "lose/b.jpg", "choice": 0}
    (tmp_path / "f" / "a.jsonl").write_bytes(mark + json.dumps(line, ensure_ascii=False).encode(encoding))
    assert import_pairs("folders", [tmp_path / "f"], tmp_path / "prefs").pairs_added == 2
    assert import_pairs("jsonl", [tmp_path / "f" / "a.jsonl"], tmp_path / "prefs").pairs_added == 1
    from palate.data.dataset import open_dataset

    assert set(open_dataset(tmp_path / "prefs").pairs()["prompt"].to_pylist()) == {"ein Löffel"}


def test_a_prompt_in_another_encoding_is_a_refused_row(tmp_path, picture):
    for side, first in (("win", 0), ("lose", 2)):
        (tmp_path / "f" / side).mkdir(parents=True)
        for name, seed in zip("ab", (first, first + 1), strict=True):
            (tmp_path / "f" / side / f"{name}.jpg").write_bytes(picture(seed))
            (tmp_path / "f" / side / f"{name}.txt").write_bytes(b"a cat" if name == "b" else b"it\x92s a cat")
    report = import_pairs("folders", [tmp_path / "f"], tmp_path / "prefs")
    assert report.pairs_added == 1 and dict(report.skipped) == {"prompt cannot be read": 1}
    assert "a.txt byte 2: not text in UTF-8 (92)" in report.messages[0]
