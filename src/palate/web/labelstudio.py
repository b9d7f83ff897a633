"""Label Studio's JSON of pairwise tasks: write the human votes of a dataset, read annotations as votes.

In a task image_0 is on the left; an annotation whose choice is "left" prefers it. Label Studio's pairwise control knows
no tie, so a tie is a second control, the choice "tie", and a skip is a cancelled annotation (derived; a labelling
interface that fits is in docs/votes.md).
"""

import base64
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from palate.data.dataset import PreferenceDataset
from palate.data.schema import content_id
from palate.errors import PalateError
from palate.files import atomic_path
from palate.foreign import parse_json, read_text
from palate.web.pictures import Pictures

SIDES = {"0": "left", "1": "right"}
CHOICES = {"left": "0", "right": "1"}


def export_tasks(dataset: PreferenceDataset, file: str | Path, pictures: bool = False) -> dict[str, int]:
    """Write every pair of two images as a task with its human votes as annotations; returns counts.

    With `pictures` the images are in the file, as data URIs; otherwise a task says only pair_id, prompt, and the path
    of an image that is stored by one. Written a task at a time, and atomically.
    """
    votes = defaultdict(list)
    for vote in dataset.votes().to_pylist():
        if vote["source"] == "human":
            votes[vote["pair_id"]].append(vote)
    ids = set(dataset.pair_ids())
    read = Pictures(dataset, ids) if pictures else None
    tasks = annotations = 0
    with atomic_path(file) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for batch in dataset.iter_pairs(["pair_id", "prompt", "image_0", "image_1"]):
            for pair in batch.to_pylist():
                if pair["image_1"] is None:
                    continue
                tasks += 1
                annotations += len(votes[pair["pair_id"]])
                out.write("[\n" if tasks == 1 else ",\n")
                json.dump(_task(tasks, pair, votes[pair["pair_id"]], read), out, ensure_ascii=False)
        out.write("\n]\n" if tasks else "[]\n")
    return {"tasks": tasks, "annotations": annotations}


def import_annotations(dataset: PreferenceDataset, file: str | Path) -> dict[str, Any]:
    """Add the annotations of a JSON export of Label Studio as human votes; returns counts.

    A task is known by data.pair_id. The vote_id is the annotation's unique_id, so that votes which came from here, and
    files that are imported twice, add nothing. A cancelled annotation is a skip. Left out and counted: annotations
    without a pairwise choice or a tie, and tasks of pairs that are not here. Raises PalateError when the file is not
    such an export.
    """
    tasks = _read_tasks(Path(file))
    known, rows, left_out = dataset.pair_ids(), [], Counter()
    for task in tasks:
        pair_id = task["data"].get("pair_id")
        for number, annotation in enumerate(task.get("annotations") or task.get("completions") or []):
            choice = _choice(annotation)
            if pair_id not in known:
                left_out["of pairs that are not in the dataset" if pair_id else "of tasks without pair_id"] += 1
            elif choice is None:
                left_out["without a choice"] += 1
            else:
                rows.append(_vote(pair_id, choice, annotation, number))
    done = dataset.append_votes(rows)
    return {"added": done.added, "already there": done.already_there, "left out": dict(left_out)}


def _task(number: int, pair: dict[str, Any], votes: list[dict[str, Any]], read: Pictures | None) -> dict[str, Any]:
    data = {"pair_id": pair["pair_id"], "prompt": pair["prompt"]}
    for side in ("0", "1"):
        if read:
            picture, kind = read.picture(pair["pair_id"], side)
            data[f"image_{side}"] = f"data:{kind};base64,{base64.b64encode(picture).decode()}"
        elif pair[f"image_{side}"]["path"]:
            data[f"image_{side}"] = pair[f"image_{side}"]["path"]
    return {"id": number, "data": data, "annotations": [_annotation(n, vote) for n, vote in enumerate(votes, 1)]}


def _annotation(number: int, vote: dict[str, Any]) -> dict[str, Any]:
    control = {"id": vote["vote_id"][:10], "to_name": "image_0,image_1", "origin": "manual"}
    if vote["choice"] in SIDES:
        value = {"type": "pairwise", "from_name": "preference", "value": {"selected": SIDES[vote["choice"]]}}
    else:
        value = {"type": "choices", "from_name": "tie", "to_name": "image_0", "value": {"choices": ["tie"]}}
    return {
        "id": number, "unique_id": vote["vote_id"], "completed_by": {"email": vote["annotator_id"]},
        "result": [] if vote["choice"] == "skip" else [control | value], "was_cancelled": vote["choice"] == "skip",
        "lead_time": vote["seconds"], "created_at": vote["created_at"].isoformat(),
        "meta": {"order_shown": vote["order_shown"], "instruction_version": vote["instruction_version"]},
    }  # fmt: skip


def _choice(annotation: dict[str, Any]) -> str | None:
    if annotation.get("was_cancelled"):
        return "skip"
    found = {result.get("type"): result.get("value") or {} for result in annotation.get("result") or []}
    if "tie" in (found.get("choices", {}).get("choices") or []):
        return "tie"
    return CHOICES.get(found.get("pairwise", {}).get("selected"))


def _vote(pair_id: str, choice: str, annotation: dict[str, Any], number: int) -> dict[str, Any]:
    by = annotation.get("completed_by")
    by = by.get("email") or by.get("id") if isinstance(by, dict) else by
    who = f"label-studio-{by}" if isinstance(by, int) or by is None else str(by)
    own = annotation.get("unique_id") or content_id("label studio", pair_id, who, str(annotation.get("id", number)))
    meta = annotation.get("meta") or {}
    return {
        "vote_id": str(own), "pair_id": pair_id, "annotator_id": who, "source": "human", "choice": choice,
        "order_shown": meta.get("order_shown") or "01", "instruction_version": meta.get("instruction_version"),
        "seconds": annotation.get("lead_time"), "created_at": annotation.get("created_at"),
    }  # fmt: skip


def _read_tasks(file: Path) -> list[dict[str, Any]]:
    try:
        tasks = parse_json(read_text(file))
    except ValueError as error:
        raise PalateError(f"{file}: not JSON. In Label Studio choose Export, then JSON.") from error
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise PalateError(f"{file}: not a list of Label Studio's tasks. In Label Studio choose Export, then JSON.")
    return tasks
