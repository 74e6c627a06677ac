# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import functools
import json
import os
import socket
import subprocess
import sys
from typing import ClassVar

import pytest
import torch
from accelerate.tracking import GeneralTracker
from conftest import BUILDERS, make_model, random_pixels

from optimum_mixq import BitPlan, MixQConfig, demo_images_path, demo_model_path, open_images
from optimum_mixq.images.batches import Batch
from optimum_mixq.quantizer import MixQQuantizer
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.evaluation import measure_logits, score
from optimum_mixq.stages.packing import make_trainable, pack
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.data import TrainingImages
from optimum_mixq.stages.training.groups import parameter_groups
from optimum_mixq.stages.training.loop import train
from optimum_mixq.tasks import run_model, task_of


QUICK = MixQTrainingConfig(epochs=2, batch_size=4, shift=0.2, learning_rate=5e-4, step_learning_rate=1e-3)


FAMILIES = pytest.mark.parametrize("name", sorted(BUILDERS))


def trainable(name="vit", bits=2, arithmetic="column"):
    return make_trainable(calibrated_once(name, bits, arithmetic))  # a copy


@functools.cache
def calibrated_once(name, bits, arithmetic):
    model, config = make_model(name), MixQConfig(bits=bits, arithmetic=arithmetic)
    return calibrate(model, BitPlan.uniform(model, bits), [random_pixels(model, 8)], config)


def run(name="vit", config=QUICK, images=12, work=None, evaluation=(), **options):
    """Train a small model on random pixels and return it with its history."""
    model = make_model(name)
    learner = trainable(name, **options)
    torch.manual_seed(0)  # DropPath
    pixels = open_images(random_pixels(model, images), model, None)
    return learner, train(learner, model, pixels, config, evaluation, work)


def assert_equal_weights(one, other):
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@FAMILIES
def test_every_parameter_learns_and_none_is_a_number_without_a_dimension(name):
    model, learner = make_model(name), trainable(name, bits=3).train()
    for either in (model, learner):
        run_model(either, random_pixels(model)).logsumexp(-1).sum().backward()
    # DistributedDataParallel refuses parameters without a gradient, FSDP those of no dimension. Some classifiers have
    # parameters that they do not use themselves: a mask token, what pools for another head.
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert {name for name, parameter in learner.named_parameters() if parameter.grad is None} <= unused
    assert [name for name, parameter in learner.named_parameters() if parameter.ndim == 0] == []


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [*((name, "column") for name in sorted(BUILDERS)), *((name, "folded") for name in ("vit", "swin", "segformer"))],
)
def test_after_training_the_packed_model_gives_the_evaluated_logits(name, arithmetic):
    model = make_model(name)
    learner = trainable(name, 3, arithmetic)
    images = open_images(random_pixels(model, 8), model, None)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    train(learner, model, images, dataclasses.replace(QUICK, epochs=1, learning_rate=1e-3))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    batch = [Batch(random_pixels(model, 8, seed=5), None, ())]
    # Both multiply the same integers; the sums of a whole network are rounded in another order.
    torch.testing.assert_close(measure_logits(pack(learner), batch)[0], measure_logits(learner, batch)[0])


def test_training_brings_a_two_bit_model_nearer_to_the_float_one():
    quantizer = MixQQuantizer.from_pretrained(demo_model_path("vit"))
    model = quantizer.model
    images = open_images(demo_images_path(), model, quantizer.processor)
    held = open_images(demo_images_path(), model, quantizer.processor, "evaluation")
    batches = list(held.batches(range(100), 50))
    calibrated = calibrate(
        model,
        BitPlan.uniform(model, 2),
        [next(images.batches(range(32), 32)).pixel_values],
        MixQConfig(bits=2, reconstruction=None),
    )
    reference, labels = measure_logits(model, batches)
    before = score(measure_logits(calibrated, batches)[0], labels, reference)
    learner = make_trainable(calibrated)
    config = MixQTrainingConfig(epochs=2, batch_size=16, flip=False)
    history = train(learner, model, images, config, batches)
    after = score(measure_logits(learner, batches)[0], labels, reference)
    assert after.kl < 0.8 * before.kl and after.accuracy >= before.accuracy
    # The best epoch is kept, and what was reported is what is there.
    assert after.accuracy == max(epoch.accuracy for epoch in history)


