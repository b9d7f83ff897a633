import io
import json

import pytest
from PIL import Image

from palate.cli import import_, info
from palate.errors import PalateError


@pytest.fixture
def source(tmp_path):
    lines = []
    for i, choice in enumerate(["0", "tie", "left"]):
        for side in "01":
            buffer = io.BytesIO()
            Image.new("RGB", (10 + i, 10), (i, 50 * int(side), 0)).save(buffer, "PNG")
            (tmp_path / f"{i}-{side}.png").write_bytes(buffer.getvalue())
        images = {f"image_{side}": f"{i}-{side}.png" for side in "01"}
        lines.append(json.dumps({"prompt": f"prompt {i}", "choice": choice} | images))
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_import_prints_counts_and_the_remedy(source, tmp_path, capsys):
    prefs = str(tmp_path / "prefs")
    import_.main(["jsonl", str(source), "--to", prefs, "--name", "mine", "--annotator", "ana"])
    out = capsys.readouterr().out
    assert "2 added" in out and "1 ties" in out and "1 × choice outside the set" in out
    assert "pairs.jsonl line 3: choice 'left' is none of 0, 1, tie, skip." in out
    assert "The other 2 pairs were imported; rerun with the file repaired to add the rest." in out
    info.main([prefs])
    assert "mine" in (shown := capsys.readouterr().out) and "ana" in shown
    info.main([prefs, "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["name"] == "mine" and summary["choices"] == {"human": {"0": 1, "1": 0, "tie": 1, "skip": 0}}


def test_import_again_adds_nothing_and_says_so_in_json(source, tmp_path, capsys):
    arguments = ["jsonl", str(source), "--to", str(tmp_path / "prefs"), "--source", "judge", "--json"]
    import_.main(arguments)
    import_.main(arguments)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["pairs_added"], first["pairs_known"], second["pairs_added"], second["pairs_known"]) == (2, 0, 0, 2)


def test_a_missing_source_is_an_error_after_the_rest_is_in(source, tmp_path):
    with pytest.raises(PalateError, match="nowhere.jsonl: no such file or folder. The other 2 pairs were imported"):
        import_.main(["jsonl", str(tmp_path / "nowhere.jsonl"), str(source), "--to", str(tmp_path / "prefs")])
    with pytest.raises(PalateError, match="no sources given"):
        import_.main(["jsonl", "--to", str(tmp_path / "prefs")])


@pytest.mark.parametrize(("verb", "name"), [(import_, "import"), (info, "info")])
def test_help_shows_examples(verb, name, capsys):
    with pytest.raises(SystemExit) as left:
        verb.main(["--help"])
    assert left.value.code == 0
    assert f"Examples:\n  palate {name} " in capsys.readouterr().out


def test_info_without_a_dataset(tmp_path):
    with pytest.raises(PalateError, match="no dataset here"):
        info.main([str(tmp_path)])
