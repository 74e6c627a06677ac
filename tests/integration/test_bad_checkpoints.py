# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A broken saved model loads to the right logits, or ends in one error that names what is broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import make_model, random_pixels
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.pipeline import quantize_model


WEIGHTS, CONFIG = "model.safetensors", "config.json"
LAYER, ATTENTION = "vit.encoder.layer.0.intermediate.dense", "vit.encoder.layer.0.attention.mixq_attention"
STEM, HEAD = "vit.embeddings.patch_embeddings.projection", "classifier"
# Names in files, which differ from those in memory: errors may use either.
TENSORS = [
    f"{LAYER}.weight", f"{LAYER}.bias", f"{LAYER}.mixq_weight_scale", f"{LAYER}.mixq_weight_zero_point",
    f"{LAYER}.mixq_input_scale", f"{LAYER}.mixq_input_zero_point", f"{ATTENTION}.mixq_query_scale",
    f"{ATTENTION}.mixq_value_zero_point", f"{STEM}.mixq_codes", f"{STEM}.bias", f"{STEM}.mixq_input_scale",
    f"{HEAD}.weight", f"{HEAD}.bias", "vit.embeddings.cls_token", "vit.embeddings.position_embeddings",
    "vit.layernorm.weight", "vit.encoder.layer.1.layernorm_before.bias",
]  # fmt: skip
SCALES = [name for name in TENSORS if name.endswith("_scale")]
FLOATS = [f"{LAYER}.bias", f"{STEM}.bias", "vit.embeddings.cls_token", "vit.layernorm.weight"]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = make_model("vit")
    model = quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], MixQConfig(bits=4))
    model.save_pretrained(folder / "one")
    model.save_pretrained(folder / "shards", max_shard_size="10KB")
    return folder, logits(model)


@torch.no_grad()
def logits(model):
    return model(pixel_values=random_pixels(model, 3, seed=7)).logits


def tensors(change, keep_digests=False) -> Change:
    """Change tensors in a model that was saved without digests, or with them."""

    def apply(folder):
        values = load_file(folder / WEIGHTS)
        change(values)
        save_file(values, folder / WEIGHTS, metadata={"format": "pt"})
        if not keep_digests:
            recipe(digests=None)(folder)

    return apply


def replaced(name, make) -> Change:
    return tensors(lambda values: values.update({name: make(values[name])}))


def config(change) -> Change:
    def apply(folder):
        content = json.loads((folder / CONFIG).read_text())
        change(content)
        (folder / CONFIG).write_text(json.dumps(content))

    return apply


def recipe(**changes) -> Change:
    return config(lambda content: content["quantization_config"].update(changes))


def plan(**changes) -> Change:
    return config(lambda content: content["quantization_config"]["plan"].update(changes))


def rewritten(name, make) -> Change:
    def apply(folder):
        path = folder / name
        path.write_bytes(make(path.read_bytes()))

    return apply


def removed(name) -> Change:
    return lambda folder: (folder / name).unlink()


def exchanged(first, second):
    return tensors(lambda values: values.update({first: values[second], second: values[first]}), keep_digests=True)


