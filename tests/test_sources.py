# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import datasets
import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from optimum_mixq.selection import ServedImages, UnseenBatches
from optimum_mixq.sources import open_images


def picture(seed=0, size=16):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def write_folder(path, classes=("0", "1"), per_class=3):
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for index in range(per_class):
            picture(10 * number + index).save(path / name / f"{index}.png")
    return path


def named_vit(*names):
    vit = make_model("vit")
    vit.config.id2label = dict(enumerate(names))
    vit.config.label2id = {name: number for number, name in enumerate(names)}
    return vit


def dataset(count=6, labels=None, column="image"):
    columns = {column: [picture(seed) for seed in range(count)]}
    features = {column: datasets.Image()}
    if labels is not None:
        columns["label"], features["label"] = labels, datasets.Value("int64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def all_batches(images, size=4):
    return list(images.batches(range(len(images)), size))


def test_the_models_own_processor_prepares_the_pixels(vit, processor):
    images = open_images([picture(0), picture(1)], vit, processor)
    (batch,) = all_batches(images)
    expected = processor(images=[picture(0), picture(1)], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch.pixel_values, expected)
    assert batch.labels is None


def test_a_dataset_a_folder_a_list_and_tensors_give_the_same_pixels(tmp_path, vit, processor):
    folder = tmp_path / "flat"
    folder.mkdir()
    for seed in range(6):
        picture(seed).save(folder / f"{seed}.png")
    pixels = processor(images=[picture(seed) for seed in range(6)], return_tensors="pt")["pixel_values"]
    loader = DataLoader(TensorDataset(pixels, torch.arange(6) % 5), batch_size=2, shuffle=True)
    sources = [
        dataset(),
        str(folder),
        [picture(s) for s in range(6)],
        [folder / f"{s}.png" for s in range(6)],
        pixels,
        loader,
    ]
    for source in sources:
        batches = all_batches(open_images(source, vit, processor))
        assert torch.equal(torch.cat([batch.pixel_values for batch in batches]), pixels)


def test_grey_and_transparent_pictures_become_rgb(vit, processor):
    images = open_images([picture().convert("L"), picture().convert("RGBA")], vit, processor)
    (batch,) = all_batches(images)
    assert batch.pixel_values.shape == (2, 3, 16, 16)


def test_labels_of_a_folder_are_mapped_by_class_name(tmp_path, processor):
    vit = named_vit("ant", "bee", "cat", "dog", "eel")
    images = open_images(write_folder(tmp_path, ("dog", "bee")), vit, processor)
    labels = torch.cat([batch.labels for batch in all_batches(images)])
    assert sorted(labels.tolist()) == [1, 1, 1, 3, 3, 3]


def test_splits_serve_the_role_that_their_names_say(tmp_path, processor):
    vit = named_vit("0", "1", "2", "3", "4")
    write_folder(tmp_path / "train", per_class=3)
    write_folder(tmp_path / "test", per_class=2)
    assert len(open_images(tmp_path, vit, processor, "calibration")) == 6
    assert len(open_images(tmp_path, vit, processor, "evaluation")) == 4
    assert len(open_images(tmp_path, vit, processor, "evaluation", split="train")) == 6
    with pytest.raises(ValueError, match="There is no split 'dev' in .*: it has test, train"):
        open_images(tmp_path, vit, processor, split="dev")


def test_a_split_that_cannot_be_guessed_has_to_be_named(vit, processor):
    splits = datasets.DatasetDict({"first": dataset(), "second": dataset()})
    with pytest.raises(ValueError, match=r"Which split of the DatasetDict is for calibration\? It has first, second"):
        open_images(splits, vit, processor)


def test_nothing_is_read_before_its_batch(vit, processor):
    class Watched(list):
        reads = 0

        def __getitem__(self, index):
            Watched.reads += 1
            return super().__getitem__(index)

    images = open_images(Watched(picture(seed) for seed in range(8)), vit, processor)
    Watched.reads = 0
    batches = images.batches(range(8), 2)
    next(batches)
    assert Watched.reads == 2


def test_pictures_of_a_list_are_recognised_in_a_dataset(vit, processor):
    calibration = open_images([picture(seed) for seed in (1, 3)], vit, processor)
    seen = {digest for batch in all_batches(calibration) for digest in batch.fingerprints}
    evaluation = open_images(dataset(labels=[0, 1, 2, 3, 4, 0]), vit, processor, "evaluation")
    kept = list(UnseenBatches(evaluation, range(6), 2, ServedImages().add("calibration", seen)))
    assert torch.cat([batch.labels for batch in kept]).tolist() == [0, 2, 4, 0]


def test_a_missing_image_column_is_said_with_the_columns_there_are(vit, processor):
    with pytest.raises(
        ValueError, match="Expected image column 'image', found columns photo. Name it with .*image_column"
    ):
        open_images(dataset(column="photo"), vit, processor)
    assert len(open_images(dataset(column="photo"), vit, processor, image_column="photo")) == 6


def test_class_names_that_the_model_does_not_know_are_said(tmp_path, processor):
    vit = named_vit("ant", "bee", "cat", "dog", "eel")
    with pytest.raises(
        ValueError, match=r"the data set has dog, fox, the model ant, bee, cat, ... \(5\).*label_names={'fox': 'ant'"
    ):
        open_images(write_folder(tmp_path, ("dog", "fox")), vit, processor, "evaluation")


def test_calibration_does_without_class_names_that_the_model_knows(tmp_path, processor):
    vit = named_vit("ant", "bee", "cat", "dog", "eel")
    images = open_images(write_folder(tmp_path, ("dog", "fox")), vit, processor, "calibration")
    assert [batch.labels for batch in all_batches(images)] == [None, None]


def test_an_unreadable_file_is_named(tmp_path, processor):
    vit = named_vit("0", "1", "2", "3", "4")
    write_folder(tmp_path)
    (tmp_path / "1" / "1.png").write_text("this is no image")
    with pytest.raises(
        ValueError, match=r"Cannot read the image in row 4 \(.*1/1.png\): .*Remove or replace that file"
    ):
        all_batches(open_images(tmp_path, vit, processor))


def test_a_truncated_file_is_named(tmp_path, vit, processor):
    picture().save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"Cannot read the image in .*half.png"):
        all_batches(open_images([tmp_path / "whole.png", tmp_path / "half.png"], vit, processor))


