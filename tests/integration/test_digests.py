# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a broken disk or download did to a saved model is found when the model is loaded."""

import json
import random

import pytest
import torch
from conftest import make_model, random_pixels
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.integration.digests import CHUNK_BYTES, check_files, digest_tensors
from optimum_mixq.pipeline import prepare_for_training, quantize_model


@pytest.fixture(scope="module")
def packed():
    model = make_model("vit")
    return quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], MixQConfig(bits=4))


@torch.no_grad()
def logits(model):
    return model(pixel_values=random_pixels(model, 3, seed=7)).logits


def load(folder):
    return AutoModelForImageClassification.from_pretrained(folder)


def data_of(path):
    """Return a file's bytes and where its tensors begin."""
    content = bytearray(path.read_bytes())
    return content, 8 + int.from_bytes(content[:8], "little")


def tensor_at(path, place):
    content, start = data_of(path)
    header = json.loads(content[8:start])
    header.pop("__metadata__")
    return next(
        name for name, entry in header.items() if entry["data_offsets"][1] > place - start >= entry["data_offsets"][0]
    )


@pytest.mark.parametrize("seed", range(16))
def test_a_flipped_bit_is_found_and_its_file_and_tensor_are_named(seed, packed, tmp_path):
    packed.save_pretrained(tmp_path)
    path, draw = tmp_path / "model.safetensors", random.Random(seed)
    content, start = data_of(path)
    place = draw.randrange(start, len(content))
    content[place] ^= 1 << draw.randrange(8)
    name = tensor_at(path, place)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"model.safetensors is corrupt: the tensor {name} is not what was saved"):
        load(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_a_zeroed_page_is_found(seed, packed, tmp_path):
    packed.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content, start = data_of(path)
    place = random.Random(seed).randrange(start, len(content) - 4096)
    content[place : place + 4096] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors is corrupt: the tensor \S+ is not what was saved"):
        load(tmp_path)


@pytest.mark.parametrize("shard", [0, -1])
def test_the_shard_with_the_flipped_bit_is_named(shard, packed, tmp_path):
    packed.save_pretrained(tmp_path, max_shard_size="10KB")
    path = sorted(tmp_path.glob("*.safetensors"))[shard]
    content, _ = data_of(path)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} is corrupt: the tensor"):
        load(tmp_path)


def test_the_check_can_be_skipped(packed, tmp_path, monkeypatch):
    packed.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content, _ = data_of(path)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="MIXQ_SKIP_DIGESTS=1 loads it as it is"):
        load(tmp_path)
    monkeypatch.setenv("MIXQ_SKIP_DIGESTS", "1")
    load(tmp_path)


def test_a_model_saved_without_digests_loads_as_it_is(packed, tmp_path):
    packed.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert len(config["quantization_config"].pop("digests")) > 100
    path.write_text(json.dumps(config))
    assert torch.equal(logits(load(tmp_path)), logits(packed))


def test_a_second_save_writes_the_same_bytes(packed, tmp_path):
    for name in ("first", "second"):
        packed.save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"dtype": "auto"}, {"device_map": "cpu"}])
def test_what_is_sound_loads_in_every_way(options, packed, tmp_path):
    packed.save_pretrained(tmp_path / "first")
    AutoModelForImageClassification.from_pretrained(tmp_path / "first", **options).save_pretrained(tmp_path / "second")
    assert logits(load(tmp_path / "second")).shape == (3, 5)


def test_the_names_of_the_model_in_memory_are_known_as_well(packed, tmp_path):
    packed.save_pretrained(tmp_path, save_original_format=False)
    assert torch.equal(logits(load(tmp_path)), logits(packed))


def test_checkpoints_of_training_carry_no_digests(tmp_path):
    model = make_model("vit")
    learner = prepare_for_training(model, BitPlan.uniform(model, 3), [random_pixels(model, 8)], MixQConfig(bits=3))
    learner.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["digests"] is None
    load(tmp_path)


def test_every_dtype_and_size_is_digested(tmp_path):
    tensors = {
        "many": torch.arange(CHUNK_BYTES + 3, dtype=torch.float32), "none": torch.zeros(0, 4), "one": torch.tensor(3),
        "half": torch.randn(5, 7).to(torch.bfloat16), "switch": torch.tensor([True, False]),
        "turned": torch.randn(4, 6).t(),
    }  # fmt: skip
    path, plan = tmp_path / "some.safetensors", {"a": [1, 2]}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    digests = digest_tensors(tensors, plan)
    check_files([path, tmp_path / "pytorch_model.bin"], tensors, {}, plan, digests)
    content, _ = data_of(path)
    content[-1] ^= 1
    path.write_bytes(content)
    check_files([path], tensors, {}, plan, None)
    with pytest.raises(ValueError, match="is not what was saved"):
        check_files([path], tensors, {}, plan, digests)
    with pytest.raises(ValueError, match="softmax grid in config.json is not what the tensors were saved with"):
        check_files([path], tensors, {}, {"a": [1, 3]}, digests)
    with pytest.raises(ValueError, match="digests in config.json cannot be read"):
        check_files([path], tensors, {}, plan, "no digests!")
