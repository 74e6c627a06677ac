# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import make_model
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.images.selection import ServedImages, UnseenBatches
from optimum_mixq.images.sources import open_images


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
    with pytest.raises(ValueError, match="Expected images of 16 x 16 pixels, found 20 x 20. Set the image processor"):
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


class Pairs(Dataset):
    """A map-style data set, as torchvision's are."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def sources_of_three(tmp_path, processor):
    """Yield three pictures in every form that an image, or a set of labelled images, may have."""
    pictures, labels = [picture(seed) for seed in range(3)], [4, 0, 2]
    arrays = [np.asarray(p) for p in pictures]
    paths = [str(tmp_path / f"{seed}.png") for seed in range(3)]
    for path, image in zip(paths, pictures, strict=True):
        image.save(path)
    tensors = list(processor(images=pictures, return_tensors="pt")["pixel_values"])
    rows = dataset(3, labels)
    for images in (pictures, arrays, paths, [Path(path) for path in paths], tensors):
        pairs = list(zip(images, labels, strict=True))
        yield images, False
        yield pairs, True
        yield Pairs(pairs), True
        yield Pairs(images), False
        yield {"image": images, "label": labels}, True
        yield [{"image": image, "label": label} for image, label in pairs], True
    yield np.stack(arrays), False
    yield np.stack([tensor.numpy() for tensor in tensors]), False
    yield {"pixel_values": torch.stack(tensors), "labels": torch.tensor(labels)}, True
    yield rows.with_format("torch"), True
    yield rows.with_format("numpy"), True
    yield rows.with_transform(lambda row: {"pixel_values": prepared(processor, row), "labels": row["label"]}), True
    yield rows.map(lambda row: {"pixel_values": prepared(processor, row)}, batched=True, remove_columns="image"), True
    yield rows.cast_column("image", datasets.Image(decode=False)), True


def prepared(processor, rows):
    return processor(images=[image.convert("RGB") for image in rows["image"]], return_tensors="pt")["pixel_values"]


def test_every_form_of_source_gives_the_same_pixels_and_labels(tmp_path, vit, processor):
    expected = processor(images=[picture(seed) for seed in range(3)], return_tensors="pt")["pixel_values"]
    tried = 0
    for source, labelled in sources_of_three(tmp_path, processor):
        (batch,) = all_batches(open_images(source, vit, processor, "evaluation"))
        assert torch.allclose(batch.pixel_values, expected, atol=1e-6), source
        assert batch.labels.tolist() == [4, 0, 2] if labelled else batch.labels is None, source
        tried += 1
    assert tried == 38


def test_images_that_were_opened_are_a_data_set_everywhere(vit, processor):
    images = open_images(dataset(12, [0] * 12, column="photo"), vit, processor, image_column="photo")
    quantizer = MixQQuantizer(vit, processor)
    config = MixQConfig(bits=4, calibration_samples=4, sensitivity_samples=4, batch_size=4, compare=False)
    quantizer.measure_relevance(images, config)
    quantizer.measure_sensitivity(images, config)
    quantizer.quantize(config, images)
    assert quantizer.evaluate(images)["quantized"].images == 8
    assert open_images(images, vit, processor, "evaluation").role == "evaluation"
    with pytest.raises(ValueError, match="Expected options such as split= where the images are opened"):
        open_images(images, vit, processor, split="test")
    with pytest.raises(ValueError, match="opened for this model, found some for a model of 5 classes instead of 2"):
        open_images(images, named_vit("yes", "no"), processor)


def test_class_names_that_differ_are_refused_for_evaluation_wherever_the_images_were_opened(vit, processor, caplog):
    vit = named_vit("ant", "bee", "cat", "dog", "eel")
    names = datasets.ClassLabel(names=["Aal", "Ameise", "Biene", "Hund", "Katze"])
    rows = dataset(5, [0, 1, 2, 3, 4]).cast_column("label", names)
    images = open_images(rows, vit, processor)
    (message,) = caplog.messages
    assert "the data set has Aal, Ameise, Biene, ... (5)" in message and "count as unlabelled" in message
    assert [batch.labels for batch in all_batches(images)] == [None, None]
    for source in (rows, images):
        with pytest.raises(ValueError, match="The data set's classes are not the model's"):
            open_images(source, vit, processor, "evaluation")
    english = dict(zip(names.names, ("eel", "ant", "bee", "dog", "cat"), strict=True))
    renamed = open_images(rows, vit, processor, label_names=english)
    found = torch.cat([batch.labels for batch in all_batches(open_images(renamed, vit, processor, "evaluation"))])
    assert found.tolist() == [4, 0, 1, 3, 2]


@pytest.mark.parametrize("label", ["DEER", 5, 1.5, [0, 1, 0, 0, 1]])
def test_labels_that_are_no_classes_stop_evaluation_and_not_calibration(label, vit, processor):
    source = [(picture(0), 1), (picture(1), label)]
    (batch,) = all_batches(open_images(source, vit, processor, "calibration"))
    assert batch.labels is None
    with pytest.raises(ValueError, match="Row 1 of the list of images has label"):
        all_batches(open_images(source, vit, processor, "evaluation"))


def test_minus_one_is_an_unlabelled_image(vit, processor):
    (batch,) = all_batches(open_images([(picture(0), -1), (picture(1), 2)], vit, processor, "evaluation"))
    assert batch.labels is None


def test_the_only_split_of_a_dataset_dict_is_not_evaluated_on_when_it_is_for_training(vit, processor):
    splits = datasets.DatasetDict({"train": dataset()})
    with pytest.raises(ValueError, match="The only split of the DatasetDict is 'train', .* Pass split='train'"):
        open_images(splits, vit, processor, "evaluation")
    assert len(open_images(splits, vit, processor, "evaluation", split="train[:50%]")) == 3


def test_unreadable_images_are_left_out_where_that_is_asked_for(tmp_path, vit, processor, caplog):
    for seed in range(4):
        picture(seed).save(tmp_path / f"{seed}.png")
    paths = sorted(tmp_path.iterdir())
    paths[1].write_bytes(paths[1].read_bytes()[:90])
    paths[2].write_text("no image")
    for source in (tmp_path, paths):
        caplog.clear()
        images = open_images(source, vit, processor, on_error="skip")
        assert len(images) == 2
        (message,) = caplog.messages
        assert "2 of 4 images cannot be read" in message and "1.png" in message and "2.png" in message
        (batch,) = all_batches(images)
        expected = processor(images=[picture(0), picture(3)], return_tensors="pt")["pixel_values"]
        assert torch.equal(batch.pixel_values, expected)
    with pytest.raises(ValueError, match="None of the 2 images in the list of images can be read. Cannot read"):
        open_images(paths[1:3], vit, processor, on_error="skip")
    with pytest.raises(ValueError, match="Expected on_error to be 'raise' or 'skip', found 'ignore'"):
        open_images(paths, vit, processor, on_error="ignore")


def test_as_many_labels_as_images_are_expected(vit, processor):
    with pytest.raises(ValueError, match=r"Expected as many labels as images, found {'image': 1, 'label': 2}"):
        open_images({"image": [picture()], "label": [0, 1]}, vit, processor)


@pytest.mark.parametrize("source", [(picture(s) for s in range(2)), zip([picture()], [0], strict=True)])
def test_a_generator_is_refused_with_the_way_out(source, vit, processor):
    with pytest.raises(ValueError, match=r"found (generator|zip). Images are drawn by row: make a list"):
        open_images(source, vit, processor)


def test_pixels_that_are_no_numbers_are_refused_with_their_row(vit):
    pixels = torch.zeros(6, 3, 16, 16)
    pixels[4, 1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="Row 4 of the tensor has pixels that are infinite or no numbers"):
        all_batches(open_images(pixels, vit, None))


def test_pictures_and_pixel_values_are_not_mixed(vit, processor):
    with pytest.raises(ValueError, match="found both: row 1 is a tensor, row 0 is a picture"):
        all_batches(open_images([picture(), torch.zeros(3, 16, 16)], vit, processor))
    with pytest.raises(ValueError, match=r"images of one size .* \(3, 16, 16\) in row 0 and \(3, 20, 20\) in row 1"):
        all_batches(open_images([torch.zeros(3, 16, 16), torch.zeros(3, 20, 20)], vit, processor))


def test_the_row_that_the_image_processor_refuses_is_named(vit):
    class Processor:
        def __call__(self, images, return_tensors):
            if any(image.width == 1 for image in images):
                raise RuntimeError("too small")
            return {"pixel_values": torch.zeros(len(images), 3, 16, 16)}

    pictures = [picture(0), picture(1, size=1), picture(2)]
    with pytest.raises(ValueError, match="The image processor refuses row 1 of the list of images: too small"):
        all_batches(open_images(pictures, vit, Processor()))


def test_a_streaming_dataset_is_refused_with_the_way_out(vit, processor):
    with pytest.raises(ValueError, match="Expected a data set with a length, found a streaming one"):
        open_images(dataset().to_iterable_dataset(), vit, processor)


def test_pictures_without_a_processor_are_refused(vit):
    with pytest.raises(ValueError, match="Images need the model's image processor"):
        open_images([picture()], vit, None)


def test_a_split_of_tensors_makes_no_sense(vit):
    with pytest.raises(ValueError, match="split='test' needs a path, a Hub name or a DatasetDict, found Tensor"):
        open_images(torch.zeros(1, 3, 16, 16), vit, None, split="test")
