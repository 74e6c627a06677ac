# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Depth estimation: a number for each pixel, of which most models leave unit and offset open."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForDepthEstimation, PreTrainedModel

from optimum_mixq.architectures.further import serves, tells_metres
from optimum_mixq.images.moves import Move
from optimum_mixq.tasks.base import Task, register_task


# A pixel is right where the larger of its depth and its label is below so many times the smaller one.
RIGHT_RATIO = 1.25
TINY = torch.finfo(torch.float32).tiny


@register_task
class DepthEstimation(Task):
    """Models put out inverse depth. Labels are depth maps (B, H, W), 0 where nothing was measured.

    Against labels, maps are resized to them, as transformers does it, and then multiplied by the factor and shifted by
    the offset that bring them nearest to the inverse labels of that image (MiDaS, arXiv 1907.01341).
    """

    hub_task = "depth-estimation"
    auto_class = AutoModelForDepthEstimation
    accuracy_name = "delta_1"
    accuracy_metric = "delta_1"
    divergence_name = "half relative squared distance to float"
    divergence_metric = "relative_squared_error"
    predicts_labels = False
    mixes_targets = False
    accuracy_is_share = False

    def handles(self, model: PreTrainedModel) -> bool:
        return serves(model, self.hub_task)

    def logits(self, model: PreTrainedModel, outputs: Mapping[str, Any]) -> Tensor:
        """Return the depth of each pixel (B, H, W)."""
        return outputs["predicted_depth"]

    def divergence(self, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
        """Return half the squared error, in parts of the reference's own spread: sum (a - b)^2 / 2 sum (b - mean b)^2.

        It has no unit. The temperature drops out, as any factor does.
        """
        return (logits - reference).square().sum((1, 2)) / (2 * _spread(reference)[:, 0, 0])

    def probe(self, logits: Tensor, signs: Tensor, temperature: float = 1.0) -> Tensor:
        """Return signs / root of the spread: F is the identity over the spread."""
        return signs / _spread(logits).sqrt()

    def explained(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Return equal weights: all pixels are wanted."""
        return torch.full_like(logits, 1 / logits[0].numel())

    def targets(self, labels: Tensor, outputs: int) -> Tensor:
        return labels.float()

    def unknown_target(self, pixels: Tensor, outputs: int) -> Tensor:
        return torch.full(pixels.shape[-2:], torch.nan)

    def move_labels(self, labels: Tensor, move: Move) -> Tensor:
        """Return the depth maps moved; edges are repeated, as those of the image are."""
        return move(labels)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return `divergence` of the aligned map from the inverse labels, over measured pixels; zero without any.

        Depths are not smoothed.
        """
        found, expected, measured = self.comparable(logits, targets)
        mean = _mean(expected, measured)
        error, spread = (_mean(values.square(), measured) for values in (found - expected, expected - mean))
        return (error / (2 * spread.clamp(min=TINY)))[:, 0, 0]

    def accuracy(self, logits: Tensor, labels: Tensor) -> float:
        """Return the share of measured pixels whose depth is right within a factor of 1.25, a mean over images.

        Each image has a measured pixel. None is taken to be farther than the farthest label.
        """
        found, expected, measured = self.comparable(logits.double(), labels.double())
        found = torch.maximum(found, self.least(expected, measured))
        ratio = torch.maximum(found / expected, expected / found)
        return float(_mean((ratio < RIGHT_RATIO).double(), measured).mean())

    def comparable(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what of logits and labels (B, H, W) is compared, and where labels were measured (B, H, W)."""
        measured = labels > 0
        expected = torch.where(measured, labels, 1).reciprocal().to(logits.dtype)
        return _align(_resize(logits, labels), expected, measured), expected, measured

    def least(self, expected: Tensor, measured: Tensor) -> Tensor:
        """Return the least number that counts of what is compared, (B, 1, 1) or ().

        # Unlike MiDaS, whose users give a largest depth for each data set: here it is that of the image's labels.
        """
        return torch.where(measured, expected, torch.inf).amin((1, 2), keepdim=True)

    def agreement(self, logits: Tensor, reference: Tensor) -> None:
        return None

    def describe(self, logits: Tensor, names: Mapping[int, str]) -> list[str]:
        """Return the least and the greatest depth."""
        return [f"depth {float(logits.min()):.4g} to {float(logits.max()):.4g}"]

    def describe_label(self, label: Tensor, names: Mapping[int, str]) -> str:
        return self.describe(label[label > 0], names)[0] if (label > 0).any() else "no depth"


@register_task
class MetricDepthEstimation(DepthEstimation):
    """Models put out depth itself, and labels are in their unit, metres: nothing is aligned."""

    def handles(self, model: PreTrainedModel) -> bool:
        return super().handles(model) and tells_metres(model)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return half the squared error in parts of the label, a mean over measured pixels; zero without any."""
        found, expected, measured = self.comparable(logits, targets)
        return _mean((found / expected - 1).square() / 2, measured)[:, 0, 0]

    def comparable(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        measured = labels > 0
        return _resize(logits, labels), torch.where(measured, labels, 1).to(logits.dtype), measured

    def least(self, expected: Tensor, measured: Tensor) -> Tensor:
        return expected.new_tensor(TINY)  # nothing is nearer than the camera


def _spread(depth: Tensor) -> Tensor:
    """Return the squared distances (B, 1, 1) of depths (B, H, W) from their mean, summed, none of which is zero."""
    mean = depth.mean((1, 2), keepdim=True)
    return (depth - mean).square().sum((1, 2), keepdim=True).clamp(min=TINY)


def _resize(depth: Tensor, labels: Tensor) -> Tensor:
    """Return maps (B, h, w) of the size of labels (B, H, W), as `post_process_depth_estimation` of a DPT does."""
    if depth.shape[-2:] == labels.shape[-2:]:
        return depth
    return F.interpolate(depth[:, None], labels.shape[-2:], mode="bicubic", align_corners=False)[:, 0]


def _align(found: Tensor, expected: Tensor, measured: Tensor) -> Tensor:
    """Return s found + t (B, H, W) with the s and t of each image that least squares over measured pixels give."""
    mean, wanted = _mean(found, measured), _mean(expected, measured)
    variance = _mean((found - mean).square(), measured)
    covariance = _mean((found - mean) * (expected - wanted), measured)
    flat = variance <= TINY  # then every s is as good
    factor = torch.where(flat, 0.0, covariance / torch.where(flat, 1.0, variance))
    return factor * (found - mean) + wanted


def _mean(values: Tensor, measured: Tensor) -> Tensor:
    """Return the mean (B, 1, 1) of values (B, H, W) over measured pixels; zero without any."""
    count = measured.sum((1, 2), keepdim=True).clamp(min=1)
    return torch.where(measured, values, 0).sum((1, 2), keepdim=True) / count
