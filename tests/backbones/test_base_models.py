"""Base models as people have them: one file, half precision alone, another autoencoder, and names that are paths."""

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from families import FAMILIES
from safetensors.torch import load_file, save_file
from tiny import make_pipeline, refusal

import palate
from palate.backbones import load_backbone
from palate.backbones.guidance import plain_weights
from palate.backbones.stock import CONFIGS, SD, SDXL, stock_vocabulary, write_stock
from palate.network.model import make_policy, save_model
from palate.run.load import load_config, save_config


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, and no way out: what opens a connection fails."""
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))

    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def same_weights(one: torch.nn.Module, other: torch.nn.Module, exact: bool = True) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys() and all(weight.dtype == torch.float32 for weight in first.values())
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0 if exact else 2e-3)


# --- copies in half precision ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves(pipeline_folder, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("halves")
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder).to(torch.float16)
    pipeline.save_pretrained(folder / "one", variant="fp16")
    pipeline.save_pretrained(folder / "shards", variant="fp16", max_shard_size="100KB")
    shutil.copytree(pipeline_folder, folder / "both")
    for file in (folder / "one" / "unet").glob("*.fp16.safetensors"):
        shutil.copy2(file, folder / "both" / "unet")
    return {name: folder / name for name in ("one", "shards", "both")}


@pytest.mark.parametrize("form", ["one", "shards"])
def test_a_folder_with_half_precision_alone_is_read_and_this_is_said(form, halves, pipeline_folder, capsys):
    whole, backbone = load_backbone(str(pipeline_folder)), load_backbone(str(halves[form]))
    same_weights(backbone.network, whole.network, exact=False)
    same_weights(backbone.vae, whole.vae, exact=False)
    same_weights(backbone.text_encoder, whole.text_encoder, exact=False)
    assert "only fp16 weights are there; they are read, and held in fp32" in capsys.readouterr().err
    assert load_backbone(str(halves[form])).folder == backbone.folder  # not made again
    assert backbone.encode_prompts(["a red circle"])["embeddings"].isfinite().all()


def test_the_variant_chooses_between_two_copies(halves, pipeline_folder):
    plain = load_backbone(str(halves["both"]))
    assert plain.folder == halves["both"]
    half = load_backbone(str(halves["both"]), variant="fp16")
    expected = load_backbone(str(halves["one"])).network
    same_weights(half.network, expected)
    same_weights(half.vae, plain.vae)  # of which there is one copy alone
    assert any((a != b).any() for a, b in zip(half.network.parameters(), plain.network.parameters(), strict=True))
    assert "variant: bf16, but no part of the model has such weights; it has fp16" in refusal(
        lambda: load_backbone(str(halves["both"]), variant="bf16")
    )
    assert "under their plain names alone" in refusal(lambda: load_backbone(str(pipeline_folder), variant="fp16"))


def test_two_copies_without_the_plain_one_need_a_word(halves, tmp_path):
    shutil.copytree(halves["one"], tmp_path / "base")
    unet = tmp_path / "base" / "unet"
    shutil.copy2(unet / "diffusion_pytorch_model.fp16.safetensors", unet / "diffusion_pytorch_model.bf16.safetensors")
    assert "as bf16, fp16 alone. Say which with variant" in refusal(lambda: load_backbone(str(tmp_path / "base")))
    assert load_backbone(str(tmp_path / "base"), variant="fp16").network


def test_training_and_sampling_take_the_keys(halves, dataset, pipeline_folder, tmp_path):
    torch.manual_seed(5)
    other = AutoencoderKL.from_config(AutoencoderKL.load_config(pipeline_folder, subfolder="vae"))
    other.save_pretrained(tmp_path / "other-vae")
    config = {
        "pretrained_model_name_or_path": str(halves["both"]), "dataset": str(dataset.path), "lora": {"rank": 2},
        "output_dir": str(tmp_path / "run"), "variant": "fp16", "vae": str(tmp_path / "other-vae"), "resolution": 64,
        "max_train_steps": 1, "train_batch_size": 2, "report_to": "none", "cache": str(tmp_path / "encoded"),
    }  # fmt: skip
    run = palate.train(config).path
    from palate.sampling.samples import load_model

    backbone, _ = load_model(run)
    same_weights(backbone.vae, other)
    made = palate.sample(run, ["a red circle"], tmp_path / "pictures", palate.Sampling(steps=1, sampler="ddim"))
    assert not made.missing
    palate.export(run, "fused", tmp_path / "whole", whole_pipeline=True)
    same_weights(load_backbone(str(tmp_path / "whole")).vae, other)
    assert not any(path.is_symlink() for path in (tmp_path / "whole").rglob("*"))
    with pytest.raises(palate.PalateError, match="vae: .* there, None here"):
        palate.train(config | {"vae": None})


# --- another autoencoder ---------------------------------------------------------------------------------------------


def test_another_autoencoder_is_a_folder_a_pipeline_or_a_file(pipeline_folder, tmp_path):
    other = make_pipeline(tmp_path / "other", seed=7)
    wanted = load_backbone(str(other)).vae
    file = other / "vae" / "diffusion_pytorch_model.safetensors"
    for vae in (other, other / "vae", file):
        backbone = load_backbone(str(pipeline_folder), vae=str(vae))
        same_weights(backbone.vae, wanted)
        same_weights(backbone.network, load_backbone(str(pipeline_folder)).network)
    wrong = json.loads((other / "vae" / "config.json").read_text()) | {"latent_channels": 16}
    (other / "vae" / "config.json").write_text(json.dumps(wrong))
    assert "has latent_channels 16, and the model was made for 4" in refusal(
        lambda: load_backbone(str(pipeline_folder), vae=str(other))
    )
    assert "no such folder or file" in refusal(lambda: load_backbone(str(pipeline_folder), vae="./nowhere"))
    save_file(dict(list(load_file(file).items())[1:]), tmp_path / "cut.safetensors")
    line = refusal(lambda: load_backbone(str(pipeline_folder), vae=str(tmp_path / "cut.safetensors")))
    assert "could not be read as a AutoencoderKL" in line and "weights are missing in it" in line


# --- one file --------------------------------------------------------------------------------------------------------


def run_of(base: Path, run: Path) -> Path:
    """A run as `palate train` leaves one, with random adapters."""
    backbone = load_backbone(str(base))
    config = {"pretrained_model_name_or_path": str(base), "dataset": "none", "output_dir": str(run)}
    config = load_config(config | {"lora": {"rank": 2}})
    save_config(config, run / "config.yaml")
    policy = make_policy(backbone.network, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.normal_(std=0.2)
    save_model(policy, run / "model", config, backbone)
    return run


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_single_file_of_ours_comes_back(family, tmp_path):
    base = FAMILIES[family](tmp_path / "base")
    run = run_of(base, tmp_path / "run")
    file = palate.export(run, "single-file", tmp_path / "one.safetensors")
    from palate.sampling.samples import load_model

    before, trained = load_model(run)
    after = load_backbone(str(file))
    assert type(after) is type(before)
    weights = plain_weights(trained)
    assert weights.keys() == after.network.state_dict().keys()
    for name, weight in after.network.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-5, atol=1e-6)
    prompts = ["a red circle", ""]
    for name, told in before.encode_prompts(prompts).items():
        torch.testing.assert_close(after.encode_prompts(prompts)[name], told, rtol=1e-4, atol=1e-5)
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(after.encode_images(pictures), before.encode_images(pictures), rtol=1e-4, atol=1e-5)
    assert (after.num_timesteps, after.resolution) == (before.num_timesteps, before.resolution)
    assert str(tmp_path) not in json.dumps(json.loads(header(file)["palate.pipeline"]))
    assert load_backbone(str(file)).folder == after.folder
    if family == "sd":  # and the next round of training starts from it
        assert run_of(file, tmp_path / "next").is_dir()


def header(file: Path) -> dict:
    raw = file.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]


def test_a_half_precision_file_by_anybody_is_read_by_the_stock_configuration(tmp_path, monkeypatch):
    """A file without our header is read by configurations that come with palate; here those are made as small as it."""
    base = FAMILIES["sd"](tmp_path / "base")
    file = palate.export(run_of(base, tmp_path / "run"), "single-file", tmp_path / "one.safetensors", dtype="fp16")
    save_file(load_file(file), tmp_path / "theirs.safetensors", metadata={"format": "pt"})

    def small(folder: Path, pipeline: str) -> None:
        shutil.copytree(base, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))

    monkeypatch.setattr("palate.backbones.single_file.write_stock", small)
    after = load_backbone(str(tmp_path / "theirs.safetensors"))
    for name, weight in load_backbone(str(file)).network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[name], weight, rtol=0, atol=0)
    monkeypatch.undo()
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "second"))
    line = refusal(lambda: load_backbone(str(tmp_path / "theirs.safetensors")))  # not of the stock's shapes
    assert "could not be read as a StableDiffusionPipeline" in line
    assert not list((tmp_path / "second" / "single-files").iterdir())


def test_v_prediction_is_what_a_file_of_that_kind_says(tmp_path, monkeypatch):
    base = FAMILIES["sdxl"](tmp_path / "base")
    file = palate.export(run_of(base, tmp_path / "run"), "single-file", tmp_path / "one.safetensors")
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save_file(load_file(file) | marks, file, metadata=header(file))
    schedule = load_backbone(str(file)).noise_schedule
    assert schedule.config.prediction_type == "v_prediction" and schedule.alphas_cumprod[-1] == 0


def test_files_that_are_no_whole_model_are_refused(tmp_path, pipeline_folder):
    def refused(tensors: dict, metadata: dict | None = None) -> str:
        save_file(tensors, tmp_path / "one.safetensors", metadata=metadata)
        return refusal(lambda: load_backbone(str(tmp_path / "one.safetensors")))

    assert "holds adapters (LoRA)" in refused({"unet.a.lora_A.weight": torch.zeros(2)})
    assert "holds adapters (LoRA)" in refused({"lora_unet_a.lora_down.weight": torch.zeros(2)})
    assert "no whole model by the names of its weights" in refused({"a": torch.zeros(2)})
    unet = load_file(pipeline_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert "no whole model" in refused(unet)
    assert "holds no weights" in refused({})
    told = {"pipeline": SD, "files": {"unet/config.json": "{}", "../x.py": "evil"}}
    for metadata in ("not json", "[]", json.dumps(told), json.dumps({"pipeline": "os.system", "files": {}})):
        assert "header says of the pipeline is damaged" in refused({"a": torch.zeros(2)}, {"palate.pipeline": metadata})
    (tmp_path / "one.safetensors").write_bytes(b"<html>")
    assert "not readable as safetensors" in refusal(lambda: load_backbone(str(tmp_path / "one.safetensors")))
    for name, word in (("one.ckpt", "pickled"), ("one.gguf", "no .safetensors")):
        (tmp_path / name).write_bytes(b"x")
        assert word in refusal(lambda name=name: load_backbone(str(tmp_path / name)))


# What marks a file of each family that needs configurations from the hub: a weight's name and its shape
ELSEWHERE = {
    "StableDiffusionPipeline": {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (2, 1024)},
    "StableDiffusion3Pipeline": {"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (9216,),
                                 "model.diffusion_model.pos_embed": (1, 36864, 1)},
    "FluxPipeline": {"model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale": (2,)},
    "SanaPipeline": {f"blocks.0.cross_attn.{name}": (2,) for name in
                     ("q_linear.weight", "q_linear.bias", "kv_linear.weight", "kv_linear.bias")},
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_file_of_a_family_whose_configurations_are_on_the_hub_says_what_to_do(name, tmp_path, monkeypatch):
    """Stable Diffusion 2.x, 3, FLUX.1 and Sana, where the hub cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def away(*_):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", away)
    monkeypatch.setattr(socket.socket, "connect", away)
    file = tmp_path / "one.safetensors"
    save_file({own: torch.zeros(shape) for own, shape in ELSEWHERE[name].items()}, file)
    line = refusal(lambda: load_backbone(str(file)))
    assert f"could not be read as a {name}, whose configurations are those of " in line and " on the hub (" in line
    assert line.endswith(f"Convert it where it loads: {name}.from_single_file(FILE).save_pretrained(FOLDER).")
    assert not list((tmp_path / "cache" / "single-files").iterdir())


