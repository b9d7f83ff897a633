"""Suites of every shape, their parts, and what is left out of them; bad ones get one line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation.drawn import draw_samples
from shared import SHARED

from palate.cli import sample as sample_verb
from palate.errors import PalateError
from palate.sampling.prompts import load_prompts, load_suite, prompts_hash

PUBLISHED = SHARED / "data/prompts"
ROWS = [
    {"prompt": "a cat, sitting", "metadata": {"style": "photo"}},
    {"prompt": "Überraschung", "metadata": {"style": "anime"}},
    {"prompt": "two\nlines", "metadata": {"style": "photo"}},
    {"prompt": "a cat, sitting", "metadata": {"style": "anime"}},
    {"prompt": "  ", "metadata": {"style": "photo"}},
]
EXPECTED = ("a cat, sitting", "Überraschung", "two\nlines")


def written(folder: Path, kind: str) -> Path:
    path = folder / f"suite.{kind}"
    table = [{"Prompt": row["prompt"], "Category": row["metadata"]["style"]} for row in ROWS]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind in ("csv", "tsv"):
        import csv

        with open(path, "w", newline="", encoding="utf-8-sig") as handle:  # as spreadsheets save it
            writer = csv.DictWriter(handle, ["Prompt", "Category"], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(table)
    else:
        path.write_text(json.dumps(ROWS) if kind == "json" else "\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_tables_of_every_kind_with_their_parts_and_counts(kind, tmp_path):
    path = written(tmp_path, kind)
    suite = load_suite(path)
    assert suite.prompts == EXPECTED and (suite.rows, suite.repeated, suite.blank) == (5, 1, 1)
    assert "3 of 5 (left out: 1 repeated, 1 blank)" in suite.line() and suite.hash == prompts_hash(list(EXPECTED))
    assert load_prompts(path, "Photo") == ["a cat, sitting", "two\nlines"]
    assert load_suite(path, "anime").prompts == ("Überraschung", "a cat, sitting")
    assert load_prompts(path, "1:3") == ["Überraschung", "two\nlines"]
    with pytest.raises(PalateError, match=r"no part 'paintings' in it; there are photo \(3\), anime \(2\)"):
        load_suite(path, "paintings")


def test_lists_and_folders_of_lists(tmp_path):
    (tmp_path / "plain.txt").write_text("a\n\nb\n", encoding="utf-8")
    (tmp_path / "styles.json").write_text(json.dumps({"anime": ["a", "b"], "photo": [{"caption": "c"}]}))
    assert load_prompts(tmp_path / "plain.txt") == ["a", "b"]
    assert load_prompts(tmp_path / "styles.json", "photo") == ["c"]
    folder = tmp_path / "hpsv2"
    folder.mkdir()
    for style in ("anime", "photo"):
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(3)]))
    assert load_prompts(folder, "photo") == ["photo 0", "photo 1", "photo 2"] and len(load_prompts(folder)) == 6
    assert prompts_hash(["a", "b"]) != prompts_hash(["b", "a"])


def test_columns_of_any_case_or_name_and_rows_by_name(tmp_path):
    (tmp_path / "drawbench.csv").write_text("Prompts,Category\na dog,Colors\n")
    assert load_prompts(tmp_path / "drawbench.csv", "colors") == ["a dog"]
    (tmp_path / "mine.csv").write_text("PROMPT,Beschreibung\nno,ein Hund\n")
    assert load_prompts(tmp_path / "mine.csv") == ["no"]
    assert load_prompts(tmp_path / "mine.csv", column="Beschreibung") == ["ein Hund"]
    (tmp_path / "by-name.json").write_text(
        json.dumps({"0a1": {"category": "food", "prompt": "a soup"}, "b2": {"prompt": "a"}})
    )
    assert load_prompts(tmp_path / "by-name.json") == ["a soup", "a"] and load_prompts(
        tmp_path / "by-name.json", "food"
    ) == ["a soup"]
    pq.write_table(pa.table({"title": ["x"], "jpg_0": [b"bytes"]}), tmp_path / "suite.parquet")
    with pytest.raises(PalateError, match="no column prompt .* among title, jpg_0"):
        load_prompts(tmp_path / "suite.parquet")
    assert load_prompts(tmp_path / "suite.parquet", column="title") == ["x"]


def test_text_is_cut_at_line_ends_alone(tmp_path):
    (tmp_path / "SUITE.TXT").write_bytes("one\u2028still one\r\ntwo\x0cstill two\n".encode())
    assert load_prompts(tmp_path / "SUITE.TXT") == ["one\u2028still one", "two\x0cstill two"]


def test_a_limit_is_drawn_and_a_larger_one_contains_it(tmp_path):
    prompts = [f"prompt {i}" for i in range(200)]
    (tmp_path / "suite.txt").write_text("\n".join(prompts))
    small, large = (load_suite(tmp_path / "suite.txt", limit=limit) for limit in (20, 60))
    assert len(small.prompts) == 20 and set(small.prompts) < set(large.prompts) and large.beyond_limit == 140
    places = [prompts.index(prompt) for prompt in small.prompts]
    assert places == sorted(places) and places[-1] > 100  # in order, and not the first ones
    assert load_suite(tmp_path / "suite.txt", limit=500).prompts == tuple(prompts)


@pytest.mark.shared("data/prompts")
@pytest.mark.parametrize(
    ("name", "rows", "kept", "first"),
    [("hpsv2", 3200, 3172, "Spongebob"), ("papv2", 487, 487, "magic"), ("partiprompts", 1632, 1632, "bond")],
)
def test_published_suites(name, rows, kept, first):
    suite = load_suite(PUBLISHED / f"{name}.json")
    assert (suite.rows, len(suite.prompts)) == (rows, kept) and suite.prompts[0].startswith(first)
    with pytest.raises(PalateError, match=f"its rows name no parts; rows 0:{rows} can be given"):
        load_suite(PUBLISHED / f"{name}.json", "photo")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("suite.json", "", "not a list of prompts"),
        ("suite.json", "{", "not a list of prompts"),
        ("suite.json", '{"a": "b"}', "neither a list, nor lists by category, nor rows by name"),
        (
            "suite.json",
            '[{"title": "x"}]',
            "row 1: no column prompt or prompts or caption or text among title. Name it: --column NAME",
        ),
        ("suite.json", '["x", 2]', "row 2: 2 is no prompt"),
        ("suite.jsonl", '"x"\n{', "line 2"),
        ("suite.csv", "title\nx\n", "row 1: no column"),
        ("suite.csv", "prompt\na cat, on a mat\n", "line 2 has more cells than the first; put quotes"),
        ("suite.txt", "\n \n", "no prompts in it"),
        ("suite.parquet", "PAR0", "not a list of prompts"),
        ("suite.doc", "x", "files of kind .doc are not read"),
        ("suite.txt", b"caf\xe9", "not text in UTF-8"),
    ],
)
def test_broken_suites_get_one_line(name, text, words, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PalateError, match=words) as refused:
        load_prompts(tmp_path / name)
    assert name in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("options", "words"), [({"part": "3:9"}, "rows 0:2"), ({"limit": 0}, "at least one prompt")])
def test_parts_that_mean_nothing_are_refused(options, words, tmp_path):
    (tmp_path / "suite.txt").write_text("a\nb")
    with pytest.raises(PalateError, match=words):
        load_suite(tmp_path / "suite.txt", **options)
    with pytest.raises(PalateError, match="nowhere"):
        load_suite(tmp_path / "nowhere")


def test_the_verb_tells_what_it_read_and_the_samples_remember_it(pipeline_folder, tmp_path, capsys):
    written(tmp_path, "json")
    command = [str(pipeline_folder), "--prompts", str(tmp_path / "suite.json"), "--part", "photo", "--to", str(tmp_path / "s"), "--steps", "1"]  # fmt: skip
    sample_verb.main(command)
    assert "prompts: 2 of 3 (left out: 1 blank) from suite.json, part photo · " in capsys.readouterr().out
    stored = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert stored["suite"] == "suite.json, part photo" and stored["prompts"] == ["a cat, sitting", "two\nlines"]
    assert draw_samples(tmp_path / "old", [1]).suite == ""  # samples of before
