import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import PalateError
from palate.foreign import one_line, printable, secrets_of, storable, without_passwords, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"), ("two\nlines\tand a tab", "two\nlines\tand a tab"), ("47\u00a0% · 教室 é 👩\u200d🎨", "47\u00a0% · 教室 é 👩\u200d🎨"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"), ("\x9b31m", "\\x9b31m"), ("a\rb", "a\\rb"), ("\x07", "\\x07"), ("\u202eabc", "\\u202eabc"), ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
    ],
)  # fmt: skip
def test_what_moves_a_terminal_is_written_out_and_the_rest_stays(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_whatever_the_text_nothing_but_printable_characters_come_out(text):
    out = printable(text)
    assert printable(out) == out and not any(ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160 for c in out)
    out.encode()
    assert len(one_line(text, 30)) <= 30 and "\n" not in one_line(text, 30)


@given(st.text("abcdefg-", min_size=8, max_size=30), st.text(), st.text())
def test_no_six_characters_of_a_secret_are_left(secret, before, after):
    out = without_secrets(before + secret + after, [secret]).lower()
    assert not any(secret[i : i + 6].lower() in out for i in range(len(secret) - 5))


def test_what_is_no_part_of_a_secret_stays():
    assert without_secrets("the key sk-12345678 is refused", ["sk-12345678"]) == "the key *** is refused"
    assert without_secrets("nothing here", ["sk-12345678"]) == "nothing here"
    assert without_secrets("a b", []) == "a b"


def test_passwords_of_addresses_are_hidden():
    assert without_passwords("http://ana:pw@h:80/x and s3://k:s@b") == "http://***@h:80/x and s3://***@b"
    assert without_passwords("http://h/a@b mail ana@h") == "http://h/a@b mail ana@h"
    assert without_passwords("sftp://ana:p/w@h/x and http://h:80/x@y") == "sftp://***@h/x and http://h:80/x@y"
    assert without_passwords("https://h/x?a=1&Token=geheim&sig=g#x") == "https://h/x?a=1&Token=***&sig=***#x"
    assert secrets_of("http://ana:p%20w@h/v1") == ["p%20w", "p w", "YW5hOnAgdw=="]
    assert secrets_of("http://ana@h/v1") == secrets_of("http://h") == []


@pytest.mark.parametrize(
    ("address", "stored"),
    [
        ("sftp://ana:pw@h/x", "sftp://ana@h/x"),
        ("sftp://ana@h/x", "sftp://ana@h/x"),
        ("https://token@h/x", "https://h/x"),
        ("https://token:x@h:80/x?sig=abc&a=1", "https://h:80/x?sig=***&a=1"),
        ("s3://bucket/x@y", "s3://bucket/x@y"),
        ("memory://x", "memory://x"),
        ("C:/a b/@x", "C:/a b/@x"),
        ("a/model", "a/model"),
    ],
)
def test_what_is_stored_of_an_address_is_no_secret(address, stored):
    assert storable(address) == stored == storable(stored)


def test_an_error_shows_neither_control_characters_nor_passwords():
    error = PalateError("\x1b[31m postgresql://ana:secret@db/x: away")
    assert str(error) == "\\x1b[31m postgresql://***@db/x: away"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
