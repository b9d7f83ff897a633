"""Adapters on the default targets and on every linear layer and convolution, of every family, in every way that loads
them: the weights that each reader ends with are those of the policy that was trained."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from families import FAMILIES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import refusal

import palate
from palate.backbones import load_backbone
from palate.backbones.classifier import load_classifier
from palate.backbones.guidance import plain_weights
from palate.files import CHECKSUMS
from palate.network.model import load_trained, make_classifier, make_policy, save_model, starting_network
from palate.run.load import load_config, save_config
from palate.sampling.samples import load_model

ADAPTER = "pytorch_lora_weights.safetensors"
KOHYA = ("sd", "sd-v", "sdxl")
COMFYUI = (*KOHYA, "sd3", "sd35", "flux", "qwen-image")
SINGLE_FILE = ("sd", "sdxl")
MERGED = ("pixart",)  # whose pipelines load no adapters
RANK, ALPHA = 2, 3  # a scale that no power of two hides


@dataclass
class Made:
    base: Path
    run: Path
    original: dict[str, torch.Tensor]  # the base's weights
    trained: dict[str, torch.Tensor]  # the policy's, its adapters added in
    pipeline: DiffusionPipeline  # the stock pipeline of the base
    denoiser: str
    adapters: int


def is_layer(module: torch.nn.Module) -> bool:
    """A linear layer or a convolution that takes adapters of any rank: those in groups take some only."""
    return isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and getattr(module, "groups", 1) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that makes a run of a family, as `palate train` leaves one, whose adapters are random."""
    bases: dict[str, tuple[Path, DiffusionPipeline]] = {}
    runs: dict[tuple[str, str], Made] = {}

    def make(family: str, targets: str) -> Made:
        if family not in bases:
            folder = FAMILIES[family](tmp_path_factory.mktemp(family) / "base")
            bases[family] = folder, DiffusionPipeline.from_pretrained(folder)
        if (family, targets) not in runs:
            runs[family, targets] = make_run(
                *bases[family], tmp_path_factory.mktemp(f"{family}-{targets}") / "run", targets
            )
        one = runs[family, targets]
        if hasattr(one.pipeline, "unload_lora_weights"):
            one.pipeline.unload_lora_weights()
        return one

    return make


def make_run(base: Path, pipeline: DiffusionPipeline, run: Path, targets: str | list[str]) -> Made:
    backbone, lora = load_backbone(str(base)), {"rank": RANK, "alpha": ALPHA}
    if targets == "all":
        lora["target_modules"] = [name for name, module in backbone.network.named_modules() if is_layer(module)]
    elif targets != "default":
        lora["target_modules"] = targets
    config = {"pretrained_model_name_or_path": str(base), "dataset": "none", "output_dir": str(run), "lora": lora}
    config = load_config(config)
    save_config(config, run / "config.yaml")
    original = {name: weight.clone() for name, weight in backbone.network.state_dict().items()}
    policy = make_policy(backbone.network, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.normal_(std=0.2)
    save_model(policy, run / "model", config, backbone)
    trained = {name: weight.detach().clone() for name, weight in plain_weights(policy.network).items()}
    return Made(base, run, original, trained, pipeline, backbone.denoiser, len(policy.names) // 2)


def assert_trained(network: torch.nn.Module, made: Made) -> None:
    """The weights of the policy, and not those of the base in any module that has an adapter."""
    weights = plain_weights(network)
    assert weights.keys() == made.trained.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, made.trained[name], rtol=1e-5, atol=1e-6)
    changed = sum((weights[name] - made.original[name]).abs().max() > 1e-2 for name in weights)
    assert changed == made.adapters


def stock(made: Made, folder: Path) -> torch.nn.Module:
    """The denoiser of diffusers' own pipeline with what is in the folder or file."""
    if not folder.is_file() and (folder / made.denoiser).is_dir():
        return type(getattr(made.pipeline, made.denoiser)).from_pretrained(folder, subfolder=made.denoiser)
    if folder.is_file():
        made.pipeline.load_lora_weights(folder.parent, weight_name=folder.name)
    else:
        made.pipeline.load_lora_weights(folder)
    return getattr(made.pipeline, made.denoiser)


def formats(family: str) -> list[str]:
    found = ["diffusers", "fused", "whole pipeline"]
    if family not in MERGED:
        found += ["kohya"] * (family in KOHYA) + ["comfyui"] * (family in COMFYUI)
    return found + ["single-file"] * (family in SINGLE_FILE)


CASES = [
    (family, targets, how) for family in FAMILIES for targets in ("default", "all") for how in ("run", *formats(family))
]


@pytest.mark.parametrize(("family", "targets", "how"), CASES)
def test_every_reader_ends_with_the_weights_that_were_trained(family, targets, how, made, tmp_path):
    one = made(family, targets)
    if how == "run":
        network = load_trained(load_backbone(str(one.base)), one.run / "model")
        assert_trained(network, one)
        assert_trained(stock(one, one.run / "model"), one)
    elif how == "whole pipeline":
        whole = palate.export(one.run, "fused", tmp_path / "whole", whole_pipeline=True)
        assert_trained(load_backbone(str(whole)).network, one)
    elif how == "single-file":
        path = palate.export(one.run, how, tmp_path / "one.safetensors")
        pipeline = type(one.pipeline).from_single_file(path, config=str(one.base), local_files_only=True)
        assert_trained(pipeline.unet, one)
    else:
        file = tmp_path / "one.safetensors" if how in ("kohya", "comfyui") else tmp_path / "out"
        assert_trained(stock(one, palate.export(one.run, how, file)), one)


# --- ComfyUI's names of transformers ---------------------------------------------------------------------------------

# What its loader maps: modules of a block by the names that "transformer.transformer_blocks.0." stands before, and
# those of another kind of block. Written down from comfy/lora.py and comfy/utils.py
# (flux_to_diffusers, pixart_to_diffusers: PIXART_MAP_BASIC and PIXART_MAP_BLOCK).
ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
             "attn.add_v_proj", "attn.to_add_out")  # fmt: skip
