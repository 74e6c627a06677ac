# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from conftest import PLAIN, make_model, random_pixels
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer, MixQTrainingConfig, measurements
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.sensitivity.swapping import _Measurement
from optimum_mixq.stages.training.loop import _Training
from optimum_mixq.tasks import run_model


SMALL = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=8, batch_size=4)


def test_a_model_in_memory_is_quantized_and_left_as_it_is(vit):
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    packed = MixQQuantizer.from_pretrained(vit).quantize(SMALL, random_pixels(vit, 12))
    assert packed is not vit and packed.config.quantization_config.bits == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in vit.state_dict().items())


@pytest.mark.parametrize("name", ["vit", "swin", "deit_with_teacher"])
def test_without_a_plan_the_best_one_within_the_budget_is_chosen(name):
    model = make_model(name)
    pixels = random_pixels(model, 12)
    quantizer = MixQQuantizer.from_pretrained(model)
    alone = dataclasses.replace(SMALL, compare=False)
    quantizer.quantize(alone, pixels)
    assert quantizer.plan.provenance["achieved"]["average_bits"] <= 4
    assert quantizer.allocate(quantizer.relevance, quantizer.sensitivity, SMALL) == quantizer.plan


def test_of_several_objectives_the_plan_nearest_to_the_float_model_is_kept(vit):
    pixels = random_pixels(vit, 12)
    quantizer = MixQQuantizer.from_pretrained(vit)
    packed = quantizer.quantize(SMALL, pixels)
    compared, chosen = (quantizer.plan.provenance[key] for key in ("compared", "chosen"))
    assert set(compared) == {"alpha 0.5", "alpha 0", "uniform"}
    assert compared[chosen] == min(compared.values())
    # What was compared is the divergence on the images of sensitivity, of the very model that is returned.
    rows = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:8]
    with torch.inference_mode():
        expected, found = ((m(pixel_values=pixels[rows]).logits.double() / 4).log_softmax(-1) for m in (vit, packed))
    kl = (expected.exp() * (expected - found)).sum(-1).mean().item()
    assert abs(compared[chosen] - 16 * kl) < 1e-9  # at a temperature of 4


def test_what_was_measured_is_used_again_for_another_budget_and_not_for_another_model(vit, monkeypatch, tmp_path):
    pixels = random_pixels(vit, 12)
    quantizer = MixQQuantizer.from_pretrained(vit)
    wide = dataclasses.replace(SMALL, candidate_bits=(2, 3, 4, 5, 6))
    relevance, sensitivity = quantizer.measure_relevance(pixels, wide), quantizer.measure_sensitivity(pixels, wide)
    expected = MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels).state_dict()
    calls = []
    original = measurements.measure_sensitivity
    monkeypatch.setattr(measurements, "measure_sensitivity", lambda *a: calls.append(1) or original(*a))
    packed = quantizer.quantize(SMALL, pixels, tmp_path / "out")
    assert calls == [] and quantizer.sensitivity is sensitivity and quantizer.relevance is relevance
    assert all(torch.equal(tensor, expected[name]) for name, tensor in packed.state_dict().items())
    other = MixQQuantizer.from_pretrained(make_model("deit"))
    other.load_measurements(tmp_path / "out")
    other.quantize(SMALL, pixels)
    assert calls == [1]


def test_a_folder_without_measurements_is_refused(vit, tmp_path):
    quantizer = MixQQuantizer.from_pretrained(vit)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="Expected a folder with measurements .*found none in"):
            quantizer.load_measurements(folder)


@pytest.mark.parametrize(
    ("change", "images", "told"),
    [
        ({}, 13, "images (data set, split, number or seed)"),
        ({"score": "signed"}, 12, "settings"),
        ({"bits": 6}, 12, "widths"),
    ],
)
def test_measurements_that_do_not_fit_are_named_and_measured_again(vit, tmp_path, caplog, change, images, told):
    first = dataclasses.replace(SMALL, compare=False)
    MixQQuantizer.from_pretrained(vit).quantize(first, random_pixels(vit, 12), tmp_path / "out")
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.load_measurements(tmp_path / "out")
    quantizer.quantize(dataclasses.replace(first, **change), random_pixels(vit, images))
    lines = [record.getMessage() for record in caplog.records if "measured with other" in record.getMessage()]
    assert lines and all(line.endswith(f"measured with other {told}: it is measured again.") for line in lines)


