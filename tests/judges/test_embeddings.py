import numpy as np
import pytest
from judges.reward_models import save_clip
from tiny import PROMPTS, picture_bytes

from palate.data.dataset import PreferenceDataset, decode_image
from palate.errors import PalateError
from palate.judges import annotate as verb
from palate.judges import embeddings
from palate.judges.annotate import annotate
from palate.judges.embeddings import FILE, EmbeddingStore, embedding_directions
from palate.judges.load import load_judge

PAIRS = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return {"model": str(save_clip(tmp_path_factory.mktemp("judges") / "clip")), "device": "cpu"}


@pytest.fixture
def dataset(tmp_path) -> PreferenceDataset:
    """Ranked lists: seven pictures in twelve pairs."""
    rng = np.random.default_rng(0)
    images = [{"bytes": picture_bytes(rng, format="PNG"), "path": None} for _ in range(7)]
    dataset = PreferenceDataset.create(tmp_path / "data", name="tests")
    dataset.add_pairs(
        {"pair_id": f"p{i:02}", "prompt": PROMPTS[i % 3], "image_0": images[i % 3], "image_1": images[3 + i % 4]}
        for i in range(PAIRS)
    )
    return dataset


def store_of(dataset, name="clip"):
    return dataset.path / "judges" / name / FILE


def ids(dataset) -> list[str]:
    return dataset.pairs(["pair_id"])["pair_id"].to_pylist()


def differences_of(dataset, judge) -> np.ndarray:
    rows = [row for batch in dataset.iter_pairs() for row in batch.to_pylist()]
    first, second = (judge.embed([decode_image(row[side], ".") for row in rows]) for side in ("image_0", "image_1"))
    return first.astype(np.float64) - second


class Counting:
    """A plug-in that has embeddings, for more work than a vote; counts the pictures."""

    def __init__(self, seen, broken=False):
        self.seen, self.broken = seen, broken

    def vote(self, pairs):
        return np.array([[len(p.prompt), np.asarray(p.image_1).mean() / 99] for p in pairs])

    def embed(self, images):
        self.seen.extend(images)
        return (
            np.full((len(images), 3), np.nan)
            if self.broken
            else np.stack([np.asarray(i).mean(axis=(0, 1)) for i in images])
        )


def test_a_clip_judge_leaves_its_embeddings_once_per_picture_and_votes_as_without(tmp_path, dataset, clip):
    report = annotate(dataset, "clip", settings=clip, batch_size=5)
    assert report.embedded == 7 and report.votes == PAIRS
    other = PreferenceDataset.create(tmp_path / "other", name="other")
    other.add_pairs(row for batch in dataset.iter_pairs() for row in batch.to_pylist())
    assert annotate(other, "clip", settings=clip, batch_size=5, embeddings="none").embedded == 0
    assert not store_of(other).exists()
    scores = [
        sorted((v["pair_id"], v["score_0"], v["score_1"]) for v in d.votes().to_pylist()) for d in (dataset, other)
    ]
    assert scores[0] == scores[1]
    late = annotate(other, "clip", settings=clip, embeddings="all")  # pairs judged before
    assert (late.embedded, late.votes, late.already_voted) == (7, 0, PAIRS)
    assert annotate(dataset, "clip", settings=clip, embeddings="all").embedded == 0  # nothing is left to do
    here, there = (embedding_directions(d, ids(dataset))[0] for d in (dataset, other))
    np.testing.assert_allclose(here, there, atol=1e-3)
    assert here.shape == (PAIRS, 6) and np.ptp(here) > 0.1  # seven pictures make six differences


