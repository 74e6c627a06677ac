# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Measures what a report tells: float, uniform and this model side by side, the frontier, and a few images."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import image_size_of
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.selection import UnseenBatches
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.reporting.card import describe_cost
from optimum_mixq.reporting.command import write_command
from optimum_mixq.reporting.compare import compare, score_together
from optimum_mixq.reporting.frontier import Frontier, FrontierPoint, name_score, pack_plans
from optimum_mixq.reporting.gallery import Gallery
from optimum_mixq.reporting.report import Report, count_float_parts
from optimum_mixq.reporting.wording import describe_ends
from optimum_mixq.stages.allocation.candidates import target_bits
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.evaluation import Evaluation, measure_latency
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.checks import is_whole, require
from optimum_mixq.utils.file_size import saved_bytes


HEAT_MAPS = 4
TIMED_IMAGES = 8


@dataclass(frozen=True)
class Subject:
    """A packed model, the float model that it was made of, and what its plan was chosen from."""

    model: PreTrainedModel
    packed: PreTrainedModel
    plan: BitPlan
    config: MixQConfig
    relevance: LayerRelevance | None = None
    sensitivity: SensitivityTable | None = None

    @property
    def trained(self) -> bool:
        return "training" in (self.packed.config.quantization_config.record or {})


def build_report(
    subject: Subject,
    calibration: Sequence[Tensor],
    batches: UnseenBatches,
    dataset: str,
    split: str | None = None,
    frontier: int = 0,
) -> Report:
    """Return the report on a packed model, from one pass over `batches`, of which few images are kept.

    `frontier` sizes from the fewest to the most bits are packed as well, and measured in the same pass.
    """
    require(is_whole(frontier, 0), "frontier", "a whole number from zero", frontier)
    next(iter(batches))  # raises for a source without images for evaluation before anything is calibrated
    size = image_size_of(calibration)
    costs = measure_costs(subject.model, subject.config.calibration, size)
    uniform = BitPlan.uniform(subject.model, target_bits(subject.config.budget, costs))
    models = _contenders(subject, uniform, calibration)
    best = _frontier(subject, costs)
    plans = () if best is None else _other_plans(subject, best.spread_plans(frontier))
    packed = pack_plans(subject.model, plans, calibration, subject.config)
    gallery = Gallery(subject.model, TIMED_IMAGES)
    scores, points = _run(models, plans, packed, batches, gallery)
    times = measure_latency(models, torch.stack(gallery.first))
    name, own = _name(subject.model), list(models)[-1]
    return Report(
        model=name,
        title=f"{name}, {own if own != 'this model' else f'mixed bits around {_name_bits(uniform)}'}",
        date=datetime.date.today().isoformat(),
        origin=_origin(subject),
        comparison=compare(models, scores, batches, dataset, split, times),
        plan=subject.plan,
        uniform=next(iter(uniform.bits.values())),
        costs=costs,
        relevance=subject.relevance,
        sensitivity=subject.sensitivity,
        predicted=() if best is None else best.predicted_plans(),
        score=None if best is None else best.score(subject.plan),
        score_name=name_score(subject.config.alpha, subject.relevance),
        measured=points,
        trained=subject.trained,
        ends=describe_ends(describe(subject.model), subject.packed.config.quantization_config.stem_and_head_bits),
        float_parts=count_float_parts(subject.packed),
        heat_maps=gallery.heat_maps(subject.model, HEAT_MAPS),
        disagreements=gallery.disagreements(),
        disagreeing=gallery.disagreeing,
    )


def _run(
    models: Mapping[str, PreTrainedModel],
    plans: Sequence[BitPlan],
    packed: Sequence[PreTrainedModel],
    batches: UnseenBatches,
    gallery: Gallery,
) -> tuple[dict[str, Evaluation], tuple[FrontierPoint, ...]]:
    """Return the scores of the models by name, and the points of the packed plans, from one pass over the images."""
    sizes = {f"size {number}": model for number, model in enumerate(packed)}
    scores = score_together({**models, **sizes}, batches, gallery, own=list(models)[-1])
    points = (
        FrontierPoint(plan, saved_bytes(model) / 1e6, scores[name])
        for plan, (name, model) in zip(plans, sizes.items(), strict=True)
    )
    return scores, tuple(points)


def _contenders(subject: Subject, uniform: BitPlan, calibration: Sequence[Tensor]) -> dict[str, PreTrainedModel]:
    """Return the models of the table by name: float, uniform bits unless the packed model has these, and itself."""
    name, plan = f"uniform {_name_bits(uniform)}", subject.plan
    models = {"float": subject.model}
    if plan.bits != uniform.bits:
        models[name] = quantize_model(
            subject.model, uniform, calibration, subject.config, description=f"Calibrating {name}, to compare"
        )
    searched = plan.provenance.get("kind") == "allocated" or "compared" in plan.provenance
    models["this model" if searched or plan.bits != uniform.bits else name] = subject.packed
    return models


def _other_plans(subject: Subject, plans: Sequence[BitPlan]) -> tuple[BitPlan, ...]:
    """Return the plans without that of the packed model, which is among the contenders unless training changed it."""
    return tuple(plan for plan in plans if subject.trained or plan.bits != subject.plan.bits)


def _frontier(subject: Subject, costs: UnitCosts) -> Frontier | None:
    if subject.sensitivity is None:
        return None
    return Frontier(costs, subject.relevance, subject.sensitivity, subject.config.budget)


def _name_bits(uniform: BitPlan) -> str:
    return str(next(iter(uniform.bits.values())))


def _origin(subject: Subject) -> tuple[str, ...]:
    """Return the day and the library's version, the budget and the command that a packed model was made with."""
    config = subject.packed.config.quantization_config
    record = config.record or {}
    lines = [f"{datetime.date.today().isoformat()}, optimum-mixq {version('optimum-mixq')}"]
    budget = subject.plan.provenance.get("budget") or {}
    limits = [describe_cost(name, value) for name, value in budget.items() if value is not None]
    if limits:
        lines.append("Budget: " + ", ".join(limits))
    calibration = record.get("calibration") or {}
    base = record.get("base_model") or _name(subject.model)
    hub_task = task_of(subject.packed).hub_task
    command = write_command(config, subject.plan, base, calibration.get("dataset") or "DATASET", hub_task)
    return (*lines, f"Made by: {command}") if command and not subject.trained else tuple(lines)


def _name(model: PreTrainedModel) -> str:
    return model.name_or_path.rstrip("/").rpartition("/")[2] or model.config.model_type
