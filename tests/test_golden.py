"""The golden numbers: which changes their comparison reports, and what it lets pass; the numbers themselves take minutes."""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1]))
from benchmarks import golden  # noqa: E402
from benchmarks.golden_items import ITEMS, numbers, page, tensors  # noqa: E402

RECORD = {"lora": {"metrics": {"loss": [0.6931472, 0.6783065], "idle": [float("nan"), 0.0]}, "model": {"hash": "ab"}}}


def changed(**metrics) -> list[str]:
    other = {"lora": RECORD["lora"] | {"metrics": RECORD["lora"]["metrics"] | metrics}}
    return list(golden.differences(RECORD, json.loads(json.dumps(other))))


def test_a_number_that_changed_in_its_last_digit_is_one_line_with_its_place():
    assert changed() == []  # NaN is what it was
    assert changed(loss=[0.6931472, 0.6783066]) == ["lora / metrics / loss[1]: 0.6783065 -> 0.6783066"]


def test_what_is_gone_new_longer_or_of_another_sign_is_reported():
    assert changed(idle=[float("nan"), -0.0]) == ["lora / metrics / idle[1]: 0.0 -> -0.0"]
    assert changed(idle=[float("nan")]) == ["lora / metrics / idle: [NaN, 0.0] -> [NaN]"]
    assert changed(more=1) == ["lora / metrics / more: new, 1"]
    assert list(golden.differences(RECORD, {})) == [f"lora: gone, was {golden.short(RECORD['lora'])}"]


def test_tensors_are_known_by_contents_shape_and_type_but_not_by_name(tmp_path):
    def told(name: str, values: dict) -> dict:
        (tmp_path / name).mkdir()
        save_file(values, tmp_path / name / "model.safetensors")
        return tensors(tmp_path / name)

    first, second = torch.arange(6.0), torch.ones(2, 3)
    one = told("one", {"a": first, "b": second})
    assert one["tensors"] == 2 and told("renamed", {"x": second, "y": first}) == one
    assert told("value", {"a": first.nextafter(torch.tensor(9.0)), "b": second}) != one
    assert told("shape", {"a": first.reshape(2, 3), "b": second}) != one
    assert told("type", {"a": first.double(), "b": second}) != one


def test_wording_times_and_places_may_change_and_numbers_may_not():
    one = {"judge": "clip", "told": "83 % of 24 pairs, on 2026-01-02 03:04 UTC", "path": "/a", "share": 0.25}
    same = one | {"told": "In 83 % of 24 cases, as of 2027-05-06 07:08 UTC", "path": "/b"}
    assert numbers(one) == numbers(same)
    for key, value in (("judge", "pickscore"), ("told", "84 % of 24 pairs"), ("share", 0.5)):
        assert numbers(one | {key: value}) != numbers(one)


def test_a_page_is_its_visible_numbers_its_pictures_and_its_lines(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(buffer, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def told(text: str) -> dict:
        (tmp_path / "page.html").write_text(text)
        return page(tmp_path / "page.html")

    html = f'<style>p {{margin: 3px}}</style><p class="x1">wins <b>0.95</b></p><img src="{picture}"><path d="M 1 2">'
    assert told(html)["numbers"] == ["0.95"] and told(html)["pictures"]["count"] == 1
    assert told(html.replace("3px", "4px").replace("x1", "x2").replace("wins", "won")) == told(html)
    for old, new in (("0.95", "0.94"), ("M 1 2", "M 1 3"), ("AAA", "AAB")):
        assert told(html.replace(old, new)) != told(html)


def test_an_item_brings_what_it_is_made_of_before_itself():
    names = golden.with_needs(("report",))
    assert names.index("data") < names.index("lora") < names.index("sample") < names.index("compare") == len(names) - 2
    for name in ITEMS:  # so that the whole list can be run from the top
        assert golden.with_needs((name,))[-1] == name
    with pytest.raises(SystemExit, match="no item nonsense"):
        golden.with_needs(("nonsense",))