def test_the_float_model_is_left_as_it_is():
    model = make_model("vit")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(trainable(), model, open_images(random_pixels(model, 8), model, None), QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("name", "stopped_at"), [("vit", 2), ("vit", 5), ("swin", 4)])
def test_a_stopped_training_goes_on_to_the_weights_of_an_uninterrupted_one(name, stopped_at, tmp_path, monkeypatch):
    config = dataclasses.replace(QUICK, save_steps=2, ema=0.5, mixup=0.2)
    evaluation = [Batch(random_pixels(make_model(name), 4, seed=7), None, ())]
    expected, history = run(name, config, evaluation=evaluation)
    from optimum_mixq.stages.training import loop as training

    original, steps = training._Training._finish_step, []

    def stops(self, bar, loss):
        original(self, bar, loss)
        steps.append(1)
        if len(steps) == stopped_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Training, "_finish_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(name, config, work=tmp_path, evaluation=evaluation)
    monkeypatch.setattr(training._Training, "_finish_step", original)
    found, resumed = run(name, config, work=tmp_path, evaluation=evaluation)
    assert_equal_weights(found, expected)
    assert [epoch.kl for epoch in resumed] == [epoch.kl for epoch in history]


def test_a_state_of_another_recipe_is_refused(tmp_path):
    run(work=tmp_path)
    with pytest.raises(ValueError, match=r"holds a training with other learning_rate, seed\. Delete it to train anew"):
        run(config=dataclasses.replace(QUICK, seed=1, learning_rate=2e-3), work=tmp_path)


def test_accumulated_parts_give_the_step_of_the_whole_batch():
    whole, _ = run(config=dataclasses.replace(QUICK, max_steps=1, warmup=0.0))
    parts, _ = run(config=dataclasses.replace(QUICK, max_steps=1, warmup=0.0, gradient_accumulation_steps=2))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=2e-5)


def test_gradient_checkpointing_changes_memory_alone():
    plain, _ = run()
    checkpointed, _ = run(config=dataclasses.replace(QUICK, gradient_checkpointing=True))
    assert_equal_weights(plain, checkpointed)


@pytest.mark.parametrize(
    "change",
    [
        {"mixed_precision": "bf16"},
        {"features": 1.0},
        {"dampening": 1.0},
        {"cutmix": 1.0, "mixup": 1.0},
        {"ema": 0.9},
        {"temperature": 3.0},
    ],
    ids=str,
)
def test_each_option_changes_the_training_and_stays_finite(change):
    plain, _ = run()
    changed, history = run(config=dataclasses.replace(QUICK, **change))
    assert all(torch.isfinite(tensor).all() for tensor in changed.state_dict().values())
    assert history[-1].loss == history[-1].loss
    assert any(not torch.equal(tensor, plain.state_dict()[name]) for name, tensor in changed.state_dict().items())


def test_labels_alone_train_too():
    model = make_model("vit")
    # The label is the channel that is bright.
    bright = 3.0 * torch.eye(3)[:, :, None, None]
    rows = [(pixels + bright[index % 3], index % 3) for index, pixels in enumerate(random_pixels(model, 12))]
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    config = MixQTrainingConfig(
        epochs=10, batch_size=4, distillation=0.0, label_smoothing=0.1, learning_rate=3e-3, step_learning_rate=1e-5
    )
    history = train(trainable(bits=8), model, open_images(loader, model, None), config)
    assert history[-1].loss < 0.9 * history[0].loss


def test_images_without_labels_need_distillation():
    with pytest.raises(ValueError, match="Expected labelled images .* found some without"):
        run(config=dataclasses.replace(QUICK, distillation=0.5))


def test_too_few_images_say_what_to_change():
    with pytest.raises(ValueError, match=r"Expected at least batch_size=4 training images, found 3 in the tensor\."):
        run(images=3)


def test_an_epoch_sees_each_image_once_and_moves_it_anew():
    model = make_model("vit")
    config = dataclasses.replace(QUICK, flip=True)
    images = TrainingImages(open_images(random_pixels(model, 4), model, None), config, task_of(model))
    first, again, later = images[1], images[1], images[5]
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], later[0])
    assert first[1].isnan().all() and first[1].shape == (5,) and len(images) == 4


