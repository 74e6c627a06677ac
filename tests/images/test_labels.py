# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import ViTConfig

from optimum_mixq.images.labels import join_labels, label_reader, own_label_reader, stack_labels


def config(*names, **options):
    return ViTConfig(id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)}, **options)


def named(*names):
    return SimpleNamespace(names=list(names))


ANIMALS = config("tabby cat", "Golden_Retriever", "tench, Tinca tinca", "crane", "crane")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tabby cat", 0),
        ("Tabby-Cat", 0),
        ("tabby_cat", 0),
        ("golden retriever", 1),
        ("tench", 2),
        ("Tinca_tinca", 2),
        ("tench, Tinca tinca", 2),
        ("3", 3),
    ],
)
def test_names_match_in_any_case_with_any_separator_and_by_one_synonym(name, number):
    assert label_reader(ANIMALS, named(name)).read(0) == number
    assert label_reader(ANIMALS).read(name) == number


def test_a_name_that_no_folder_can_have_matches_what_stands_for_it():
    clothes = config("T-shirt/top", "Trouser", "C", "C++", "?", "!")
    for name, number in (("T-shirt_top", 0), ("tshirt top", 0), ("C", 2), ("C++", 3), ("!", 5)):
        assert label_reader(clothes, named(name)).read(0) == number
    for name in ("c", "-", "", ","):
        assert label_reader(clothes, named(name)).mismatch is not None


def test_names_in_another_order_keep_their_classes():
    reader = label_reader(config("ant", "bee", "cat"), named("CAT", "Ant"))
    assert [reader.read(0), reader.read(1)] == [2, 0]


def test_a_name_of_two_classes_is_told_apart_by_its_place_alone():
    assert label_reader(ANIMALS, named("crane")).mismatch is not None
    same = label_reader(ANIMALS, named("tabby cat", "golden retriever", "tench", "crane", "crane"))
    assert [same.read(number) for number in range(5)] == [0, 1, 2, 3, 4]


def test_other_names_are_a_mismatch_that_shows_both_beginnings_though_their_count_is_equal():
    reader = label_reader(config("airplane", "automobile", "bird", "cat"), named("auto", "flugzeug", "katze", "vogel"))
    assert reader.mismatch == (
        "The data set's classes are not the model's ('auto' is unknown): the data set has auto, flugzeug, katze, ... "
        "(4), the model airplane, automobile, bird, ... (4). Rename them, or pass as the data set what "
        "open_images(..., label_names={'auto': 'airplane', ...}) returns, with the model's class for each name."
    )


def test_two_names_of_one_class_are_a_mismatch():
    assert "('Ant' is there twice)" in label_reader(config("ant", "bee"), named("ant", "Ant")).mismatch


def test_names_are_translated_by_label_names():
    english = config("airplane", "bird", "cat")
    reader = label_reader(english, named("flugzeug", "katze", "bird"), {"flugzeug": "Airplane", "katze": 2})
    assert reader.mismatch is None and [reader.read(number) for number in range(3)] == [0, 2, 1]
    assert label_reader(english, None, {7: "cat"}).read(7) == 2
    with pytest.raises(ValueError, match=r"maps 'katze' to 'dog', which is none of the model's classes \(airplane"):
        label_reader(english, named("katze"), {"katze": "dog"})
    with pytest.raises(ValueError, match=r"label_names renames 'kaze', but the data set's classes are katze"):
        label_reader(english, named("katze"), {"kaze": "cat"})


def test_numbers_decide_where_the_model_has_no_names():
    unnamed = ViTConfig(num_labels=3)
    assert [label_reader(unnamed, named("ant", "bee", "cat")).read(number) for number in range(3)] == [0, 1, 2]
    assert label_reader(unnamed, named("ant", "bee")).mismatch is not None  # which one lacks is not known


def test_names_that_are_numbers_are_class_numbers_in_whatever_order_folders_sort_them():
    twelve = ViTConfig(num_labels=12)
    folders = sorted(str(number) for number in range(12))
    reader = label_reader(twelve, named(*folders))
    assert [reader.read(place) for place in range(12)] == [int(name) for name in folders]


def test_wordnet_ids_in_order_are_the_models_classes():
    ids = ("n01440764", "n01443537", "n02123045")
    named_model = config("tench", "goldfish", "tabby")
    assert [label_reader(named_model, named(*ids)).read(number) for number in range(3)] == [0, 1, 2]
    assert label_reader(named_model, named(*ids[:2])).mismatch is not None
    assert label_reader(named_model, named(*ids[::-1])).mismatch is not None


