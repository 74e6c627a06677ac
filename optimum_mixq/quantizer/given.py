# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the methods of `MixQQuantizer` are given, opened and checked before any work is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import image_size_of
from optimum_mixq.architectures.rebuilding import require_rebuildable
from optimum_mixq.artifacts import BitPlan, Known
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.preparation import load_processor
from optimum_mixq.reporting.quantized import Opened, open_folder
from optimum_mixq.stages.allocation.candidates import read_plan
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.tasks.loading import load_model, load_with, take_part
from optimum_mixq.utils.folders import require_empty


def open_float_model(
    model_or_path: PreTrainedModel | str | Path,
    processor: BaseImageProcessor | None,
    task: str | None,
    device: str | torch.device | None,
    place: Mapping[str, Any],
    **options: Any,
) -> tuple[PreTrainedModel, BaseImageProcessor | None]:
    """Return the model and its image processor; `place` says where on the Hub, and `options` how the model is made."""
    if isinstance(model_or_path, torch.nn.Module):
        model = take_part(model_or_path, task)
    else:
        model = load_model(model_or_path, task, **options, **place)
        processor = processor or load_processor(model_or_path, dict(place))
    return (model if device is None else model.to(device)), processor


def open_packed(
    folder: str | Path, float_model: PreTrainedModel | str | Path | None, token: str | bool | None
) -> tuple[Opened, PreTrainedModel, BaseImageProcessor | None]:
    """Return what a folder holds, and the float model that it was made from, with the image processor."""
    opened = open_folder(folder, token)
    base = float_model or (opened.quantized.config.record or {}).get("base_model")
    if base is None:
        raise ValueError(f"{folder} does not say which float model it was made from: name it (--float-model).")
    if isinstance(base, torch.nn.Module):
        return opened, base, opened.processor
    processor = opened.processor or load_processor(base, {"token": token})
    model = load_with(type(opened.quantized.model), base, dtype=torch.float32, token=token)
    return opened, model, processor


def open_measurements(folder: str | Path) -> Known:
    """Return relevance and sensitivity, or what there is of both."""
    known = Known.load(folder)
    if known == Known():
        raise ValueError(
            f"Expected a folder with measurements (mixq_relevance.json, mixq_sensitivity.json), found none in "
            f"{folder}. `optimum-cli mixq sweep` writes them, and quantizing with a mixed plan does."
        )
    return known


def open_plan(plan: BitPlan | str | Path | None, model: PreTrainedModel) -> BitPlan | str | None:
    """Return a plan, or its name, before images are opened: one in a file is read, and has to fit the model."""
    if plan is None or plan in ("mixed", "uniform"):
        return plan
    opened = plan if isinstance(plan, BitPlan) else BitPlan.load(plan)
    opened.check_fits(describe(model))
    return opened


def settle_plan(
    plan: BitPlan | str | None, model: PreTrainedModel, config: MixQConfig, calibration: Sequence[Tensor]
) -> BitPlan | None:
    """Return the plan that was given if it keeps the budget on such images, or None for one to be chosen."""
    if plan is None or plan == "mixed":
        return None
    costs = measure_costs(model, config.calibration, image_size_of(calibration))
    return read_plan(plan, describe(model), config.budget, costs)


def require_target(folder: str | Path | None, model: PreTrainedModel) -> Path | None:
    """Return the folder, if one is given, if the packed model can be written to it, and loaded from there."""
    if folder is None:
        return None
    require_rebuildable(model)
    return require_empty(Path(folder))


def name_of(dataset: Any) -> str | None:
    """Return the name of a data set, or of a folder without the path that leads to it on this machine."""
    if not isinstance(dataset, (str, Path)):
        return None
    return Path(dataset).name if Path(dataset).is_absolute() else str(dataset)
