"""The emoji world: stock diffusers loads its pipeline, its samples show what was asked for in all styles, its tables are
balanced, its judges err where they say, and its pictures come from the packages that NOTICE names."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from palate.backbones import load_backbone
from palate.demos import emoji_collect
from palate.demos.emoji_classifier import Network, write_weights
from palate.demos.emoji_dataset import GENERATORS, SAMPLING, make_emoji_dataset, measure_emoji_pairs
from palate.demos.emoji_pretrain import make_tokenizer, make_vae, normalize, vary
from palate.errors import PalateError
from palate.sampling.prompts import load_suite
from palate.sampling.samples import generate
from palate.world import SHIPPED, emoji_measure
from palate.world.emoji_measure import EmojiMeasurement, measure_emoji
from palate.world.emoji_pictures import (
    ARTISTS,
    GROUP_OF,
    GROUPS,
    NAMES,
    PROMPTS,
    SIZE,
    STYLES,
    TAUGHT,
    caption,
    load_pictures,
    parse,
)
from palate.world.emoji_voters import EMOJI_VOTERS, MAJORITY, by_group, random_table, turned

ROOT = Path(__file__).parents[2]
FOLDER = SHIPPED["emoji"]
PICTURES = ROOT.parent / "shared" / "data" / "emoji" / "pictures.npz"


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("emoji")


def drawn(backbone, prompts: list[str], seed: int = 0) -> np.ndarray:
    noise = torch.randn((len(prompts), *backbone.latent_shape(SIZE)), generator=torch.Generator().manual_seed(seed))
    return generate(backbone, backbone.network, prompts, noise, SAMPLING)


# --- the pipeline ----------------------------------------------------------------------------------------------------


def test_it_is_a_stock_pipeline_of_safetensors_and_24_mb_hold_it_and_the_classifier():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in [*files, emoji_measure.WEIGHTS]) <= 24e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}
    script = (
        "import sys; sys.modules['palate'] = None\n"
        "from diffusers import StableDiffusionPipeline\n"
        f"pipeline = StableDiffusionPipeline.from_pretrained({str(FOLDER)!r})\n"
        "assert pipeline('red apple, glossy', num_inference_steps=2).images[0].size == (64, 64)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)


def test_every_word_of_the_world_is_one_token_and_no_caption_is_cut():
    tokenizer = make_tokenizer()
    for name in NAMES:
        words = name.lower().replace("-", " - ").split()
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(name)] == words
        tokens = tokenizer(caption(name, "detailed"), padding="max_length").input_ids
        assert len(tokens) == tokenizer.model_max_length and tokens[-1] == tokenizer.eos_token_id
    shipped = json.loads((FOLDER / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert shipped == tokenizer.get_vocab()


def test_samples_show_what_was_asked_for_and_a_word_for_the_style_gives_that_style(backbone):
    prompts = [caption(name, STYLES[k % 4]) for k, name in enumerate(PROMPTS[::2])]
    shown = measure_emoji(drawn(backbone, prompts), prompts)
    assert shown.recognised.mean() > 0.9
    assert np.mean(shown.style.argmax(axis=1) == np.arange(len(prompts)) % 4) > 0.65


def test_without_a_word_for_the_style_every_style_comes(backbone):
    prompts = [*PROMPTS]
    shown = measure_emoji(drawn(backbone, prompts, seed=1), prompts)
    share = np.bincount(shown.style.argmax(axis=1), minlength=4) / len(prompts)
    assert share.min() > 0.1 and share.max() < 0.5


def test_a_normalized_autoencoder_gives_normal_latents_and_the_same_pictures():
    torch.manual_seed(0)
    vae, image = make_vae(), torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    mean, deviation = torch.randn(16), torch.rand(16) + 0.5
    with torch.no_grad():
        before = vae.encode(image).latent_dist
        picture = vae.decode(before.mean).sample
        normalize(vae, mean, deviation)
        after = vae.encode(image).latent_dist
        torch.testing.assert_close(after.mean, (before.mean - mean[:, None, None]) / deviation[:, None, None])
        torch.testing.assert_close(after.std, before.std / deviation[:, None, None])
        torch.testing.assert_close(vae.decode(after.mean).sample, picture, atol=1e-4, rtol=1e-4)


def test_varied_pictures_stay_on_white_and_whole():
    image = torch.ones(64, 3, SIZE, SIZE)
    image[:, :, 8:56, 8:56] = -1  # a black square with a margin
    varied = vary(image, torch.Generator().manual_seed(0), smallest=0.8, shift=0.0)
    rim = torch.cat([varied[:, :, 0].flatten(), varied[:, :, -1].flatten(), varied[:, :, :, 0].flatten()])
    assert (rim == 1).all()
    share = (varied < 0).float().mean(dim=(1, 2, 3)) / (image < 0).float().mean()
    assert 0.6 < share.min() < 0.75 and 0.95 < share.max() <= 1.02
    assert len(varied.flatten(1).unique(dim=0)) == 64


# --- what a picture shows --------------------------------------------------------------------------------------------


def test_numpy_computes_what_was_trained(tmp_path, monkeypatch):
    torch.manual_seed(1)
    trained = Network().eval()
    write_weights(tmp_path / "weights.npz", trained)
    image = torch.rand(3, SIZE, SIZE, 3)
    with torch.no_grad():
        expected = trained(image.permute(0, 3, 1, 2) * 2 - 1).numpy()
    monkeypatch.setattr(emoji_measure, "WEIGHTS", tmp_path / "weights.npz")
    emoji_measure._weights.cache_clear()
    try:
        given = emoji_measure.network(image.numpy())
    finally:
        emoji_measure._weights.cache_clear()
    assert given == pytest.approx(expected, abs=2e-3)  # the weights are stored in fp16
    assert np.ptp(expected) > 0.1


def test_colours_and_size_of_known_pictures():
    image = np.full((2, SIZE, SIZE, 3), 255, np.uint8)
    image[0, :32] = (255, 0, 0)
    image[1, 16:48, 16:48] = (102, 102, 102)
    shown = measure_emoji(image, ["red apple", "red apple, flat"])
    assert shown.size == pytest.approx([0.5, 0.25])
    assert shown.saturation == pytest.approx([1, 0])
    assert shown.brightness == pytest.approx([0.299, 0.4], abs=1e-6)
    assert shown.style.sum(axis=1) == pytest.approx(1) and shown.right.shape == (2,)


@pytest.mark.skipif(
    not PICTURES.exists(), reason="the artists' pictures are not here (palate.demos.emoji_collect makes them)"
)
def test_the_artists_pictures_are_recognised_with_their_styles():
    pictures = load_pictures(PICTURES).of(NAMES)
    prompts = [name for name in NAMES for _ in STYLES]
    shown = measure_emoji(pictures.reshape(-1, SIZE, SIZE, 3), prompts)
    assert shown.recognised.mean() > 0.95
    assert np.mean(shown.style.argmax(axis=1) == np.arange(len(prompts)) % 4) > 0.95


def test_what_is_not_of_the_world_is_refused():
    picture = np.zeros((1, SIZE, SIZE, 3))
    for prompt in ("a horse", "red apple, oily", "red apple,flat"):
        with pytest.raises(PalateError, match="not of the emoji world"):
            measure_emoji(picture, [prompt])
    with pytest.raises(PalateError, match="64x64"):
        measure_emoji(np.zeros((1, 32, 32, 3)), ["red apple"])
    assert parse("t-shirt") == ("t-shirt", None) and parse("t-shirt, bold") == ("t-shirt", "bold")


# --- tastes ----------------------------------------------------------------------------------------------------------


def test_tables_are_balanced_so_that_no_style_is_liked_on_the_whole():
    table = np.array(list(MAJORITY.values()))
    assert list(MAJORITY) == list(GROUPS) and table.shape == (len(GROUPS), len(STYLES))
    assert table.sum(axis=0) == pytest.approx(np.zeros(4)) and table.sum(axis=1) == pytest.approx(np.zeros(8))
    assert len({tuple(row) for row in table}) == len(GROUPS)
    assert all(voter.table.shape == (len(NAMES), len(STYLES)) for voter in EMOJI_VOTERS.values())
    one, other = random_table(1), random_table(2)
    assert (one == random_table(1)).all() and abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.5


def shown_at_random(count: int, seed: int = 0) -> EmojiMeasurement:
    rng = np.random.default_rng(seed)
    asked = [PROMPTS[i] for i in rng.integers(0, len(PROMPTS), count)]
    style = np.eye(4)[rng.integers(0, 4, count)]
    return EmojiMeasurement(
        asked,
        np.array(asked),
        np.ones(count),
        style,
        rng.uniform(0.2, 0.8, count),
        np.full(count, 0.5),
        np.full(count, 0.4),
    )


def other_of(shown: EmojiMeasurement, seed: int) -> EmojiMeasurement:
    """Another picture for the same prompts."""
    return replace(shown_at_random(len(shown.asked), seed), asked=shown.asked, name=shown.name)


def agreement(voter: str, where: np.ndarray, pair: tuple[EmojiMeasurement, EmojiMeasurement]) -> float:
    """Share of the pairs, of those in which the majority likes one picture more, in which a voter likes the same."""
    difference, truth = (
        np.subtract(*(EMOJI_VOTERS[name].utility(shown) for shown in pair)) for name in (voter, "majority")
    )
    differ = where & (abs(truth) > 1e-9)
    return float(np.mean((difference > 0)[differ] == (truth > 0)[differ]))


def test_judges_err_where_they_say():
    pair = (first := shown_at_random(4000), other_of(first, 1))
    group = np.array([GROUP_OF[name] for name in first.asked])
    wrong, everywhere = np.isin(group, ["food", "places"]), np.ones(len(group), bool)
    assert agreement("context-judge", ~wrong, pair) > 0.85 and agreement("context-judge", wrong, pair) < 0.15
    assert agreement("good-judge", everywhere, pair) > 0.85
    glossy = [shown.style[:, STYLES.index("glossy")] == 1 for shown in pair]
    against = np.isin(group, ["animals", "play"]) & (glossy[0] != glossy[1])  # where people like gloss least
    assert agreement("gloss-judge", against, pair) < 0.4 < 0.7 < agreement("gloss-judge", ~against, pair)
    paler = np.where(pair[0].saturation > pair[1].saturation, 1, -1)
    truth = np.sign(np.subtract(*(EMOJI_VOTERS["majority"].utility(shown) for shown in pair)))
    assert (
        agreement("saturation-judge", truth == paler, pair) > agreement("saturation-judge", truth == -paler, pair) + 0.2
    )
    assert agreement("blind-judge", everywhere, pair) == pytest.approx(0.5, abs=0.06)


def test_people_agree_with_the_truth_mostly_where_styles_differ_wholly():
    pair = (first := shown_at_random(4000), other_of(first, 1))
    truth = np.subtract(*(EMOJI_VOTERS["majority"].utility(shown) for shown in pair))
    differ = truth != 0
    agree = {
        name: np.mean((EMOJI_VOTERS[name].vote(*pair, seed=0)[0] == (truth > 0))[differ])
        for name in ("majority", "hesitant", "minority")
    }
    assert 0.86 < agree["majority"] < 0.96 and agree["hesitant"] < agree["majority"] - 0.05
    assert agree["minority"] == pytest.approx(0.5, abs=0.08)


def test_a_turned_table_is_the_opposite_in_these_groups_alone():
    table = by_group(MAJORITY)
    other = turned(table, ("food",))
    food = np.array([GROUP_OF[name] == "food" for name in NAMES])
    assert (other[food] == -table[food]).all() and (other[~food] == table[~food]).all()


# --- pairs and pictures ----------------------------------------------------------------------------------------------


def test_pairs_come_from_several_generators_and_say_which(tmp_path):
    counts = []
    for pairs in (16, 16, 24):
        dataset = make_emoji_dataset(tmp_path / "emoji", pairs=pairs, voters=("majority", "gloss-judge"))
        counts.append((len(dataset), len(dataset.votes())))
    assert counts == [(16, 32), (16, 32), (24, 48)]
    rows = dataset.pairs(columns=["prompt", "generator_0", "generator_1"]).to_pylist()
    made_by = [
        json.loads(by) if isinstance(by, str) else dict(by)
        for row in rows
        for by in (row["generator_0"], row["generator_1"])
    ]
    assert {by["name"] for by in made_by} == {generator.name for generator in GENERATORS}
    assert any(
        by["name"] == "styled" and by["prompt"] != row["prompt"] for row, by in zip(rows, made_by[::2], strict=True)
    )
    assert all(row["prompt"] in PROMPTS for row in rows)
    shown_0, _, pair_ids = measure_emoji_pairs(dataset)
    assert shown_0.asked == [row["prompt"] for row in rows] and len(pair_ids) == 24


def test_its_prompts_are_a_suite_with_the_groups_as_parts():
    assert load_suite("emoji").prompts == PROMPTS and len(PROMPTS) == TAUGHT * len(GROUPS)
    assert load_suite("emoji", part="tools").prompts == GROUPS["tools"][:TAUGHT]


def packages(folder: Path) -> Path:
    """The four npm packages with a red picture for every name, half transparent where it is a bitmap."""
    rows, keywords = [], {}
    for k, name in enumerate(NAMES):
        character = chr(0x1F300 + k)
        rows.append({"unified": f"{0x1F300 + k:X}", "image": f"{k}.png"})
        keywords[character] = [name.lower().replace(" ", "_").replace("-", "_")]
    content = io.BytesIO()
    Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 128)).save(content, format="PNG")
    for place in emoji_collect.BITMAPS.values():
        (folder / place).mkdir(parents=True)
        for row in rows:
            (folder / place / row["image"]).write_bytes(content.getvalue())
    for place in emoji_collect.DRAWINGS.values():
        (folder / place).mkdir(parents=True)
        for name in NAMES:
            (folder / place / f"{emoji_collect.file_name(name)}.svg").write_text("<svg/>")
    for place, told in ((emoji_collect.LIST, rows), (emoji_collect.KEYWORDS, keywords)):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(json.dumps(told))
    return folder


def test_the_packages_become_one_file_and_a_missing_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_collect, "rendered", lambda path: np.full((SIZE, SIZE, 3), 7, np.uint8))
    source = packages(tmp_path / "node_modules")
    emoji_collect.main(emoji_collect.Options(source, tmp_path / "pictures.npz"))
    pictures = load_pictures(tmp_path / "pictures.npz")
    assert set(pictures.names) == set(NAMES) and pictures.images.shape[1] == len(ARTISTS)
    assert (pictures.of(("t-shirt",))[0, 0] == (255, 127, 127)).all() and (pictures.images[:, 2:] == 7).all()
    (source / emoji_collect.DRAWINGS["fluent-3d"] / "red-apple.svg").unlink()
    with pytest.raises(PalateError, match="1 of the world's names are missing, 'red apple'"):
        emoji_collect.main(emoji_collect.Options(source, tmp_path / "others.npz"))
    with pytest.raises(PalateError, match="npm install"):
        emoji_collect.main(emoji_collect.Options(tmp_path / "nowhere", tmp_path / "others.npz"))


def test_the_notice_names_every_artist_package_and_licence():
    notice = (ROOT / "NOTICE").read_text()
    for told in (
        "Noto Emoji",
        "Twemoji",
        "Fluent Emoji",
        "Apache License 2.0",
        "Creative Commons Attribution 4.0",
        "MIT License",
    ):
        assert told in notice
    for place in (*emoji_collect.BITMAPS.values(), *emoji_collect.DRAWINGS.values(), emoji_collect.KEYWORDS):
        assert place.split("/")[0] in notice
