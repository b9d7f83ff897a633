"""Precision, memory and the optimiser: logits that start at 0, gradients that do not change, runs that resume exactly."""

import builtins
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import refusal

import palate
from palate.backbones import load_backbone
from palate.backbones.flux import Flux
from palate.backbones.sana import Sana
from palate.errors import PalateError
from palate.network.model import make_policy
from palate.network.optimizers import STATE_BYTES, make_optimizer
from palate.network.precision import check_precision
from palate.run.load import load_config

LORA = {"rank": 4}


def settings(pipeline_folder: Path, dataset, output_dir: Path, **changes) -> dict:
    return {
        "pretrained_model_name_or_path": str(pipeline_folder), "dataset": str(dataset.path), "output_dir": str(output_dir), "beta": 500.0,
        "learning_rate": 1e-3, "train_batch_size": 4, "max_train_steps": 4, "checkpointing_steps": 2, "report_to": "none", **changes,
    }  # fmt: skip


def final(run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "checkpoints/step-000004/weights.safetensors")


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16"] + ["fp16"] * torch.cuda.is_available())
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_frozen_weights_in_half_precision_change_no_bit_under_the_same_autocast(
    lora, precision, pipeline_folder, dataset, tmp_path
):
    common = dict(lora=lora, mixed_precision=precision)
    wide = palate.train(settings(pipeline_folder, dataset, tmp_path / "wide", **common))
    narrow = palate.train(settings(pipeline_folder, dataset, tmp_path / "narrow", weight_dtype=precision, **common))
    assert wide.metrics == narrow.metrics and same(final(wide), final(narrow))
    assert narrow.metrics[0]["rewards/margins"] == narrow.metrics[0]["winner_error"] == 0.0
    assert narrow.metrics[1]["rewards/margins"] != 0.0
    assert all(weight.dtype == torch.float32 for weight in final(narrow).values())


def test_only_frozen_matrices_are_held_in_half_precision(pipeline_folder):
    config = load_config(settings(pipeline_folder, type("D", (), {"path": "d"}), "r", lora=LORA, mixed_precision="bf16", weight_dtype="bf16"))  # fmt: skip
    policy = make_policy(load_backbone(str(pipeline_folder)).network, config)
    held = {name: parameter.dtype for name, parameter in policy.network.named_parameters()}
    assert held["conv_in.weight"] == torch.bfloat16 and held["conv_norm_out.weight"] == torch.float32
    assert {parameter.dtype for parameter in policy.parameters} == {torch.float32}
    frozen = [parameter for parameter in policy.network.parameters() if not parameter.requires_grad]
    half = sum(parameter.numel() for parameter in frozen if parameter.dtype == torch.bfloat16)
    assert half > 0.95 * sum(parameter.numel() for parameter in frozen)


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_gradient_checkpointing_changes_no_bit_and_keeps_less(lora, pipeline_folder, dataset, tmp_path):
    plain, spared = (
        palate.train(settings(pipeline_folder, dataset, tmp_path / f"{spare}", lora=lora, gradient_checkpointing=spare))
        for spare in (False, True)
    )
    assert plain.metrics == spared.metrics and same(final(plain), final(spared))

    def kept(spare: bool) -> int:
        config = load_config(settings(pipeline_folder, dataset, "r", lora=lora, gradient_checkpointing=spare))
        network, sizes = make_policy(load_backbone(str(pipeline_folder)).network, config).network, []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(torch.randn(2, 4, 8, 8), torch.tensor([3, 4]), torch.randn(2, 8, 32))
        return sum(sizes)

    assert kept(True) < 0.6 * kept(False)


# --- torch.compile ----------------------------------------------------------------------------------------------------


