# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A quantized model with all that belongs to it, and the folder that holds them."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from optimum_mixq.architectures.backbones import describe_embedding
from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.rebuilding import require_rebuildable
from optimum_mixq.artifacts import PLAN_FILE, BitPlan, Known
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.preparation import load_processor
from optimum_mixq.images.selection import FILE_NAME, ServedImages
from optimum_mixq.reporting.card import model_card
from optimum_mixq.reporting.comparison import Comparison
from optimum_mixq.reporting.wording import describe_ends
from optimum_mixq.stages.training.loop import EpochResult
from optimum_mixq.tasks import task_of
from optimum_mixq.tasks.loading import class_that_loads, load_model
from optimum_mixq.utils.file_size import megabytes_of, saved_bytes


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Quantized:
    """A packed model, its plan, and what was measured of it."""

    model: PreTrainedModel
    plan: BitPlan
    history: tuple[EpochResult, ...] = ()  # of its training
    comparison: Comparison | None = None  # with the float model, the last that was measured

    @property
    def config(self) -> MixQConfig:
        """The configuration that it was made with, as it was given."""
        made = self.model.config.quantization_config
        assert isinstance(made, MixQConfig)
        return made

    def write_card(self, folder: Path, name: str, float_model: PreTrainedModel) -> None:
        """Write the model card into a folder that holds the model."""
        card = model_card(
            self.config,
            self.plan,
            self.model.config.model_type,
            megabytes_of(folder),
            saved_bytes(float_model) / 1e6,
            name,
            Path(float_model.name_or_path).name or "MODEL",
            self.comparison,
            task_of(self.model).hub_task,
            describe_embedding(self.model),
            class_that_loads(self.model),
            describe_ends(describe(self.model), self.config.stem_and_head_bits),
        )
        card.save(folder / "README.md")


@dataclass(frozen=True)
class Opened:
    """What a folder, or a repository on the Hub, holds."""

    quantized: Quantized
    processor: BaseImageProcessor | None
    known: Known
    served: ServedImages


def save_folder(
    folder: Path,
    name: str,
    quantized: Quantized,
    float_model: PreTrainedModel,
    processor: BaseImageProcessor | None,
    known: Known,
    served: ServedImages,
) -> None:
    """Write the packed model, its image processor, what was measured, which images served, and its card."""
    require_rebuildable(float_model)
    quantized.model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    quantized.plan.save(folder / PLAN_FILE)
    known.save(folder)
    served.save(folder / FILE_NAME)
    quantized.write_card(folder, name, float_model)


def open_folder(folder: str | Path, token: str | bool | None = None) -> Opened:
    """Return what `save_folder` wrote, from a folder or from the Hub."""
    packed = load_model(folder, token=token)
    config = getattr(packed.config, "quantization_config", None)
    if not isinstance(config, MixQConfig):
        raise ValueError(f"Expected a model that optimum-mixq quantized in {folder}, found a float one.")
    plan_file = Path(folder) / PLAN_FILE
    plan = BitPlan.load(plan_file) if plan_file.exists() else BitPlan(config.plan or {})
    served = ServedImages.find(folder, token) or ServedImages(complete=False)
    if not served.complete:
        logger.warning(f"{folder} does not record which images served calibration: they cannot be left out.")
    processor = load_processor(folder, {"token": token})
    return Opened(Quantized(packed, plan), processor, Known.load(folder), served)
