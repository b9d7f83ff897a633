"""Two thousand damaged model folders and as many run folders, seeded: each is read rightly or refused in one line; no trace, no
code of theirs, and no wait."""

import json
import random
import shutil
import signal
import sys
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from tiny import make_labelled_dataset, make_pipeline

import palate
from palate.backbones import load_backbone
from palate.data.samples import Sampling
from palate.errors import PalateError
from palate.reports.card import plain_card
from palate.reports.labels import labels_of
from palate.reports.training import command_of, curves_of, folder_of, training_of, versions_of
from palate.run.checkpoint import load_newest_checkpoint
from palate.sampling.samples import generate

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

    before, ended = signal.signal(signal.SIGALRM, late), {"refused": False}
    signal.alarm(SECONDS)
    try:
        yield ended
    except PalateError as error:
        ended["refused"] = True
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


def use(folder: Path, there: dict | None = None) -> None:
    """Everything that reads a model; `there` are parts that are loaded already, as attributes of the backbone."""
    backbone = load_backbone(str(folder))
    backbone.__dict__.update(there or {})
    backbone.encode_prompts(["a red circle", ""])
    backbone.encode_images(torch.zeros(1, 3, 64, 64))
    drawn = torch.tensor([backbone.num_timesteps - 1])
    timestep = backbone.timestep(drawn)
    noise = torch.zeros(1, *backbone.latent_shape(64))
    backbone.add_noise(noise, noise, timestep)
    told = backbone.encode_prompts(["a"]) | backbone.image_conditioning(64, 64, 64)
    with torch.no_grad():
        backbone.predict(backbone.network, noise, timestep, told)
    if there:
        generate(backbone, backbone.network, ["a"], noise, Sampling(steps=1, guidance=2.0))
    else:
        palate.sample(folder, ["a"], folder.parent / "pictures", Sampling(steps=1, guidance=2.0))


def loaded(folder: Path) -> dict:
    """The networks and vocabularies of a whole model, by the attribute under which a backbone keeps them."""
    backbone = load_backbone(str(folder))
    use_of = [name for name in dir(type(backbone)) if isinstance(getattr(type(backbone), name, None), cached_property)]
    parts = [
        name
        for name in use_of
        if name in ("network", "vae", "texts", "text_pipeline") or name.startswith(("text_encoder", "tokenizer"))
    ]
    return {name: getattr(backbone, name) for name in parts}


def others(parts: dict, damaged: str) -> dict:
    """The parts that do not depend on the damaged one."""
    own = {"unet": "network", "transformer": "network"}.get(damaged, damaged)
    texts = damaged.startswith(("text_encoder", "tokenizer"))
    return {
        name: part for name, part in parts.items() if name != own and not (texts and name in ("texts", "text_pipeline"))
    }


MODELS = 500  # of each family
FAMILIES_TRIED = ["sd", "sdxl", "sd3", "pixart"]


@pytest.mark.parametrize("family", FAMILIES_TRIED)
def test_damaged_model_folders(family, tmp_path, bait):
    """One file of a whole folder is damaged at a time. Only what that file belongs to is loaded anew, except where it is
    the index of the whole."""
    base = FAMILIES[family](tmp_path / "base")
    use(base)
    parts, files = loaded(base), sorted(path.relative_to(base) for path in base.rglob("*.json"))
    pristine, refused, found = tmp_path / "whole", 0, []
    shutil.copytree(base, pristine)
    for seed in range(MODELS):
        rng = random.Random(f"{family} {seed}")
        if seed % 8 == 0:  # weights
            path = rng.choice(sorted(base.rglob("*.safetensors")))
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
            path = base / ("model_index.json" if rng.random() < 0.1 else rng.choice(files))
            what = f"{path.parent.name}/{damaged_json(path, rng)}"
        there = None if path.parent == base or seed % 50 == 1 else others(parts, path.relative_to(base).parts[0])
        try:
            with bounded(f"{family} seed {seed}: {what}") as ended:
                use(base, there)
            refused += ended["refused"]
        except AssertionError as error:
            found.append(str(error))
        whole(path.parent, pristine / path.parent.relative_to(base))
    assert not found, "\n".join(found)
    assert MODELS / 4 < refused < MODELS  # some are read rightly, some refused
    use(base)


def whole(folder: Path, pristine: Path) -> None:
    """Make a folder what it was; files are small."""
    for path in [*folder.rglob("*")]:
        if path.is_file() and not (pristine / path.relative_to(folder)).is_file():
            path.unlink()
    for path in pristine.rglob("*"):
        own = folder / path.relative_to(pristine)
        if path.is_dir():
            own.mkdir(exist_ok=True)
        elif not own.is_file() or own.read_bytes() != path.read_bytes():
            shutil.rmtree(own) if own.is_dir() else None
            shutil.copyfile(path, own)


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


RUNS = 500  # of each part


def read_again(folder: Path, path: Path) -> None:
    """What reads this file of a run, without what takes seconds: training and the whole report."""
    run, sampling = folder / "run", Sampling(steps=1, guidance=2.0)
    prompts, above = ["a red circle", "a blue square"], path.relative_to(run).parts[0]
    calls = {}
    if above in ("samples", "base-samples", "config.yaml"):
        calls["sample"] = lambda: palate.sample(run, prompts, run / "samples", sampling)
        calls["base"] = lambda: palate.sample(str(folder / "base"), prompts, run / "base-samples", sampling)
        calls["score"] = lambda: palate.score([run], ["contrast"], tell=lambda line: None)
        calls["compare"] = lambda: palate.compare(run, scorer="contrast")
    if above in ("model", "config.yaml"):
        calls["diffusers"] = lambda: palate.export(run, "diffusers", folder / "export")
        calls["comfyui"] = lambda: palate.export(run, "comfyui", folder / "export.safetensors")
    if above == "checkpoints":
        calls["checkpoint"] = lambda: load_newest_checkpoint(run)
    elif above not in ("samples", "base-samples"):
        for read in (training_of, curves_of, versions_of, folder_of, command_of, plain_card):
            calls[read.__name__] = partial(read, run)
        calls["labels"] = lambda: labels_of([run])
    for name, call in calls.items():
        with bounded(name):
            call()


@pytest.mark.parametrize("part", range(4))
def test_damaged_runs(finished, part, tmp_path, bait):
    """One file of a run is damaged at a time, and read by what reads it; every fiftieth time by all there is."""
    pristine, run, found = tmp_path / "whole", finished / "run", []
    shutil.copytree(run, pristine)
    files = sorted(path.relative_to(finished) for path in run.rglob("*") if path.is_file())
    for seed in range(part * RUNS, part * RUNS + RUNS):
        rng = random.Random(f"run {seed}")
        path = finished / rng.choice(files)
        try:
            what = damage(path, rng)
        except ValueError:  # no JSON to change
            path.write_bytes(b"")
            what = "empty"
        try:
            again(finished) if seed % 50 == 0 else read_again(finished, path)
        except AssertionError as error:
            found.append(f"seed {seed}: {path.relative_to(finished)}: {what}: {error}")
        for left in (finished / "export", finished / "export.safetensors"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        shutil.rmtree(run)
        shutil.copytree(pristine, run)
    assert not found, "\n".join(found)
