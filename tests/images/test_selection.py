# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import json
import os
import subprocess
import sys
import weakref
from argparse import Namespace

import pytest
import torch
from conftest import make_model, random_pixels
from hub_stand_in import HubStandIn
from torch.utils.data import DataLoader, TensorDataset

from optimum_mixq import MixQConfig, MixQQuantizer, MixQTrainingConfig, open_images
from optimum_mixq.cli import run_evaluate
from optimum_mixq.images.batches import Images
from optimum_mixq.images.fingerprints import digest_inputs
from optimum_mixq.images.selection import FILE_NAME, Selection, ServedImages, UnseenBatches, watch
from optimum_mixq.stages.evaluation import measure_together


SMALL = MixQConfig(bits=4, calibration_samples=8, sensitivity_samples=12, batch_size=4)


def images_of(count=6, labels=None, reads=None):
    """Return `count` rows of 16 x 16 pixels, row i drawn by seed i."""

    def read(index):
        if reads is not None:
            reads.append(index)
        pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return pixels, None if labels is None else labels[index]

    return Images(count, read, lambda images, labels, _: (torch.stack(images), labels), 5, "the data set")


def digests_of(images, rows):
    return [digest for batch in images.batches(rows, 4) for digest in batch.fingerprints]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a float model, 30 images, and the folder of a packed model that 12 of them made."""
    from transformers import ViTImageProcessorPil

    model, folder = make_model("vit"), tmp_path_factory.mktemp("selection") / "out"
    pixels = random_pixels(model, 30)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    MixQQuantizer(model, processor).quantize(SMALL, pixels, folder)
    return model, pixels, folder


def test_images_that_served_are_left_out_and_counted():
    whole = images_of(labels=[0, 1, 2, 3, 4, 0])
    batches = UnseenBatches(whole, range(6), 2, ServedImages().add("training", digests_of(whole, [1, 3])))
    for _ in range(2):  # each pass counts anew
        assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 2, 4, 0]
        assert (batches.kept, batches.left_out) == (4, 2)
    assert batches.summary() == (
        "2 images that served calibration, the choice of bits or training were left out (4 remain)."
    )


def test_when_all_images_served_there_is_nothing_to_evaluate_on():
    whole = images_of(4)
    batches = UnseenBatches(whole, range(4), 2, ServedImages().add("training", digests_of(whole, range(4))))
    with pytest.raises(ValueError, match=r"all 4 of the data set served calibration, .* Evaluate on other images"):
        list(batches)


@pytest.mark.parametrize(("asked", "taken"), [(4, 4), (5000, 6)])
def test_ranges_are_set_by_as_many_images_as_are_asked_for_or_by_all(asked, taken):
    selection = Selection()
    batches = selection.calibration(images_of(6), MixQConfig(calibration_samples=asked, batch_size=4))
    assert sum(map(len, batches)) == taken == len(selection.served.digests)


def test_digests_are_saved_compactly_and_come_back(tmp_path):
    whole = images_of(64)
    served = ServedImages().add("calibration", digests_of(whole, range(32)))
    served = served.add("training", digests_of(whole, range(64)))
    served.save(tmp_path / FILE_NAME)
    assert ServedImages.load(tmp_path / FILE_NAME) == served == ServedImages.find(tmp_path)
    assert len(served.digests) == 64 and (tmp_path / FILE_NAME).stat().st_size < 96 * 11 + 120
    assert ServedImages.find(tmp_path / "..") is None


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"calibration": "AAAA"}, {"training": "?"}, {"sensitivity": None}, {"training": 7}]
)
def test_a_record_that_cannot_be_read_is_refused_with_the_way_out(tmp_path, change):
    ServedImages().save(tmp_path / FILE_NAME)
    content = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match="mixq_images.json is no record of images .* Delete it to go on without"):
        ServedImages.find(tmp_path)


def test_rows_that_went_by_are_not_read_again_for_their_digests():
    reads = []
    watched = watch(images_of(6, reads=reads))
    for _ in watched.batches([4, 0, 2], 2):
        continue
    digests = watched.all_digests()
    assert sorted(reads) == [0, 1, 2, 3, 4, 5]
    assert digests == set(digests_of(images_of(6), range(6)))


def test_a_reopened_model_leaves_out_the_images_that_made_it(saved, caplog):
    model, pixels, folder = saved
    quantizer = MixQQuantizer.reopen(folder, model)
    assert quantizer.evaluate(pixels)["quantized"].images == 18
    assert caplog.messages == [
        "12 images that served calibration, the choice of bits or training were left out (18 remain)."
    ]
    assert quantizer.comparison.left_out == 12


def test_a_folder_without_the_record_evaluates_on_all_images_and_says_so(saved, tmp_path, caplog):
    model, pixels, folder = saved
    old = tmp_path / "old"
    old.mkdir()
    for file in folder.iterdir():
        if file.name != FILE_NAME:
            (old / file.name).write_bytes(file.read_bytes())
    quantizer = MixQQuantizer.reopen(old, model)
    assert quantizer.evaluate(pixels)["quantized"].images == 30
    assert caplog.messages == [f"{old} does not record which images served calibration: they cannot be left out."]
    quantizer.save_pretrained(tmp_path / "again")
    assert "It is not recorded which images served calibration" in (tmp_path / "again" / "README.md").read_text()
    assert ServedImages.find(tmp_path / "again") == ServedImages(complete=False)


def test_the_card_of_a_reopened_model_tells_how_many_images_were_left_out(saved, tmp_path):
    model, pixels, folder = saved
    quantizer = MixQQuantizer.reopen(folder, model)
    quantizer.evaluate(pixels)
    quantizer.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "12 images that served calibration, the choice of bits or training were left out." in card
    quantizer.evaluate(random_pixels(model, 5, seed=9))
    quantizer.save_pretrained(tmp_path)
    assert "None of them served calibration" in (tmp_path / "README.md").read_text()


def test_a_report_of_a_reopened_model_leaves_out_what_chose_the_bits_too(saved, tmp_path):
    model, pixels, folder = saved
    quantizer = MixQQuantizer.reopen(folder, model)
    report = quantizer.report(pixels, tmp_path)
    assert report.contenders[-1].evaluation.images == 18 and quantizer.comparison.left_out == 12


def test_the_command_line_leaves_them_out_and_says_so(saved, tmp_path, capsys):
    _, pixels, folder = saved
    labelled = DataLoader(TensorDataset(pixels, torch.arange(30) % 5))
    words = {
        "dataset": labelled,
        "split": None,
        "samples": None,
        "seed": 0,
        "batch_size": 8,
        "revision": None,
        "device": None,
        "task": None,
    }
    run_evaluate(Namespace(model=str(folder), **words))
    told = capsys.readouterr().out
    assert "on 18 images" in told and "12 images that served calibration, the choice of bits or training were" in told
    for file in folder.iterdir():
        if file.name != FILE_NAME:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    run_evaluate(Namespace(model=str(tmp_path), **words))
    told = capsys.readouterr().out
    assert "on 30 images" in told and "It is not recorded which images served calibration" in told


FIND = """
import sys
from optimum_mixq.images.fingerprints import digest_inputs
from optimum_mixq.images.selection import ServedImages
print(len(ServedImages.find("me/vit").digests), ServedImages.find("me/old"))
"""


def test_the_record_is_found_on_the_hub(saved, tmp_path):
    _, _, folder = saved
    with HubStandIn() as hub:
        hub.repositories["me/vit"] = {FILE_NAME: (folder / FILE_NAME).read_bytes()}
        hub.repositories["me/old"] = {"config.json": b"{}"}
        environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, env=environment)
    assert done.stdout == "12 None\n", done.stderr


def test_training_keeps_its_images_out_of_its_own_evaluation(vit, tmp_path):
    pixels, training = random_pixels(vit, 24), MixQTrainingConfig(epochs=1, batch_size=4)
    quantizer = MixQQuantizer(vit, None)
    with pytest.raises(ValueError, match=r"no images to evaluate on: all 16 of the tensor served .* training"):
        quantizer.train(pixels[:16], training, SMALL, "uniform", tmp_path / "out", evaluation=pixels[:16])
    assert not (tmp_path / "out").exists()
    quantizer.train(pixels[:16], training, SMALL, "uniform", tmp_path / "out", evaluation=pixels)
    reopened = ServedImages.load(tmp_path / "out" / FILE_NAME)
    assert len(reopened.training) == 16 and reopened.calibration < reopened.training
    assert quantizer.evaluate(pixels)["quantized"].images == 8


def test_training_without_evaluation_records_its_images_unmoved_and_decodes_none_twice(vit):
    pixels = random_pixels(vit, 16)
    images = open_images(pixels, vit, None)
    reads = []
    counted = dataclasses.replace(images, read=lambda index: reads.append(index) or images.read(index))
    quantizer = MixQQuantizer(vit, None)
    config = dataclasses.replace(SMALL, calibration_samples=4)
    quantizer.train(counted, MixQTrainingConfig(epochs=2, batch_size=4, shift=0.2), config, "uniform")
    assert quantizer.selection.served.training == set(digests_of(images, range(16)))
    assert len(reads) == 4 + 2 * 16  # calibration, and two epochs


def test_evaluation_keeps_one_batch_at_a_time(vit):
    """Both models see a batch before the next one is made, and none outlives its turn."""
    alive, most = weakref.WeakSet(), []

    class Pixels(torch.Tensor):
        pass

    def batches():
        for batch in images_of(40).batches(range(40), 4):
            pixels = batch.pixel_values.as_subclass(Pixels)
            alive.add(pixels)
            most.append(len(alive))
            yield dataclasses.replace(batch, pixel_values=pixels)
            del pixels, batch

    logits, labels = measure_together({"first": vit, "second": make_model("deit")}, batches())
    assert logits["first"].shape == logits["second"].shape == (40, 5) and labels is None
    assert len(most) == 10 and max(most) <= 2


def test_models_together_give_the_logits_that_each_gives_alone_and_keep_their_mode(vit):
    other = make_model("deit").train()
    logits, _ = measure_together({"vit": vit, "deit": other}, images_of(6).batches(range(6), 4))
    assert other.training and not vit.training
    pixels = torch.cat([batch.pixel_values for batch in images_of(6).batches(range(6), 6)])
    with torch.inference_mode():
        for name, model in (("vit", vit), ("deit", other.eval())):
            assert torch.allclose(logits[name], model(pixel_values=pixels).logits, atol=1e-5)


def test_how_images_are_batched_is_no_part_of_what_was_measured(vit):
    images = open_images(DataLoader(TensorDataset(random_pixels(vit, 6), torch.arange(6) % 5)), vit, None)
    found = [digest_inputs(vit, list(images.batches(range(6), size))) for size in (2, 6)]
    assert found[0] == found[1]
