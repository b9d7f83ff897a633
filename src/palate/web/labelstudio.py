"""Label Studio's JSON of pairwise tasks: write the human votes of a dataset, read annotations as votes.

In a task image_0 is on the left; an annotation whose choice is "left" prefers it. Label Studio's pairwise control has
no tie, so a tie is a second control with the choice "tie", and a skip is a cancelled annotation (derived; docs/votes.md
has a labelling interface that fits).

When Label Studio imports annotations, it assigns them to the person who imports, with a new id and time. But it keeps
the data of a task, and the number of each annotation as its import_id. So the voter, the time and the order shown are
stored in the task's data, under KEPT, by that number.
"""

import base64
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from palate.data.dataset import PreferenceDataset
from palate.data.schema import content_id, vote_row
from palate.errors import PalateError
from palate.files import atomic_path
from palate.reading import parse_json, read_text
from palate.web.pictures import Pictures

SIDES = {"0": "left", "1": "right"}
CHOICES = {"left": "0", "right": "1"}
KEPT = "palate_votes"  # in a task's data: number of an annotation -> its vote in the dataset
FIELDS = ("vote_id", "annotator_id", "choice", "order_shown", "seconds", "instruction_version", "created_at")
# a task asks the overall question alone: votes on other ones stay in the dataset
UNKNOWN = "unknown"  # the voter, if the file does not say who
CHANGED = "changed in Label Studio since (the vote stays as it was)"


def export_tasks(dataset: PreferenceDataset, file: str | Path, pictures: bool = False) -> dict[str, int]:
    """Write every pair of two images as a task with its human votes as annotations; returns counts.

    With `pictures` the file contains the images as data URIs. Otherwise a task has only pair_id, prompt, and the path
    of each image that is stored by path. Label Studio rejects tasks without pictures, so these are counted. The file is
    written task by task, and atomically.
    """
    votes = defaultdict(list)
    for vote in dataset.votes().to_pylist():
        if vote["source"] == "human":
            votes[vote["pair_id"]].append(vote)
    ids = set(dataset.pair_ids())
    read = Pictures(dataset, ids) if pictures else None
    tasks = annotations = lacking = 0
    with atomic_path(file) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for batch in dataset.iter_pairs(["pair_id", "prompt", "image_0", "image_1"]):
            for pair in batch.to_pylist():
                if pair["image_1"] is None and pair["image_0"] is not None:
                    continue
                tasks += 1
                annotations += len(votes[pair["pair_id"]])
                out.write("[\n" if tasks == 1 else ",\n")
                task = _task(tasks, pair, votes[pair["pair_id"]], read)
                lacking += not task["data"].keys() >= {"image_0", "image_1"}
                json.dump(task, out, ensure_ascii=False)
        out.write("\n]\n" if tasks else "[]\n")
    return {"tasks": tasks, "annotations": annotations, "without pictures": lacking}


def import_annotations(dataset: PreferenceDataset, file: str | Path) -> dict[str, Any]:
    """Add the annotations of a JSON export of Label Studio as human votes; returns counts.

    A task is identified by data.pair_id. A vote that palate exported keeps its vote_id, person, order and time, and is
    not added again. Any other annotation gets its unique_id as vote_id, so that a file may be imported twice. A
    cancelled annotation is a skip. Left out and counted: annotations that choose nothing, or both a picture and a tie,
    that are not votes, or that were changed in Label Studio; and tasks of pairs that are not in the dataset. Raises
    PalateError when the file is not such an export.
    """
    tasks = _read_tasks(Path(file))
    known, here = dataset.pair_ids(), _choices_here(dataset)
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for task in tasks:
        given = task["data"].get("pair_id")
        pair_id = str(given) if isinstance(given, str | int) else None
        for number, annotation in enumerate(_list(task.get("annotations") or task.get("completions"))):
            row, why = _read_annotation(pair_id, pair_id in known, annotation, number, task["data"])
            if row and here.setdefault(row["vote_id"], row["choice"]) != row["choice"]:
                row, why = None, CHANGED
            if row:
                rows.append(row)
            else:
                left_out[why] += 1
    done = dataset.append_votes(rows)
    unknown = sum(row["annotator_id"] == UNKNOWN for row in rows)
    return {
        "added": done.added,
        "already there": done.already_there,
        "of unknown people": unknown,
        "left out": dict(left_out),
    }


def _choices_here(dataset: PreferenceDataset) -> dict[str, str]:
    votes = dataset.votes(["vote_id", "choice"])
    return dict(zip(votes["vote_id"].to_pylist(), votes["choice"].to_pylist(), strict=True))


