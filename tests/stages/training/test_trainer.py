# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""transformers' own `Trainer` trains, saves and resumes a quantized model."""

import pytest
import torch
from conftest import BUILDERS, make_model, random_pixels
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments
from transformers.core_model_loading import revert_weight_conversion

from optimum_mixq import BitPlan, MixQConfig, pack_trained, prepare_for_training
from optimum_mixq.tasks import run_model


def prepared(name="vit", bits=3, arithmetic="column"):
    model = make_model(name)
    config = MixQConfig(bits=bits, arithmetic=arithmetic)
    return prepare_for_training(model, BitPlan.uniform(model, bits), [random_pixels(model, 8)], config)


def trainer(model, folder, epochs):
    pixels = random_pixels(model, 16)
    rows = [{"pixel_values": image, "labels": torch.tensor(index % 5)} for index, image in enumerate(pixels)]
    arguments = TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=4, save_strategy="epoch", report_to=[],
        learning_rate=1e-3, lr_scheduler_type="constant", use_cpu=True, disable_tqdm=True, seed=3,
        remove_unused_columns=False, dataloader_pin_memory=False, logging_steps=1000,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer")
    model = prepared("vit")
    trainer(model, folder, 2).train()
    return model, folder


def test_the_trainer_trains_and_the_result_packs_saves_and_loads(trained, tmp_path):
    model, _ = trained
    fresh = prepared("vit").state_dict()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, fresh[name])]
    assert any("weight" in name for name in changed) and any("_step" in name for name in changed)
    packed = pack_trained(model)
    packed.save_pretrained(tmp_path / "packed")
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "packed")
    pixels = random_pixels(model, 4, seed=9)
    with torch.inference_mode():
        assert torch.equal(run_model(reloaded, pixels), run_model(packed, pixels))
        torch.testing.assert_close(run_model(packed, pixels), run_model(model.eval(), pixels))


def test_training_resumes_to_the_weights_of_an_uninterrupted_one(trained, tmp_path):
    model, folder = trained
    (first,) = [path for path in folder.glob("checkpoint-*") if path.name == "checkpoint-4"]
    resumed = prepared("vit")
    trainer(resumed, tmp_path, 2).train(resume_from_checkpoint=str(first))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


# Classifiers whose modules are called otherwise in files (transformers 5.9 to 5.23).
RENAMED = sorted(BUILDERS.keys() - {"clip", "clip_vision", "siglip", "siglip_vision", "swinv2", "dpt"})


@pytest.mark.parametrize("name", RENAMED)
def test_a_checkpoint_has_other_names_and_gets_ours_back(name):
    model = make_model(name)
    learner = prepare_for_training(model, BitPlan.uniform(model, 3), [random_pixels(model, 8)], MixQConfig(bits=3))
    state = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    saved = revert_weight_conversion(learner, dict(state))
    assert set(saved) != set(state)  # the reason for it all
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    learner.load_state_dict(saved, strict=False)
    assert all(torch.equal(tensor, state[name]) for name, tensor in learner.state_dict().items())


def test_a_checkpoint_that_lacks_tensors_is_refused_even_where_nobody_asks():
    learner = prepared("vit")
    state = learner.state_dict()
    lost = next(iter(state))
    del state[lost]
    with pytest.raises(ValueError, match=rf"The checkpoint lacks 1 of \d+ tensors of the model \({lost}, \.\.\.\)"):
        learner.load_state_dict(state, strict=False)


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [*((name, "column") for name in sorted(BUILDERS)), *((name, "folded") for name in ("vit", "swin", "segformer"))],
)
def test_a_model_in_training_is_saved_and_loaded_as_such(name, arithmetic, tmp_path):
    model, config = make_model(name), MixQConfig(bits=3, arithmetic=arithmetic)
    learner = prepare_for_training(model, BitPlan.uniform(model, 3), [random_pixels(model, 8)], config)
    learner.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path)
    assert reloaded.hf_quantizer.is_trainable and reloaded.hf_quantizer.is_qat_trainable
    pixels = random_pixels(model, 4, seed=9)
    for mode in (True, False):
        torch.manual_seed(0)
        expected = run_model(learner.train(mode), pixels)
        torch.manual_seed(0)
        found = run_model(reloaded.train(mode), pixels)
        assert torch.equal(found, expected)
    assert all(parameter.requires_grad for parameter in reloaded.parameters())


def test_what_was_not_prepared_is_not_packed(vit):
    with pytest.raises(ValueError, match="Expected a model that prepare_for_training returned, found another one"):
        pack_trained(vit)
    with pytest.raises(ValueError, match="Expected a packed model to dequantize, found one in training: pack it"):
        prepared("vit").dequantize()