def test_measurements_that_fit_are_used_without_a_word(vit, tmp_path, caplog):
    config = dataclasses.replace(SMALL, compare=False)
    MixQQuantizer.from_pretrained(vit).quantize(config, random_pixels(vit, 12), tmp_path / "out")
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.load_measurements(tmp_path / "out")
    quantizer.quantize(config, random_pixels(vit, 12))
    assert not caplog.records


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "measure_relevance", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"file cannot be written \(it is a file\)\. Choose another folder"):
        MixQQuantizer.from_pretrained(vit).quantize(SMALL, random_pixels(vit, 12), tmp_path / "file" / "out")


def test_a_budget_in_megabytes_is_kept_by_the_saved_file(vit, tmp_path):
    costs = measure_costs(vit, MixQConfig().calibration)
    least, most = (costs.bytes(dict.fromkeys(costs.macs, (bits, bits))) for bits in (3, 5))
    config = dataclasses.replace(SMALL, bits=None, size_mb=(least + most) / 2e6)
    MixQQuantizer.from_pretrained(vit).quantize(config, random_pixels(vit, 12), tmp_path / "out")
    saved = (tmp_path / "out" / "model.safetensors").stat().st_size / 1e6
    assert 0.9 * config.size_mb < saved <= config.size_mb
    with pytest.raises(
        ValueError, match=r"No plan fits: the smallest possible size is 0\.\d+ MB, and the budget is 0.001"
    ):
        MixQQuantizer.from_pretrained(vit).quantize(dataclasses.replace(config, size_mb=0.001), random_pixels(vit, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": None, "size_mb": 0.001}, r"No plan fits: the smallest possible size is 0\.\d+ MB"),
        ({"bops": 1e6}, "No plan fits: the smallest possible number of bit operations is"),
        ({"overrides": {"*.fc2": 8, "*.fc1": 8}}, "No plan fits: the smallest possible average is"),
        ({"overrides": {"*.fcc2": 4}}, "The pattern '.*fcc2' in overrides matches no unit. Near: "),
        ({"exclude": ("block.0.*",)}, "The pattern 'block.0.*' in exclude matches no unit"),
        ({"reconstruction": "full"}, "Expected at least 16 calibration images to reconstruct from, found 8"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(vit, changes, message, monkeypatch):
    monkeypatch.setattr(measurements, "measure_relevance", lambda *_: pytest.fail("something was measured"))
    monkeypatch.setattr(measurements, "calibrate_variants", lambda *_: pytest.fail("something was calibrated"))
    with pytest.raises(ValueError, match=message):
        MixQQuantizer.from_pretrained(vit).quantize(dataclasses.replace(SMALL, **changes), random_pixels(vit, 12))


def test_a_loss_that_does_not_fit_the_model_is_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(measurements, "measure_relevance", lambda *_: pytest.fail("something was measured"))
    model = make_model("dpt")
    config = dataclasses.replace(SMALL, reconstruction="full", reconstruction_loss="logits", calibration_samples=16)
    with pytest.raises(ValueError, match=r"also reads .* Set reconstruction_loss='output'"):
        MixQQuantizer.from_pretrained(model).quantize(config, random_pixels(model, 16))


def test_a_uniform_plan_keeps_overrides_and_exclusions(vit):
    quantizer = MixQQuantizer.from_pretrained(vit)
    config = dataclasses.replace(SMALL, overrides={"blocks.0.*": 8, "*.fc2": (3, 5)}, exclude=("blocks.1.qkv",))
    quantizer.quantize(config, random_pixels(vit, 8), plan="uniform")
    bits = quantizer.plan.bits
    assert bits["blocks.0.qkv"] == (8, 8) and bits["blocks.0.fc2"] == (3, 5) and bits["blocks.1.qkv"] == (6, 6)
    assert {bits[unit] for unit in ("blocks.1.fc1", "blocks.2.qkv", "blocks.2.av")} == {(4, 4)}


def test_a_uniform_plan_keeps_its_limits(vit):
    quantizer, pixels = MixQQuantizer.from_pretrained(vit), random_pixels(vit, 8)
    with pytest.raises(ValueError, match=r"The plan takes 0\.\d+ MB, and size_mb allows 0.01. Allow more"):
        quantizer.quantize(dataclasses.replace(SMALL, size_mb=0.01), pixels, plan="uniform")
    with pytest.raises(ValueError, match=r"The plan takes [\d,]+ bit operations, and bops allows 1,000"):
        quantizer.quantize(dataclasses.replace(SMALL, bops=1000), pixels, plan="uniform")


def test_overrides_beside_a_whole_plan_are_refused(vit):
    plan = BitPlan.uniform(vit, 4)
    with pytest.raises(ValueError, match=r"no overrides and no exclude with a plan .* found \['\*.fc2'\]"):
        MixQQuantizer.from_pretrained(vit).quantize(
            dataclasses.replace(SMALL, overrides={"*.fc2": 8}), random_pixels(vit, 8), plan=plan
        )


@pytest.mark.parametrize("saved", [False, True])
def test_a_plan_of_another_model_is_refused_before_images_are_read(saved, vit, tmp_path):
    other = BitPlan.uniform(make_model("swin"), 4)
    other.save(tmp_path / "plan.json")
    plan, quantizer = tmp_path / "plan.json" if saved else other, MixQQuantizer.from_pretrained(vit)
    for call in (quantizer.quantize, quantizer.train):
        with pytest.raises(ValueError, match="The plan names the unit 'stages.0"):
            call(config=SMALL, dataset="no/such/folder", plan=plan)


def test_a_failure_leaves_plan_and_model_as_they_were(vit):
    quantizer = MixQQuantizer.from_pretrained(vit)
    packed = quantizer.quantize(SMALL, random_pixels(vit, 8), plan="uniform")
    plan = quantizer.plan
    with pytest.raises(ValueError, match="finite"):
        quantizer.quantize(SMALL, random_pixels(vit, 8) * torch.nan, plan=BitPlan.uniform(vit, 3))
    assert quantizer.plan is plan and quantizer.quantized is packed


def test_a_model_in_train_mode_gives_the_same_and_stays_in_it(vit):
    pixels = random_pixels(vit, 12)
    expected = MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels).state_dict()
    vit.train()
    vit.vit.layers[1].eval()
    for module in vit.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    packed = MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in packed.state_dict().items())
    assert vit.training and not vit.vit.layers[1].training and not packed.training


def test_a_head_of_ones_own_is_quantized_and_not_saved_where_it_would_not_load(vit, tmp_path):
    vit.classifier = nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 5))
    pixels = random_pixels(vit, 12)
    with pytest.raises(ValueError, match=r"classifier.0.bias as nothing.*Make a subclass whose __init__ builds it"):
        MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels, tmp_path / "out")
    quantizer = MixQQuantizer.from_pretrained(vit)
    packed = quantizer.quantize(dataclasses.replace(SMALL, bits=8), pixels, plan="uniform")
    with torch.no_grad():
        expected, found = vit(pixel_values=pixels).logits, packed(pixel_values=pixels).logits
    assert (found - expected).norm() < 0.05 * expected.norm()
    with pytest.raises(ValueError, match="would not load again"):
        quantizer.save_pretrained(tmp_path / "out")


