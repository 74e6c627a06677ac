# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_pixels
from exported_models import ALL_BUILDERS, build_random, pack
from processors import WHY
from transformers import AutoConfig, AutoImageProcessor, ViTImageProcessorPil

from optimum_mixq import BitPlan, MixQConfig, MixQQuantizer
from optimum_mixq.export import export_model, folder
from optimum_mixq.export.check import LEAST, MOST, Check, check_engine, generated_images
from optimum_mixq.export.conversion import convert
from optimum_mixq.export.processor import saturates
from optimum_mixq.export.targets import target_of
from optimum_mixq.export.targets.base import Engine, Target


@pytest.fixture(scope="module")
def quantizer():
    model = build_random(ALL_BUILDERS["shallow_vit"]).cpu()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    quantizer = MixQQuantizer.from_pretrained(model, processor)
    images = list(random_pixels(model, 8).cpu())
    quantizer.quantize(MixQConfig(bits=4, calibration_samples=8), images, plan="uniform")
    return quantizer


@pytest.fixture(scope="module")
def exported(quantizer, tmp_path_factory):
    folder, images = tmp_path_factory.mktemp("out"), list(random_pixels(quantizer.model, 5, seed=3).cpu())
    results = {"onnx": quantizer.export("onnx", folder / "onnx", dataset=images)}
    if not saturates():
        results["openvino"] = quantizer.export("openvino", folder / "openvino")
    return results


ELSEWHERE = """
import sys
for name in ("torch", "transformers", "optimum", "optimum_mixq", "onnx"):
    sys.modules[name] = None  # importing it fails
import numpy
pixels = numpy.load(sys.argv[2])
if sys.argv[3] == "onnx":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options)
    (logits,) = session.run(["logits"], {"pixel_values": pixels})
else:
    import openvino
    model = openvino.Core().compile_model(sys.argv[1] + "/openvino_model.xml", "CPU")
    logits = model({"pixel_values": pixels})["logits"]
numpy.save(sys.argv[2], logits)
"""


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_fresh_process_needs_the_engine_and_numpy_alone(quantizer, exported, target, tmp_path):
    if target not in exported:
        pytest.skip(WHY)
    pixels = random_pixels(quantizer.model, 5, seed=9).cpu()
    np.save(tmp_path / "array.npy", pixels.numpy())
    words = [str(exported[target].folder), str(tmp_path / "array.npy"), target]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *words], check=True, capture_output=True, text=True)
    found = torch.from_numpy(np.load(tmp_path / "array.npy"))
    with torch.no_grad():
        expected = quantizer.quantized(pixel_values=pixels).logits
    assert found.shape == (5, 5) and (found - expected).square().mean().sqrt() < 0.3 * expected.std()


def test_a_folder_holds_what_a_pipeline_around_the_engine_needs(quantizer, exported):
    for result in exported.values():
        config = AutoConfig.from_pretrained(result.folder)
        assert config.id2label == quantizer.model.config.id2label and config.model_type == "vit"
        assert "quantization_config" not in json.loads((result.folder / "config.json").read_text())
        assert AutoImageProcessor.from_pretrained(result.folder).size == quantizer.processor.size
        assert BitPlan.load(result.folder / "mixq_plan.json").bits == quantizer.plan.bits
    assert hasattr(quantizer.quantized.config, "quantization_config")


def test_a_vit_is_exported_for_images_of_another_size(quantizer, tmp_path):
    result = quantizer.export("onnx", tmp_path / "out", weights="operand", image_size=24)
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = target_of("onnx").load(result.folder).run(pixels.numpy())["logits"]
    with torch.no_grad():
        expected = quantizer.quantized(pixel_values=pixels, interpolate_pos_encoding=True).logits
    assert (torch.from_numpy(found) - expected).square().mean().sqrt() < 0.3 * expected.std()
    assert AutoConfig.from_pretrained(result.folder).image_size == 24
    assert dict(AutoImageProcessor.from_pretrained(result.folder).size)["height"] == 24
    assert quantizer.quantized.config.image_size == 16 and dict(quantizer.processor.size)["height"] == 16


