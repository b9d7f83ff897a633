import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import PROMPTS, picture_bytes, refusal

from palate.backbones import load_backbone
from palate.data.dataset import PreferenceDataset, decode_image
from palate.encoding import cache
from palate.encoding.cache import EncodedPairs, encode_pairs
from palate.errors import PalateError


@pytest.fixture
def backbone(pipeline_folder):
    return load_backbone(str(pipeline_folder))


@pytest.fixture
def mixed(tmp_path):
    """Pairs p0, p2, p4 and the single images p1, p3."""
    dataset = PreferenceDataset.create(tmp_path / "mixed", "mixed")
    dataset.add_pairs(rows(range(5), single=(1, 3)))
    return dataset


def rows(numbers, single=()):
    for i in numbers:
        images = [picture_bytes(np.random.default_rng((i, side)), format="PNG") for side in (0, 1)]
        second = None if i in single else images[1]
        yield {"pair_id": f"p{i}", "prompt": PROMPTS[i % 3], "image_0": images[0], "image_1": second}


def encoded_alone(dataset, backbone, pair_id, side):
    """The latents of one image, encoded by itself."""
    every = {row["pair_id"]: row for batch in dataset.iter_pairs() for row in batch.to_pylist()}
    picture = decode_image(every[pair_id][f"image_{side}"], dataset.path)
    pixels = cache.prepare_image(picture, backbone.resolution)
    return backbone.encode_images(pixels[None])[0]


def shards(encoded):
    return [safe_open(path, "pt") for path in sorted(encoded.folder.glob("pairs-*.safetensors"))]


@pytest.mark.parametrize(("pixels", "at_once"), [(64, 16), (512, 16), (1024, 4), (4096, 1)])
def test_fewer_large_images_are_encoded_at_once(pixels, at_once):
    """Sixteen of 1024 pixels would take forty gigabytes in the autoencoder."""
    assert cache._Batch(None, pixels, torch.float16).at_once == at_once


def test_keys_tell_what_the_files_of_the_encoders_do_not(mixed, backbone, monkeypatch):
    """PixArt-Alpha of 512 and of 1024 pixels have the same encoders, but one is told sizes; others' keys stay what they were."""
    plain, settings, _ = cache.planned_cache(mixed, backbone, 64)
    hashed = {name: settings[name] for name in ("encoders", "resolution", "crop", "dtype", "decoder")}
    assert plain.folder.name == hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]
    monkeypatch.setattr(backbone, "image_conditioning", lambda *_: {"time_ids": torch.zeros(1, 6)})
    told, _, _ = cache.planned_cache(mixed, backbone, 64)
    backbone.zeros_for_empty = True
    zeros, _, _ = cache.planned_cache(mixed, backbone, 64)
    backbone.zeros_for_empty = False
    encoded, _, _ = cache.planned_cache(mixed, backbone, 64)
    assert len({plain.folder, told.folder, zeros.folder, encoded.folder}) == 4
    made = encode_pairs(mixed, backbone, place=mixed.path / "elsewhere")
    backbone.zeros_for_empty = True
    assert "zeros_for_empty False instead of True" in refusal(
        lambda: cache.planned_cache(mixed, backbone, 64, place=made.folder)
    )


def test_every_image_is_found_under_its_pair_and_side(mixed, backbone):
    encoded = encode_pairs(mixed, backbone)
    images = [("p0", 1), ("p3", 0), ("p1", 0), ("p0", 0), ("p4", 1)]
    latents = encoded.image_latents(images)
    assert latents.dtype == torch.float32 and len(encoded) == 5
    for image, found in zip(images, latents, strict=True):
        # half precision on disk, and a batch of another size
        torch.testing.assert_close(found, encoded_alone(mixed, backbone, *image), atol=2e-3, rtol=2e-3)
    assert torch.equal(encoded.latents(["p0", "p4"])[:, 1], encoded.image_latents([("p0", 1), ("p4", 1)]))
    assert (latents[0] - latents[3]).abs().max() > 0.01  # the images of a pair do differ


