"""Where a cache lies and what becomes of it: at a URL, damaged, made by another model, by two at once, very large."""

import hashlib
import json
import shutil
import sys
import threading
import uuid
from pathlib import Path

import fsspec
import kills
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import PROMPTS, make_labelled_dataset, make_pipeline, refusal

import palate
from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset
from palate.encoding import cache, encoded
from palate.encoding.cache import EncodedPairs, encode_pairs
from palate.encoding.storage import Storage

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import loader  # noqa: E402

IDS = [f"p{i:03}" for i in range(8)]


@pytest.fixture
def data(tmp_path):
    return make_labelled_dataset(tmp_path / "eight", pairs=8, labelled=8)


@pytest.fixture
def backbone(pipeline_folder):
    return load_backbone(str(pipeline_folder))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 3)


@pytest.fixture
def no_encoding(backbone, monkeypatch):
    """A call that makes encoding anything a failure."""

    def refuse(*_):
        raise AssertionError("something was encoded")

    return lambda: [monkeypatch.setattr(backbone, name, refuse) for name in ("encode_images", "encode_prompts")]


def everything(found: EncodedPairs) -> list[torch.Tensor]:
    return [found.latents(IDS), *found.prompt_conditioning([found.prompt[i] for i in IDS] + [""]).values()]


def same(first: EncodedPairs, second: EncodedPairs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(everything(first), everything(second), strict=True))


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_same_is_read_with_an_index_without_one_and_through_closed_maps(data, backbone, small_shards, no_encoding, monkeypatch):  # fmt: skip
    first = encode_pairs(data, backbone)
    assert len(list(first.folder.glob("pairs-*"))) == 3 and len(list(first.folder.glob("*.index-*.arrow"))) == 2
    no_encoding()
    read_shards = []
    monkeypatch.setattr(EncodedPairs, "_read_shards", lambda *given: read_shards.append(given))
    with_index = encode_pairs(data, backbone)
    monkeypatch.undo()
    assert not read_shards and same(first, with_index)
    for index in first.folder.glob("*.arrow"):
        index.unlink()
    assert same(first, EncodedPairs(first.folder))
    monkeypatch.setattr(encoded, "MAPPED", 0)  # every read closes what the one before it had opened
    assert same(first, with_index)
    assert with_index.holds([*IDS, "p999"]).tolist() == [True] * 8 + [False]
    assert [with_index.prompt[i] for i in IDS[:4]] == [*PROMPTS, PROMPTS[0]]


def test_pairs_added_later_renew_the_index(data, backbone):
    before = encode_pairs(data, backbone)
    more = make_labelled_dataset(data.path.parent / "more", pairs=10, labelled=10, seed=1)
    rows = [row for batch in more.iter_pairs() for row in batch.to_pylist() if row["pair_id"] not in IDS]
    data.add_pairs(rows)
    after = encode_pairs(data, backbone)
    assert len(after) == 10 and same(before, after) and len(list(after.folder.glob("*.index-*.arrow"))) == 2


def test_what_is_not_encoded_is_named(data, backbone):
    found = encode_pairs(data, backbone)
    assert "pair 'p999' is not encoded" in refusal(lambda: found.latents(["p000", "p999"]))
    assert "prompt 'a cat' is not encoded" in refusal(lambda: found.prompt_conditioning(["", "a cat"]))


def test_conditioning_keeps_its_names_and_what_a_small_float_cannot_hold(data, backbone, monkeypatch):
    """As of families that tell their network of masks, and of an image's true size."""
    plain = backbone.encode_prompts

    def told(prompts):
        mask = torch.tensor([[True, len(prompt) > 12] for prompt in prompts])
        large = torch.full((len(prompts), 2), 1e6)
        return {**plain(prompts), "mask": mask, "large": large}

    def size(width, height, resolution):
        return {"sizes": torch.tensor([[width, height, resolution, 2049.0]])}

    monkeypatch.setattr(backbone, "encode_prompts", told)
    monkeypatch.setattr(backbone, "image_conditioning", size, raising=False)
    found = encode_pairs(data, backbone)
    prompts = found.prompt_conditioning([PROMPTS[1], PROMPTS[2], ""])
    assert prompts["mask"].dtype == torch.bool and prompts["mask"].tolist() == [[True, True], [True, False], [True, False]]  # fmt: skip
    assert prompts["large"].dtype == torch.float32 and (prompts["large"] == 1e6).all()
    torch.testing.assert_close(prompts["embeddings"], plain([PROMPTS[1], PROMPTS[2], ""])["embeddings"], atol=2e-3, rtol=2e-3)  # fmt: skip
    images = found.image_conditioning([("p001", 1), ("p000", 0)])
    assert images["sizes"].tolist() == [[64.0, 64.0, backbone.resolution, 2049.0]] * 2  # 2049 is no number in fp16


