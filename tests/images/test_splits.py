# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import datasets
import pytest

from optimum_mixq.images.splits import choose_split, kind_of_split, take_split


def numbers(start, stop):
    return datasets.Dataset.from_dict({"n": list(range(start, stop))})


SPLITS = {"train": numbers(0, 10), "test": numbers(100, 104)}


def take(split):
    return take_split(list(SPLITS), SPLITS.__getitem__, split, "calibration", "the folder")["n"][:]


@pytest.mark.parametrize(
    ("available", "calibration", "evaluation"),
    [
        (("train", "valid"), "train", "valid"),
        (("Train", "Val"), "Train", "Val"),
        (("TRAINING", "dev", "test"), "TRAINING", "dev"),
        (("calib", "train", "Testing"), "calib", "Testing"),
        (("train", "validation", "eval", "test"), "train", "eval"),
        (("images",), "images", "images"),
    ],
)
def test_each_role_finds_its_split_under_any_usual_name(available, calibration, evaluation):
    assert choose_split(available, "calibration", "X") == calibration
    assert choose_split(available, "evaluation", "X") == evaluation


@pytest.mark.parametrize("available", [("train", "val", "valid"), ("Val", "val"), ("train", "dev", "validation")])
def test_two_splits_of_one_kind_are_not_chosen_between(available):
    with pytest.raises(ValueError, match=r"Which of \w+ and \w+ in X is for evaluation\? Name one with split="):
        choose_split(available, "evaluation", "X")


@pytest.mark.parametrize("only", ["train", "Training", "calibration"])
def test_the_only_split_is_not_evaluated_on_when_it_is_for_calibration(only):
    with pytest.raises(ValueError, match=f"The only split of X is '{only}', .* Pass split='{only}' to evaluate on it"):
        choose_split([only], "evaluation", "X")
    assert choose_split([only], "calibration", "X") == only


def test_splits_that_say_nothing_have_to_be_named():
    with pytest.raises(ValueError, match="Which split of X is for calibration"):
        choose_split(("first", "second"), "calibration", "X")
    assert kind_of_split("first") is None


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", list(range(10))),
        ("train[:3]", [0, 1, 2]),
        ("train[-2:]", [8, 9]),
        ("train[10%:30%]", [1, 2]),
        ("test[1:]+train[:2]", [101, 102, 103, 0, 1]),
        ("train[5:99]", [5, 6, 7, 8, 9]),
    ],
)
def test_parts_of_splits_are_read_as_datasets_reads_them(split, expected):
    assert take(split) == expected


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("dev", "There is no split 'dev' in the folder: it has train, test"),
        ("dev[:2]", r"There is no split 'dev\[:2\]' in the folder"),
        ("train[:2", r"There is no split 'train\[:2' in the folder"),
        ("train[3:3]", r"split='train\[3:3\]' of the folder is empty: .* train 10"),
        ("train[50:60]", "is empty"),
        ("train[8:2]", "is empty"),
        ("train[:200%]", "There is no split"),
        ("", "There is no split ''"),
    ],
)
def test_a_split_that_is_not_there_is_said(split, message):
    with pytest.raises(ValueError, match=message):
        take(split)


def test_streaming_splits_have_no_parts():
    streamed = {"train": SPLITS["train"].to_iterable_dataset()}
    with pytest.raises(ValueError, match=r"split='train\[:2\]' needs splits with a length, found streaming ones in X"):
        take_split(list(streamed), streamed.__getitem__, "train[:2]", "calibration", "X")


def test_splits_with_different_columns_are_not_joined():
    mixed = {"train": SPLITS["train"], "test": datasets.Dataset.from_dict({"n": ["a", "b"]})}
    with pytest.raises(ValueError, match="The splits of 'train\\+test' in X have different columns or classes"):
        take_split(list(mixed), mixed.__getitem__, "train+test", "calibration", "X")
