"""The hub is asked only for what can be there, quietly, and says in one line what to do when it is out of reach."""

import huggingface_hub
import pytest

from palate.errors import PalateError
from palate.hub import fetch, why_no_repository
from palate.judges.weights import find_model


@pytest.mark.parametrize(
    "name", ["./model", "/no/model", "~/model", "model", "a/b/c", "runs/model.safetensors", "v1.5/x"]
)
def test_a_name_that_no_repository_can_have_is_a_path(name):
    assert why_no_repository(name) is not None
    with pytest.raises(PalateError, match="no such file or folder"):
        find_model(name, ["*"])


def test_a_judge_whose_name_nearly_exists_here_never_asks_the_hub(tmp_path, monkeypatch):
    (tmp_path / "judges" / "aesthetic-head").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(PalateError, match="did you mean judges/aesthetic-head?"):
        find_model("judges/aesthetc-head", ["*"])


def test_a_hub_out_of_reach_is_one_line_with_the_remedy(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("a long\nstory")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(PalateError) as told:
        fetch("owner/model", ["*.json"], remedy="Give a folder.")
    assert str(told.value) == (
        "owner/model: neither a local folder nor reachable on the hub (ConnectionError). Give a folder."
    )
