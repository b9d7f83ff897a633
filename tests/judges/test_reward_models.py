import io
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from judges.reward_models import SIZE, save_clip, save_image_reward, save_open_clip, save_tokenizer
from PIL import Image
from shared import SHARED
from tiny import refusal

from palate.judges.aesthetic import AestheticJudge, load_head
from palate.judges.ask import ask
from palate.judges.base import Pair
from palate.judges.clip import ClipJudge
from palate.judges.image_reward import ImageRewardJudge
from palate.judges.load import load_judge
from palate.judges.weights import load_state, pictures

PUBLISHED_HEAD = "data/aesthetic/sac+logos+ava1-l14-linearMSE.pth"
PROMPTS = ("a red circle", "a blue square", "a green star")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("judges") / "clip")


@pytest.fixture(scope="session")
def hps(tmp_path_factory):
    return save_open_clip(tmp_path_factory.mktemp("judges") / "hps")


@pytest.fixture(scope="session")
def image_reward(tmp_path_factory):
    return save_image_reward(tmp_path_factory.mktemp("judges") / "imagereward")


def picture(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def pairs():
    return [Pair(f"p{i}", PROMPTS[i], picture(2 * i), picture(2 * i + 1, 64, 33)) for i in range(3)]


def judges_of(clip_folder, hps, image_reward):
    return {
        "clip": ClipJudge("clip", str(clip_folder), device="cpu"),
        "pickscore": ClipJudge("pickscore", str(clip_folder), device="cpu"),
        "hpsv2.1": ClipJudge("hpsv2.1", str(hps[0]), device="cpu"),
        "imagereward": ImageRewardJudge(str(image_reward[0]), device="cpu"),
    }


def test_pictures_are_prepared_as_transformers_prepares_them_for_clip():
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    except ImportError:  # its name in the oldest transformers that is supported
        from transformers import CLIPImageProcessor as CLIPImageProcessorPil

    images = [picture(0, 50, 50), picture(1, 91, 47), picture(2, 30, 77)]
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    expected = torch.as_tensor(np.stack(processor(images=images)["pixel_values"]))
    torch.testing.assert_close(pictures(images, SIZE), expected.float(), atol=1e-5, rtol=0)


def test_the_clip_score_is_a_hundred_cosines_and_pickscore_the_logit(clip_folder, pairs):
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizer.from_pretrained(clip_folder)
    images = pictures([p.image_0 for p in pairs] + [p.image_1 for p in pairs], SIZE)
    tokens = tokenizer([p.prompt for p in pairs], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, pixel_values=images).logits_per_image  # [6, 3], exp(logit_scale) * cos
    own = torch.stack([logits[:3].diagonal(), logits[3:].diagonal()], dim=1).double().numpy()
    np.testing.assert_allclose(ClipJudge("pickscore", str(clip_folder), device="cpu").vote(pairs), own, rtol=1e-4)
    cosines = own / float(model.logit_scale.detach().exp())
    np.testing.assert_allclose(ClipJudge("clip", str(clip_folder), device="cpu").vote(pairs), 100 * cosines, rtol=1e-4)
    assert np.abs(cosines).max() <= 1 and np.ptp(cosines) > 0.02


def test_an_open_clip_checkpoint_scores_as_open_clip_does(hps, pairs):
    folder, model = hps
    tokenizer = save_tokenizer(folder)
    ids = tokenizer([p.prompt for p in pairs], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        text = model.encode_text(ids)
        expected = [(text * model.encode_image(pictures([getattr(p, s) for p in pairs], SIZE))).sum(-1) for s in ("image_0", "image_1")]  # fmt: skip
    scores = ClipJudge("hpsv2.1", str(folder), device="cpu").vote(pairs)
    np.testing.assert_allclose(scores, 100 * torch.stack(expected, dim=1).double().numpy(), atol=2e-3)
    assert np.ptp(scores) > 1


def test_image_reward_scores_as_the_published_model_does(image_reward, pairs):
    folder, model = image_reward
    judge = ImageRewardJudge(str(folder), device="cpu")
    tokens = judge.tokenizer([p.prompt for p in pairs], padding="max_length", max_length=35, return_tensors="pt")
    with torch.no_grad():
        expected = [model(pictures([getattr(p, s) for p in pairs], SIZE), tokens.input_ids, tokens.attention_mask) for s in ("image_0", "image_1")]  # fmt: skip
    scores = judge.vote(pairs)
    np.testing.assert_allclose(scores, torch.stack(expected, dim=1).double().numpy(), rtol=1e-4, atol=1e-5)
    assert len(np.unique(scores.round(6))) == 6  # every picture counts
    other = judge.vote([Pair(p.pair_id, "a star", p.image_0, p.image_1) for p in pairs])
    assert np.abs(other - scores).min() > 1e-7  # and so does the prompt


@pytest.mark.shared(PUBLISHED_HEAD)
def test_the_aesthetic_head_of_the_real_weights_is_the_affine_map_that_its_layers_make():
    layers = load_head(SHARED / PUBLISHED_HEAD)
    assert [tuple(weight.shape) for weight, _ in layers] == [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]
    weight, bias = torch.eye(768, dtype=torch.float64), torch.zeros(768, dtype=torch.float64)
    for w, b in layers:
        weight, bias = w.double() @ weight, w.double() @ bias + b.double()
    unit = torch.nn.functional.normalize(torch.randn(64, 768, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = unit.double() @ weight[0] + bias[0]
    x = unit
    for w, b in layers:
        x = torch.nn.functional.linear(x, w, b)
    torch.testing.assert_close(x[:, 0].double(), expected, atol=1e-4, rtol=1e-4)
    assert 0 < float(expected.mean()) < 10  # ratings go from 1 to 10


@pytest.fixture(scope="session")
def head(tmp_path_factory) -> Path:
    """Layers with random weights, named and shaped as the published ones."""
    sizes, draws = (768, 1024, 128, 64, 16, 1), torch.Generator().manual_seed(0)
    state = {}
    for layer, (inputs, outputs) in zip((0, 2, 4, 6, 7), itertools.pairwise(sizes), strict=True):
        state[f"layers.{layer}.weight"] = torch.randn(outputs, inputs, generator=draws) / inputs**0.5
        state[f"layers.{layer}.bias"] = torch.randn(outputs, generator=draws)
    path = tmp_path_factory.mktemp("judges") / "head.pth"
    torch.save(state, path)
    return path


def test_the_aesthetic_judge_sees_the_picture_and_not_the_prompt(tmp_path, pairs, head):
    clip = save_clip(tmp_path / "l14", projection=768)
    judge = AestheticJudge(str(clip), head=str(head), device="cpu")
    scores = judge.vote(pairs)
    features = pictures([p.image_0 for p in pairs], SIZE)
    with torch.no_grad():
        unit = torch.nn.functional.normalize(judge.model.get_image_features(features).pooler_output, dim=-1)
        for weight, bias in load_head(judge.head_path):
            unit = unit @ weight.T + bias
    np.testing.assert_allclose(scores[:, 0], unit[:, 0].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(scores, judge.vote([Pair("p", "another", p.image_0, p.image_1) for p in pairs]))


def test_swapping_the_pictures_mirrors_the_probability_and_batches_do_not_matter(clip_folder, hps, image_reward, pairs):
    for name, judge in judges_of(clip_folder, hps, image_reward).items():
        straight = ask(name, judge, pairs, temperature=0.7)
        mirrored = ask(name, judge, [pair.swapped() for pair in pairs], temperature=0.7)
        for one, other in zip(straight, mirrored, strict=True):
            assert one.probability == pytest.approx(1 - other.probability, abs=1e-4), name
            assert (one.score_0, one.score_1) == pytest.approx((other.score_1, other.score_0), abs=1e-3), name
        alone = np.concatenate([judge.vote([pair]) for pair in pairs])
        np.testing.assert_allclose(judge.vote(pairs), alone, atol=1e-3, err_msg=name)


def test_half_precision_gives_the_same_votes_up_to_its_rounding(clip_folder, image_reward, pairs):
    for make in (
        lambda dtype: ClipJudge("clip", str(clip_folder), device="cpu", dtype=dtype),
        lambda dtype: ImageRewardJudge(str(image_reward[0]), device="cpu", dtype=dtype),
    ):
        full, half = make("fp32").vote(pairs), make("bf16").vote(pairs)
        assert half.dtype == np.float64 and 0 < np.abs(full - half).max() < 0.1 * max(1, np.abs(full).max())


def test_the_published_checkpoint_is_taken_from_a_folder_that_has_others_and_a_configuration(hps, tmp_path, pairs):
    folder, _ = save_open_clip(tmp_path / "both")
    torch.save({"state_dict": {}}, folder / "HPS_v2_compressed.pt")
    (folder / "config.json").write_text('{"model_type": "clip"}')
    scores = [ClipJudge("hpsv2.1", str(path), device="cpu").vote(pairs) for path in (folder, hps[0])]
    np.testing.assert_array_equal(*scores)


def test_what_the_answers_depend_on_is_in_the_settings(clip_folder, tmp_path):
    one = ClipJudge("clip", str(clip_folder), device="cpu").settings
    assert one == ClipJudge("clip", str(clip_folder), device="cpu").settings
    others = [
        ClipJudge("clip", str(save_clip(tmp_path / "b", seed=1)), device="cpu").settings,
        ClipJudge("clip", str(clip_folder), device="cpu", dtype="bf16").settings,
        ClipJudge("pickscore", str(clip_folder), device="cpu").settings,
    ]
    assert all(other != one for other in others) and json.dumps(one)


def test_a_folder_that_does_not_fit_the_judge_is_refused_in_one_line(clip_folder, hps, tmp_path, pairs, head):
    def vote(kind, folder):
        return lambda: load_judge(kind, model=str(folder), device="cpu").vote(pairs)

    assert "tokenizer" in refusal(vote("pickscore", tmp_path))
    save_tokenizer(tmp_path / "empty")
    assert "none" in refusal(vote("hpsv2.1", tmp_path / "empty"))
    assert "weights of imagereward" in refusal(vote("imagereward", hps[0]))
    assert "no such file or folder" in refusal(vote("clip", tmp_path / "nowhere"))
    other = tmp_path / "bert"
    save_tokenizer(other)
    (other / "config.json").write_text('{"model_type": "bert"}')
    assert "'bert'" in refusal(vote("pickscore", other))
    assert "head is not there" in refusal(lambda: load_judge("aesthetic", model=str(clip_folder)))
    assert "768" in refusal(lambda: AestheticJudge(str(clip_folder), head=str(head), device="cpu").vote(pairs))


def test_weights_with_a_tensor_missing_are_refused_rather_than_made_up(clip_folder, hps, tmp_path, pairs):
    from safetensors.torch import load_file, save_file

    folder = save_clip(tmp_path / "part")
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "visual_projection.weight is missing" in refusal(
        lambda: ClipJudge("clip", str(folder), device="cpu").vote(pairs)
    )

    folder, model = save_open_clip(tmp_path / "hps")
    state = model.state_dict()
    del state["transformer.resblocks.1.ln_2.bias"]
    torch.save({"state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    assert "is missing" in refusal(lambda: ClipJudge("hpsv2.1", str(folder), device="cpu").vote(pairs))


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    buffer = io.BytesIO()
    torch.save({"x": Evil()}, buffer, pickle_module=pickle)
    path = tmp_path / "head.pth"
    path.write_bytes(buffer.getvalue())
    assert "is not opened" in refusal(lambda: load_state(path))
    assert not (tmp_path / "ran").exists()


def test_a_setting_that_the_judge_does_not_take_is_named(clip_folder):
    assert "takes no setting 'kind'" in refusal(lambda: load_judge("clip", kind="pickscore"))
    assert "'fp8'" in refusal(lambda: load_judge("clip", model=str(clip_folder), dtype="fp8"))
    assert "is not known" in refusal(lambda: load_judge("beauty"))
