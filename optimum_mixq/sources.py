# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From whatever images a user has to `Images`: rows read one at a time.

A source is a folder, the name of a data set on the Hub, a `datasets.Dataset`, PIL images, tensors, or a DataLoader.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures import expected_image_size
from optimum_mixq.data import Images


if TYPE_CHECKING:
    import datasets


Role = Literal["calibration", "evaluation"]
# Which split serves which role when the user names none: first match wins.
_SPLITS: dict[Role, tuple[str, ...]] = {
    "calibration": ("calibration", "train"),
    "evaluation": ("evaluation", "validation", "test", "val"),
}
_IMAGE_COLUMNS = ("image", "img", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "fine_label")


def open_images(
    source: Any,
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    role: Role = "calibration",
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Images:
    """Return the rows of a source as `Images`.

    Args:
        source: an image folder's path, the name of a data set on the Hub, a `datasets.Dataset` or `DatasetDict`, a
            sequence of PIL images or file paths, pixel values (N, C, H, W) as the model takes them, or a DataLoader
            that yields such pixel values (a tensor, a pair with labels, or a dict).
        processor: the model's own image processor; needed for everything but pixel values.
        role: what the images are for. It chooses among the splits of a folder or data set when `split` is None.
    """
    if isinstance(source, (str, Path)):
        source = _load(str(source), split, role)
    elif split is not None and not _is_dataset_dict(source):
        raise ValueError(f"split='{split}' needs a path, a Hub name or a DatasetDict, found {type(source).__name__}.")
    if _is_dataset_dict(source):
        source = source[_choose_split(list(source), split, role, "the DatasetDict")]

    if isinstance(source, Tensor):
        return _open_tensor(source, None, model)
    if isinstance(source, DataLoader):
        return _open_loader(source, model)
    if hasattr(source, "column_names"):
        return _open_dataset(source, model, processor, role, image_column, label_column)
    if isinstance(source, Sequence) and len(source) > 0 and isinstance(source[0], (Image.Image, str, Path)):
        return _open_sequence(source, model, processor)
    raise ValueError(
        "Expected an image folder's path, a Hub data set's name, a datasets.Dataset, PIL images, tensors or a "
        f"DataLoader, found {_describe_type(source)}."
    )


def _describe_type(source: Any) -> str:
    if isinstance(source, Sequence):
        return f"an empty {type(source).__name__}" if len(source) == 0 else f"a sequence of {type(source[0]).__name__}"
    return type(source).__name__


def _is_dataset_dict(source: Any) -> bool:
    return (
        isinstance(source, dict) and len(source) > 0 and all(hasattr(rows, "column_names") for rows in source.values())
    )


def _load(source: str, split: str | None, role: Role) -> Any:
    """Load an image folder, a folder of Parquet files, or a data set on the Hub, with `datasets`."""
    import datasets

    path = Path(source).expanduser()
    if path.is_file():
        raise ValueError(f"Expected a folder of images or a Hub data set, found the file {path}.")
    if path.is_dir():
        if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
            loaded = datasets.load_dataset(str(path))
        else:
            loaded = _load_image_folder(path, role)
    elif source.startswith((".", "/", "~")):
        raise ValueError(f"There is no folder {path}. Pass an image folder's path or the name of a Hub data set.")
    else:
        available = datasets.get_dataset_split_names(source)
        return datasets.load_dataset(source, split=_choose_split(available, split, role, source))
    return loaded[_choose_split(list(loaded), split, role, str(path))]


def _load_image_folder(path: Path, role: Role) -> Any:
    """Load `path/<split>/<class>/*.png`, `path/<class>/*.png` or `path/*.png`.

    datasets 5.2 takes every folder name it knows as a split ("test", "train", ...) and merges the rest, "calibration"
    and "evaluation" among them: subfolders that carry a role's name are therefore loaded one by one.
    """
    import datasets

    names = [name for splits in _SPLITS.values() for name in splits if (path / name).is_dir()]
    try:
        if names:
            return {name: _image_folder(path / name) for name in names}
        return {"images": _image_folder(path)}
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise ValueError(f"Found no image files under {path} ({type(error).__name__}: {error}).") from error


def _image_folder(path: Path) -> Any:
    import datasets

    # One split named by us, so that a class folder called "test" stays a class.
    return datasets.load_dataset("imagefolder", data_files={"images": f"{path}/**"}, split="images")


def _choose_split(available: list[str], split: str | None, role: Role, where: str) -> str:
    if split is not None:
        if split.split("[")[0] not in available:
            raise ValueError(f"There is no split '{split}' in {where}: it has {', '.join(available)}.")
        return split
    if len(available) == 1:
        return available[0]
    for name in _SPLITS[role]:
        if name in available:
            return name
    raise ValueError(f"Which split of {where} is for {role}? It has {', '.join(available)}: name one with split=.")


def _open_dataset(
    rows: "datasets.Dataset",
    model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    role: Role,
    image_column: str | None,
    label_column: str | None,
) -> Images:
    import datasets

    if isinstance(rows, datasets.IterableDataset):
        raise ValueError(
            "Expected a data set with a length, found a streaming one. Take what you need first, "
            "e.g. datasets.Dataset.from_list(list(stream.take(512)), features=stream.features)."
        )
    image_column = _choose_column(rows, image_column, _IMAGE_COLUMNS, "image")
    features = rows.features
    if isinstance(features[image_column], datasets.Image):
        # Decoded here rather than by `datasets`, so that an unreadable file can be named.
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    known_label = label_column or next((name for name in _LABEL_COLUMNS if name in features), None)
    if label_column is not None and label_column not in features:
        raise ValueError(f"There is no column '{label_column}': the data set has {', '.join(features)}.")
    translate = _label_translation(features[known_label], model, role) if known_label is not None else None

    def read(index: int) -> tuple[Any, int | None]:
        row = rows[index]
        label = None if translate is None or row[known_label] is None else translate(row[known_label])
        return _decode(row[image_column], index), label

    return Images(len(rows), read, _preparation(model, processor), model.config.num_labels, "the data set")


def _choose_column(rows: "datasets.Dataset", wanted: str | None, usual: tuple[str, ...], what: str) -> str:
    names = [wanted] if wanted is not None else list(usual)
    for name in names:
        if name in rows.column_names:
            return name
    raise ValueError(
        f"Expected {what} column '{names[0]}', found columns {', '.join(rows.column_names) or 'none'}. "
        f"Name it with {what}_column=."
    )


def _label_translation(feature: Any, model: PreTrainedModel, role: Role) -> Callable[[Any], int] | None:
    """Return the map from a data set's labels to the model's classes, by name where both have the same names.

    A folder that lacks some classes numbers the rest from 0, so its own numbers would be wrong. Calibration does
    without labels: where the names differ there, the images count as unlabelled.
    """
    names = getattr(feature, "names", None)
    class_of = model.config.label2id
    if names is not None and all(name in class_of for name in names):
        return lambda label: int(class_of[names[label]])
    if names is not None and len(names) != model.config.num_labels:
        if role == "calibration":
            return None
        unknown = [name for name in names if name not in class_of]
        raise ValueError(
            f"The data set has {len(names)} classes, the model {model.config.num_labels}, and their names differ "
            f"(unknown to the model: {', '.join(unknown[:5])}). Rename the classes as in model.config.label2id."
        )
    return lambda label: int(class_of[label]) if isinstance(label, str) and label in class_of else int(label)


def _decode(value: Any, index: int) -> Any:
    """Return a PIL image or array from what a data set stores."""
    if not isinstance(value, dict) or not {"bytes", "path"} & set(value):
        return value
    name = value.get("path") or "bytes in the data set"
    content = value.get("bytes")
    return _open_picture(io.BytesIO(content) if content is not None else value["path"], f"row {index} ({name})")


def _open_picture(file: io.BytesIO | str | Path, name: str) -> Image.Image:
    try:
        # Read here: Pillow 12 leaves a file open that it could not decode.
        content = file.getvalue() if isinstance(file, io.BytesIO) else Path(file).read_bytes()
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"Cannot read the image in {name}: {error}. Remove or replace that file.") from error
    return picture


