# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The folder of an exported model: what an engine, and a pipeline around it, need."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from optimum_mixq.architectures.describe import configured_channels, configured_image_size, take_image_size
from optimum_mixq.artifacts import PLAN_FILE, BitPlan
from optimum_mixq.export.attention import attention_of
from optimum_mixq.export.check import Check, CheckImages, check_engine, generated_images
from optimum_mixq.export.conversion import convert
from optimum_mixq.export.processor import saturates
from optimum_mixq.export.targets import Target, target_of
from optimum_mixq.export.tracing import trace
from optimum_mixq.export.weights import LAYOUTS, lay_out_weights
from optimum_mixq.images.preparation import with_image_size
from optimum_mixq.images.selection import draw_batches
from optimum_mixq.images.sources import open_images
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.utils.checks import require_one_of
from optimum_mixq.utils.folders import appearing_folder, require_empty


logger = logging.get_logger(__name__)

GENERATED_IMAGES, CHECKED_IMAGES = 8, 64


@dataclass(frozen=True)
class Exported:
    """A folder that an engine runs, and how its check went."""

    folder: Path
    target: str
    megabytes: float  # of the model's files
    check: Check

    def describe(self) -> str:
        """Return in one line what was written and how it was checked."""
        return f"{self.folder}: {self.megabytes:.2f} MB for {self.target}; {self.check.describe()}"


def export_model(
    packed: PreTrainedModel,
    plan: BitPlan,
    processor: BaseImageProcessor | None,
    target: str,
    folder: str | Path,
    weights: str = "codes",
    attention: str = "integer",
    image_size: int | None = None,
    dataset: Any = None,
    split: str | None = None,
) -> Exported:
    """Write a packed model for an engine into a new folder, run it there, and return how far it is from PyTorch.

    `image_size` is the side of the images it will take, instead of those that it is configured for. It is checked on
    images of `dataset`, or on generated ones. A file that fails the check is not left behind.
    """
    chosen, output = target_of(target), Path(folder)
    attention_of(attention)
    require_one_of("weights", LAYOUTS, weights)
    chosen.require_packages()
    _require_packed(packed)
    require_empty(output)
    if image_size is not None:
        packed = copy.deepcopy(packed)
        take_image_size(packed, (image_size, image_size))
        processor = None if processor is None else with_image_size(processor, (image_size, image_size))
    images = _images_to_check_on(packed, processor, dataset, split)
    converted = convert(packed, attention, chosen.as_matrices)
    program = trace(converted, images.pixels[:2])
    lay_out_weights(program, converted, weights)
    with appearing_folder(output) as unfinished:
        chosen.write(program, unfinished)
        megabytes = sum(file.stat().st_size for file in unfinished.iterdir()) / 1e6
        check = check_engine(chosen.load(unfinished), packed, converted, images)
        _require_passed(check, chosen)
        _write_description(unfinished, packed, plan, processor)
    if saturates():
        logger.warning("Sums of 8-bit products saturate on this CPU, which has no VNNI. %s", chosen.without_vnni)
    return Exported(output, target, megabytes, check)


def _images_to_check_on(
    packed: PreTrainedModel, processor: BaseImageProcessor | None, dataset: Any, split: str | None
) -> CheckImages:
    """Return a few images of a data set, or generated ones."""
    if dataset is None:
        return generated_images(GENERATED_IMAGES, configured_channels(packed), configured_image_size(packed))
    images = open_images(dataset, packed, processor, "calibration", split)
    (batch,) = draw_batches(images, min(CHECKED_IMAGES, len(images)), seed=0, batch_size=CHECKED_IMAGES)
    return CheckImages(batch.pixel_values, f"images of {images.description}", real=True)


def _write_description(
    folder: Path, packed: PreTrainedModel, plan: BitPlan, processor: BaseImageProcessor | None
) -> None:
    """Write the configuration with its class names, the image processor and the plan."""
    config = copy.deepcopy(packed.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it would have transformers look for a packed checkpoint
    config.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    plan.save(folder / PLAN_FILE)


def _require_packed(model: PreTrainedModel) -> None:
    if not any(isinstance(module, PackedLinear) for module in model.modules()):
        raise ValueError(
            f"Expected a packed model to export, found a {type(model).__name__} without packed layers. Quantize it "
            "first: MixQQuantizer.from_pretrained(model).quantize(config, dataset=...)."
        )


def _require_passed(check: Check, target: Target) -> None:
    if check.passes:
        return
    problem = f"The file for {target.name} was not kept: its logits are too far from PyTorch's ({check.describe()})."
    if saturates():
        reason = (
            f"The likely cause is this CPU without VNNI, where sums of 8-bit products saturate. {target.without_vnni}"
        )
    else:
        reason = "Please open an issue with the model's name and the engine's version."
    raise ValueError(f"{problem} {reason}")