def test_a_single_image_is_encoded_once_and_its_place_beside_it_is_empty(mixed, backbone, monkeypatch):
    encode, seen = backbone.encode_images, []
    monkeypatch.setattr(backbone, "encode_images", lambda images: seen.append(len(images)) or encode(images))
    encoded = encode_pairs(mixed, backbone)
    assert sum(seen) == 3 * 2 + 2 and encoded.single == {"p1", "p3"}
    (shard,) = shards(encoded)
    stored = shard.get_tensor("latents")
    assert stored.shape[:2] == (5, 2) and not stored[[1, 3], 1].any()
    assert stored[[0, 2, 4], 1].flatten(1).any(dim=1).all() and stored[:, 0].flatten(1).any(dim=1).all()


def test_the_empty_place_is_never_handed_out(mixed, backbone):
    encoded = encode_pairs(mixed, backbone)
    with pytest.raises(PalateError, match="pair 'p1' is a single image"):
        encoded.latents(["p0", "p1"])
    with pytest.raises(PalateError, match="pair 'p3' is a single image"):
        encoded.image_latents([("p3", 0), ("p3", 1)])
    with pytest.raises(PalateError, match="no image -1"):
        encoded.image_latents([("p0", -1)])


def test_a_cache_of_before_single_images_is_read_and_completed(tmp_path, backbone, monkeypatch):
    dataset = PreferenceDataset.create(tmp_path / "old", "old")
    dataset.add_pairs(rows(range(2)))
    write = cache._write
    monkeypatch.setattr(cache, "_write", lambda *given, single=None, **about: write(*given, **about))
    before = encode_pairs(dataset, backbone)
    monkeypatch.undo()
    assert "single" not in shards(before)[0].metadata()
    assert EncodedPairs(before.folder).single == set() and len(EncodedPairs(before.folder)) == 2
    dataset.add_pairs(rows((2, 3), single=(2,)))
    after = encode_pairs(dataset, backbone)
    assert len(after) == 4 and after.single == {"p2"}
    assert torch.equal(after.latents(["p0", "p1"]), before.latents(["p0", "p1"]))
    assert after.prompt["p2"] == PROMPTS[2] and len(after.prompt_conditioning([PROMPTS[2]])["embeddings"]) == 1


def test_an_unreadable_image_takes_nothing_of_the_others_with_it(tmp_path, backbone, capsys, monkeypatch):
    monkeypatch.setattr(cache, "IMAGES_AT_ONCE", 3)  # so that batches end in the middle of a pair
    dataset = PreferenceDataset.create(tmp_path / "broken", "broken")
    good = list(rows(range(5), single=(1, 3)))
    good[2]["image_1"] = b"<html>"
    dataset.add_pairs([*good, good[3] | {"pair_id": "p9", "image_0": {"path": "nowhere.png"}}])
    encoded = encode_pairs(dataset, backbone)
    assert len(encoded) == 4 and "p2" not in encoded and "p9" not in encoded and encoded.single == {"p1", "p3"}
    assert "2 pairs left out" in capsys.readouterr().out
    for image in (("p1", 0), ("p3", 0), ("p4", 0), ("p4", 1)):
        found = encoded.image_latents([image])[0]
        torch.testing.assert_close(found, encoded_alone(dataset, backbone, *image), atol=2e-3, rtol=2e-3)


def test_single_images_alone_are_a_cache(tmp_path, backbone):
    dataset = PreferenceDataset.create(tmp_path / "singles", "singles")
    dataset.add_pairs(rows(range(2), single=(0, 1)))
    encoded = encode_pairs(dataset, backbone)
    assert len(encoded) == 2 and encoded.image_latents([("p0", 0), ("p1", 0)]).shape[:2] == (2, 4)