# --- the stock configurations ----------------------------------------------------------------------------------------


def test_the_stock_configurations_are_those_of_the_published_models():
    """Parameters as published, and the tokens of a known prompt."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def count(kind: type, config) -> int:
        with init_empty_weights():
            made = kind.from_config(config) if isinstance(config, dict) else kind(config)
        return sum(parameter.numel() for parameter in made.parameters())

    assert count(UNet2DConditionModel, CONFIGS[SD]["unet"]) == 859_520_964
    assert count(UNet2DConditionModel, CONFIGS[SDXL]["unet"]) == 2_567_463_684
    assert count(AutoencoderKL, CONFIGS[SD]["vae"]) == count(AutoencoderKL, CONFIGS[SDXL]["vae"]) == 83_653_863
    assert count(CLIPTextModel, CLIPTextConfig(**CONFIGS[SD]["text_encoder"])) == 123_060_480
    second = CLIPTextConfig(**CONFIGS[SDXL]["text_encoder_2"])
    assert count(CLIPTextModelWithProjection, second) == 694_659_840


def test_the_stock_tokenizers(tmp_path):
    write_stock(tmp_path, SDXL)
    backbone = load_stock(tmp_path)
    assert len(stock_vocabulary()) == 49_408
    tokens = [320, 1125, 539, 320, 2368]  # of "a photo of a cat"
    first = backbone.tokenizer("A photo of a cat", padding="max_length").input_ids
    second = backbone.tokenizer_2("a  photo of a cat", padding="max_length").input_ids
    assert first == [49406, *tokens, 49407] + [49407] * 70
    assert second == [49406, *tokens, 49407] + [0] * 70


def load_stock(folder: Path) -> StableDiffusionXLPipeline:
    from palate.backbones.stable_diffusion_xl import StableDiffusionXL

    return StableDiffusionXL(folder)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["models/base.safetensors", "models/base.ckpt", "my.models/base", "models/sdd", "modles/sd", "./x", "/x/y", "x",
     "models/deeper/sd", "~/nowhere", "runs\\sd/x"],
)  # fmt: skip
def test_a_name_that_is_a_path_never_asks_the_hub(name, tmp_path, monkeypatch):
    (tmp_path / "models" / "sd").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    line = refusal(lambda: load_backbone(name))
    assert "no such folder" in line
    assert ("did you mean models/sd?" in line) == (name in ("models/sdd", "modles/sd"))


@pytest.mark.parametrize("name", ["stabilityai/stable-diffusion-xl-base-1.0", "black-forest-labs/FLUX.1-dev"])
def test_a_hub_name_with_a_dot_asks_the_hub_in_silence(name, monkeypatch, capfd):
    monkeypatch.setattr("socket.socket.connect", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert "neither a local folder nor reachable on the hub" in refusal(lambda: load_backbone(name))
    told = capfd.readouterr()
    assert told.out == told.err == ""


# --- configurations that would end in anything only when they are used ----------------------------------------------


@pytest.mark.parametrize(
    ("family", "file", "change", "told"),
    [
        (
            "sd",
            "unet/config.json",
            {"mid_block_scale_factor": "os.system"},
            "mid_block_scale_factor is 'os.system', which",
        ),
        ("sd", "unet/config.json", {"norm_eps": [[]]}, "norm_eps is '[[]]', which"),
        ("sd", "text_encoder/config.json", {"layer_norm_eps": None}, "layer_norm_eps is 'None', which"),
        (
            "sd",
            "text_encoder/config.json",
            {"num_attention_heads": -1},
            "num_attention_heads is -1, which no model has",
        ),
        ("sd", "vae/config.json", {"latent_channels": {}}, "latent_channels is '{}', no size"),
        ("sd", "scheduler/scheduler_config.json", {"timestep_spacing": True}, "timestep_spacing is 'True', which"),
        ("pixart", "scheduler/scheduler_config.json", {"trained_betas": [[]]}, "trained_betas is '[[]]', which"),
        ("pixart", "transformer/config.json", {"patch_size": ...}, "config.json: has no patch_size"),
        ("sd", "tokenizer/tokenizer_config.json", {"model_max_length": {}}, "model_max_length"),
        ("sd", "tokenizer/tokenizer_config.json", {"model_max_length": 10**400}, "of a prompt, and text_encoder reads"),
    ],
)
def test_a_setting_that_no_library_can_use_is_named(family, file, change, told, tmp_path):
    from palate.data.samples import Sampling

    base = FAMILIES[family](tmp_path / "base")
    config = json.loads((base / file).read_text()) | change
    (base / file).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    assert told in refusal(lambda: palate.sample(base, ["a"], tmp_path / "pictures", Sampling(steps=1, guidance=2.0)))
