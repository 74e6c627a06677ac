# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import datasets
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from PIL import Image

from optimum_mixq.images.folders import load_rows


def write(folder, count=2, classes=("0", "1")):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(np.full((4, 4, 3), 20 * number + index, np.uint8)).save(folder / name / f"{index}.png")
    return folder


def count(folder, role="calibration", split=None):
    return len(load_rows(str(folder), split, role))


@pytest.mark.parametrize(("train", "held"), [("train", "valid"), ("Train", "Val"), ("training", "dev")])
def test_the_evaluation_split_is_read_under_any_usual_name(tmp_path, train, held):
    write(tmp_path / train, 3)
    write(tmp_path / held, 1)
    assert count(tmp_path) == 6 and count(tmp_path, "evaluation") == 2
    assert count(tmp_path, split=held) == 2 and count(tmp_path, split=f"{train}[:4]") == 4


def test_siblings_of_a_split_that_hold_images_are_never_dropped(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "horses", classes=("a",))
    (tmp_path / "labels").mkdir()
    with pytest.raises(ValueError, match="has the splits train and beside them horses: name one with split="):
        load_rows(str(tmp_path), None, "calibration")
    assert count(tmp_path, split="train") == 4 and count(tmp_path, split="horses") == 2


def test_loose_images_beside_a_split_are_never_dropped(tmp_path):
    write(tmp_path / "test")
    (tmp_path / "notes.txt").write_text("no image")
    assert count(tmp_path, "evaluation") == 4
    Image.new("RGB", (4, 4)).save(tmp_path / "a.JPG", format="jpeg")
    with pytest.raises(ValueError, match="has the splits test and beside them loose images: name one with split="):
        load_rows(str(tmp_path), None, "evaluation")


def test_a_folder_of_training_images_alone_is_evaluated_on_only_when_that_is_asked_for(tmp_path):
    write(tmp_path / "Train")
    with pytest.raises(ValueError, match="The only split of .* is 'Train', .* Pass split='Train' to evaluate on it"):
        load_rows(str(tmp_path), None, "evaluation")
    assert count(tmp_path, "evaluation", "Train") == 4


@pytest.mark.parametrize("name", ["a[x]", "a*b", "a?b", "a{b,c}", "spaces and ümläuts"])
def test_a_folder_is_read_whatever_its_name_and_no_other_with_it(tmp_path, name):
    write(tmp_path / name, 1)
    for other in ("ax", "acb", "ab", "ac"):
        write(tmp_path / other, 2)
    rows = load_rows(str(tmp_path / name), None, "calibration")
    paths = [row["path"] for row in rows.cast_column("image", datasets.Image(decode=False))["image"]]
    assert len(paths) == 2 and all(path.startswith(str(tmp_path / name)) for path in paths)


@pytest.mark.parametrize("name", ["imges", "me/imges", "a/b/c", "not a name", "./imges", "imges/"])
def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_said_at_once(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("optimum_mixq.images.folders.HUB_TIMEOUT", 1)
    with pytest.raises(ValueError, match="There is no folder .*imges|a/b/c|not a name") as caught:
        load_rows(name, None, "calibration")
    if name in ("imges", "me/imges"):
        assert "and the Hub cannot be reached" in str(caught.value)
    assert "\n" not in str(caught.value)


class Answer:
    """Stands in for the Hub's answer in an error of huggingface_hub."""

    status_code, headers, request, text = 404, {}, None, ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RepositoryNotFoundError("404\n\nNot Found", response=Answer()), "and no data set of that name on the Hub"),
        (HfHubHTTPError("503\n\nBusy", response=Answer()), r"and the Hub cannot be reached \(503 Busy\)"),
        (OSError("no route"), r"and the Hub cannot be reached \(no route\)"),
    ],
)
def test_what_the_hub_says_of_a_name_is_one_line(error, message, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("optimum_mixq.images.folders.HfApi.dataset_info", refuse)
    with pytest.raises(ValueError, match=f"There is no folder me/pets, {message}") as caught:
        load_rows("me/pets", None, "calibration")
    assert "\n" not in str(caught.value)


def test_the_split_of_a_data_set_on_the_hub_is_chosen_or_as_it_was_asked_for(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("optimum_mixq.images.folders.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda name: ["train", "valid"])
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: (name, split))
    assert load_rows("me/pets", None, "evaluation") == ("me/pets", "valid")
    assert load_rows("me/pets", "train[:20]", "evaluation") == ("me/pets", "train[:20]")


def test_a_name_that_the_cache_lacks_is_said_offline(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"There is no folder imges, and the Hub cannot be reached \(.*Offline"):
        load_rows("imges", None, "calibration")


def test_reading_a_folder_shows_no_progress_bar_and_leaves_the_users_setting(tmp_path, capfd):
    write(tmp_path / "x", 2)
    for shown in (True, False):
        (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
        load_rows(str(tmp_path / "x"), None, "calibration")
        assert datasets.are_progress_bars_disabled() is not shown
    datasets.enable_progress_bars()
    assert capfd.readouterr().err == ""
