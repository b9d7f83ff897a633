"""The verbs that read or write datasets, samples and runs, as work for `kills`: (given, dataset, folder) -> it is filled.

`given` holds what `prepare` made; each work copies its part of it into `folder` first, where that is not there yet.
"""

import json
import os
import re
import shutil
import uuid
from pathlib import Path

import pyarrow.parquet as pq
from kills import contents

import palate
from palate.audits.findings import audit
from palate.audits.page import write_page
from palate.command import said_as
from palate.data import importing
from palate.data.dataset import open_dataset
from palate.data.images import encode_image
from palate.data.store import default_store, fix_votes, open_store, plan_rows
from palate.judges.annotate import annotate
from palate.web.export import export_votes
from palate.web.labelstudio import export_tasks

RUN = {"train_batch_size": 2, "max_train_steps": 1, "lora": {"rank": 4}}


def prepare(pipeline: Path, given: Path) -> None:
    """A source to import, a dataset with live votes and one without, tasks of Label Studio, and a run with samples."""
    import numpy as np
    from PIL import Image
    from tiny import make_labelled_dataset
    from web.served import People

    given.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(24):
        for k in (0, 1):
            picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
            (given / f"{i}-{k}.png").write_bytes(encode_image(picture)["bytes"])
        lines.append({"prompt": f"p{i}", "image_0": f"{i}-0.png", "image_1": f"{i}-1.png", "choice": i % 2})
    (given / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))

    dataset = make_labelled_dataset(given / "prefs", pairs=24, labelled=12)
    people = People(dataset)
    client = people.client()
    for view in client.get("/api/views?count=6").json()["views"][:6]:
        vote = {"vote_id": uuid.uuid4().hex, "number": view["number"], "answer": "left", "seconds": 1.0}
        assert client.post("/api/votes", json=vote).status_code == 200
    people.engine.dispose()
    make_labelled_dataset(given / "unvoted", pairs=24, labelled=0)
    export_tasks(dataset, given / "tasks.json")
    palate.train({
        "pretrained_model_name_or_path": str(pipeline), "dataset": str(dataset.path), "output_dir": str(given / "run"), **RUN,
    })  # fmt: skip
    prompts = ["a red circle", "a blue square", "a cat", "a dog"]
    setting = palate.Sampling(steps=1, repetitions=2)
    palate.sample(given / "run", prompts, given / "run" / "samples", setting)
    palate.sample(pipeline, prompts, given / "run" / "base-samples", setting)


OWN = r"written by palate report \w+|\d{4}-\d\d-\d\d \d\d:\d\d UTC"  # of every text: its mark, and when it was made


def copied(part: Path, folder: Path) -> Path:
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        half = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
        shutil.copytree(part, half)
        half.rename(folder)
    return folder


def imports(given: Path, dataset: Path, folder: Path) -> None:
    """In shards of four pairs."""
    importing.ROWS_AT_ONCE, importing.ROWS_PER_SHARD = 2, 4
    importing.import_pairs("jsonl", [given / "lines.jsonl"], folder)


def annotates(given: Path, dataset: Path, folder: Path) -> None:
    annotate(open_dataset(copied(given / "prefs", folder)), "brightness", batch_size=2)


def exports_votes(given: Path, dataset: Path, folder: Path) -> None:
    there = copied(given / "prefs", folder)
    export_votes(open_store(default_store(there)), open_dataset(there))


def scores_samples(given: Path, dataset: Path, folder: Path) -> None:
    palate.score([copied(given / "run", folder)], ["brightness", "contrast"], batch_size=1)


def reports(given: Path, dataset: Path, folder: Path) -> None:
    """Compares, scores what is missing for that, and writes the page and the card."""
    run = copied(given / "run", folder / "run")  # pages call a run by the name of its folder
    palate.score([run], ["brightness"])
    with said_as("palate report"):
        palate.report([run], scorer="brightness", card=True)


def audits(given: Path, dataset: Path, folder: Path) -> None:
    there = open_dataset(copied(given / "prefs", folder))
    with said_as("palate audit"):
        write_page(audit(there), there, folder / "audit.html")


def exports(given: Path, dataset: Path, folder: Path) -> None:
    """Two formats; one that is there already was finished before."""
    copied(given / "run", folder)
    for name, place in (("comfyui", "a.safetensors"), ("fused", "fused")):
        if not (folder / place).exists():
            palate.export(folder, name, folder / place)


def compares(given: Path, dataset: Path, folder: Path) -> None:
    """Scores what is missing, and writes the comparison into the run."""
    run = copied(given / "run", folder / "run")
    palate.score([run], ["brightness"])
    with said_as("palate compare"):
        palate.compare(run, scorer="brightness", out=folder / "compare.json")


def pushes(given: Path, dataset: Path, folder: Path) -> None:
    """To the small hub whose address `given` tells; each folder is a repository of its own."""
    import huggingface_hub.constants as constants

    constants.ENDPOINT, constants.HF_HUB_DISABLE_XET = (given / "hub").read_text(), True
    os.environ["HF_TOKEN"] = "hf_right"
    run = copied(given / "run", folder / "run")
    with said_as("palate push"):
        (folder / "told").write_text(palate.push(run, f"me/{folder.name}").replace(folder.name, "NAME"))


def labels(given: Path, dataset: Path, folder: Path) -> None:
    """The plan of a page is made, and one person votes until 10 views are answered; a vote is sent again where no answer
    came."""
    from web.served import People

    people = People(open_dataset(copied(given / "unvoted", folder)), shared=0.5, repeats=0.2)
    client = people.client()
    while True:
        view = client.get("/api/views?count=1").json()["views"][0]
        if view["number"] >= 10:
            break
        vote = {"vote_id": f"{view['number']:032x}", "number": view["number"], "seconds": 1.0}
        answer = ("left", "right", "tie", "skip")[view["number"] % 4]
        assert client.post("/api/votes", json=vote | {"answer": answer}).status_code == 200
    people.engine.dispose()