CROSS = tuple(f"attn{k}.{end}" for k in (1, 2) for end in ("to_q", "to_k", "to_v", "to_out.0"))
NAMES = {
    "flux2-klein": {
        "transformer_blocks": (*ATTENTION, "ff.linear_in", "ff.linear_out", "ff_context.linear_in",
                               "ff_context.linear_out"),
        "single_transformer_blocks": ("attn.to_qkv_mlp_proj", "attn.to_out"),
    },
    "pixart": {
        "transformer_blocks": (*CROSS, "ff.net.0.proj", "ff.net.2"),
        "": ("adaln_single.linear", "adaln_single.emb.timestep_embedder.linear_1", "adaln_single.emb.timestep_embedder.linear_2",
             "caption_projection.linear_1", "caption_projection.linear_2", "pos_embed.proj", "proj_out"),
    },
    "qwen-image": {
        "transformer_blocks": (*ATTENTION, "img_mod.1", "txt_mod.1", "img_mlp.net.0.proj", "img_mlp.net.2",
                               "txt_mlp.net.0.proj", "txt_mlp.net.2"),
    },
}  # fmt: skip


@pytest.mark.parametrize("family", NAMES)
def test_comfyui_gets_the_names_that_its_loader_maps_and_the_weights_that_were_trained(family, made, tmp_path):
    """By ComfyUI's rule, W + B·A without any alpha, its names of the modules that were trained give the run's weights."""
    blocks = {
        f"{block}.{k}.{name}" if block else name
        for block, names in NAMES[family].items()
        for k in range(4)
        for name in names
    }
    base = made(family, "default").base
    present = [name for name, module in load_backbone(str(base)).network.named_modules() if is_layer(module)]
    one = make_run(base, made(family, "default").pipeline, tmp_path / "run", [n for n in present if n in blocks])
    tensors = load_file(palate.export(one.run, "comfyui", tmp_path / "one.safetensors"))
    named = {f"transformer.{name}.lora_{factor}.weight" for name in present if name in blocks for factor in "AB"}
    assert set(tensors) == named and len(named) == 2 * one.adapters
    for name in (n for n in present if n in blocks):
        first, second = (tensors[f"transformer.{name}.lora_{factor}.weight"] for factor in "AB")
        assert first.shape[0] == second.shape[1] <= RANK
        before = one.original[f"{name}.weight"]
        merged = before + (second.flatten(1) @ first.flatten(1)).view_as(before)  # a convolution's, too
        torch.testing.assert_close(merged, one.trained[f"{name}.weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["flux2-klein"])
def test_adapters_that_comfyui_would_leave_out_are_refused(family, made, tmp_path):
    one = made(family, "all")
    line = refusal(lambda: palate.export(one.run, "comfyui", tmp_path / "one.safetensors"))
    assert "ComfyUI reads no adapters of" in line and "would leave them out" in line
    assert not (tmp_path / "one.safetensors").exists()


def test_factors_of_another_base_model_are_refused(made, tmp_path):
    one = made("pixart", "default")
    shutil.copytree(one.run, tmp_path / "run", ignore=shutil.ignore_patterns("exports"))
    config = (tmp_path / "run" / "config.yaml").read_text()
    shutil.copytree(one.base, tmp_path / "base")
    (file,) = (tmp_path / "base" / "transformer").glob("*.safetensors")
    save_file({name: tensor + 1 + torch.rand_like(tensor) for name, tensor in load_file(file).items()}, file,
              metadata={"format": "pt"})  # fmt: skip
    (tmp_path / "run" / "config.yaml").write_text(config.replace(str(one.base), str(tmp_path / "base")))
    assert "by more than adapters of rank 2" in refusal(lambda: palate.export(tmp_path / "run", "comfyui"))


def old_form(one: Made, run: Path) -> Path:
    """A run as earlier versions left it: the attention's adapters by other names than the rest, in one file."""
    shutil.copytree(one.run, run, ignore=shutil.ignore_patterns("exports"))
    rewrite(run, convert_state_dict_to_diffusers)
    kinds = [".lora.down." in name for name in load_file(run / "model" / ADAPTER)]
    assert any(kinds) and not all(kinds)
    return run


def rewrite(run: Path, change) -> None:
    """The file of adapters with other entries and the same header."""
    path = run / "model" / ADAPTER
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(change(load_file(path)), path, metadata=header)
    (run / "model" / CHECKSUMS).unlink()  # as a run of an older version, which has none


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_runs_of_the_mixed_form_are_read_whole(family, made, tmp_path):
    one = made(family, "all")
    run, base = old_form(one, tmp_path / "old"), str(one.base)
    assert_trained(load_trained(load_backbone(base), run / "model"), one)
    assert_trained(load_model(run)[1], one)
    following = {"pretrained_model_name_or_path": base, "dataset": "none", "output_dir": "none", "start_from": str(run)}
    assert_trained(starting_network(load_backbone(base), load_config(following)), one)
    for format in ("diffusers", "fused", "comfyui"):
        file = tmp_path / ("one.safetensors" if format == "comfyui" else format)
        assert_trained(stock(one, palate.export(run, format, file)), one)
        if hasattr(one.pipeline, "unload_lora_weights"):
            one.pipeline.unload_lora_weights()


def renamed(old: str, new: str):
    return lambda entries: {name.replace(old, new, 1): tensor for name, tensor in entries.items()}


def without(word: str):
    """Without the first entry whose name has this word."""
    return lambda entries: {name: entries[name] for name in entries if name != next(n for n in entries if word in n)}


def other(name: str, tensor: torch.Tensor):
    return lambda entries: entries | {name: tensor}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other("unet.conv_in.bias", torch.zeros(1)), "unet.conv_in.bias: 1 of its 65 entries"),
        (other("text_encoder.q.lora_A.weight", torch.zeros(2, 4)), "text_encoder.q.lora_A.weight: 1 of"),
        (other("unet.conv_in.alpha", torch.tensor(2.0)), "unet.conv_in.alpha"),
        (without("lora_B"), "not all in it are adapters of the unet"),
        (renamed("unet.", "transformer."), "not all in it are adapters of the unet"),
        (renamed("attn1.to_q", "attn9.to_q"), "for modules that the UNet2DConditionModel lacks"),
        (lambda entries: {}, "it has none"),
        (lambda entries: {name: torch.zeros(5, 5) for name in entries}, "does not"),
        (lambda entries: {name: t[:1] if "lora_A" in name and "to_q" in name else t for name, t in entries.items()}, "several ranks"),
    ],
    ids=["bias", "encoder", "alpha", "half", "prefix", "module", "empty", "shape", "ranks"],
)  # fmt: skip
def test_entries_that_no_adapter_takes_are_refused(change, words, made, tmp_path):
    one = made("sd", "default")
    run = tmp_path / "run"
    shutil.copytree(one.run, run, ignore=shutil.ignore_patterns("exports"))
    rewrite(run, change)
    assert words in refusal(lambda: load_trained(load_backbone(str(one.base)), run / "model"))
    assert str(run) in refusal(lambda: palate.export(run, "fused"))
    if words != "does not":  # shapes are compared with a network, which the other formats do without
        assert words in refusal(lambda: palate.export(run, "kohya"))
    assert not (run / "exports").exists()


