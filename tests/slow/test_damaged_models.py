"""Hundreds of damaged model folders and run folders, seeded: each is read rightly or refused in one line; no trace, no
code of theirs, and no wait."""

import json
import random
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from tiny import make_labelled_dataset, make_pipeline

import palate
from palate.backbones import load_backbone
from palate.data.samples import Sampling
from palate.errors import PalateError

pytestmark = pytest.mark.slow
SECONDS = 60  # for one of them; a second or less where nothing is wrong
VALUES = [
    None,
    True,
    0,
    -1,
    1,
    3,
    10**9,
    10**400,
    1e308,
    "",
    "x",
    "../../x",
    "os.system",
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "é" * 300,
]


def damaged_json(path: Path, rng: random.Random) -> str:
    """Change one JSON file in one way; says which."""
    raw = path.read_bytes()
    way = rng.choice(["cut", "bytes", "whole", "value", "value", "value", "gone", "deep", "more", "key"])
    told = json.loads(raw)
    if way == "cut":
        path.write_bytes(raw[: rng.randrange(len(raw))])
    elif way == "bytes":
        place = rng.randrange(len(raw))
        path.write_bytes(raw[:place] + rng.randbytes(4) + raw[place + 1 :])
    elif way == "whole":
        path.write_text(json.dumps(rng.choice(VALUES)))
    elif way == "deep":
        path.write_text("[" * 100_000)
    elif way == "more":
        path.write_text(json.dumps(told)[:-1] + ', "auto_map": {"AutoModel": "evil.Evil"}, "_class_name": "Evil"}')
    elif way == "gone":
        path.unlink()
    else:
        holder, key = rng.choice(places(told) or [({"": 0}, "")])
        value = rng.choice(VALUES)
        if way == "key":
            holder.pop(key)
        else:
            holder[key] = value
        way = f"{way} {key} = {str(value)[:20]}"
        path.write_text(json.dumps(told))
    return f"{path.name}: {way}"


def places(value, found=None) -> list:
    """Every (holder, key) in a JSON value."""
    found = [] if found is None else found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        found.append((value, key))
        places(one, found)
    return found


@contextmanager
def bounded(what: str):
    """Ends with a failure where it takes longer than it may, or raises anything but one line."""

    def late(*_):
        raise TimeoutError(what)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    except PalateError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500, f"{what}: {error}"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:200]}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """A module that damaged files name: whoever imports it is caught."""
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the folder ran')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert "evil" not in sys.modules


def use(folder: Path) -> None:
    backbone = load_backbone(str(folder))
    backbone.encode_prompts(["a red circle", ""])
    backbone.encode_images(torch.zeros(1, 3, 64, 64))
    drawn = torch.tensor([backbone.num_timesteps - 1])
    timestep = backbone.timestep(drawn)
    noise = torch.zeros(1, *backbone.latent_shape(64))
    backbone.add_noise(noise, noise, timestep)
    told = backbone.encode_prompts(["a"]) | backbone.image_conditioning(64, 64, 64)
    with torch.no_grad():
        backbone.predict(backbone.network, noise, timestep, told)
    palate.sample(folder, ["a"], folder.parent / "pictures", Sampling(steps=1, guidance=2.0))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "pixart"])
def test_damaged_model_folders(family, part, tmp_path, bait):
    base = FAMILIES[family](tmp_path / "base")
    use(base)
    files = sorted(path.relative_to(base) for path in base.rglob("*.json"))
    for seed in range(part * 40, part * 40 + 40):
        rng = random.Random(f"{family} {seed}")
        folder = tmp_path / "damaged" / "base"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(base, folder)
        if seed % 8 == 0:  # weights
            path = rng.choice(sorted(folder.rglob("*.safetensors")))
            raw = path.read_bytes()
            way = rng.choice(["cut", "header", "empty", "gone", "pickled"])
            if way == "pickled":
                path.rename(path.with_suffix(".bin"))
            elif way == "gone":
                path.unlink()
            else:
                cuts = {"cut": raw[: len(raw) // 2], "header": rng.randbytes(8) + raw[8:], "empty": b""}
                path.write_bytes(cuts[way])
            what = f"{path.parent.name}/{path.name}: {way}"
        else:
            path = folder / ("model_index.json" if rng.random() < 0.2 else rng.choice(files))
            what = f"{path.parent.name}/{damaged_json(path, rng)}"
        with bounded(f"{family} seed {seed}: {what}"):
            use(folder)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a base model, a dataset, and a run that was sampled, scored, compared and reported."""
    folder = tmp_path_factory.mktemp("finished")
    make_pipeline(folder / "base")
    make_labelled_dataset(folder / "prefs")
    palate.train(config_of(folder))
    again(folder)
    return folder


def config_of(folder: Path, steps: int = 2) -> dict:
    return {
        "pretrained_model_name_or_path": str(folder / "base"), "dataset": str(folder / "prefs"), "report_to": "none",
        "output_dir": str(folder / "run"), "lora": {"rank": 2}, "max_train_steps": steps, "train_batch_size": 2,
    }  # fmt: skip


def again(folder: Path) -> None:
    """Everything that reads the files of a run, each for itself, so that one that is refused hides no other."""
    run, sampling = folder / "run", Sampling(steps=1, guidance=2.0)
    prompts = ["a red circle", "a blue square"]
    calls = {
        "sample": lambda: palate.sample(run, prompts, run / "samples", sampling),
        "base": lambda: palate.sample(str(folder / "base"), prompts, run / "base-samples", sampling),
        "score": lambda: palate.score([run], ["contrast"], tell=lambda line: None),
        "compare": lambda: palate.compare(run, scorer="contrast"),
        "report": lambda: palate.report(run, scorer="contrast", card=True),
        "export": lambda: palate.export(run, "fused", folder / "export"),
        "train": lambda: palate.train(config_of(folder, 3)),
        "audit": lambda: palate.open_dataset(folder / "prefs").votes(),
    }
    for name, call in calls.items():
        with bounded(name):
            call()


def damage(path: Path, rng: random.Random) -> str:
    if path.suffix == ".json" and rng.random() < 0.8:
        return damaged_json(path, rng)
    raw = path.read_bytes()
    way = rng.choice(["cut", "bytes", "empty", "gone", "folder", "line"])
    if way in ("gone", "folder"):
        path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "line":
        lines = raw.splitlines(keepends=True)
        lines[rng.randrange(len(lines))] = rng.choice(
            [b"[1, 2]\n", b"null\n", b"lora: 5\n", b"seed: 1e20\n", b"\xff\n"]
        )
        path.write_bytes(b"".join(lines))
    elif way != "gone":
        place = rng.randrange(max(1, len(raw)))
        changed = {"cut": raw[:place], "bytes": raw[:place] + rng.randbytes(4) + raw[place + 1 :], "empty": b""}
        path.write_bytes(changed[way])
    return f"{path.name}: {way}"


@pytest.mark.parametrize("part", range(6))
def test_damaged_runs(finished, part, tmp_path, bait):
    files = sorted(path.relative_to(finished) for path in (finished / "run").rglob("*") if path.is_file())
    for seed in range(part * 30, part * 30 + 30):
        rng = random.Random(f"run {seed}")
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        config = folder / "run" / "config.yaml"
        config.write_text(config.read_text().replace(str(finished), str(folder)))
        path = folder / rng.choice(files)
        try:
            what = damage(path, rng)
        except ValueError:  # no JSON to change
            continue
        with bounded_all(f"seed {seed}: {path.relative_to(folder)}: {what}"):
            again(folder)


@contextmanager
def bounded_all(what: str):
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from error.__cause__
