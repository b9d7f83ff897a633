"""What the golden numbers are of: every item is a few commands of palate, and what is read from the files they write."""

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
import yaml
from PIL import Image
from safetensors import safe_open

Record = dict[str, Any]
Palate = Callable[..., str]
UNTOLD = ("command", "version", "versions", "created_at", "path", "model_path", "weights", "palate", "suite_path")
SAMPLING = ("--prompts", "world", "--limit", "10", "--repetitions", "2", "--steps", "4", "--guidance", "2")


class Failed(Exception):
    """A command ended with another exit code than 0."""


@dataclass(frozen=True)
class Item:
    measure: Callable[[Palate], Record]
    needs: tuple[str, ...] = ()
    """Items that make what this one reads."""


# Reading


def digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:16]


def tensors(folder: Path, pattern: str = "**/*.safetensors") -> Record:
    """How many tensors there are in these files and a hash of their contents, whatever their names and order."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                tensor = file.get_tensor(name)
                told = f"{tensor.dtype} {list(tensor.shape)} ".encode()
                raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                found.append(hashlib.sha256(told + raw).digest())
    return {"tensors": len(found), "hash": digest(sorted(found))}


def pictures(folder: Path) -> Record:
    """A hash of the pixels of all pictures of a folder, in the order of their names."""
    paths = sorted(folder.glob("*.png"))
    return {"pictures": len(paths), "hash": digest(np.asarray(Image.open(path)).tobytes() for path in paths)}


def table(path: Path, without: tuple[str, ...] = ()) -> list[Record]:
    """The rows of a parquet file, or of all those of a folder, without some columns; pictures as hashes of their bytes."""
    rows = []
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        rows += parquet.ParquetFile(file).read(use_threads=False).to_pylist()
    told = [{key: picture(value) for key, value in row.items() if key not in without} for row in rows]
    return sorted(told, key=lambda row: json.dumps(row, default=str))


def picture(value: Any) -> Any:
    if not isinstance(value, dict) or set(value) != {"bytes", "path"}:
        return value
    return digest([value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()])


def rows_hash(rows: list[Record]) -> Record:
    return {"rows": len(rows), "hash": digest(json.dumps(row, default=str).encode() for row in rows)}


def dataset(folder: str) -> Record:
    """Pairs with the bytes of their pictures, and votes; not when and under which id a vote was cast."""
    votes = table(Path(folder) / "votes", ("vote_id", "created_at", "seconds", "instruction_version"))
    return {"pairs": rows_hash(table(Path(folder) / "pairs")), "votes": rows_hash(votes)}


def numbers(value: Any) -> Any:
    """Plain data without what differs between places and versions. Of a sentence the numbers in it, of a word the word."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items() if key not in UNTOLD}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return said(value) if isinstance(value, str) and " " in value.strip() else value