# --- at a URL --------------------------------------------------------------------------------------------------------


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    place = f"memory://{uuid.uuid4().hex}"
    yield place
    fsspec.filesystem("memory").rm(place, recursive=True)


def test_a_remote_cache_is_filled_and_fetched_once(url, data, backbone, small_shards, no_encoding, tmp_path, monkeypatch):  # fmt: skip
    local, remote = encode_pairs(data, backbone), encode_pairs(data, backbone, place=url)
    assert same(local, remote)
    no_encoding()
    shutil.rmtree(tmp_path / "home")  # another machine
    fetched = []
    get = fsspec.get_filesystem_class("memory").get_file
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "get_file", lambda self, *given: fetched.append(Path(given[0]).name) or get(self, *given))  # fmt: skip
    elsewhere = encode_pairs(data, backbone, place=url)
    assert not any(name.endswith(".safetensors") for name in fetched)  # opening takes the index alone
    elsewhere.latents(IDS[:2])
    assert [name[:12] for name in fetched if name.endswith(".safetensors")] == ["pairs-000000"]
    assert same(local, elsewhere) and same(local, elsewhere)
    assert len(fetched) == len(set(fetched))


def test_a_run_on_a_remote_cache_is_the_run_on_a_local_one(url, data, pipeline_folder, tmp_path):
    config = {"pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(data.path), "train_batch_size": 4,
              "max_train_steps": 2, "report_to": "none"}  # fmt: skip
    here = palate.train(config, output_dir=str(tmp_path / "here"))
    shutil.rmtree(data.path / "cache")
    there = palate.train(config, output_dir=str(tmp_path / "there"), cache=url)
    assert here.metrics == there.metrics and not (data.path / "cache").exists()


def test_an_address_that_cannot_be_used_is_refused(data, backbone):
    assert "nonsense://place" in refusal(lambda: encode_pairs(data, backbone, place="nonsense://place"))
    closed = "http://127.0.0.1:9/cache"
    assert closed in refusal(lambda: encode_pairs(data, backbone, place=closed))


# --- another model, other settings -----------------------------------------------------------------------------------


def test_a_cache_of_another_vae_is_said_to_be_and_not_used(data, backbone, pipeline_folder, tmp_path, capsys):
    encode_pairs(data, backbone)
    assert "anew" not in capsys.readouterr().out  # the first cache of a dataset is no surprise
    other = shutil.copytree(pipeline_folder, tmp_path / "other")
    second = make_pipeline(tmp_path / "second", seed=5)
    shutil.rmtree(other / "vae")
    shutil.copytree(second / "vae", other / "vae")
    theirs = encode_pairs(data, load_backbone(str(other)))
    told = [line for line in capsys.readouterr().out.splitlines() if "anew" in line]
    assert len(told) == 1 and "another vae" in told[0]
    line = refusal(lambda: encode_pairs(data, backbone, place=theirs.folder))
    assert "another vae" in line and str(theirs.folder) in line
    assert "resolution 64 instead of 32" in refusal(lambda: encode_pairs(data, load_backbone(str(other)), 32, place=theirs.folder))  # fmt: skip
    assert same(theirs, encode_pairs(data, load_backbone(str(other)), place=theirs.folder))


def test_a_cache_of_before_the_index_is_opened_as_it_is(data, backbone, no_encoding):
    first = encode_pairs(data, backbone)
    expected = everything(first)
    for path in list(first.folder.iterdir()):
        if path.suffix == ".arrow":
            path.unlink()
        elif path.suffix == ".safetensors":
            path.rename(path.with_name(path.name.split("-")[0] + "-00000.safetensors"))
    settings = json.loads((first.folder / "settings.json").read_text())
    del settings["components"]
    (first.folder / "settings.json").write_text(json.dumps(settings))
    no_encoding()
    opened = everything(encode_pairs(data, backbone))
    assert all(torch.equal(a, b) for a, b in zip(opened, expected, strict=True))
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    assert first.folder.name == key


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pairs", "prompts"])
def test_a_truncated_shard_is_named_and_alone_is_encoded_again(kind, data, backbone, small_shards, monkeypatch, capsys):
    first = encode_pairs(data, backbone)
    expected = everything(first)
    victim = sorted(first.folder.glob(f"{kind}-*.safetensors"))[0]
    rows = len(load_file(victim)["latents" if kind == "pairs" else "embeddings"])
    others = {path: path.stat().st_mtime_ns for path in first.folder.glob("*.safetensors") if path != victim}
    victim.write_bytes(victim.read_bytes()[:-7])
    counted = {"encode_images": 0, "encode_prompts": 0}
    for name in counted:
        monkeypatch.setattr(backbone, name, counting(getattr(backbone, name), name, counted))
    second = encode_pairs(data, backbone)
    told = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert len(told) == 1 and str(victim) in told[0]
    assert counted == ({"encode_images": 2 * rows, "encode_prompts": 0} if kind == "pairs" else {"encode_images": 0, "encode_prompts": rows})  # fmt: skip
    assert others == {path: path.stat().st_mtime_ns for path in others}
    assert all(torch.equal(a, b) for a, b in zip(everything(second), expected, strict=True))


