# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""One class per pixel: softmax over the classes at each place of a map (B, classes, height, width)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel

from optimum_mixq.architectures.further import serves
from optimum_mixq.images.masks import IGNORED
from optimum_mixq.images.moves import Move
from optimum_mixq.tasks.base import Task, register_task
from optimum_mixq.tasks.meters import Meter


@register_task
class SemanticSegmentation(Task):
    """Labels are masks (B, H, W) of class numbers, in which `IGNORED` stands where there is none.

    Against labels, logits are resized to the mask, as transformers does it; against logits they are taken as they are.
    """

    hub_task = "image-segmentation"
    auto_class = AutoModelForSemanticSegmentation
    accuracy_name = "mean IoU"
    divergence_name = "KL to float per pixel"
    mixes_targets = False
    accuracy_is_share = False

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, self.hub_task)

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return T^2 KL(softmax(reference / T) || softmax(logits / T)), a mean over pixels."""
        found, expected = ((values / temperature).log_softmax(1) for values in (logits, reference))
        per_pixel = F.kl_div(found, expected, log_target=True, reduction="none").sum(1)
        return temperature**2 * per_pixel.mean((1, 2))

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the probe of one class per image at each pixel, over the root of their number.

        F has a block (diag(p) - p p^T) / pixels for each pixel.
        """
        p = (logits / temperature).softmax(1)
        root = p.sqrt() * signs
        return (root - p * root.sum(1, keepdim=True)) / logits[0, 0].numel() ** 0.5

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return equal weights for the logits of what is predicted, or labelled, at each pixel that has a class."""
        classes = logits.argmax(1)  # (B, height, width)
        if labels is not None:
            known = F.interpolate(labels[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
            known = known.to(logits.device)
            has_class = known != IGNORED
            # An image without any class at these places is explained by its prediction.
            kept = has_class | ~has_class.flatten(1).any(1)[:, None, None]
            classes = torch.where(has_class, known, classes)
        else:
            kept = torch.ones_like(classes, dtype=torch.bool)
        chosen = F.one_hot(classes, logits.shape[1]).movedim(-1, 1) * kept[:, None]
        return chosen.to(logits.dtype) / kept.sum((1, 2)).view(-1, 1, 1, 1)

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.argmax(1)

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        return labels.float()

    def unknown_target(self, pixels: Tensor, outputs: int) -> Tensor:
        return torch.full(pixels.shape[-2:], torch.nan)

    def move_labels(self, labels: Tensor, move: Move) -> Tensor:
        """Return the masks moved; edges are repeated, as those of the image are."""
        return move(labels.float()).long()

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over the pixels that have a class; zero for an image without any."""
        classes, resized = targets.long(), _resize(logits, targets)
        losses = F.cross_entropy(resized, classes, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none")
        return losses.sum((1, 2)) / (classes != IGNORED).sum((1, 2)).clamp(min=1)

    def accuracy(self, logits: Tensor, labels: Tensor) -> float | None:
        """Return the mean, over classes that are predicted or there, of intersection over union of their pixels."""
        meter = self.meter()
        meter.add(logits, labels)
        return meter.value()

    def meter(self) -> Meter:
        return IntersectionMeter()

    def agreement(self, logits: Tensor, reference: Tensor) -> float:
        """Return the share of pixels whose prediction is the reference's."""
        return float((logits.argmax(1) == reference.argmax(1)).double().mean())

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the classes that take most pixels, at most five, with their shares of the image."""
        return _describe_shares(logits.argmax(0), len(logits), names)

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        known = label[label != IGNORED]
        return ", ".join(_describe_shares(known, len(names), names)) if known.numel() else "no class"


class IntersectionMeter(Meter):
    """The mean over classes of intersection over union, all pixels of a pass together, as benchmarks define it."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # (classes, classes): pixels of a class (row) that are predicted as another

    def add(self, logits: Tensor, labels: Tensor) -> None:
        classes = logits.shape[1]
        # Image by image: maps as large as their masks take much memory.
        for image, mask in zip(logits, labels, strict=True):
            predicted, kept = _resize(image[None], mask[None])[0].argmax(0), mask != IGNORED
            pairs = classes * mask[kept].long() + predicted[kept]
            found = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
            self.counts = found if self.counts is None else self.counts + found

    def merge(self, other: "IntersectionMeter") -> None:
        if other.counts is not None:
            self.counts = other.counts if self.counts is None else self.counts + other.counts

    def value(self) -> float | None:
        if self.counts is None:
            return None
        shared = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - shared
        there = union > 0
        return float((shared[there] / union[there]).mean()) if there.any() else None


def _resize(logits: Tensor, masks: Tensor) -> Tensor:
    """Return logits (B, classes, H, W) of the size of masks (B, H, W)."""
    if logits.shape[-2:] == masks.shape[-2:]:
        return logits
    return F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)


def _describe_shares(classes: Tensor, count: int, names: Mapping[int, str]) -> list[str]:
    shares = torch.bincount(classes.flatten(), minlength=count).double() / classes.numel()
    rows = [row for row in shares.argsort(descending=True, stable=True).tolist() if shares[row] > 0]
    return [f"{names.get(row, row)} {100 * float(shares[row]):.1f} %" for row in rows[:5]]