def said(text: str) -> list[str]:
    """The numbers in a text, as they are written, without dates and times of day."""
    text = re.sub(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?", " ", text)
    return re.findall(r"(?<![\w.])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", text)


def page(path: Path) -> Record:
    """The numbers that a page of html shows, the pictures in it, and the lines of its figures."""
    text = path.read_text(encoding="utf-8")
    images = re.findall(r"data:image/[\w+]+;base64,([A-Za-z0-9+/=]+)", text)
    lines = re.findall(r'\s(?:d|points)="([^"]*)"', text)
    shown = re.sub(r"<(script|style)\b.*?</\1>|<pre\b.*?</pre>", " ", text, flags=re.DOTALL)
    shown = html.unescape(re.sub(r"<[^>]*>", " ", shown))
    return {
        "numbers": said(shown),
        "pictures": {"count": len(images), "hash": digest(sorted(image.encode() for image in images))},
        "lines": {"count": len(lines), "hash": digest(line.encode() for line in lines)},
    }


def run(folder: Path) -> Record:
    """A run: every number of its metrics but times, its labels, what was trained and what it wrote beside."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = re.compile(r"seconds|time$|per_second|memory|_at$")
    names = sorted({name for step in steps for name in step if not timed.search(name)})
    made: Record = {
        "metrics": {name: [step.get(name) for step in steps] for name in names},
        "labels": numbers(json.loads((folder / "labels.json").read_text())),
        "model": tensors(folder / "model"),
    }
    for path in sorted(folder.glob("*.parquet")) + sorted(folder.glob("self-judge/votes.parquet")):
        made[path.name] = rows_hash(table(path, ("created_at",)))
    if (folder / "spikes.jsonl").exists():
        made["spikes"] = [numbers(json.loads(line)) for line in (folder / "spikes.jsonl").read_text().splitlines()]
    for pattern in ("reference-samples.safetensors", "steps/*.safetensors"):
        if any(folder.glob(pattern)):
            made[pattern] = tensors(folder, pattern)
    return made


# The items


def imported(palate: Palate) -> Record:
    palate("import", "world", "--pairs", "24", "--voters", "majority", "hesitant", "biased-judge", "poor-judge", "--to", "data")  # fmt: skip
    return dataset("data")


def voted(palate: Palate) -> Record:
    """Simulated people on the live store, a judge with its calibration; the propensities of what was drawn."""
    palate("import", "world", "--pairs", "12", "--to", "voted")
    palate("label", "voted", "--port", "0", "--no-browser", until="http")
    palate("votes", "simulate", "voted", "--voter", "majority")
    palate("votes", "export", "voted")
    palate("annotate", "voted", "--judge", "brightness", "--temperature", "0.1")
    calibrated = table(Path("voted/judges/brightness/calibrated.parquet"), ("created_at", "vote_id"))
    return dataset("voted") | {"calibrated": rows_hash(calibrated)}


def own_votes(palate: Palate) -> Record:
    """A trained run as a judge."""
    palate("import", "world", "--pairs", "8", "--to", "judged")
    palate("annotate", "judged", "--judge", "self:runs/lora", "--set", "draws=2", "--set", "in_sample=true")
    return {"votes": table(Path("judged/votes"), ("vote_id", "created_at", "instruction_version"))}


def others(palate: Palate) -> Record:
    """Ranked lists and single images, imported from pictures that the small model draws."""
    palate("sample", "world", "--to", "drawn", "--prompts", "world", "--limit", "4", "--repetitions", "4", "--steps", "4", "--guidance", "2")  # fmt: skip
    prompts = json.loads(Path("drawn/samples.json").read_text())["prompts"][::4]
    names = sorted(path.name for path in Path("drawn").glob("*.png"))
    groups = [names[i : i + 4] for i in range(0, len(names), 4)]
    ranks = ([1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 2, 4], [2, 1, 4, 3])
    lists = [
        {"prompt": prompt, "image_path": group, "rank": rank}
        for prompt, group, rank in zip(prompts, groups, ranks, strict=True)
    ]
    pairs = [
        {"prompt": prompt, "image_0": group[a], "image_1": group[b], "annotator_id": "ana", "group_id": prompt}
        | {"choice": "tie" if rank[a] == rank[b] else int(rank[a] > rank[b])}
        for prompt, group, rank in zip(prompts, groups, ranks, strict=True)
        for a, b in combinations(range(4), 2)
    ]  # the same lists with their pictures inside: a list that is known by paths would be another one in another folder
    singles = [
        {"prompt": prompt, "image": name, "annotator_id": "ana", "label": index % 3 == 0}
        for prompt, group in zip(prompts, groups, strict=True)
        for index, name in enumerate(group)
    ]
    Path("drawn/lists.json").write_text(json.dumps(lists))
    for name, rows in (("pairs", pairs), ("singles", singles)):
        Path(f"drawn/{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    palate("import", "rankings", "drawn/lists.json", "--to", "by-path")
    palate("import", "jsonl", "drawn/pairs.jsonl", "--to", "ranked")
    palate("import", "jsonl", "drawn/singles.jsonl", "--to", "singles")
    return {"drawn": pictures(Path("drawn"))} | {name: dataset(name) for name in ("by-path", "ranked", "singles")}


def encoded(palate: Palate) -> Record:
    write_config("encode", {"reference_draws": 2, "lora": {"rank": 4}})
    palate("encode", "encode.yaml", "--reference-draws", "2")
    return tensors(Path("data/cache"))


def write_config(name: str, keys: Record) -> None:
    values = {"pretrained_model_name_or_path": "world", "dataset": "data", "output_dir": f"runs/{name}", "report_to": "none", "train_batch_size": 4}  # fmt: skip
    values |= {"max_train_steps": 4, "learning_rate": 1.0e-3 if keys.get("lora") else 1.0e-4}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(values | keys))


def training(name: str, keys: Record, *needs: str) -> Item:
    def measure(palate: Palate) -> Record:
        write_config(name, keys)
        palate("train", f"{name}.yaml", fresh=keys.get("processes", 1) > 1)
        return run(Path("runs") / name)

    return Item(measure, ("data", *needs))


def resumed(palate: Palate) -> Record:
    write_config("resumed", {"lora": {"rank": 4}, "checkpointing_steps": 1, "optimizer": "adafactor"})
    palate("train", "resumed.yaml", "--max-train-steps", "2")
    palate("train", "resumed.yaml")
    return run(Path("runs/resumed"))


def shared(palate: Palate) -> Record:
    """Two runs that share the reference's errors: the second one finds those that the first one left."""
    write_config("shared", {"share_reference": True, "safeguard": 0.9})
    palate("train", "shared.yaml")
    palate("train", "shared.yaml", "--output-dir", "runs/shared-again", "--beta", "2000")
    return {"first": run(Path("runs/shared")), "second": run(Path("runs/shared-again"))}


def sampled(name: str, *options: str) -> Item:
    def measure(palate: Palate) -> Record:
        palate("sample", f"runs/{name}", *SAMPLING, *options)
        return {
            part: pictures(Path("runs") / name / part)
            for part in ("samples", "base-samples")[: 1 + ("--base" in options)]
        }

    return Item(measure, (name,))


def negative(palate: Palate) -> Record:
    palate("sample", "runs/lora", *SAMPLING, "--to", "negative", "--negative", "runs/npo", "--negative-mix", "0.5", "--sampler", "ddim")  # fmt: skip
    return pictures(Path("negative"))


def scored(palate: Palate) -> Record:
    scores = json.loads(palate("score", "runs/lora", "runs/full", "--scorer", "world", "--scorer", "diversity", "--scorer", "drift", "--json"))  # fmt: skip
    rows = table(Path("runs/lora/samples/scores.parquet"), ("version", "content"))
    return {"means": numbers(scores), "scores": rows_hash(rows)}


def compared(palate: Palate) -> Record:
    """Two models with their base, and one against the other by votes of people with a judge's help."""
    palate("compare", "runs/lora", "runs/full", "--out", "compare.json")
    palate("import", "samples", "runs/lora", "runs/full", "--to", "contest")
    palate("label", "contest", "--port", "0", "--no-browser", "--budget", "12", until="http")
    palate("votes", "simulate", "contest", "--voter", "majority")
    palate("votes", "export", "contest")
    palate("annotate", "contest", "--judge", "brightness", "--temperature", "0.1")
    palate("compare", "runs/lora", "--against", "runs/full", "--votes", "contest", "--judge", "brightness", "--out", "votes.json")  # fmt: skip
    return {name: numbers(json.loads(Path(f"{name}.json").read_text())) for name in ("compare", "votes")}


def audited(palate: Palate) -> Record:
    found: Record = {}
    for name, options in (("all", ()), ("some", ("--human-annotators", "majority", "--human-votes", "16"))):
        told = palate("audit", "data", *options, "--json", "--out", f"{name}.html", "--config", f"{name}-votes.yaml")
        found[name] = {
            "tables": numbers(json.loads(told)),
            "page": page(Path(f"{name}.html")),
            "config": yaml.safe_load(Path(f"{name}-votes.yaml").read_text()),
        }
    return found


def reported(palate: Palate) -> Record:
    palate("report", "runs/lora", "runs/full", "--out", "report.html", "--card", "--pictures", "4")
    card = re.sub(r"```.*?```|<!--.*?-->", " ", Path("runs/lora/model/README.md").read_text(), flags=re.DOTALL)
    return {"page": page(Path("report.html")), "card": said(card)}


def exported(palate: Palate) -> Record:
    made: Record = {}
    for name in ("lora-alpha", "full"):
        for format in ("diffusers", "kohya", "comfyui", "fused", "single-file"):
            if name == "full" and format in ("kohya", "comfyui"):
                continue  # formats of adapters
            palate("export", f"runs/{name}", "--format", format, *(("--dtype", "fp16") if format == "kohya" else ()))
            made[f"{name} {format}"] = tensors(Path(f"runs/{name}/exports/{format}"))
    palate("export", "runs/lora-alpha", "--format", "fused", "--whole-pipeline", "--to", "aligned")
    return made | {"whole pipeline": tensors(Path("aligned"))}


LORA: Record = {"lora": {"rank": 4}}
JUDGED: Record = LORA | {"judge": "biased-judge", "human_votes": 16, "human_annotators": ["majority"]}
BOTH: Record = JUDGED | {"judge": ["biased-judge", "poor-judge"]}
INVERTED: Record = LORA | {"inversion_steps": 2, "max_train_steps": 2}
SAMPLED: Record = LORA | {"sampling_steps": 4, "sampling_guidance": 2.0, "max_train_steps": 2}
STEPS: Record = SAMPLED | {"reward": "world", "reward_gap": 0.0, "first_sampling_step": 1, "prompts_per_round": 2, "refresh_steps": 1, "candidates": 2}  # fmt: skip

TRAININGS: dict[str, tuple[Record, tuple[str, ...]]] = {
    "lora": (LORA, ()),
    "lora-alpha": ({"lora": {"rank": 4, "alpha": 8.0, "target_modules": ["to_q", "to_v"]}, "prompt_dropout": 0.5}, ()),
    "full": ({"ema_decay": 0.9, "lr_scheduler": "linear", "lr_warmup_steps": 2, "gradient_accumulation_steps": 2}, ()),
    "two-processes": (LORA | {"processes": 2, "safeguard": 0.9, "safeguard_mode": "batch"}, ()),
    "two-processes-shards": ({"processes": 2, "parallel": "fsdp2", "adaptive": True}, ()),
    "offloaded": ({"reference": "offloaded", "gradient_checkpointing": True}, ()),
    "precomputed": (LORA | {"reference": "precomputed", "reference_draws": 2}, ("encode",)),
    "bf16": (LORA | {"mixed_precision": "bf16", "weight_dtype": "bf16"}, ()),
    "early-stop": (LORA | {"held_out_votes": 0.25, "validation_steps": 1, "validation_draws": 2, "early_stop": 1}, ()),
    "roll-back": (LORA | {"on_spike": "roll-back", "spike_factor": 1.05, "checkpointing_steps": 1, "max_train_steps": 12}, ()),
    "kto": (LORA | {"method": "kto", "dataset": "singles"}, ("others",)),
    "kto-of-pairs": (LORA | {"method": "kto", "kto_utility": "loss-averse"}, ()),
    "lists": (LORA | {"method": "diffusion-lpo", "dataset": "ranked"}, ("others",)),
    "rankdpo": (LORA | {"method": "rankdpo", "dataset": "ranked"}, ("others",)),
    "mismatch": (LORA | {"method": "sudo"}, ()),
    "samples": (SAMPLED | {"method": "spin"}, ()),
    "next-round": (SAMPLED | {"method": "spin", "start_from": "runs/samples"}, ("samples",)),
    "teacher": (LORA | {"method": "self-npo"}, ()),
    "steps": (STEPS | {"method": "spo"}, ()),
    "classifier": ({"method": "pc-diffusion", "learning_rate": 1.0e-3}, ()),
    "dedpo": (JUDGED | {"method": "dedpo", "safeguard": 0.9}, ()),
    "dedpo-tuned": (BOTH | {"method": "dedpo-tuned"}, ()),
    "doubly-robust": (JUDGED | {"method": "doubly-robust"}, ()),
    "mix": (JUDGED | {"method": "mix", "hard_votes": True, "batches": "uniform"}, ()),
    "judge": (JUDGED | {"method": "judge", "correction": "calibrate"}, ()),
    "self-training": (LORA | {"method": "self-training", "human_votes": 12, "self_draws": 2}, ()),
    "self-training-crossfit": (LORA | {"method": "self-training-crossfit", "human_votes": 12, "self_draws": 2, "max_train_steps": 2}, ()),
    "sdpo": ({"method": "sdpo"}, ()),
    "sdpo-published": (LORA | {"method": "sdpo", "safeguard_mode": "published"}, ()),
    "adaptive-ipo": (LORA | {"method": "adaptive-ipo", "adaptive_memory": True}, ()),
    "uncertainty-dpo": (BOTH | {"method": "uncertainty-dpo", "target": "dedpo"}, ()),
    "madpo": (JUDGED | {"method": "madpo"}, ()),
    "inpo": (INVERTED | {"method": "inpo"}, ()),
    "smpo": (JUDGED | INVERTED | {"method": "smpo"}, ()),
    "rn-dpo": (LORA | {"method": "rn-dpo"}, ()),
}  # fmt: skip
PLAIN = ("adaptive-dpo", "alpha-dpo", "amapo", "cdpo", "dmpo", "dpo-sft", "dspo-sd15", "dspo-sdxl", "hinge", "holder-dpo", "ipo", "linear-dpo", "mapo", "npo", "rdpo", "sdpo-exact", "sft")  # fmt: skip

ITEMS: dict[str, Item] = {
    "data": Item(imported),
    "encode": Item(encoded, ("data",)),
    "votes": Item(voted),
    "others": Item(others),
    **{name: training(name, keys, *needs) for name, (keys, needs) in TRAININGS.items()},
    **{name: training(name, LORA | {"method": name}) for name in PLAIN},
    "resumed": Item(resumed, ("data",)),
    "shared": Item(shared, ("data",)),
    "own-votes": Item(own_votes, ("lora",)),
    "sample": sampled("lora", "--base"),
    "sample-full": sampled("full", "--base"),
    "sample-classifier": sampled("classifier", "--classifier-scale", "0.5"),
    "sample-negative": Item(negative, ("lora", "npo")),
    "score": Item(scored, ("sample", "sample-full")),
    "compare": Item(compared, ("score",)),
    "audit": Item(audited, ("data",)),
    "report": Item(reported, ("compare",)),
    "export": Item(exported, ("lora-alpha", "full")),
}
