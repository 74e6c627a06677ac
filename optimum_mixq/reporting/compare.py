# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Measures what a report tells: float, uniform and this model side by side, the frontier, and a few heat maps."""

import datetime
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, bits_to_text, short_bits
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch
from optimum_mixq.pipeline import quantize_model, sweep_plans
from optimum_mixq.reporting.card import Evaluated, Timing, describe_cost, write_command
from optimum_mixq.reporting.page import Contender, HeatMap, Report, float_parts, name_machine
from optimum_mixq.stages.allocation.allocate import combine_scores
from optimum_mixq.stages.allocation.candidates import target_bits
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.evaluation import measure_latency, measure_logits, measure_together, score
from optimum_mixq.stages.relevance.measure import explain
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.bits import LARGEST_BITS, SMALLEST_BITS, Bits
from optimum_mixq.utils.file_size import saved_bytes


HEAT_MAPS = 4
TIMED_IMAGES = 8


def build_report(
    model: PreTrainedModel,
    quantized: PreTrainedModel,
    plan: BitPlan,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable | None,
    config: MixQConfig,
    calibration: Sequence[Tensor],
    batches: Iterable[Batch],
    dataset: str,
    split: str | None,
) -> tuple[Report, Evaluated, Timing]:
    """Return the report, and of it what the model card tells. `batches` are gone through twice, and none is kept."""
    uniform_bits = target_bits(config.budget, measure_costs(model, config.arithmetic))
    uniform = BitPlan.uniform(model, uniform_bits)
    name = bits_to_text(short_bits(uniform_bits))
    models = {"float": model}
    if plan.bits != uniform.bits:
        models[f"uniform {name}"] = quantize_model(model, uniform, calibration, config)
    searched = plan.provenance.get("kind") == "allocated" or "compared" in plan.provenance
    own = "this model" if searched or plan.bits != uniform.bits else f"uniform {name}"
    models[own] = quantized
    pixels = next(iter(batches)).pixel_values
    contenders = _compare(models, batches, pixels[:TIMED_IMAGES])
    report = Report(
        title=f"{_title(model)}, {own if own != 'this model' else f'mixed bits around {name}'}",
        origin=_origin(model, quantized, plan),
        dataset=f"{contenders[0].evaluation.images} images ({dataset}" + (f", split {split})" if split else ")"),
        machine=name_machine(),
        contenders=contenders,
        plan=plan,
        uniform=uniform_bits,
        relevance=relevance,
        sensitivity=sensitivity,
        frontier=_frontier(model, relevance, sensitivity, config),
        score=_total_score(plan, relevance, sensitivity, config.alpha),
        float_parts=float_parts(quantized),
        heat_maps=_heat_maps(model, pixels[:HEAT_MAPS]),
    )
    evaluated = Evaluated(dataset, split, contenders[0].evaluation, contenders[-1].evaluation)
    timing = Timing(report.machine, {contender.name: contender.milliseconds for contender in contenders})
    return report, evaluated, timing


def _compare(models: dict[str, PreTrainedModel], batches: Iterable[Batch], timed: Tensor) -> tuple[Contender, ...]:
    logits, labels = measure_together(models, batches)
    reference, task = logits["float"], task_of(models["float"])
    scores = {
        name: score(found, labels, None if name == "float" else reference, task) for name, found in logits.items()
    }
    times = measure_latency(models, timed)
    return tuple(
        Contender(name, saved_bytes(model) / 1e6, times[name], scores[name]) for name, model in models.items()
    )


def _frontier(
    model: PreTrainedModel,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable | None,
    config: MixQConfig,
) -> tuple[BitPlan, ...]:
    """Return the best plans from the fewest to the most bits that every unit was measured at, in half bits."""
    if sensitivity is None:
        return ()
    widths, tied = _measured_widths(sensitivity)
    if len(widths) < 2:
        return ()
    averages = [widths[0] + half / 2 for half in range(1, 2 * (widths[-1] - widths[0]) + 1)]
    sweeping = MixQConfig(
        candidate_bits=tuple(widths), tie_bits=tied, arithmetic=config.arithmetic, alpha=config.alpha,
        solver=config.solver, overrides=config.overrides, exclude=config.exclude,
    )  # fmt: skip
    return tuple(sweep_plans(model, relevance, sensitivity, sweeping, averages))


def _total_score(
    plan: BitPlan, relevance: LayerRelevance | None, sensitivity: SensitivityTable | None, alpha: float
) -> float | None:
    if sensitivity is None or not all(sensitivity.tells(unit, bits) for unit, bits in plan.bits.items()):
        return None
    scores = combine_scores(relevance, sensitivity, {unit: [bits] for unit, bits in plan.bits.items()}, alpha)
    return math.fsum(scores[unit][bits] for unit, bits in plan.bits.items())


def _measured_widths(sensitivity: SensitivityTable) -> tuple[list[int], bool]:
    """Return the widths that every unit was measured at, and whether weights and activations had them together."""
    weight_bits, input_bits = sensitivity.baseline
    widths = [bits for bits in range(SMALLEST_BITS, LARGEST_BITS + 1) if bits not in sensitivity.baseline]
    together = [bits for bits in widths if sensitivity.covers([Bits(bits, bits)])]
    apart = [bits for bits in widths if sensitivity.covers([Bits(bits, input_bits), Bits(weight_bits, bits)])]
    return (together, True) if len(together) > len(apart) else (apart, False)


def _heat_maps(model: PreTrainedModel, pixels: Tensor) -> tuple[HeatMap, ...]:
    relevance = explain(model, pixels).detach().cpu()
    predictions = measure_logits(model, [Batch(pixels, None, ())])[0].argmax(-1).tolist()
    names = model.config.id2label
    return tuple(
        HeatMap(image.cpu(), heat, str(names.get(predicted, predicted)))
        for image, heat, predicted in zip(pixels, relevance, predictions, strict=True)
    )


def _origin(model: PreTrainedModel, quantized: PreTrainedModel, plan: BitPlan) -> tuple[str, ...]:
    """Return the day and the library's version, the budget and the command that a packed model was made with."""
    config = quantized.config.quantization_config
    record = config.record or {}
    lines = [f"{datetime.date.today().isoformat()}, optimum-mixq {version('optimum-mixq')}"]
    budget = {name: value for name, value in (plan.provenance.get("budget") or {}).items() if value is not None}
    if budget:
        lines.append("Budget: " + ", ".join(describe_cost(name, value) for name, value in budget.items()))
    calibration = record.get("calibration") or {}
    base = record.get("base_model") or _title(model)
    command = write_command(config, plan, base, calibration.get("dataset") or "DATASET")
    return (*lines, f"Made by: {command}") if command and "training" not in record else tuple(lines)


def _title(model: PreTrainedModel) -> str:
    return model.name_or_path.rstrip("/").rpartition("/")[2] or model.config.model_type
