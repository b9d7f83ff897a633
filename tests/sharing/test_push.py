"""A run on the hub: what arrives is what was exported, the token is told to nobody, refusals are one line."""

import huggingface_hub.constants as constants
import pytest
from huggingface_hub import ModelCard
from sharing.hub_server import hub
from tiny import refusal

import palate
from palate.cli import push as push_verb
from palate.sharing.export import export


@pytest.fixture(autouse=True)
def login(monkeypatch, tmp_path):
    """A login of this test's own, and transfers by the protocol that the small hub speaks."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


def reachable(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", server.address)


def test_what_arrives_is_what_was_exported(adapters, monkeypatch, capfd):
    with hub() as server:
        reachable(server, monkeypatch)
        push_verb.main([str(adapters), "me/it"])
        folder = adapters / "exports" / "diffusers"
        assert server.files["me/it"] == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert set(server.files["me/it"]) == {"README.md", "pytorch_lora_weights.safetensors"}
        assert server.repositories == {"me/it": True}  # private
        assert server.messages == [f"Trained with palate {palate.__version__}"]
        again = palate.push(adapters, "me/it")  # the repository is there already
        assert again == f"{server.address}/me/it/commit/abc"
    out, err = capfd.readouterr()
    assert "push: me/it, private: README.md (" in out and "license is not known" in out
    assert "hf_right" not in out + err


def test_a_dry_run_shows_files_and_card_and_needs_neither_hub_nor_login(full, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    push_verb.main([str(full), "me/it", "--dry-run", "--no-private"])
    out = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.safetensors (" in out and "for everybody to see" in out
    assert "## Labels" in out and "nothing was sent" in out
    data = ModelCard(out[out.index("---") :]).data
    assert data.license == "unknown" and "lora" not in data.tags


def test_a_public_repository_gets_nothing_that_was_meant_to_be_private(adapters, monkeypatch):
    with hub() as server:
        reachable(server, monkeypatch)
        palate.push(adapters, "me/it", private=False)
        assert server.repositories == {"me/it": False}
        server.files.clear()
        assert "exists and is public" in refusal(lambda: palate.push(adapters, "me/it"))
        assert not server.files


def test_what_is_private_already_stays_so_and_the_command_says_it(adapters, monkeypatch, capsys):
    with hub() as server:
        reachable(server, monkeypatch)
        push_verb.main([str(adapters), "me/it"])
        push_verb.main([str(adapters), "me/it", "--no-private"])
        assert server.repositories == {"me/it": True}
        push_verb.main([str(adapters), "me/new", "--no-private"])
    out = capsys.readouterr().out
    assert "push: me/it, private, as it is there already" in out and "push: me/it, for everybody" not in out
    assert "push: me/new, for everybody to see" in out


def test_what_was_planned_is_what_is_sent_and_is_written_once(adapters, monkeypatch):
    exported = []
    monkeypatch.setattr("palate.sharing.push.export", lambda *given: exported.append(given) or export(*given))
    with hub() as server:
        reachable(server, monkeypatch)
        push_verb.main([str(adapters), "me/it"])
        assert len(exported) == 1 and "README.md" in server.files["me/it"]


@pytest.mark.parametrize(
    ("status", "told", "words"),
    [(403, "no", "403"), (404, "no", "404"), (400, "hf_secretsecret is wrong", "… is wrong")],
)
def test_what_the_hub_refuses_is_one_line(adapters, monkeypatch, status, told, words):
    with hub(refuse=(status, told)) as server:
        reachable(server, monkeypatch)
        line = refusal(lambda: palate.push(adapters, "me/it"))
        assert words in line and "hf_" not in line


def test_without_a_login_with_a_wrong_one_and_without_a_hub(adapters, monkeypatch):
    with hub(token="hf_other") as server:
        reachable(server, monkeypatch)
        line = refusal(lambda: palate.push(adapters, "me/it"))
        assert "refused (401)" in line and "hf auth login" in line and "hf_right" not in line
    assert "could not be reached" in refusal(lambda: palate.push(adapters, "me/it"))  # it has gone
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in" in refusal(lambda: palate.push(adapters, "me/it"))


@pytest.mark.parametrize("name", ["it", "me/it/more", "me/a b", "", "/it", "me/it.git"])
def test_a_name_that_the_hub_does_not_allow(adapters, name):
    assert "owner/name" in refusal(lambda: palate.push(adapters, name))


def test_nothing_is_sent_of_what_cannot_be_exported(tmp_path, monkeypatch):
    with hub() as server:
        reachable(server, monkeypatch)
        assert "not a run" in refusal(lambda: palate.push(tmp_path, "me/it"))
        assert not server.repositories
