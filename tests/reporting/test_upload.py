# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Each case runs in a process of its own: huggingface_hub reads its endpoint and its cache's place once."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model, random_pixels
from hub_stand_in import TOKEN, HubStandIn
from huggingface_hub import ModelCard

from optimum_mixq import MixQConfig, MixQQuantizer


SMALL = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=8, batch_size=4)

PUSH = """
import sys
from conftest import make_model, random_pixels
from transformers import ViTImageProcessorPil
from optimum_mixq import MixQConfig, MixQQuantizer
model = make_model("vit")
model.config.id2label = {number: f"thing {number}" for number in range(5)}
quantizer = MixQQuantizer.from_pretrained(model, ViTImageProcessorPil(size={"height": 16, "width": 16}))
config = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=8, batch_size=4)
quantizer.quantize(config, random_pixels(model, 12), plan="uniform")
try:
    print("address", quantizer.push_to_hub("me/vit-mixq4", token=sys.argv[1]))
except (OSError, PermissionError) as error:
    print(type(error).__name__, error)
"""
PULL = """
import optimum_mixq, torch
from conftest import random_pixels
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained("me/vit-mixq4")
AutoImageProcessor.from_pretrained("me/vit-mixq4")
logits = model(pixel_values=random_pixels(model, 4, seed=9)).logits
print(model.config.id2label[3], logits.double().numpy().tobytes().hex())
"""


@pytest.fixture
def hub():
    with HubStandIn() as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A Hub that a model was pushed to once; tests change nothing there."""
    with HubStandIn() as hub:
        assert run(PUSH, hub, tmp_path_factory.mktemp("pushed"), TOKEN) == f"address {hub.endpoint}/me/vit-mixq4"
        yield hub


def run(script, hub, folder, *arguments):
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).parents[1]), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_what_is_pushed_comes_back_the_same_in_a_fresh_process(pushed, tmp_path):
    files = pushed.repositories["me/vit-mixq4"]
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "mixq_plan.json"} <= set(
        files
    )
    assert pushed.commits["me/vit-mixq4"] == ["Upload a model quantized by optimum-mixq"]
    assert "PUT large file" in pushed.requests
    model = make_model("vit")
    packed = MixQQuantizer.from_pretrained(model).quantize(SMALL, random_pixels(model, 12), plan="uniform")
    with torch.inference_mode():
        expected = packed(pixel_values=random_pixels(model, 4, seed=9)).logits
    assert run(PULL, pushed, tmp_path) == f"thing 3 {expected.double().numpy().tobytes().hex()}"


def test_the_uploaded_card_is_ours_and_names_the_repository(pushed):
    card = ModelCard(pushed.repositories["me/vit-mixq4"]["README.md"].decode())
    assert card.data.pipeline_tag == "image-classification" and "mixq" in card.data.tags
    assert 'from_pretrained("me/vit-mixq4")' in card.text


def test_an_existing_repository_is_brought_up_to_date(hub, pushed, tmp_path):
    hub.repositories, hub.commits, hub.large = map(copy.deepcopy, (pushed.repositories, pushed.commits, pushed.large))
    hub.repositories["me/vit-mixq4"]["README.md"] = b"an old card"
    assert run(PUSH, hub, tmp_path, TOKEN).startswith("address")
    assert b"mixq" in hub.repositories["me/vit-mixq4"]["README.md"]
    assert len(hub.commits["me/vit-mixq4"]) == 2
    assert hub.large and "PUT large file" not in hub.requests  # the weights were there


def test_a_refused_token_says_how_to_log_in(hub, tmp_path):
    answer = run(PUSH, hub, tmp_path, "hf_wrong")
    assert answer.startswith("PermissionError The Hub refused to write to me/vit-mixq4 (401): log in with")
    assert hub.repositories == {}


def test_a_connection_cut_in_the_middle_commits_nothing_and_the_next_try_succeeds(hub, tmp_path):
    hub.refuse_uploads = True
    answer = run(PUSH, hub, tmp_path, TOKEN)
    assert answer.startswith("ConnectionError The connection to the Hub broke") and "call it again" in answer
    assert hub.repositories == {"me/vit-mixq4": {}} and hub.commits["me/vit-mixq4"] == []
    hub.refuse_uploads = False
    assert run(PUSH, hub, tmp_path, TOKEN).startswith("address")