def test_a_file_that_does_not_say_its_alpha_is_refused_wherever_it_loads(made, tmp_path):
    one = made("sd", "default")
    run = tmp_path / "run"
    shutil.copytree(one.run, run, ignore=shutil.ignore_patterns("exports"))
    save_file(load_file(run / "model" / ADAPTER), run / "model" / ADAPTER)
    (run / "model" / CHECKSUMS).unlink()
    assert "lora.alpha is 3" in refusal(lambda: load_model(run))


# --- every save is read back -----------------------------------------------------------------------------------------


def flipped(entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One bit of one weight is another one, the lowest."""
    name = max(entries)
    raw = entries[name].clone().contiguous()
    raw.view(torch.uint8).flatten()[0] ^= 1
    return entries | {name: raw}


WRONG = {
    "a bit": flipped,
    "one less": lambda entries: dict(list(entries.items())[1:]),
    "half the precision": lambda entries: {name: tensor.bfloat16() for name, tensor in entries.items()},
    "the mixed form": convert_state_dict_to_diffusers,
}


def policy_of(base: Path, kind: str):
    lora = {"rank": RANK, "alpha": ALPHA, "target_modules": ["to_q", "conv1"]} if kind in ("lora", "merged") else None
    start = {"start_from": str(base)} if kind == "merged" else {}
    config = {
        "pretrained_model_name_or_path": str(base),
        "dataset": "none",
        "output_dir": "none",
        "lora": lora,
        **start,
    }
    config, backbone = load_config(config), load_backbone(str(base))
    policy = make_classifier(backbone, config) if kind == "classifier" else make_policy(backbone.network, config)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy, config, backbone


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(kind, wrong) for kind in ("lora", "merged", "full", "classifier") for wrong in WRONG if kind == "lora" or wrong != "the mixed form"],
)  # fmt: skip
def test_a_save_that_is_not_what_was_trained_is_refused_and_the_old_one_stays(
    kind, wrong, pipeline_folder, tmp_path, monkeypatch
):
    policy, config, backbone = policy_of(pipeline_folder, kind)
    save_model(policy, tmp_path / "model", config, backbone)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").rglob("*.safetensors")}
    assert len(before) == 1
    write = safetensors.torch.save_file
    changed = lambda entries, *args, **options: write(WRONG[wrong](entries), *args, **options)  # noqa: E731
    monkeypatch.setattr("safetensors.torch.save_file", changed)
    line = refusal(lambda: save_model(policy, tmp_path / "model", config, backbone))
    assert "does not load as what was trained" in line and "wrong or missing" in line
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").rglob("*.safetensors")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_save_that_another_scale_or_network_would_read_is_refused(pipeline_folder, tmp_path, monkeypatch):
    policy, config, backbone = policy_of(pipeline_folder, "lora")
    with monkeypatch.context() as patch:
        patch.setattr("palate.network.model._scaling", lambda adapter: None)
        assert "lora.alpha is 3" in refusal(lambda: save_model(policy, tmp_path / "model", config, backbone))
    policy, config, backbone = policy_of(pipeline_folder, "full")
    policy.network.register_to_config(block_out_channels=(16, 48))
    assert "does not load as what was trained" in refusal(
        lambda: save_model(policy, tmp_path / "model", config, backbone)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_weights_that_are_no_numbers_are_saved_as_they_are(kind, pipeline_folder, tmp_path):
    policy, config, backbone = policy_of(pipeline_folder, kind)
    with torch.no_grad():
        policy.parameters[0].fill_(float("nan"))
    save_model(policy, tmp_path / "model", config, backbone)


def test_trained_weights_that_are_not_whole_are_refused(pipeline_folder, tmp_path):
    for kind in ("full", "classifier"):
        policy, config, backbone = policy_of(pipeline_folder, kind)
        save_model(policy, tmp_path / kind, config, backbone)
        (path,) = (tmp_path / kind).rglob("*.safetensors")
        save_file(WRONG["one less"](load_file(path)), path, metadata={"format": "pt"})
        (tmp_path / kind / CHECKSUMS).unlink()
    assert "1 weights are missing" in refusal(
        lambda: load_trained(load_backbone(str(pipeline_folder)), tmp_path / "full")
    )
    assert "1 weights are missing" in refusal(lambda: load_classifier(tmp_path / "classifier" / "classifier"))


def test_targets_whose_adapters_no_format_holds_are_refused(pipeline_folder):
    network = UNet2DConditionModel(
        block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=2, cross_attention_dim=8, layers_per_block=1, num_class_embeds=3,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    config = {"pretrained_model_name_or_path": "none", "dataset": "none", "output_dir": "none"}
    config = load_config(config | {"lora": {"rank": 2, "target_modules": ["to_q", "class_embedding"]}})
    assert "class_embedding is no linear layer" in refusal(lambda: make_policy(network, config))


def test_convolutions_in_groups_are_refused(made):
    config = {"pretrained_model_name_or_path": "none", "dataset": "none", "output_dir": "none"}
    config = load_config(config | {"lora": {"rank": 80, "target_modules": ["to_q", "conv_depth"]}})
    network = load_backbone(str(made("sana", "all").base)).network
    assert "conv_depth is a convolution in 80 groups" in refusal(lambda: make_policy(network, config))