@pytest.mark.parametrize("label", [-1, None, np.int64(-1), torch.tensor(-1)])
def test_minus_one_marks_unlabelled_images(label):
    for reader in (label_reader(ANIMALS), label_reader(ANIMALS, named("tench", "crane", "tabby cat", "3"))):
        assert reader.mismatch is not None or reader.read(label) is None


@pytest.mark.parametrize("label", [3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), "3"])
def test_a_class_number_comes_in_any_kind_of_number(label):
    assert label_reader(ANIMALS).read(label) == 3


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("DEER", r"label 'DEER', which is none of the model's classes \(tabby cat, Golden_Retriever, tench"),
        (5, r"label 5, but the model has 5 classes \(0..4\)"),
        (-2, "label -2, but the model has 5 classes"),
        (1.5, "label 1.5, which is no class number"),
        (float("nan"), "label nan, which is no class number"),
        ([0, 1, 0, 0, 1], r"label \[0, 1, 0, ...\] of length 5, which is no class number"),
        (torch.tensor([0.0, 1.0]), r"label \[0.0, 1.0\] of length 2, which is no class number"),
        ({"a": 1}, "label {'a': 1}, which is no class number"),
    ],
)
def test_what_is_no_class_is_said(label, message):
    with pytest.raises(ValueError, match=message):
        label_reader(ANIMALS).read(label)


def test_labels_of_several_classes_are_vectors():
    several = config("ant", "bee", "cat", problem_type="multi_label_classification")
    for value in ([1, 0, 1], torch.tensor([1.0, 0.0, 1.0]), np.array([1, 0, 1])):
        assert label_reader(several).read(value).tolist() == [1.0, 0.0, 1.0]
    sets = datasets.List(datasets.ClassLabel(names=["cat", "ant"]))
    assert label_reader(several, sets).read([0, 1]).tolist() == [1.0, 0.0, 1.0]
    assert label_reader(several, sets).read([]).tolist() == [0.0, 0.0, 0.0]
    for value, message in (
        ([1, 0], "of length 2, but the model has 3 targets"),
        ([1, 0, 2], "each of several .* 0 or"),
    ):
        with pytest.raises(ValueError, match=message):
            label_reader(several).read(value)


def test_targets_of_a_regression_are_numbers():
    assert label_reader(config("score")).read(torch.tensor([0.25])) == 0.25
    assert label_reader(config("x", "y", problem_type="regression")).read([1, -2.5]).tolist() == [1.0, -2.5]
    for value in ("much", [1.0, 2.0], float("inf")):
        with pytest.raises(ValueError, match="but the model has 1 targets"):
            label_reader(config("score")).read(value)


def test_a_batch_of_labels_is_one_tensor_or_none():
    assert stack_labels([1, 0]).dtype == torch.int64
    assert stack_labels([1.0, 0.5]).dtype == torch.float32
    assert stack_labels([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])]).shape == (2, 2)
    assert stack_labels([1, None]) is None


def test_without_classes_of_the_model_labels_are_the_sources_own():
    assert [own_label_reader(named("a", "b")).read(value) for value in (1, 0, -1, None)] == [1, 0, None, None]
    reader = own_label_reader()
    assert [reader.read(value) for value in (1000, np.int64(7), -1, None)] == [1000, 7, None, None]
    assert [reader.read(name) for name in ("dog", "cat", "dog")] == [0, 1, 0]
    assert reader.mismatch is None


def test_without_classes_of_the_model_there_is_nothing_to_rename():
    with pytest.raises(
        ValueError, match="Expected no label_names for a model without a classifier, found some: it has"
    ):
        own_label_reader(named("a"), {"a": 0})
    with pytest.raises(ValueError, match="label -2, but classes are numbered from 0"):
        own_label_reader().read(-2)


def test_lists_of_objects_are_filled_up_to_the_longest_and_other_sizes_are_refused():
    short, long = torch.ones(1, 1, 5), torch.zeros(2, 3, 5)
    joined = join_labels([short, long])
    assert joined.shape == (3, 3, 5) and joined[0, 1:].isnan().all() and torch.equal(joined[0, :1], short[0])
    with pytest.raises(ValueError, match=r"Expected labels of one size, found \(4, 4\), \(4, 6\)"):
        join_labels([torch.ones(1, 4, 4), torch.ones(1, 4, 6)])