def _open_sequence(pictures: Sequence[Any], model: PreTrainedModel, processor: BaseImageProcessor | None) -> Images:
    def read(index: int) -> tuple[Any, int | None]:
        picture = pictures[index]
        return (_open_picture(picture, str(picture)) if isinstance(picture, (str, Path)) else picture), None

    return Images(len(pictures), read, _preparation(model, processor), model.config.num_labels, "the list of images")


def _open_tensor(pixels: Tensor, labels: Tensor | None, model: PreTrainedModel) -> Images:
    if pixels.ndim != 4 or not pixels.is_floating_point():
        raise ValueError(
            f"Expected pixel values as a float tensor (images, channels, height, width), found {pixels.dtype} "
            f"{tuple(pixels.shape)}. Pass PIL images to have them preprocessed."
        )
    _check_size(pixels, model)

    def read(index: int) -> tuple[Any, int | None]:
        return pixels[index], None if labels is None else int(labels[index])

    def stack(images: list[Any], _: Sequence[int]) -> Tensor:
        return torch.stack(images).float()

    return Images(len(pixels), read, stack, model.config.num_labels, "the tensor")


def _open_loader(loader: DataLoader, model: PreTrainedModel) -> Images:
    """Read a DataLoader's data set row by row, through its own collate function: its order and length are known."""
    rows, collate = loader.dataset, loader.collate_fn
    if not hasattr(rows, "__len__"):
        raise ValueError("Expected a DataLoader over a data set with a length, found an iterable one.")

    def read(index: int) -> tuple[Any, int | None]:
        batch = collate([rows[index]])
        if isinstance(batch, dict):
            pixels, labels = batch.get("pixel_values"), batch.get("labels", batch.get("label"))
        else:
            pixels, labels = (batch[0], batch[1]) if isinstance(batch, (tuple, list)) else (batch, None)
        if not isinstance(pixels, Tensor) or pixels.ndim != 4:
            raise ValueError(
                "Expected the DataLoader to yield pixel values (images, channels, height, width), alone, in a pair "
                f"with labels, or in a dict under 'pixel_values'; found {type(pixels).__name__}."
            )
        _check_size(pixels, model)
        return pixels[0], None if labels is None else int(labels[0])

    def stack(images: list[Any], _: Sequence[int]) -> Tensor:
        return torch.stack(images).float()

    return Images(len(rows), read, stack, model.config.num_labels, "the DataLoader")