def _read_annotation(
    pair_id: str | None, known: bool, annotation: Any, number: int, data: dict[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """The vote of an annotation, or None and the reason."""
    if not isinstance(annotation, dict):
        return None, "that are no annotations"
    if not known:
        return None, "of pairs that are not in the dataset" if pair_id else "of tasks without pair_id"
    choices = _choices(annotation)
    if len(choices) != 1:
        return None, "with more than one choice" if choices else "without a choice"
    try:
        return vote_row(_vote(str(pair_id), choices.pop(), annotation, number, data), "annotation"), ""
    except (PalateError, UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return None, "with fields of the wrong form"


def _task(number: int, pair: dict[str, Any], votes: list[dict[str, Any]], read: Pictures | None) -> dict[str, Any]:
    data = {"pair_id": pair["pair_id"], "prompt": pair["prompt"]}
    for side in ("0", "1"):
        if pair[f"image_{side}"] is None:
            continue
        if read:
            picture, kind = read.picture(pair["pair_id"], side)
            data[f"image_{side}"] = f"data:{kind};base64,{base64.b64encode(picture).decode()}"
        elif pair[f"image_{side}"]["path"]:
            data[f"image_{side}"] = pair[f"image_{side}"]["path"]
    if votes:
        data[KEPT] = {str(n): _kept(vote) for n, vote in enumerate(votes, 1)}
    return {"id": number, "data": data, "annotations": [_annotation(n, vote) for n, vote in enumerate(votes, 1)]}


def _kept(vote: dict[str, Any]) -> dict[str, Any]:
    return {name: vote[name] for name in FIELDS} | {"created_at": vote["created_at"].isoformat()}


def _annotation(number: int, vote: dict[str, Any]) -> dict[str, Any]:
    control = {"id": vote["vote_id"][:10], "origin": "manual"}
    if vote["choice"] in SIDES:
        # Label Studio's editor expects the control's own name here, not those of the pictures
        control |= {"from_name": "preference", "to_name": "preference"}
        value = {"type": "pairwise", "value": {"selected": SIDES[vote["choice"]]}}
    else:
        value = {"type": "choices", "from_name": "tie", "to_name": "image_0", "value": {"choices": ["tie"]}}
    return {
        "id": number, "unique_id": vote["vote_id"],  # no completed_by: Label Studio rejects unknown e-mails
        "result": [] if vote["choice"] == "skip" else [control | value], "was_cancelled": vote["choice"] == "skip",
        "lead_time": vote["seconds"], "created_at": vote["created_at"].isoformat(), "ground_truth": False,
    }  # fmt: skip


def _choices(annotation: dict[str, Any]) -> set[str]:
    """What an annotation chooses: a set of 0, 1, tie, skip; empty, or with more than one, it is not a vote."""
    if annotation.get("was_cancelled"):
        return {"skip"}
    found = set()
    for result in _list(annotation.get("result")):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        if result.get("type") == "choices" and "tie" in _list(value.get("choices")):
            found.add("tie")
        if result.get("type") == "pairwise" and isinstance(side := value.get("selected"), str) and side in CHOICES:
            found.add(CHOICES[side])
    return found


def _vote(pair_id: str, choice: str, annotation: dict[str, Any], number: int, data: dict[str, Any]) -> dict[str, Any]:
    row = {
        "pair_id": pair_id, "annotator_id": _person(annotation.get("completed_by")), "source": "human",
        "order_shown": "01", "seconds": annotation.get("lead_time"), "created_at": annotation.get("created_at"),
    }  # fmt: skip
    own = annotation.get("unique_id") or content_id(
        "label studio", pair_id, row["annotator_id"], str(annotation.get("id", number))
    )
    row |= {"vote_id": str(own)} | _kept_of(annotation, data) | {"choice": choice}
    for name in ("vote_id", "annotator_id", "instruction_version"):
        value = row.get(name, "")
        if not isinstance(value, str):
            raise TypeError(name)
        value.encode()  # a lone surrogate cannot be stored
    return row


def _kept_of(annotation: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The original vote of an annotation that palate exported; empty for any other annotation."""
    kept = data.get(KEPT)
    if not isinstance(kept, dict):
        return {}
    own = annotation.get("unique_id")
    by_id = [vote for vote in kept.values() if isinstance(vote, dict) and own and vote.get("vote_id") == own]
    vote = by_id[0] if by_id else kept.get(str(annotation.get("import_id")))
    return {name: vote[name] for name in FIELDS if vote.get(name) is not None} if isinstance(vote, dict) else {}


def _person(by: Any) -> str:
    if isinstance(by, dict):
        by = by.get("email") or by.get("id")
    if isinstance(by, int) and not isinstance(by, bool):
        return f"label-studio-{by}"
    return by if isinstance(by, str) and by.strip() else UNKNOWN


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _read_tasks(file: Path) -> list[dict[str, Any]]:
    try:
        tasks = parse_json(read_text(file))
    except ValueError as error:
        raise PalateError(f"{file}: not JSON. In Label Studio choose Export, then JSON.") from error
    if isinstance(tasks, list) and tasks and all(isinstance(t, dict) and "annotation_id" in t for t in tasks):
        raise PalateError(
            f"{file}: Label Studio's JSON-MIN, which lacks skips and the ids by which a vote is known, so that votes"
            " would be counted twice. In Label Studio choose Export, then JSON."
        )
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise PalateError(f"{file}: not a list of Label Studio's tasks. In Label Studio choose Export, then JSON.")
    return tasks
