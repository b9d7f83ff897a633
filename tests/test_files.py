"""A full disk is told as one by whatever library met it, and what stood there is untouched."""

import errno
import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tiny import refusal

from palate import cli
from palate.files import atomic_path, is_disk_full, write_text

FULL = Path("/dev/full")
NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


def by_torch() -> None:
    with open(FULL, "wb", buffering=0) as full:
        torch.save({"a": torch.zeros(100_000)}, full)


def by_torch_itself() -> None:
    torch.save({"a": torch.zeros(100_000)}, str(FULL))  # its own writer, which does not say why


def by_safetensors() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def by_parquet() -> None:
    raise OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")


def by_the_system() -> None:
    raise NO_ROOM


def by_a_library_that_wraps() -> None:
    try:
        raise NO_ROOM
    except OSError as error:
        raise ValueError("could not save the model") from error


WRITERS = [by_torch, by_torch_itself, by_safetensors, by_parquet, by_the_system, by_a_library_that_wraps]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_one_line_whatever_wrote(write, tmp_path, monkeypatch):
    if write in (by_torch, by_torch_itself) and not FULL.is_char_device():
        pytest.skip("no /dev/full here")
    write_text(tmp_path / "x", "before")

    def save() -> None:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("half")
            write()

    assert refusal(save) == (
        f"{tmp_path / 'x'}: the disk is full. Nothing was changed there; free some space and run again."
    )
    assert (tmp_path / "x").read_text() == "before" and len(os.listdir(tmp_path)) == 1
    monkeypatch.setattr(sys, "argv", ["palate", "info", "x"])  # and where no atomic write is in between
    monkeypatch.setattr("palate.cli.info.main", lambda argv: write(), raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert str(ended.value).startswith("palate: the disk is full.")


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x"), RuntimeError("shapes"), ValueError("x"), KeyError("x")])
def test_other_errors_are_not_taken_for_a_full_disk(error, tmp_path):
    assert not is_disk_full(error)
    with pytest.raises(type(error)), atomic_path(tmp_path / "x"):
        raise error


def test_a_thread_that_meets_a_full_disk_leaves_the_telling_to_the_main_one(capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", cli._in_a_thread)
    for error, told in ((NO_ROOM, False), (ValueError("a defect"), True)):

        def fail(error=error) -> None:
            raise error

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        assert ("Traceback" in capsys.readouterr().err) == told


@pytest.mark.parametrize("place", ["/proc/x/run", "/dev/null/x", "x" * 300 + "/y"])
def test_a_place_where_nothing_can_be_is_one_line(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(lambda: write_text(place, "text"))
    assert "its folder cannot be made" in line