def test_a_compiled_run_is_that_of_the_networks_as_they_are(pipeline_folder, dataset, tmp_path, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr("palate.training.compiled.BACKEND", "eager")  # traced as for any other, no C++ compiled
    torch._dynamo.reset()
    counters.clear()
    plain = palate.train(settings(pipeline_folder, dataset, tmp_path / "plain", lora=LORA))
    assert not counters["stats"]["unique_graphs"]
    run = palate.train(settings(pipeline_folder, dataset, tmp_path / "compiled", lora=LORA, compile=True))
    assert counters["stats"]["unique_graphs"] >= 2  # with adapters and without
    assert not counters["graph_break"]
    assert run.metrics[0]["rewards/margins"] == 0.0
    assert run.metrics == plain.metrics and same(final(run), final(plain))


def test_a_translation_with_wrong_gradients_is_refused(pipeline_folder, dataset, tmp_path, monkeypatch):
    def half(graph, inputs):
        return lambda *arguments: [0.5 * output + 0.5 * output.detach() for output in graph(*arguments)]

    monkeypatch.setattr("palate.training.compiled.BACKEND", half)
    torch._dynamo.reset()
    line = refusal(lambda: palate.train(settings(pipeline_folder, dataset, tmp_path / "run", lora=LORA, compile=True)))
    assert "wrong by 50 %" in line and torch.__version__ in line
    torch._dynamo.reset()


@pytest.mark.slow
def test_the_compiler_of_this_machine_is_right_or_refused(pipeline_folder, dataset, tmp_path):
    torch._dynamo.reset()
    plain = palate.train(settings(pipeline_folder, dataset, tmp_path / "plain", lora=LORA, max_train_steps=2))
    try:
        run = palate.train(settings(pipeline_folder, dataset, tmp_path / "run", lora=LORA, max_train_steps=2, compile=True))  # fmt: skip
    except PalateError as error:
        assert "the gradient of the compiled network is wrong by" in str(error)
        return
    assert abs(run.metrics[0]["rewards/margins"]) < 1e-3  # two programs, rounded differently
    assert run.metrics[0]["gradient_norm"] == pytest.approx(plain.metrics[0]["gradient_norm"], rel=1e-2)


# --- optimisers -------------------------------------------------------------------------------------------------------

WIDE = {"rank": 256}  # 8-bit states begin at 4,096 parameters


@pytest.mark.parametrize("optimizer", ["adamw-8bit", "adafactor"])
@pytest.mark.parametrize("lora", [WIDE, None], ids=["lora", "full"])
def test_a_run_with_another_optimiser_learns_and_resumes_to_the_last_bit(
    optimizer, lora, pipeline_folder, dataset, tmp_path
):
    if optimizer == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    changes = dict(optimizer=optimizer, lora=lora)
    whole = palate.train(settings(pipeline_folder, dataset, tmp_path / "whole", **changes))
    halves = settings(pipeline_folder, dataset, tmp_path / "halves", **changes)
    palate.train(halves, max_train_steps=2)
    again = palate.train(halves)
    assert whole.metrics == again.metrics and same(final(whole), final(again))
    usual = palate.train(settings(pipeline_folder, dataset, tmp_path / "usual", lora=lora))
    assert not same(final(whole), final(usual))
    if optimizer == "adamw-8bit":  # AdamW up to the rounding of its moments
        moved = [(a - b).abs().max().item() for a, b in zip(final(whole).values(), final(usual).values(), strict=True)]
        assert max(moved) < 2.5e-3  # steps of 1e-3 each


def test_the_learning_rate_of_adafactor_is_the_size_of_its_step(pipeline_folder, dataset):
    parameter = torch.nn.Parameter(0.02 * torch.randn(64, 64))
    before, parameter.grad = parameter.detach().clone(), torch.randn(64, 64)
    config = load_config(settings(pipeline_folder, dataset, "r", optimizer="adafactor", learning_rate=1e-4, adam_weight_decay=0.0))  # fmt: skip
    make_optimizer([parameter], config).step()
    assert (parameter - before).square().mean().sqrt().item() == pytest.approx(1e-4, rel=0.05)  # not scaled by 0.02


def test_states_are_as_small_as_the_estimate_of_memory_says(pipeline_folder, dataset, tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(512, 512))
    parameter.grad = torch.ones(512, 512)
    for name in STATE_BYTES:
        if name == "adamw-8bit":
            pytest.importorskip("bitsandbytes")
        optimizer = make_optimizer([parameter], load_config(settings(pipeline_folder, dataset, "r", optimizer=name)))
        optimizer.step()
        tensors = [value for value in optimizer.state[parameter].values() if torch.is_tensor(value)]
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / parameter.numel()
        assert held == pytest.approx(STATE_BYTES[name], abs=0.1), name


def test_the_8bit_optimiser_without_its_library_names_the_extra(pipeline_folder, dataset, tmp_path, monkeypatch):
    find = builtins.__import__

    def absent(name, *rest):
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    config = settings(pipeline_folder, dataset, tmp_path / "run", optimizer="adamw-8bit")
    assert "palate[8bit]" in refusal(lambda: palate.train(config))


# --- the average of the weights ---------------------------------------------------------------------------------------


def test_the_model_is_the_average_of_the_weights_and_the_last_ones_stay_in_the_checkpoint(
    pipeline_folder, dataset, tmp_path
):
    config = settings(
        pipeline_folder, dataset, tmp_path / "run", ema_decay=0.3, checkpointing_steps=1, checkpoints_total_limit=9
    )
    run = palate.train(config)
    plain = palate.train(settings(pipeline_folder, dataset, tmp_path / "plain"))
    assert same(final(run), final(plain))  # averaging does not act on training
    steps = [load_file(run.path / f"checkpoints/step-{k:06}/weights.safetensors") for k in (1, 2, 3, 4)]
    start = dict(load_backbone(str(pipeline_folder)).network.named_parameters())
    model = load_file(run.model_path / "unet/diffusion_pytorch_model.safetensors")
    for name in ("conv_in.weight", "mid_block.resnets.0.conv1.weight"):
        average = start[name].detach()
        for step, weights in enumerate(steps):
            decay = 0.0 if step == 0 else min(0.3, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * weights[name]
        assert torch.allclose(model[name], average, atol=1e-6)
        assert not torch.allclose(model[name], steps[-1][name], atol=1e-6)


def test_a_resumed_average_equals_one_never_stopped(pipeline_folder, dataset, tmp_path):
    changes = dict(lora=LORA, ema_decay=0.9)
    whole = palate.train(settings(pipeline_folder, dataset, tmp_path / "whole", **changes))
    halves = settings(pipeline_folder, dataset, tmp_path / "halves", **changes)
    palate.train(halves, max_train_steps=2)
    again = palate.train(halves)
    first, second = (load_file(run.model_path / "pytorch_lora_weights.safetensors") for run in (whole, again))
    assert same(first, second) and not same(first, {name: torch.zeros_like(tensor) for name, tensor in first.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_dtype": "bf16", "lora": LORA}, "set mixed_precision: bf16"),
        ({"weight_dtype": "fp16", "mixed_precision": "bf16", "lora": LORA}, "set mixed_precision: fp16"),
        ({"weight_dtype": "bf16", "mixed_precision": "bf16", "lora": LORA, "start_from": "runs/1"}, "held in fp32"),
        ({"compile": True, "adaptive": True}, "Remove compile"),
        ({"compile": True, "reference": "offloaded"}, "Remove compile"),
        ({"parallel": "fsdp2", "optimizer": "adamw-8bit"}, "fp32 weights in shards"),
        ({"ema_decay": 1.5}, "between 0 and"),
        ({"ema_decay": 0.9, "early_stop": 2, "held_out_votes": 0.2}, "give one"),
        ({"optimizer": "sgd"}, "not one of adamw, adamw-8bit, adafactor"),
    ],
)
def test_options_that_cannot_work_are_refused(changes, message, pipeline_folder, dataset, tmp_path):
    assert message in refusal(lambda: palate.train(settings(pipeline_folder, dataset, tmp_path / "run", **changes)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on a GPU")
def test_fp16_without_a_gpu_is_one_line(pipeline_folder, dataset, tmp_path):
    config = settings(pipeline_folder, dataset, tmp_path / "run", mixed_precision="fp16")
    assert "Use bf16" in refusal(lambda: palate.train(config))


def test_a_family_that_overflows_in_fp16_is_refused_there_and_no_other():
    gpu = torch.device("cuda")  # only its type is looked at
    with pytest.raises(PalateError, match="Sana overflows in fp16. Use bf16 or no"):
        check_precision("fp16", gpu, Sana)
    check_precision("fp16", gpu, Flux)
    check_precision("bf16", gpu, Sana)