def _preparation(
    model: PreTrainedModel, processor: BaseImageProcessor | None
) -> Callable[[list[Any], Sequence[int]], Tensor]:
    """Return the function from decoded images to pixel values, by the model's own image processor."""
    if processor is None:
        raise ValueError(
            "Images need the model's image processor, and there is none beside the model. "
            "Pass processor=AutoImageProcessor.from_pretrained(...), or pixel values as a tensor."
        )

    def prepare(images: list[Any], indices: Sequence[int]) -> Tensor:
        pictures = [image.convert("RGB") if isinstance(image, Image.Image) else image for image in images]
        try:
            pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        except (ValueError, TypeError) as error:
            raise ValueError(f"The image processor refuses rows {indices[0]}..{indices[-1]}: {error}") from error
        _check_size(pixels, model)
        return pixels.float()

    return prepare


def _check_size(pixels: Tensor, model: PreTrainedModel) -> None:
    expected, found = expected_image_size(model), tuple(pixels.shape[-2:])
    channels = model.config.num_channels
    if pixels.shape[1] != channels:
        raise ValueError(f"Expected images with {channels} channels, found {pixels.shape[1]}.")
    if expected is not None and found != expected:
        raise ValueError(
            f"Expected images of {expected[0]} x {expected[1]} pixels, found {found[0]} x {found[1]} after the image "
            "processor. Set the processor's `size` to what the model takes."
        )