def test_a_size_that_the_model_does_not_take_is_said(vit, processor):
    with pytest.raises(ValueError, match="Expected images of 16 x 16 pixels, found 20 x 20"):
        open_images(torch.zeros(2, 3, 20, 20), vit, None)
    with pytest.raises(ValueError, match="Expected images with 3 channels, found 1"):
        open_images(torch.zeros(2, 1, 16, 16), vit, None)
    processor.size = {"height": 20, "width": 20}
    with pytest.raises(ValueError, match="found 20 x 20 after the image processor"):
        all_batches(open_images([picture()], vit, processor))


def test_swin_takes_other_sizes():
    assert len(open_images(torch.zeros(2, 3, 20, 20), make_model("swin"), None)) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "found an empty list"),
        ([1, 2], "found a sequence of int"),
        (7, "found int"),
        (
            torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
            r"Expected pixel values as a float tensor .* found torch.uint8",
        ),
        ("./no/such/folder", "There is no folder no/such/folder"),
    ],
)
def test_what_is_no_source_of_images_is_refused(source, message, vit, processor):
    with pytest.raises(ValueError, match=message):
        open_images(source, vit, processor)


def test_a_folder_without_images_is_refused(tmp_path, vit, processor):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="Found no image files under"):
        open_images(tmp_path, vit, processor)


def test_a_file_is_refused_as_a_source(tmp_path, vit, processor):
    picture().save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="Expected a folder of images or a Hub data set, found the file"):
        open_images(tmp_path / "one.png", vit, processor)


def test_a_streaming_dataset_is_refused_with_the_way_out(vit, processor):
    with pytest.raises(ValueError, match="Expected a data set with a length, found a streaming one"):
        open_images(dataset().to_iterable_dataset(), vit, processor)


def test_pictures_without_a_processor_are_refused(vit):
    with pytest.raises(ValueError, match="Images need the model's image processor"):
        open_images([picture()], vit, None)


def test_a_split_of_tensors_makes_no_sense(vit):
    with pytest.raises(ValueError, match="split='test' needs a path, a Hub name or a DatasetDict, found Tensor"):
        open_images(torch.zeros(1, 3, 16, 16), vit, None, split="test")
