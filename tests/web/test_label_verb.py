import os
import signal
import socket
import subprocess

import pytest
from web.served import VERB, start

from palate.data.dataset import PreferenceDataset
from palate.data.store import default_store
from palate.errors import PalateError
from palate.verbs.given import names
from palate.web.serve import label, make_links


def refused(*options: str, env: dict | None = None) -> str:
    done = subprocess.run(
        [*VERB, "label", *map(str, options), "--no-browser"], capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=90
    )  # fmt: skip
    assert done.returncode == 1, done
    assert done.stderr.startswith("palate: ") and done.stderr.count("\n") == 1, done.stderr
    assert not done.stdout
    return done.stderr


def test_a_port_that_is_taken_is_one_line(unlabelled):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "something runs there already" in refused(unlabelled.path, "--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org"])
def test_another_interface_without_raters_is_refused_before_anything_is_made(unlabelled, host):
    with pytest.raises(PalateError, match="--raters ana,bo"):
        label(unlabelled.path, host=host)
    assert not (unlabelled.path / "votes.sqlite").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"raters": ("ana", "ana")}, "is there twice"),
        ({"raters": ("ana", "")}, "not a name"),
        ({"raters": ("owner",)}, "Choose another"),
        ({"raters": ("a\nb",)}, "not a name"),
        ({"repeats": 0.9}, "--repeats 0.9"),
        ({"shared": -0.1}, "--shared -0.1"),
        ({"known_share": 0.9}, "--known-share 0.9"),
        ({"known": "nowhere"}, "nowhere: no dataset here"),
        ({"select": "disagreement"}, "needs the votes of 2 judges"),
        ({"budget": -1}, "--budget -1"),
        ({"host": "203.0.113.7", "raters": ("ana",)}, "not an address of this machine"),
        ({"store": "sqlite:////proc/none/votes.sqlite"}, "cannot be opened"),
    ],
)
def test_what_cannot_be_done_is_one_line(unlabelled, options, said):
    with pytest.raises(PalateError, match=said) as told:
        label(unlabelled.path, port=0, **options)
    assert "\n" not in str(told.value)


def test_a_folder_without_a_dataset_and_pictures_that_are_gone_are_one_line(tmp_path, pair):
    with pytest.raises(PalateError, match="no dataset here"):
        label(tmp_path)
    dataset = PreferenceDataset.create(tmp_path / "gone", name="gone")
    dataset.add_pairs([pair("a", image_0={"path": "a.png"}, image_1={"path": "b.png"})])
    with pytest.raises(PalateError, match="no pictures to show"):
        label(dataset.path, port=0)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(unlabelled):
    unlabelled.path.chmod(0o500)
    try:
        with pytest.raises(PalateError, match="cannot be opened"):
            label(unlabelled.path, port=0)
    finally:
        unlabelled.path.chmod(0o700)


def test_without_the_extra_the_line_names_it(unlabelled, tmp_path):
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')")
    assert "pip install 'palate[web]'" in refused(unlabelled.path, env={"PYTHONPATH": str(tmp_path)})


def test_a_server_prints_its_links_keeps_secrets_out_of_what_follows_and_ends_in_order(unlabelled, tmp_path):
    server = start(unlabelled.path, "--port", "0", "--raters", "ana,bo", log=tmp_path / "log")
    printed = server.log.read_text()
    assert set(server.links) == {"ana", "bo", "overview"}
    assert all("/#" in server.links[name] for name in ("ana", "bo"))  # after the #: no request line ever holds it
    with server.client("ana") as client:
        assert client.get("/").status_code == 200
        client.get("/api/views")
        client.post("/api/votes", json={"vote_id": "0" * 32, "number": 0, "answer": "tie"})
        client.get(f"/?token={server.token('ana')}")
        client.get("/api/session", headers={"authorization": "Bearer wrong"})
    server.kill(signal.SIGINT)
    assert server.process.returncode == 0
    after = server.log.read_text()[len(printed) :]
    assert after.strip() == f"label: 1 of 30 pairs are answered. Next: palate votes export {unlabelled.path}"


def test_a_second_start_goes_on_with_the_same_links(unlabelled, tmp_path):
    first = start(unlabelled.path, "--port", "0", "--raters", "ana", log=tmp_path / "log")
    with first.client("ana") as client:
        views = client.get("/api/views?count=2").json()["views"]
    first.kill()
    second = start(unlabelled.path, "--port", "0", "--raters", "ana", log=tmp_path / "log")
    second.links["ana"] = f"{second.address}/#{first.token('ana')}"
    with second.client("ana") as client:
        assert client.get("/api/views?count=2").json()["views"] == views
    second.kill()


def test_links_and_names_are_read_as_written():
    assert names("ana, bo ,chen", split=True) == ("ana", "bo", "chen") and names("", split=True) == ()
    links = make_links("s" * 40, ("ana",), "https://label.example/")
    assert links.raters["ana"].startswith("https://label.example/#") and links.owner.startswith(
        "https://label.example/overview#"
    )


def test_the_store_is_in_the_dataset_or_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("PALATE_STORE", raising=False)
    assert default_store(tmp_path).database == str(tmp_path / "votes.sqlite")
    monkeypatch.setenv("PALATE_STORE", "postgresql://team/votes")
    assert default_store(tmp_path) == "postgresql://team/votes"
