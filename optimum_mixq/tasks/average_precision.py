# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Mean average precision, as COCO defines it and `pycocotools` computes it."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimum_mixq.tasks.meters import Meter


class AveragePrecision(Meter):
    """mAP over IoU from 0.5 to 0.95 of all classes that labels name; it keeps the detections of all images.

    `detect` makes detections (B, Q, 6) of logits: class, confidence, and a box as center, width and height.
    """

    def __init__(self, detect: Callable[[Tensor], Tensor]) -> None:
        require_pycocotools()
        self.detect = detect
        self.found: list[Tensor] = []  # (Q, 6) of each image
        self.labels: list[Tensor] = []  # (objects, 6): class, box, whether it stands for a crowd

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.found += list(self.detect(logits.float()))
        self.labels += [label[~label[:, 0].isnan()] for label in labels]

    def merge(self, other: "AveragePrecision") -> None:
        self.found += other.found
        self.labels += other.labels

    def value(self) -> float | None:
        """Return the mAP, or None where no image has an object."""
        if not any(len(label) for label in self.labels):
            return None
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # it prints a table
            truth = COCO()
            truth.dataset = self._dataset()
            truth.createIndex()
            rows = [_row(number, found) for number, found in enumerate(self.found)]
            evaluation = COCOeval(truth, truth.loadRes(np.concatenate(rows)), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0])

    def _dataset(self) -> dict[str, Any]:
        """Return the labels in COCO's own form."""
        objects = [(image, row) for image, label in enumerate(self.labels) for row in label.double().tolist()]
        annotations = [
            {
                "id": number,  # pycocotools takes 0 for no match
                "image_id": image,
                "category_id": int(row[0]),
                "bbox": [row[1] - row[3] / 2, row[2] - row[4] / 2, row[3], row[4]],
                "area": row[3] * row[4],
                "iscrowd": int(row[5]),
            }
            for number, (image, row) in enumerate(objects, 1)
        ]
        return {
            "info": {},
            "images": [{"id": image} for image in range(len(self.labels))],
            "categories": [{"id": number} for number in sorted({int(row[0]) for _, row in objects})],
            "annotations": annotations,
        }


def require_pycocotools() -> None:
    """Raise an ImportError that says how to install `pycocotools`, unless it is."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ImportError(
            "Expected pycocotools to be installed, which computes the mAP of labelled images, found it missing. "
            'Install it with: pip install "optimum-mixq[detection]"'
        )


def overlap(left: Tensor, right: Tensor) -> Tensor:
    """Return the IoU (...) of boxes (..., 4) of the same place, given by center, width and height."""
    low = torch.maximum(left[..., :2] - left[..., 2:] / 2, right[..., :2] - right[..., 2:] / 2)
    high = torch.minimum(left[..., :2] + left[..., 2:] / 2, right[..., :2] + right[..., 2:] / 2)
    both = (high - low).clamp(min=0).prod(-1)
    either = left[..., 2:].prod(-1) + right[..., 2:].prod(-1) - both
    return both / either.clamp(min=torch.finfo(both.dtype).tiny)


def _row(image: int, found: Tensor) -> np.ndarray:
    """Return an image's detections as pycocotools takes them (Q, 7): image, corner, width, height, score, class."""
    classes, scores, centers, sides = found.double().split([1, 1, 2, 2], -1)
    numbers = torch.full_like(classes, image)
    return torch.cat([numbers, centers - sides / 2, sides, scores, classes], -1).numpy()