BIT_UNIT = "blocks.0.qkv"
CASES: dict[str, Change] = {
    **{f"without {name}": tensors(lambda values, name=name: values.pop(name)) for name in TENSORS},
    **{f"renamed {name}": tensors(lambda v, name=name: v.update({name + "_": v.pop(name)})) for name in TENSORS[::3]},
    **{f"longer {name}": replaced(name, lambda v: torch.cat([v.flatten(), v.flatten()[:1]])) for name in TENSORS},
    **{f"empty {name}": replaced(name, lambda v: v.flatten()[:0]) for name in TENSORS[::4]},
    **{f"float {name}": replaced(name, lambda v: v.float()) for name in TENSORS if name not in FLOATS},
    **{f"wide {name}": replaced(name, lambda v: v.to(torch.int32)) for name in TENSORS[:4]},
    **{f"negative {name}": replaced(name, lambda v: v | -(2**15)) for name in SCALES},
    **{f"zero {name}": replaced(name, torch.zeros_like) for name in SCALES},
    **{f"infinite {name}": replaced(name, lambda v: torch.full_like(v, 0x7C00)) for name in SCALES[:1]},
    **{f"NaN {name}": replaced(name, lambda v: v / 0 * 0) for name in FLOATS},
    "one more tensor": tensors(lambda values: values.update(more=torch.ones(3))),
    "one more tensor, with digests": tensors(lambda values: values.update(more=torch.ones(3)), keep_digests=True),
    "two weights exchanged": exchanged(f"{LAYER}.weight", f"{LAYER.replace('layer.0', 'layer.1')}.weight"),
    "two biases exchanged": exchanged(f"{LAYER}.bias", f"{LAYER.replace('layer.0', 'layer.1')}.bias"),
    "a bias of another model": tensors(lambda v: v[f"{HEAD}.bias"].add_(1), keep_digests=True),
    "a bias in half precision": tensors(lambda v: v.update(classifier_bias=v["classifier.bias"].half()), True),
    "no weights": removed(WEIGHTS),
    "empty weights": rewritten(WEIGHTS, lambda content: b""),
    "weights of eight bytes": rewritten(WEIGHTS, lambda content: content[:8]),
    "weights cut in the header": rewritten(WEIGHTS, lambda content: content[:900]),
    "weights cut in the data": rewritten(WEIGHTS, lambda content: content[:-1000]),
    "weights and more": rewritten(WEIGHTS, lambda content: content + b"more"),
    "weights with a huge header": rewritten(WEIGHTS, lambda content: b"\xff" * 8 + content[8:]),
    "weights that are text": rewritten(WEIGHTS, lambda content: b"version https://git-lfs.github.com/spec/v1\n"),
    "weights whose header is no JSON": rewritten(WEIGHTS, lambda content: content[:8] + b"!" + content[9:]),
"broken digests": recipe(digests="!"),
    "digests of another model": recipe(digests="AAAAAAAAAAA="),
    "digests that are a number": recipe(digests=3),
    "no config": removed(CONFIG),
    "empty config": rewritten(CONFIG, lambda content: b""),
    "config cut short": rewritten(CONFIG, lambda content: content[:-200]),
    "config without a recipe": config(lambda content: content.pop("quantization_config")),
    "config of another family": config(lambda content: content.update(model_type="deit")),
    "config with more labels": config(lambda content: content.update(id2label={str(i): str(i) for i in range(6)})),
    "config with more blocks": config(lambda content: content.update(num_hidden_layers=3)),
    "config with fewer blocks": config(lambda content: content.update(num_hidden_layers=1)),
    "config of other width": config(lambda content: content.update(hidden_size=36)),
    "config of other heads": config(lambda content: content.update(num_attention_heads=4)),
    "config of another size": config(lambda content: content.update(image_size=32)),
    "config without query biases": config(lambda content: content.update(qkv_bias=False)),
    "no plan": recipe(plan=None),
    "empty plan": recipe(plan={}),
    "plan that is a list": recipe(plan=[4, 4]),
    "unknown unit": plan(**{"blocks.9.qkv": [4, 4]}),
    "unit missing": config(lambda content: content["quantization_config"]["plan"].pop(BIT_UNIT)),
    "fewer weight bits": plan(**{BIT_UNIT: [3, 4]}),
    "fewer activation bits": plan(**{BIT_UNIT: [4, 3]}),
    "more activation bits": plan(**{"blocks.1.fc2": [4, 8]}),
    "fewer bits of attention": plan(**{"blocks.1.qk": [3, 3]}),
    "nine bits": plan(**{BIT_UNIT: [9, 4]}),
    "a half bit": plan(**{BIT_UNIT: [4.5, 4]}),
    "bits as text": plan(**{BIT_UNIT: ["4", "4"]}),
    "one width": plan(**{BIT_UNIT: [4]}),
    "a number for both": plan(**{BIT_UNIT: 4}),
    "no bits": plan(**{BIT_UNIT: None}),
    "folded": recipe(arithmetic="folded"),
    "unknown arithmetic": recipe(arithmetic="square"),
    "unknown key": recipe(bitz=4),
    "format 2": recipe(format_version=2),
    "format as text": recipe(format_version="1"),
    "no method": config(lambda content: content["quantization_config"].pop("quant_method")),
    "another method": recipe(quant_method="bitsandbytes"),
    "in training": recipe(trainable=True),
}  # fmt: skip

SHARD, INDEX = "model-00002-of-", "model.safetensors.index.json"


def shard(folder, start=SHARD):
    return next(path for path in folder.glob("*.safetensors") if path.name.startswith(start))


def index(change) -> Change:
    def apply(folder):
        content = json.loads((folder / INDEX).read_text())
        change(content)
        (folder / INDEX).write_text(json.dumps(content))

    return apply


SHARDED: dict[str, Change] = {
    "a shard missing": lambda folder: shard(folder).unlink(),
    "a shard empty": lambda folder: shard(folder).write_bytes(b""),
    "a shard cut": lambda folder: shard(folder).write_bytes(shard(folder).read_bytes()[:-100]),
    "a shard twice": lambda folder: shutil.copy(shard(folder, "model-00001-of-"), shard(folder)),
    "no index": removed(INDEX),
    "index without a tensor": index(lambda content: content["weight_map"].pop(f"{LAYER}.weight")),
    "index to a file that is not there": index(
        lambda c: c["weight_map"].update({f"{HEAD}.bias": "other.safetensors"})
    ),
}


def ends_well(folder, expected, name):
    """Load the folder: the logits are the saved model's, or an error names a file, a tensor or an option."""
    try:
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        told = str(error)
        ours = ("mixq_", "classifier", "embeddings", "layer", "plan", "Expected", "mixq", "MixQConfig")
        transformers = ("quant_method", "ignore_mismatched_sizes")  # whose report names the tensors
        known = (str(folder), WEIGHTS, CONFIG, *ours, *transformers)
        assert any(word in told for word in known), f"{name}: {type(error).__name__}: {told}"
        return
    found = logits(model)
    assert torch.equal(found, expected), f"{name}: wrong logits, by {(found - expected).abs().max()}"


@pytest.mark.parametrize("name", CASES)
def test_a_broken_checkpoint_is_never_wrong_in_silence(name, saved, tmp_path):
    folder, expected = saved
    shutil.copytree(folder / "one", tmp_path / "model")
    CASES[name](tmp_path / "model")
    ends_well(tmp_path / "model", expected, name)


@pytest.mark.parametrize("name", SHARDED)
def test_broken_shards_are_never_wrong_in_silence(name, saved, tmp_path):
    folder, expected = saved
    shutil.copytree(folder / "shards", tmp_path / "model")
    SHARDED[name](tmp_path / "model")
    ends_well(tmp_path / "model", expected, name)