def counting(call, name, counted):
    def counts(given):
        counted[name] += len(given)
        return call(given)

    return counts


def test_a_shard_damaged_behind_the_index_is_named_when_it_is_read(data, backbone):
    found = encode_pairs(data, backbone)
    (victim,) = found.folder.glob("pairs-*.safetensors")
    content = bytearray(victim.read_bytes())
    content[:16] = b"\xff" * 16  # of the same length
    victim.write_bytes(content)
    line = refusal(lambda: EncodedPairs(found.folder).latents(IDS))
    assert str(victim) in line and "Delete it" in line


# --- two at once -----------------------------------------------------------------------------------------------------


def test_two_processes_that_encode_at_once_leave_one_good_cache(data, backbone, pipeline_folder, tmp_path):
    children = [kills.start(kills.encode, pipeline_folder, data.path, tmp_path / "place") for _ in range(2)]
    for _, child in children:
        child.join()
    assert [child.exitcode for _, child in children] == [0, 0]
    (folder,) = (tmp_path / "place").iterdir()
    found = EncodedPairs(folder)
    assert len(found) == 8 and not found.damaged
    torch.testing.assert_close(found.latents(IDS), encode_pairs(data, backbone).latents(IDS), atol=2e-3, rtol=2e-3)


def test_a_file_that_vanishes_while_a_folder_is_listed_is_not_there(tmp_path):
    """As when another process writes its next shard: its temporary file is renamed between the listing and the look at it."""
    (tmp_path / "kept").write_bytes(b"abc")
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            for k in range(20):
                (tmp_path / f".tmp{k}").touch()
            for k in range(20):
                (tmp_path / f".tmp{k}").unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        storage = Storage(tmp_path)
        assert all(storage.sizes() == {"kept": 3} for _ in range(3000))
    finally:
        stop.set()
        other.join()


# --- memory ----------------------------------------------------------------------------------------------------------


def measure_into(folder: Path, found: Path) -> None:
    found.write_text(json.dumps(loader.measure(folder, batch=8, seconds=1)))


def test_memory_hardly_grows_with_the_pairs(tmp_path):
    cost = []
    for pairs in (2_000, 42_000):
        folder = tmp_path / str(pairs)
        loader.build(folder, pairs)
        begun, child = kills.start(measure_into, folder, folder / "found.json")
        child.join()
        found = json.loads((folder / "found.json").read_text())
        assert begun.is_set() and found["pairs"] == pairs and found["batches"] > 0
        cost.append((found["MB opened"] - found["MB imported"], found["MB at most"] - found["MB imported"]))
    (opened, most), (opened_large, most_large) = cost
    assert opened_large - opened < 10  # 250 bytes a pair; what Python objects for id, place and prompt took was 700
    assert most_large - most < 80


@pytest.mark.slow
def test_a_million_pairs_are_opened_prepared_and_read_under_a_gigabyte(tmp_path):
    loader.build(tmp_path, 1_000_000)
    found = loader.in_a_fresh_process(tmp_path, batch=8, seconds=10)
    assert found["pairs"] == 1_000_000 and found["batches"] > 0
    assert found["MB opened"] - found["MB imported"] < 100
    assert found["MB at most"] < 1024


def test_a_block_that_was_read_in_part_is_encoded_in_the_same_company(tmp_path, backbone, monkeypatch):
    """An unreadable picture does not move the ones after it into other shards, and is looked for again each time."""
    monkeypatch.setattr(cache, "SHARD", 2)
    source = make_labelled_dataset(tmp_path / "source", pairs=6, labelled=6)
    rows = [row for batch in source.iter_pairs() for row in batch.to_pylist()]
    broken = PreferenceDataset.create(tmp_path / "broken", "broken")
    good = rows[1]["image_0"]
    picture = tmp_path / "later.png"
    rows[1] = rows[1] | {"image_0": {"bytes": None, "path": str(picture)}}
    broken.add_pairs(rows)
    first = encode_pairs(broken, backbone)
    assert len(first) == 5 and "p001" not in first
    blocks = [path.name.split("-")[1] for path in sorted(first.folder.glob("pairs-*.safetensors"))]
    assert blocks == ["000000", "000001", "000002"]
    picture.write_bytes(good["bytes"])
    second = encode_pairs(broken, backbone)
    assert len(second) == 6
    whole = encode_pairs(source, backbone)
    ids = [f"p{i:03}" for i in range(2, 6)]
    assert torch.equal(second.latents(ids), whole.latents(ids)) and np.isfinite(second.latents(["p001"])).all()