def test_a_folder_without_an_image_processor_serves_pixel_values_and_refuses_pictures(vit, tmp_path):
    vit.save_pretrained(tmp_path / "model")
    quantizer = MixQQuantizer.from_pretrained(tmp_path / "model")
    quantizer.quantize(SMALL, random_pixels(vit, 8), tmp_path / "out", plan="uniform")
    reopened = MixQQuantizer.reopen(tmp_path / "out", tmp_path / "model")
    assert reopened.processor is None and reopened.evaluate(random_pixels(vit, 4, seed=9))["quantized"].images == 4
    with pytest.raises(ValueError, match="Images need the model's image processor, and there is none"):
        quantizer.quantize(SMALL, [Image.new("RGB", (16, 16))] * 8)


def test_features_without_a_head_are_quantized_and_load_again(vit, tmp_path):
    vit.classifier = nn.Identity()
    pixels = random_pixels(vit, 12)
    with pytest.raises(ValueError, match="Set model.config.num_labels = 0"):
        MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels, tmp_path / "out")
    vit.config.num_labels = 0
    packed = MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels, tmp_path / "out")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        found = packed(pixel_values=pixels).logits
        assert found.shape == (12, 24) and torch.equal(loaded(pixel_values=pixels).logits, found)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification", None])
def test_one_logit_has_a_damage_and_its_mixed_plan_is_no_worse_than_uniform_bits(problem_type):
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**PLAIN | {"num_labels": 1}, problem_type=problem_type)).eval()
    quantizer, pixels = MixQQuantizer.from_pretrained(model), random_pixels(model, 24)
    mixed = quantizer.quantize(dataclasses.replace(SMALL, sensitivity_samples=24), pixels)
    assert min(max(row.values()) for row in quantizer.sensitivity.table.values()) > 0
    compared = quantizer.plan.provenance["compared"]
    assert min(compared.values()) > 0 and compared[quantizer.plan.provenance["chosen"]] <= compared["uniform"]
    uniform = MixQQuantizer.from_pretrained(model).quantize(SMALL, pixels, plan="uniform")
    with torch.no_grad():
        errors = [
            (packed(pixel_values=pixels).logits - model(pixel_values=pixels).logits).norm()
            for packed in (mixed, uniform)
        ]
    assert errors[0] <= 1.05 * errors[1]