def test_what_was_written_and_checked_is_one_line(exported):
    for name, result in exported.items():
        assert result.check.passes and result.check.integer_products == result.check.products == 10
        line = result.describe()
        images = {"onnx": "5 images of the list of images", "openvino": "8 generated images"}[name]
        assert line.startswith(f"{result.folder}: 0.") and f" MB for {name}; logits of {images} off by " in line
        assert line.endswith("10 of 10 products are 8-bit integers") and "\n" not in line


class Silent(Engine):
    """Puts out zeros."""

    def run(self, pixels):
        return {"logits": np.zeros((len(pixels), 5), np.float32)}

    def integer_products(self):
        return 0


class Broken(Target):
    name, packages, extra = "broken", ("numpy",), "onnx"

    def write(self, program, folder):
        (folder / "model.bin").write_bytes(b"model")

    def load(self, folder):
        return Silent()


@pytest.fixture
def untraced(monkeypatch):
    """Exports go to a target that writes no graph."""
    monkeypatch.setattr(folder, "target_of", lambda name: Broken())
    monkeypatch.setattr(folder, "trace", lambda model, pixels: None)
    monkeypatch.setattr(folder, "lay_out_weights", lambda program, model, layout: None)


def test_a_file_that_fails_its_check_is_not_left_behind(quantizer, untraced, tmp_path):
    message = r"The file for broken was not kept: its logits are too far from PyTorch's \(logits of 8 generated images"
    with pytest.raises(ValueError, match=message):
        quantizer.export("broken", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_names_the_processor_where_sums_saturate(quantizer, untraced, monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "saturates", lambda: True)
    with pytest.raises(ValueError, match=r"this CPU without VNNI, where sums of 8-bit products saturate\. Use a CPU"):
        quantizer.export("broken", tmp_path / "out")
    monkeypatch.setattr(folder, "saturates", lambda: False)
    with pytest.raises(ValueError, match="Please open an issue with the model's name"):
        quantizer.export("broken", tmp_path / "out")


def test_where_sums_saturate_one_is_told_what_sessions_need(quantizer, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(folder, "saturates", lambda: True)
    with caplog.at_level("WARNING"):
        quantizer.export("onnx", tmp_path / "out")
    assert 'Give sessions options.add_session_config_entry("session.x64quantprecision", "1")' in caplog.text


def test_a_folder_with_files_is_refused_before_any_work(quantizer, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        quantizer.export("onnx", tmp_path)


def test_a_float_model_is_refused(tmp_path):
    model = build_random(ALL_BUILDERS["shallow_vit"])
    with pytest.raises(ValueError, match="Expected a packed model to export, found a ViTForImageClassification"):
        export_model(model, BitPlan.uniform(model, 4), None, "onnx", tmp_path / "out")
    with pytest.raises(ValueError, match="There is no quantized model yet"):
        MixQQuantizer.from_pretrained(model).export("onnx", tmp_path / "out")


@pytest.mark.parametrize(("name", "missing"), [("onnx", ["onnxscript", "onnxruntime"]), ("openvino", ["openvino"])])
def test_missing_packages_are_named_with_the_extra_that_installs_them(name, missing, quantizer, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None if package in missing else found(package))
    message = rf"needs the packages .*; missing: {', '.join(missing)}\. .*pip install \"optimum-mixq\[{name}\]\""
    with pytest.raises(ValueError, match=message):
        quantizer.export(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_that_nobody_registered_is_told_the_others():
    with pytest.raises(ValueError, match="Expected target to be 'onnx' or 'openvino', found 'tensorrt'"):
        target_of("tensorrt")


class Shifted(Engine):
    """Computes in PyTorch, and adds to the logits."""

    def __init__(self, model, shift):
        self.model, self.shift = model, shift

    def run(self, pixels):
        with torch.no_grad():
            logits = self.model(pixel_values=torch.from_numpy(pixels)).logits.numpy()
        return {"logits": logits + self.shift * np.arange(5)}

    def integer_products(self):
        return 10


@pytest.mark.parametrize("bits", [8, 2])
def test_a_check_passes_what_is_close_and_nothing_else(bits):
    packed = pack("shallow_vit", bits)
    converted, images = convert(packed, "integer"), generated_images(4, 3, (16, 16))
    with torch.no_grad():
        spread = float(converted(pixel_values=images.pixels).logits.std(correction=0))
    close, far = (check_engine(Shifted(converted, shift * spread), packed, converted, images) for shift in (0.01, 1.0))
    assert close.passes and not far.passes
    # The root mean square of 0, 1, 2, 3 and 4 is the root of 6.
    assert close.distance == pytest.approx(0.01 * 6**0.5, rel=1e-3) and far.distance == pytest.approx(6**0.5, rel=1e-3)
    assert LEAST <= close.allowed <= MOST and close.agreement is None and close.divergence is None


def test_a_check_tells_when_the_packed_model_is_far():
    far = Check(8, "generated images", 0.0, 0.7, 0.1, None, None, 10, 10)
    assert not far.passes
    assert "off by 0 % of their spread, 10 % allowed, 70 % beside the packed model's; 10 of 10" in far.describe()


def test_a_check_on_real_images_tells_predictions_and_divergence(exported):
    result = exported["onnx"]
    assert result.check.images == 5 and result.check.divergence < 0.05
    assert re.search(r"logits of 5 images of .*, \d+ % the same predictions, divergence \S+; 10 of", result.describe())


def test_generated_images_are_always_the_same():
    images = generated_images(2, 3, (20, 16))
    assert images.pixels.shape == (2, 3, 20, 16)
    assert torch.equal(images.pixels, generated_images(2, 3, (20, 16)).pixels) and 0.5 < images.pixels.std() < 2


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("size", ["ViT-S/16", "Swin-T"])
def test_published_sizes_are_exported(size, target, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from latency import SIZES, random_packed

    packed = random_packed(SIZES[size]().eval(), 4)
    result = export_model(packed, BitPlan(packed.config.quantization_config.plan), None, target, tmp_path / "out")
    assert result.check.integer_products == result.check.products


# The shallow ViT stands for the others; those with a projection and with a gated MLP take long to trace.
ENCODERS = [("shallow_vit", 4, {"last_hidden_state"})]
ENCODERS += [
    pytest.param(name, bits, outputs, marks=pytest.mark.slow)
    for name, outputs in (
        ("clip_vision", {"image_embeds", "last_hidden_state"}),
        ("gated_dinov3", {"last_hidden_state", "pooler_output"}),
    )
    for bits in (8, 6, 4)
]


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize(("name", "bits", "names"), ENCODERS)
def test_a_model_without_a_classifier_is_exported_with_the_outputs_of_its_class(target, name, bits, names, tmp_path):
    model = build_random(ALL_BUILDERS[name]).cpu()
    quantizer = MixQQuantizer.from_pretrained(model, task="image-feature-extraction")
    images = list(random_pixels(model, 8).cpu())
    quantizer.quantize(MixQConfig(bits=bits, calibration_samples=8), images, plan="uniform")
    result = quantizer.export(target, tmp_path / "out", dataset=images)
    assert result.check.integer_products == result.check.products
    assert result.check.agreement is None and 0 <= result.check.divergence < 0.1  # of embeddings
    pixels = random_pixels(model, 3, seed=9).cpu()
    outputs = target_of(target).load(result.folder).run(pixels.numpy())
    with torch.no_grad():
        expected = quantizer.quantized(pixel_values=pixels)
    assert set(outputs) == names
    for key, values in outputs.items():
        distance = (torch.from_numpy(values) - expected[key]).square().mean().sqrt()
        assert distance < 0.3 * expected[key].std()
