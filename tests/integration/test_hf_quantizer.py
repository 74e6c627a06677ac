# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Saving, loading and running packed models through transformers' own doors."""

import copy
import functools
import json
import subprocess
import sys

import pytest
import torch
from conftest import BUILDERS, DEVICE, make_model, random_pixels
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification, pipeline
from transformers.core_model_loading import revert_weight_conversion

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.pipeline import prepare_for_training, quantize_model
from optimum_mixq.quant.bitpacking import packed_size
from optimum_mixq.tasks import run_model


def packed(name="vit", bits=4, arithmetic="column"):
    """Return a packed model: another one each time, so that tests may change it."""
    return copy.deepcopy(packed_once(name, bits, arithmetic))


@functools.cache
def packed_once(name, bits, arithmetic):
    model = make_model(name)
    config = MixQConfig(bits=bits, arithmetic=arithmetic)
    return quantize_model(model, BitPlan.uniform(model, bits), [random_pixels(model, 8)], config)


@torch.no_grad()
def logits(model, pixels):
    return run_model(model, pixels)


def reload(folder, **options):
    return AutoModelForImageClassification.from_pretrained(folder, **options).eval().to(DEVICE)


def load_exact(name, folder, **options):
    """DeiT with teacher has no Auto class of its own."""
    model_class = type(BUILDERS[name]())
    return model_class.from_pretrained(folder, **options).eval().to(DEVICE)


# What folding adds to a file are biases: in these families to projections, gates and reductions that have none.
FOLDED = ("vit", "swin", "swinv2", "gated_dinov3", "segformer")


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [*((name, "column") for name in sorted(BUILDERS)), *((name, "folded") for name in FOLDED)],
)
def test_every_family_reloads_to_the_same_logits(name, arithmetic, tmp_path):
    model = packed(name, 4, arithmetic=arithmetic)
    model.save_pretrained(tmp_path)
    pixels = random_pixels(model, 5, seed=7)
    assert torch.equal(logits(load_exact(name, tmp_path), pixels), logits(model, pixels))


@pytest.mark.parametrize("bits", [*range(2, 9), (2, 8), (8, 3)])
def test_every_width_reloads_to_the_same_logits(bits, tmp_path):
    model = packed("vit", bits)
    model.save_pretrained(tmp_path)
    pixels = random_pixels(model, 5, seed=7)
    assert torch.equal(logits(reload(tmp_path), pixels), logits(model, pixels))


FRESH = """
import sys, torch, optimum_mixq
from pathlib import Path
from transformers import AutoModelForImageClassification
from optimum_mixq.tasks import run_model
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForImageClassification.from_pretrained(folder)
    pixels, expected = torch.load(folder / "expected.pt")
    model.to(pixels.device)
    with torch.no_grad():
        print(folder.name, torch.equal(run_model(model, pixels), expected))
"""


def test_a_fresh_process_gets_the_same_logits_of_every_family_and_width(tmp_path):
    widths = [("vit", bits) for bits in range(2, 9)]
    families = [(name, bits) for name in ("deit", "deit_with_teacher", "swin", "padded_swin") for bits in (3, 8)]
    for name, bits in widths + families:
        model = packed(name, bits)
        folder = tmp_path / f"{name}-{bits}"
        model.save_pretrained(folder)
        pixels = random_pixels(model, 5, seed=7)
        torch.save((pixels, logits(model, pixels)), folder / "expected.pt")
    run = subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 15 and all(line.endswith(" True") for line in lines), lines