def test_directions_are_the_uncentred_principal_ones_and_swapping_a_pair_turns_its_sign(dataset, clip, monkeypatch):
    annotate(dataset, "clip", settings=clip)
    found, sources = embedding_directions(dataset, ids(dataset), most=3)
    raw = differences_of(dataset, load_judge("clip", **clip))
    u, s, _ = np.linalg.svd(raw / np.linalg.norm(raw), full_matrices=False)
    assert sources == ("clip",)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :3] * s[:3]), atol=2e-3)
    monkeypatch.setattr(embeddings, "_ROWS", 5)  # piece by piece
    pieces, _ = embedding_directions(dataset, ids(dataset), most=3)
    np.testing.assert_allclose(np.abs(pieces), np.abs(found), atol=1e-9)
    turned = PreferenceDataset.create(dataset.path.parent / "turned", name="turned")
    rows = [row for batch in dataset.iter_pairs() for row in batch.to_pylist()]
    turned.add_pairs(
        row | {"image_0": row["image_1"], "image_1": row["image_0"]} if k % 2 else row for k, row in enumerate(rows)
    )
    annotate(turned, "clip", settings=clip)
    sign = np.where(np.arange(PAIRS) % 2, -1, 1)[:, None]
    other = embedding_directions(turned, ids(dataset), most=3)[0]
    np.testing.assert_allclose(other * np.sign((other * sign * found).sum(axis=0)), sign * found, atol=1e-3)


def test_pairs_without_embeddings_have_none_and_several_judges_count_alike(dataset, clip):
    annotate(dataset, "clip", settings=clip, limit=9)
    alone, _ = embedding_directions(dataset, ids(dataset))
    assert not alone[9:].any() and np.abs(alone[:9]).sum(axis=1).min() > 0
    annotate(dataset, "pickscore", settings=clip, limit=9)  # the same vectors: nothing is new
    both, sources = embedding_directions(dataset, ids(dataset))
    assert sources == ("clip", "pickscore")
    np.testing.assert_allclose(np.abs(both), np.sqrt(2) * np.abs(alone), atol=1e-6)
    assert embedding_directions(dataset, ["elsewhere"])[0].shape == (1, 0)


def test_embeddings_that_cost_more_than_a_vote_wait_until_they_are_asked_for(dataset, monkeypatch):
    seen = []
    monkeypatch.setattr(verb, "load_judge", lambda name, **settings: Counting(seen))
    annotate(dataset, "mine")
    assert not seen and not store_of(dataset, "mine").exists()
    assert annotate(dataset, "mine", embeddings="all").embedded == 7 == len(seen)
    assert annotate(dataset, "mine", embeddings="all").embedded == 0 and len(seen) == 7
    monkeypatch.setattr(verb, "load_judge", lambda name, **settings: Counting(seen, broken=True))
    other = annotate(dataset, "other")
    assert other.votes == PAIRS
    with pytest.raises(PalateError, match="one vector of finite numbers"):
        annotate(dataset, "other", embeddings="all")
    with pytest.raises(PalateError, match="no embeddings"):
        monkeypatch.setattr(verb, "load_judge", load_judge)
        annotate(dataset, "brightness", embeddings="all")


def test_an_interrupted_run_goes_on_without_embedding_a_picture_again(dataset, clip, monkeypatch):
    judge = load_judge("clip", **clip)
    whole, calls = judge.embed, []

    def dying(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(images)

    judge.embed = dying
    monkeypatch.setattr(verb, "load_judge", lambda name, **settings: judge)
    with pytest.raises(KeyboardInterrupt):
        annotate(dataset, "clip", batch_size=4)
    with EmbeddingStore(store_of(dataset), verb._identity("clip", judge, None)[0]) as store:
        assert len(store.pair_ids()) == 8
    report = annotate(dataset, "clip", batch_size=4)
    assert (report.from_answers, report.judged, sum(calls)) == (8, 4, 4 * 2 * 4)
    found, _ = embedding_directions(dataset, ids(dataset))
    raw = differences_of(dataset, judge)
    np.testing.assert_allclose((found**2).sum(axis=1), (raw**2).sum(axis=1) / (raw**2).sum(), atol=1e-3)


def test_another_judge_under_the_same_name_removes_what_was_there_and_a_damaged_file_is_named(dataset, clip):
    annotate(dataset, "clip", settings=clip)
    with EmbeddingStore(store_of(dataset), "another") as store:
        assert store.pair_ids() == set()
        store.put({"a": np.ones(2), "b": np.ones(3)}, {"p00": ("a", "b")})
    with pytest.raises(PalateError, match="Delete the file"):
        embedding_directions(dataset, ids(dataset))
    store_of(dataset).write_bytes(b"not a database, but long enough to look like a file" * 40)
    with pytest.raises(PalateError, match="covariates: statistics"):
        embedding_directions(dataset, ids(dataset))