def tells(given: Path, dataset: Path, folder: Path) -> None:
    """`info` says what a dataset holds, and leaves it as it is."""
    (folder.parent / f"{folder.name}.txt").write_text(repr(palate.info(copied(given / "prefs", folder))))


def shows(given: Path, dataset: Path, folder: Path) -> None:
    """The whole way in the small world, as short as it can be."""
    from palate.demos.demo import Scale, demo

    with said_as("palate demo"):
        demo(folder / "demo", quick=True, scale=Scale(pairs=128, steps=2, repetitions=1))


def reads_label_studio(given: Path, dataset: Path, folder: Path) -> None:
    from palate.web.labelstudio import import_annotations

    import_annotations(open_dataset(copied(given / "unvoted", folder)), given / "tasks.json")


# --- what is compared: name -> bytes ---


def of_dataset(folder: Path) -> dict[str, bytes]:
    """Pairs with their pictures, votes without the moment at which they were written, propensities, provenance."""
    dataset = open_dataset(folder)
    assert dataset.problems() == []
    found = {"provenance": json.dumps(dataset.provenance).encode()}
    for batch in dataset.iter_pairs():
        found |= {f"pair {row['pair_id']}": repr(sorted(row.items())).encode() for row in batch.to_pylist()}
    for vote in dataset.votes().to_pylist():
        own = {name: value for name, value in vote.items() if name not in ("created_at", "vote_id")}
        found[f"vote {vote['pair_id']} {vote['annotator_id']} {vote['order_shown']}"] = repr(own).encode()
    return found


def of_scores(folder: Path) -> dict[str, bytes]:
    rows = [row for place in sorted(folder.rglob("scores.parquet")) for row in pq.read_table(place).to_pylist()]
    return {f"{i} {row['scorer']}": repr(row).encode() for i, row in enumerate(sorted(rows, key=repr))}


def of_page(folder: Path) -> dict[str, bytes]:
    """Scores, the page and the card, which name the folder."""
    return of_scores(folder) | _texts(folder / "run", "report.html", "model/README.md")


def of_audit(folder: Path) -> dict[str, bytes]:
    return of_dataset(folder) | _texts(folder, "audit.html")


def _texts(folder: Path, *names: str) -> dict[str, bytes]:
    """Texts without the folder's place, the time, and the mark by which a card knows that nobody edited it."""
    texts = {name: (folder / name).read_text().replace(str(folder), "FOLDER") for name in names}
    return {name: re.sub(OWN, "", text).encode() for name, text in texts.items()}


def of_comparison(folder: Path) -> dict[str, bytes]:
    told = json.loads((folder / "compare.json").read_text().replace(str(folder), "FOLDER"))
    told = {name: value for name, value in told.items() if name not in ("created_at", "folder")}
    return of_scores(folder) | {name: repr(value).encode() for name, value in told.items()}


def of_hub(folder: Path) -> dict[str, bytes]:
    """What the hub has, and what was sent."""
    sent = contents(folder / "run" / "exports" / "diffusers", (folder / "run" / "exports" / "diffusers").rglob("*"))
    there = HUBS[-1].files[f"me/{folder.name}"]
    found = {f"hub {name}": data for name, data in there.items()} | sent
    found = {
        name: re.sub(OWN.encode() + b"|in the folder " + folder.name.encode(), b"", data)
        for name, data in found.items()
    }
    return found | {"told": (folder / "told").read_bytes()}


def of_votes(folder: Path) -> dict[str, bytes]:
    """The live store: every vote but the moment at which it came, and the plan."""
    engine = open_store(default_store(folder))
    votes, plan = fix_votes(engine), plan_rows(engine)
    engine.dispose()
    found = {}
    for vote in votes:
        own = {name: value for name, value in vote.items() if name != "created_at"}
        found[f"vote {vote['vote_id']}"] = repr(sorted(own.items())).encode()
    assert len(found) == len(votes) == 10
    return found | {f"plan {i}": repr(sorted(row.items())).encode() for i, row in enumerate(plan)}


def of_info(folder: Path) -> dict[str, bytes]:
    return of_dataset(folder) | {
        "info": (folder.parent / f"{folder.name}.txt").read_bytes().replace(str(folder).encode(), b"")
    }


def of_demo(folder: Path) -> dict[str, bytes]:
    models = contents(folder, (folder / "demo").glob("**/model/*.safetensors"))
    return models | contents(folder, (folder / "demo").rglob("*.png")) | of_scores(folder)


HUBS: list = []  # the hub that takes what is pushed, in the process of the test


def of_exports(folder: Path) -> dict[str, bytes]:
    return contents(folder, folder.rglob("*.safetensors"))


VERBS = {
    "import": (imports, of_dataset),
    "annotate": (annotates, of_dataset),
    "votes export": (exports_votes, of_dataset),
    "score": (scores_samples, of_scores),
    "report": (reports, of_page),
    "audit": (audits, of_audit),
    "export": (exports, of_exports),
    "compare": (compares, of_comparison),
    "push": (pushes, of_hub),
    "label": (labels, of_votes),
    "info": (tells, of_info),
    "votes import": (reads_label_studio, of_dataset),
    "demo": (shows, of_demo),
}
ELSEWHERE = ("train", "encode", "sample")  # in test_kills.py, thirty times each
NOTHING = ("methods",)  # reads and writes no file of a user