def test_without_the_package_loading_stops_instead_of_giving_random_weights(tmp_path):
    packed().save_pretrained(tmp_path)
    script = f"""
from transformers import AutoModelForImageClassification
AutoModelForImageClassification.from_pretrained({str(tmp_path)!r})
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode != 0 and "mismatch" in run.stderr


def test_shards_reload(tmp_path):
    model = packed()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    pixels = random_pixels(model, 5, seed=7)
    assert torch.equal(logits(reload(tmp_path), pixels), logits(model, pixels))


def test_a_second_save_is_the_same_file(tmp_path):
    packed().save_pretrained(tmp_path / "first")
    reload(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_file_is_as_large_as_its_bits_and_float_parts(bits, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    size = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 2}
    model = ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=8)).eval()
    config = MixQConfig(bits=bits)
    small = quantize_model(model, BitPlan.uniform(model, bits), [random_pixels(model, 4)], config)
    small.save_pretrained(tmp_path)
    weights = 2 * 12 * 384 * 384
    codes = packed_size(weights, bits) + packed_size(384 * 3 * 64 + 2 * 384, 8)
    others = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in small.state_dict().items()
        if not (name.endswith(("weight", "mixq_codes")) and tensor.dtype == torch.uint8)
    )
    assert (tmp_path / "model.safetensors").stat().st_size <= 1.03 * (codes + others)
    # What the grids add to codes, biases, LayerNorms and embeddings.
    grids = sum(t.numel() * t.element_size() for name, t in small.state_dict().items() if "mixq_" in name)
    assert grids <= 0.15 * codes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_load_run_and_keep_their_scales(dtype, tmp_path):
    model = packed()
    model.save_pretrained(tmp_path)
    half = reload(tmp_path, dtype=dtype)
    pixels = random_pixels(model, 8, seed=7)
    output = logits(half, pixels)
    assert output.dtype == dtype
    assert torch.equal(half.vit.layers[0].mlp.fc1.mixq_input_scale, model.vit.layers[0].mlp.fc1.mixq_input_scale)
    spread = logits(model, pixels).std()
    assert (output.float() - logits(model, pixels)).abs().mean() < 0.5 * spread


def test_autocast_runs():
    model = packed()
    pixels = random_pixels(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(logits(model, pixels)).all()


def test_device_map_loads(tmp_path):
    model = packed()
    model.save_pretrained(tmp_path)
    pixels = random_pixels(model)
    assert torch.equal(logits(reload(tmp_path, device_map="cpu"), pixels), logits(model, pixels))


def test_copies_and_pickles_give_the_same_logits(tmp_path):
    model = packed()
    pixels = random_pixels(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(logits(copy.deepcopy(model), pixels), logits(model, pixels))
    assert torch.equal(logits(loaded, pixels), logits(model, pixels))


def test_an_image_classification_pipeline_runs(tmp_path, processor):
    from PIL import Image

    model = packed()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    assert len(classify(Image.new("RGB", (16, 16)))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_compiled_model_gives_nearly_the_same_logits_in_one_graph(name):
    model = packed(name)
    pixels = random_pixels(model)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        output = run_model(compiled, pixels)
    spread = logits(model, pixels).std()
    assert (output - logits(model, pixels)).abs().max() < 0.5 * spread


@pytest.mark.parametrize("name", ["vit", "padded_swin"])
def test_a_model_that_was_moved_or_copied_is_traced_in_one_graph_at_once(name, tmp_path):
    model = packed(name)
    torch.save(model, tmp_path / "model.pt")
    for other in (
        copy.deepcopy(model),
        copy.deepcopy(model).to(torch.bfloat16),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ):
        torch.compiler.reset()
        pixels = random_pixels(model).to(other.dtype)
        with torch.no_grad():
            output = torch.compile(other, fullgraph=True, backend="eager")(pixel_values=pixels).logits
            assert torch.allclose(output, run_model(other, pixels), atol=2e-2)


def test_dequantize_gives_a_float_model(tmp_path):
    model = packed("deit", 8)
    pixels = random_pixels(model, 8)
    expected = logits(model, pixels)
    model.save_pretrained(tmp_path)
    plain = reload(tmp_path).dequantize()
    assert not hasattr(plain.config, "quantization_config")
    assert (logits(plain, pixels) - expected).abs().mean() < 0.1 * expected.std()
    plain.save_pretrained(tmp_path / "plain")
    assert torch.equal(logits(reload(tmp_path / "plain"), pixels), logits(plain, pixels))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_a_model_that_was_just_saved_dequantizes(name, tmp_path):
    model = packed(name)
    model.save_pretrained(tmp_path)
    plain = model.dequantize()
    assert plain.dtype == torch.float32 and torch.isfinite(logits(plain, random_pixels(plain))).all()


@pytest.mark.parametrize("asked", ["sdpa", "eager"])
def test_another_attention_is_refused_at_loading(asked, tmp_path):
    packed().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"attn_implementation='{asked}' cannot be honoured: a quantized model runs"):
        reload(tmp_path, attn_implementation=asked)


def test_another_attention_is_refused_until_the_model_is_float_again(tmp_path):
    model = packed("vit")
    model.save_pretrained(tmp_path)
    pixels = random_pixels(model)
    expected = logits(model, pixels)
    torch.save(model, tmp_path / "model.pt")
    pickled = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (model, model.vit, copy.deepcopy(model), pickled, reload(tmp_path)):
        with pytest.raises(ValueError, match="attention of its own, on its grids: set_attn_implementation would drop"):
            other.set_attn_implementation("sdpa")
    assert torch.equal(logits(model, pixels), expected)
    model.set_attn_implementation("mixq")
    plain = model.dequantize()
    plain.set_attn_implementation("eager")
    assert plain.config._attn_implementation == "eager"


def test_the_saved_config_says_what_was_done(tmp_path):
    packed(bits=(3, 5), arithmetic="folded").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert saved["quant_method"] == "mixq" and saved["format_version"] == 1
    assert saved["arithmetic"] == "folded" and saved["plan"]["blocks.0.qkv"] == [3, 5]
    assert isinstance(reload(tmp_path).config.quantization_config, MixQConfig)


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"].update(changes)
    path.write_text(json.dumps(config))


def test_a_future_format_is_said(tmp_path):
    packed().save_pretrained(tmp_path)
    edit_config(tmp_path, format_version=2)
    with pytest.raises(ValueError, match=r"saved in mixq format 2; this release of optimum-mixq reads format 1. Upgr"):
        reload(tmp_path)


def test_a_plan_that_does_not_fit_is_said(tmp_path):
    packed().save_pretrained(tmp_path)
    edit_config(tmp_path, plan={"blocks.9.qkv": [4, 4]})
    with pytest.raises(ValueError, match=r"The plan names the unit 'blocks.9.qkv', .* did you mean blocks"):
        reload(tmp_path)
    edit_config(tmp_path, plan=None)
    with pytest.raises(ValueError, match="has no plan, so its layers' bits are unknown"):
        reload(tmp_path)


def test_a_plan_of_other_widths_is_said(tmp_path):
    model = packed()
    model.save_pretrained(tmp_path)
    plan = dict(model.config.quantization_config.plan)
    edit_config(tmp_path, plan={unit: [4, 3] for unit in plan})
    with pytest.raises(
        ValueError, match="The plan, arithmetic or softmax grid in config.json is not what the tensors"
    ):
        reload(tmp_path)
    edit_config(tmp_path, plan={unit: [3, 4] for unit in plan}, digests=None)
    with pytest.raises(
        ValueError, match=r"safetensors holds \S+ as U8 \[\d+\], where its config.json needs U8 \[\d+\]"
    ):
        reload(tmp_path)


def corrupt(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    edit_config(folder, digests=None)


def test_a_corrupt_scale_is_named(tmp_path):
    packed().save_pretrained(tmp_path)
    key = next(k for k in load_file(tmp_path / "model.safetensors") if k.endswith("mixq_weight_scale"))
    corrupt(tmp_path, lambda tensors: tensors[key].fill_(-1))
    with pytest.raises(ValueError, match=r"mixq_weight_scale holds scales that are no positive numbers"):
        reload(tmp_path)


@pytest.mark.parametrize("suffix", ["mixq_input_scale", "mixq_weight_zero_point", "mixq_codes", "weight"])
def test_a_missing_tensor_is_named_whatever_lay_in_memory(suffix, tmp_path, monkeypatch):
    packed().save_pretrained(tmp_path)
    key = next(k for k in load_file(tmp_path / "model.safetensors") if k.endswith(suffix) and "norm" not in k)
    corrupt(tmp_path, lambda tensors: tensors.pop(key))
    monkeypatch.setattr(torch, "empty_like", torch.ones_like)  # what transformers puts there
    with pytest.raises(ValueError, match=rf"{suffix} is missing or corrupt"):
        reload(tmp_path)


def test_a_truncated_file_does_not_load(tmp_path):
    packed().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model.safetensors ends within the tensor \S+: it is incomplete"):
        reload(tmp_path)


def test_a_float_checkpoint_with_our_config_says_to_use_the_quantizer(tmp_path, vit):
    vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"mixq needs images to calibrate on. Use MixQQuantizer"):
        reload(tmp_path, quantization_config=MixQConfig())


def test_registering_twice_does_no_harm():
    from optimum_mixq.integration.hf_quantizer import _register

    _register()
    assert AutoConfig is not None


def test_calibrating_a_packed_model_is_refused():
    from optimum_mixq.stages.calibration.blocks import calibrate

    model = packed()
    with pytest.raises(ValueError, match="Expected a float model, found one that is quantized already"):
        calibrate(model, BitPlan(dict(model.config.quantization_config.plan)), [random_pixels(model)], MixQConfig())


def test_a_state_dict_with_merged_tensors_takes_the_names_in_memory():
    learner = make_model("gated_dinov2")
    plan, pixels = BitPlan.uniform(learner, 4), [random_pixels(learner, 8)]
    learner = prepare_for_training(learner, plan, pixels, MixQConfig(bits=4))
    expected = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    saved = revert_weight_conversion(learner, dict(expected))
    assert "dinov2.encoder.layer.0.mlp.weights_in.weight" in saved
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    learner.load_state_dict(saved)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learner.state_dict().items())


def test_merged_tensors_are_checked_under_either_name(tmp_path):
    model = packed("gated_dinov2")
    for original in (True, False):
        folder = tmp_path / str(original)
        model.save_pretrained(folder, save_original_format=original)
        pixels = random_pixels(model, 5, seed=7)
        assert torch.equal(logits(reload(folder), pixels), logits(model, pixels))
        path = folder / "model.safetensors"
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("weights_in.weight" if original else "gate_proj.weight"))
        tensors[name][0] ^= 1
        save_file(tensors, path, {"format": "pt"})
        with pytest.raises(ValueError, match=f"is corrupt: the tensor {name} is not what was saved"):
            reload(folder)