def test_a_stopped_run_goes_on_from_what_was_measured(vit, tmp_path, monkeypatch):
    pixels, config = random_pixels(vit, 12), dataclasses.replace(SMALL, sensitivity="measured")
    expected = MixQQuantizer.from_pretrained(vit).quantize(config, pixels).state_dict()
    original, calls = _Measurement._measure_block, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(_Measurement, "_measure_block", stops)
    with pytest.raises(KeyboardInterrupt):
        MixQQuantizer.from_pretrained(vit).quantize(config, pixels, tmp_path / "out")
    packed = MixQQuantizer.from_pretrained(vit).quantize(config, pixels, tmp_path / "out")
    assert len(calls) == 7  # 2 batches x 3 blocks, one of them tried twice
    assert all(torch.equal(tensor, expected[name]) for name, tensor in packed.state_dict().items())


def test_a_uniform_plan_needs_whole_bits(vit):
    with pytest.raises(ValueError, match=r"Expected whole bits for a uniform plan, found 3\.5"):
        MixQQuantizer.from_pretrained(vit).quantize(
            dataclasses.replace(SMALL, bits=3.5), random_pixels(vit, 8), plan="uniform"
        )


def test_a_plan_says_the_bits(vit):
    plan = BitPlan(dict.fromkeys(BitPlan.uniform(vit, 4).bits, (3, 5)))
    packed = MixQQuantizer.from_pretrained(vit).quantize(SMALL, random_pixels(vit, 12), plan=plan)
    assert packed.config.quantization_config.plan["blocks.1.fc2"] == [3, 5]


