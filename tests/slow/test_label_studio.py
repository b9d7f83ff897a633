"""A real Label Studio on loopback: it takes what is exported here, people edit it there, and it comes back as it was.

Its program is looked for at PALATE_LABEL_STUDIO, or as label-studio on PATH: `pip install label-studio`, into an
environment of its own.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import picture_bytes

from palate.data.dataset import PreferenceDataset, open_dataset
from palate.web.labelstudio import CHANGED, export_tasks, import_annotations

pytestmark = pytest.mark.slow
httpx = pytest.importorskip("httpx2")
PROGRAM = os.environ.get("PALATE_LABEL_STUDIO") or shutil.which("label-studio")
INTERFACE = (Path(__file__).resolve().parents[2] / "docs" / "votes.md").read_text().split("```xml\n")[1].split("```")[0]
WHO = {"email": "owner@example.org", "password": "a-long-password-1"}
STARTS_WITHIN = 1200  # seconds: its first start makes a database in some hundred steps


class Studio:
    """A session of its owner."""

    def __init__(self, address: str):
        self.http = httpx.Client(base_url=address, timeout=120)
        form = self.http.get("/user/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)[1]
        self.http.headers["referer"] = f"{address}/user/login/"
        self.http.post("/user/login/", data=WHO | {"csrfmiddlewaretoken": token}, follow_redirects=True)

    def call(self, method: str, path: str, body=None, status: int = 200):
        csrf = {"x-csrftoken": self.http.cookies.get("csrftoken", "")}
        answer = self.http.request(method, path, json=body, headers=csrf)
        assert answer.status_code == status, answer.text[:2000]
        return answer.json() if answer.content else None

    def project(self) -> int:
        return self.call("POST", "/api/projects", {"title": "palate", "label_config": INTERFACE}, 201)["id"]

    def fill(self, project: int, file: Path, status: int = 201):
        """Import a file as the page does: uploaded, not quoted."""
        csrf = {"x-csrftoken": self.http.cookies.get("csrftoken", "")}
        with open(file, "rb") as opened:
            answer = self.http.post(
                f"/api/projects/{project}/import",
                files={"tasks.json": ("tasks.json", opened, "application/json")},
                headers=csrf,
            )
        assert answer.status_code == status, answer.text[:2000]
        return answer.json()

    def export(self, project: int, to: Path) -> Path:
        answer = self.http.get(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
        assert answer.status_code == 200, answer.text[:2000]
        to.write_bytes(answer.content)
        return to

    def tasks(self, project: int) -> dict[str, dict]:
        listed = self.call("GET", f"/api/tasks?project={project}&page_size=100&fields=all")["tasks"]
        full = [self.call("GET", f"/api/tasks/{task['id']}") for task in listed]
        return {task["data"]["pair_id"]: task for task in full}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    if not PROGRAM or not Path(PROGRAM).exists():
        pytest.skip("label-studio is not installed (PALATE_LABEL_STUDIO, or on PATH)")
    from web.served import free_port

    folder, port = tmp_path_factory.mktemp("studio"), free_port()
    quiet = {name: "false" for name in ("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK")} | {
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DJANGO_SETTINGS_MODULE")}
    command = [
        PROGRAM,
        "start",
        "--no-browser",
        "--internal-host",
        "127.0.0.1",
        "--port",
        str(port),
        "--data-dir",
        str(folder),
    ]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--username", WHO["email"], "--password", WHO["password"]], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            env=clean | quiet | {"HOME": str(folder)}, start_new_session=True,
        )  # fmt: skip
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + STARTS_WITHIN
    try:
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            try:
                if httpx.get(f"{address}/health", timeout=10).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(1)
        yield Studio(address)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def labelled(tmp_path) -> PreferenceDataset:
    """Nine pairs: six with votes of all kinds, of two people, in both orders."""
    rng = np.random.default_rng(0)
    dataset = PreferenceDataset.create(tmp_path / "prefs", name="tests")
    dataset.add_pairs(
        {
            "pair_id": f"p{i}",
            "prompt": f"prompt {i} 教室",
            **{f"image_{k}": {"bytes": picture_bytes(rng, 64, 64)} for k in (0, 1)},
        }
        for i in range(9)
    )
    shutil.copytree(dataset.path, tmp_path / "copy")
    choices = ["0", "1", "tie", "skip", "0", "1"]
    dataset.append_votes(
        {
            "vote_id": f"vote-{who}-{i}", "pair_id": f"p{i}", "annotator_id": who, "source": "human", "choice": choice,
            "order_shown": ("01", "10")[i % 2], "seconds": 1.25 + i, "instruction_version": "abc", "created_at": f"2025-03-0{i + 1}T01:02:03.456Z",
        }
        for i, choice in enumerate(choices) for who in (("ana", "bo@example.org") if i < 2 else ("ana",))
    )  # fmt: skip
    return dataset


def by_id(dataset: PreferenceDataset) -> dict[str, dict]:
    return {vote["vote_id"]: vote for vote in open_dataset(dataset.path).votes().to_pylist()}


def test_votes_survive_label_studio_and_what_is_done_there_comes_back(studio, labelled, tmp_path):
    file = tmp_path / "tasks.json"
    assert export_tasks(labelled, file, pictures=True) == {"tasks": 9, "annotations": 8, "without pictures": 0}
    project = studio.project()
    taken = studio.fill(project, file)
    assert (taken["task_count"], taken["annotation_count"]) == (9, 8)

    # what its editor is given: the pictures, and each choice under the names of the interface
    tasks = studio.tasks(project)
    assert set(tasks) == {f"p{i}" for i in range(9)}
    for i, expected in enumerate([{"selected": "left"}, {"selected": "right"}, {"choices": ["tie"]}]):
        task = tasks[f"p{i}"]
        assert (
            task["data"]["image_0"].startswith("data:image/jpeg;base64,")
            and task["data"]["prompt"] == f"prompt {i} 教室"
        )
        assert [result["value"] for annotation in task["annotations"] for result in annotation["result"]] == [
            expected
        ] * (2 if i < 2 else 1)
        for result in task["annotations"][0]["result"]:
            assert f'name="{result["from_name"]}"' in INTERFACE
            # as its editor writes them: one whose to_name names the pictures is not shown, and lost at the next edit
            assert result["to_name"] == ("preference" if result["type"] == "pairwise" else "image_0")

    # untouched: nothing is doubled here, and a dataset without the votes gets all of them as they were
    back, copy = studio.export(project, tmp_path / "back.json"), open_dataset(tmp_path / "copy")
    done = import_annotations(open_dataset(labelled.path), back)
    assert (done["added"], done["already there"], done["left out"]) == (0, 8, {})
    assert import_annotations(copy, back)["added"] == 8
    assert by_id(copy) == by_id(labelled)

    # edited and made there
    edited = tasks["p0"]["annotations"][0]
    other = [edited["result"][0] | {"value": {"selected": "right"}, "id": "itsown"}]  # its editor makes another id
    studio.call("PATCH", f"/api/annotations/{edited['id']}/", {"result": other})
    fresh = {
        "type": "pairwise",
        "from_name": "preference",
        "to_name": "image_0,image_1",
        "value": {"selected": "left"},
        "id": "new",
    }
    studio.call("POST", f"/api/tasks/{tasks['p7']['id']}/annotations/", {"result": [fresh], "lead_time": 4.5}, 201)
    tie = fresh | {
        "type": "choices",
        "from_name": "tie",
        "to_name": "image_0",
        "value": {"choices": ["tie"]},
        "id": "tie",
    }
    studio.call("POST", f"/api/tasks/{tasks['p8']['id']}/annotations/", {"result": [fresh, tie]}, 201)
    back = studio.export(project, tmp_path / "again.json")
    before = by_id(labelled)
    done = import_annotations(open_dataset(labelled.path), back)
    assert (done["added"], done["already there"]) == (1, 7)
    assert done["left out"] == {CHANGED: 1, "with more than one choice": 1}
    (new,) = (vote for name, vote in by_id(labelled).items() if name not in before)
    assert (new["pair_id"], new["choice"], new["seconds"], new["order_shown"]) == ("p7", "0", 4.5, "01")
    assert new["annotator_id"].startswith("label-studio-") or new["annotator_id"] == WHO["email"]
    assert import_annotations(open_dataset(labelled.path), back)["added"] == 0
    assert open_dataset(labelled.path).problems() == []


def test_tasks_without_pictures_are_refused_there_as_the_export_says(studio, labelled, tmp_path):
    file = tmp_path / "tasks.json"
    assert export_tasks(labelled, file)["without pictures"] == 9
    assert "image_0" in str(studio.fill(studio.project(), file, 400))