def test_decay_is_for_weights_and_grids_have_their_own_rate():
    learner = trainable("swin")
    weights, grids, rest = parameter_groups(learner, QUICK)
    names = {parameter: name for name, parameter in learner.named_parameters()}
    assert all(names[parameter].endswith("weight") and parameter.ndim >= 2 for parameter in weights["params"])
    assert {names[parameter].rpartition("_")[2] for parameter in grids["params"]} == {"step", "offset"}
    assert weights["weight_decay"] > 0 == grids["weight_decay"] == rest["weight_decay"]
    assert len(names) == sum(len(group["params"]) for group in (weights, grids, rest))


SPREAD = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from stages.training.test_loop import DISTRIBUTED, run
from optimum_mixq.images.batches import Batch
from conftest import make_model, random_pixels
evaluation = [Batch(random_pixels(make_model("deit_with_teacher"), 4, seed=seed), None, ()) for seed in (7, 8)]
learner, history = run("deit_with_teacher", DISTRIBUTED, evaluation=evaluation, work=Path(sys.argv[2]) / "work")
from accelerate import PartialState
if PartialState().is_main_process:
    torch.save((learner.state_dict(), [epoch.kl for epoch in history]), Path(sys.argv[2]) / "result.pt")
"""
DISTRIBUTED = MixQTrainingConfig(epochs=2, batch_size=4, shift=0.2, save_steps=1)


def test_two_processes_train_as_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    tests = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    shared = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true", "PYTHONPATH": tests,
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPREAD, tests, str(tmp_path)], stderr=subprocess.PIPE, text=True,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(error[-3000:] for error in errors)
    evaluation = [Batch(random_pixels(make_model("deit_with_teacher"), 4, seed=seed), None, ()) for seed in (7, 8)]
    alone, history = run("deit_with_teacher", DISTRIBUTED, evaluation=evaluation)
    weights, kl = torch.load(tmp_path / "result.pt")
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=5e-3, atol=5e-4)
    assert kl == pytest.approx([epoch.kl for epoch in history], rel=0.05)
    assert json.loads((tmp_path / "work" / "state" / "training.json").read_text())["step"] == 6


class Notebook(GeneralTracker):
    """A tracker that remembers."""

    name, requires_logging_directory = "notebook", False
    notes: ClassVar[list] = []

    @property
    def tracker(self):
        return self.notes

    def store_init_configuration(self, values):
        self.notes.append(values)

    def log(self, values, step, **_):
        self.notes.append((step, values))


def test_trackers_get_the_recipe_and_every_epoch():
    model = make_model("vit")
    images = open_images(random_pixels(model, 8), model, None)
    history = train(trainable(), model, images, QUICK, trackers=[Notebook()])
    recipe, *epochs = Notebook.notes
    assert recipe["batch_size"] == 4
    assert [step for step, _ in epochs] == [2, 4] and epochs[1][1]["loss"] == history[1].loss


def test_training_that_makes_it_worse_keeps_the_start():
    model = make_model("vit")
    evaluation = [Batch(random_pixels(model, 8, seed=7), None, ())]
    learner = trainable(bits=4)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    images = open_images(random_pixels(model, 12), model, None)
    history = train(learner, model, images, dataclasses.replace(QUICK, learning_rate=0.5), evaluation)
    assert not any(epoch.kept for epoch in history)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())


def test_without_evaluation_the_last_epoch_is_kept_and_marked(tmp_path):
    _, history = run(work=tmp_path)
    assert [epoch.kept for epoch in history] == [False, True]
    _, resumed = run(work=tmp_path)
    assert [epoch.kept for epoch in resumed] == [False, True]


@pytest.mark.parametrize(("bits", "rate", "step_rate"), [(2, 1e-3, 3e-5), (3, 3e-4, 2e-4)])
def test_rates_that_are_left_open_suit_the_models_bits(bits, rate, step_rate):
    weights, grids, rest = parameter_groups(trainable(bits=bits), MixQTrainingConfig())
    assert (weights["lr"], grids["lr"], rest["lr"]) == (rate, step_rate, rate)


def test_the_saved_model_tells_the_rates_that_it_was_trained_with():
    model = make_model("vit")
    quantizer = MixQQuantizer.from_pretrained(model)
    training = MixQTrainingConfig(epochs=1, batch_size=4, max_steps=1)
    config = MixQConfig(bits=2, calibration_samples=4, batch_size=4)
    packed = quantizer.train(random_pixels(model, 8), training, config, plan="uniform")
    assert packed.config.quantization_config.record["training"]["learning_rate"] == 1e-3
