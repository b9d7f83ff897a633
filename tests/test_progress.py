"""Progress in lines where stderr is no terminal; the clock is the test's own."""

import pytest

from palate import progress
from palate.progress import duration, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys) -> list[str]:
    told = capsys.readouterr()
    assert told.out == ""  # which may be JSON for another program
    return told.err.splitlines()


def test_a_long_stage_says_every_30_seconds_how_far_it_is(clock, capsys):
    with progress_bar("training dpo", 1000, 100, "step") as advance:
        for step in range(100, 1000):
            clock[0] += 10
            advance(1, f"loss {step / 1000:.3f}, accuracy 0.75")
    lines = lines_of(capsys)
    assert lines[0] == "training dpo: 103 of 1,000 (10 %), loss 0.102, accuracy 0.75, 10 s a step, 2.5 hours left"
    assert lines[-1] == "training dpo: 1,000 of 1,000, in 2.5 hours" and len(lines) == 300


def test_a_short_stage_says_every_5_percent_but_not_more_often_than_every_10_seconds(clock, capsys):
    with progress_bar("encoding pairs", 400) as advance:
        for _ in range(400):
            clock[0] += 1
            advance(1)
    lines = lines_of(capsys)
    assert lines[0] == "encoding pairs: 20 of 400 (5 %), 380 seconds left".replace("380 seconds", "6.3 minutes")
    assert len(lines) == 20  # at 5 % to 95 %, and the end
    with progress_bar("encoding pairs", 40) as advance:
        for _ in range(40):
            clock[0] += 1
            advance(1)
    assert [line.split(",")[0] for line in lines_of(capsys)] == [
        "encoding pairs: 10 of 40 (25 %)", "encoding pairs: 20 of 40 (50 %)", "encoding pairs: 30 of 40 (75 %)",
        "encoding pairs: 40 of 40",
    ]  # fmt: skip


def test_what_is_quick_says_nothing_and_one_of_several_processes_tells(clock, capsys, monkeypatch):
    with progress_bar("quick", 10) as advance:
        for _ in range(10):
            clock[0] += 0.9
            advance(1)
    assert lines_of(capsys) == []
    monkeypatch.setenv("RANK", "1")
    with progress_bar("slow", 10) as advance:
        for _ in range(10):
            clock[0] += 100
            advance(1)
    assert lines_of(capsys) == []


def test_a_stage_that_fails_does_not_say_that_it_is_done(clock, capsys):
    with pytest.raises(ZeroDivisionError), progress_bar("slow", 10) as advance:
        clock[0] += 100
        advance(1)
        raise ZeroDivisionError
    assert [line.split(",")[0] for line in lines_of(capsys)] == ["slow: 1 of 10 (10 %)"]


def test_on_a_terminal_there_is_a_bar_and_no_lines(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("slow", 10) as advance:
        clock[0] += 100
        advance(1, "loss 1")
    err = capsys.readouterr().err
    assert "slow" in err and "left" not in err


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 seconds"), (119, "119 seconds"), (120, "2.0 minutes"), (9000, "2.5 hours"), (2e5, "2.3 days")]
)  # fmt: skip
def test_durations(seconds, words):
    assert duration(seconds) == words