def test_the_same_seed_draws_the_same_images_and_gives_the_same_model(vit):
    pixels = random_pixels(vit, 40)
    first, second = (MixQQuantizer.from_pretrained(vit).quantize(SMALL, pixels).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_calibration_images_are_not_evaluated(vit):
    pixels = random_pixels(vit, 20)
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(SMALL, pixels[:8])
    scores = quantizer.evaluate(pixels)
    assert scores["float"].images == scores["quantized"].images == 12
    with pytest.raises(ValueError, match="all 8 of the tensor served calibration, the choice"):
        quantizer.evaluate(pixels[:8])


def test_evaluating_before_quantizing_is_said(vit):
    with pytest.raises(ValueError, match="There is no quantized model yet: call quantize"):
        MixQQuantizer.from_pretrained(vit).evaluate(random_pixels(vit))


def test_a_full_folder_is_refused_before_any_work(vit, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        MixQQuantizer.from_pretrained(vit).quantize(SMALL, None, save_dir=tmp_path)


def test_an_interrupted_save_leaves_no_half_written_model(vit, tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    def write_half(self, folder, **_):
        (tmp_path / "somewhere").mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", write_half)
    with pytest.raises(KeyboardInterrupt):
        MixQQuantizer.from_pretrained(vit).quantize(SMALL, random_pixels(vit, 12), save_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["deit_with_teacher", "padded_swin"])  # others: tests/architectures/test_families.py
def test_a_family_of_several_heads_or_padded_windows_goes_through(name):
    model = make_model(name)
    packed = MixQQuantizer.from_pretrained(model).quantize(SMALL, random_pixels(model, 8))
    with torch.no_grad():
        assert run_model(packed, random_pixels(model)).shape == run_model(model, random_pixels(model)).shape


def test_an_unsupported_model_is_refused_at_once():
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="Expected a model of type .*swinv2, upernet, vit, vit_msn, yolos, found"):
        MixQQuantizer.from_pretrained(bert)


def test_training_goes_on_from_the_plan_and_saves_what_loads_again(vit, tmp_path):
    pixels = random_pixels(vit, 16)
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(dataclasses.replace(SMALL, bits=3), pixels)
    plan, calibrated = quantizer.plan, quantizer.quantized.state_dict()
    training = MixQTrainingConfig(epochs=2, batch_size=4)
    packed = quantizer.train(pixels, training, save_dir=tmp_path / "out")
    assert quantizer.plan is plan and [epoch.epoch for epoch in quantizer.history] == [0, 1]
    assert any(not torch.equal(tensor, calibrated[name]) for name, tensor in packed.state_dict().items())
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        expected, found = (model(pixel_values=pixels).logits for model in (packed, reloaded))
    assert torch.equal(found, expected)
    config = reloaded.config.quantization_config
    assert config.reconstruction is None  # where training starts
    record = config.record["training"]
    assert record["epochs"] == 2 and len(record["history"]) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_stopped_training_goes_on_when_it_is_called_again(vit, tmp_path, monkeypatch):
    pixels, training = random_pixels(vit, 8), MixQTrainingConfig(epochs=3, batch_size=4)
    expected = MixQQuantizer.from_pretrained(vit).train(pixels, training, SMALL, "uniform").state_dict()
    original = _Training._evaluate
    epochs = []

    def stops(self):
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(_Training, "_evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        MixQQuantizer.from_pretrained(vit).train(pixels, training, SMALL, "uniform", tmp_path / "out")
    packed = MixQQuantizer.from_pretrained(vit).train(pixels, training, SMALL, "uniform", tmp_path / "out")
    assert len(epochs) == 5  # the start, two of which one was stopped, and two
    assert all(torch.equal(tensor, expected[name]) for name, tensor in packed.state_dict().items())


PLAN = """
import sys
from conftest import make_model, random_pixels
from optimum_mixq import MixQConfig, MixQQuantizer
model = make_model("swin")
quantizer = MixQQuantizer.from_pretrained(model)
config = MixQConfig(bits=4, candidate_bits=(3, 5), calibration_samples=8, sensitivity_samples=8)
quantizer.quantize(config, random_pixels(model, 12))
quantizer.plan.save(sys.argv[1])
"""


def test_two_processes_with_the_same_seed_give_the_same_plan_byte_for_byte(tmp_path):
    for name, hash_seed in (("a", "1"), ("b", "2")):
        environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PLAN, str(tmp_path / name)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_asked_of_from_pretrained_reaches_transformers(monkeypatch):
    asked = {}

    def record(kind, path, **options):
        asked[kind] = (path, options)
        raise OSError("no network here")

    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", lambda *a, **o: record("model", *a, **o))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *a, **o: asked.update(config=(*a, o)) or ViTConfig())
    options = {
        "revision": "v2", "token": "hf_x", "cache_dir": "/tmp/c", "local_files_only": True, "trust_remote_code": True,
    }  # fmt: skip
    with pytest.raises(OSError, match="no network here"):
        MixQQuantizer.from_pretrained("me/vit", dtype=torch.float64, device_map="cpu", **options)
    made = {"dtype": torch.float64, "device_map": "cpu", "output_loading_info": True}
    assert asked == {"config": ("me/vit", options), "model": ("me/vit", {**options, **made})}


def test_a_quantized_model_is_not_quantized_again(vit):
    packed = MixQQuantizer.from_pretrained(vit).quantize(SMALL, random_pixels(vit, 12), plan="uniform")
    with pytest.raises(ValueError, match="Expected a float model, found one that is quantized already"):
        MixQQuantizer.from_pretrained(packed)


def test_a_model_reopens_with_what_was_measured(vit, tmp_path, processor):
    pixels = random_pixels(vit, 12)
    first = MixQQuantizer.from_pretrained(vit, processor)
    first.quantize(SMALL, pixels, tmp_path / "out")
    again = MixQQuantizer.reopen(tmp_path / "out", vit)
    assert again.plan == first.plan and again.relevance == first.relevance and again.sensitivity == first.sensitivity
    assert (
        again.evaluate(pixels)["quantized"]
        == MixQQuantizer.reopen(tmp_path / "out", vit).evaluate(pixels)["quantized"]
    )
    with pytest.raises(
        ValueError, match=r"does not say which float model it was made from: name it \(--float-model\)"
    ):
        MixQQuantizer.reopen(tmp_path / "out")
    vit.save_pretrained(tmp_path / "float")
    with pytest.raises(
        ValueError, match=r"Expected a model that optimum-mixq quantized in .*float, found a float one"
    ):
        MixQQuantizer.reopen(tmp_path / "float", vit)


def test_an_evaluation_reads_as_a_dict(vit):
    quantizer = MixQQuantizer.from_pretrained(vit)
    quantizer.quantize(SMALL, random_pixels(vit, 12), plan="uniform")
    result = quantizer.evaluate(random_pixels(vit, 6, seed=9))["quantized"]
    assert dict(result) == {"images": 6, "accuracy": None, "agreement": result.agreement, "kl": result["kl"]}
