# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""START HERE: the method, one call per stage."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, as_pair
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch, Images, fingerprint
from optimum_mixq.images.fingerprints import fingerprint_inputs, fits
from optimum_mixq.integration.hf_quantizer import attach
from optimum_mixq.stages.allocation.allocate import allocate, combine_scores, sweep
from optimum_mixq.stages.allocation.candidates import (
    budget_of,
    candidate_bits,
    measured_bits,
    require_plan_exists,
    target_bits,
)
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.calibration.blocks import calibrate, calibrate_variants
from optimum_mixq.stages.evaluation import measure_logits
from optimum_mixq.stages.packing import make_trainable, pack, pack_layer
from optimum_mixq.stages.relevance.measure import measure_relevance
from optimum_mixq.stages.sensitivity.measure import mark_sensitivity, measure_sensitivity
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.loop import EpochResult, suit_rates, train
from optimum_mixq.tasks import task_of


# Exponents of relevance whose best plans are compared with that of `alpha`.
OTHER_ALPHAS = (0.0, 0.5)


def quantize_model(
    model: PreTrainedModel,
    plan: BitPlan,
    pixel_batches: Sequence[Tensor],
    config: MixQConfig,
    dataset: str | None = None,
    description: str = "Calibrating",
) -> PreTrainedModel:
    """Return a packed copy of `model` with the bits of `plan`, ready to run, save and share.

    `dataset` is the name of what the calibration images come from, for the record, and `description` the progress
    bar's.
    """
    prepared = calibrate(model, plan, pixel_batches, config, description)  # 4: ranges, reparameterisation, rounding
    packed = pack(prepared)  # 5: integer codes
    return attach(packed, plan, config, write_record(model, pixel_batches, dataset))


def train_model(
    model: PreTrainedModel,
    plan: BitPlan,
    calibration: Sequence[Tensor],
    images: Images,
    config: MixQConfig,
    training: MixQTrainingConfig,
    evaluation: Sequence[Batch] = (),
    work: Path | None = None,
    trackers: Sequence[Any] = (),
    dataset: str | None = None,
) -> tuple[PreTrainedModel, list[EpochResult]]:
    """Return a packed copy of `model` with the bits of `plan`, trained on `images`, and how training went."""
    trainable = make_trainable(calibrate(model, plan, calibration, config))  # 4: where training starts
    training = suit_rates(trainable, training)
    history = train(trainable, model, images, training, evaluation, work, trackers)  # 6: weights and grids learn
    record = write_record(model, calibration, dataset)
    record["training"] = {**asdict(training), "history": [asdict(epoch) for epoch in history]}
    return attach(pack(trainable), plan, config, record), history  # 5: integer codes


def prepare_for_training(
    model: PreTrainedModel, plan: BitPlan, calibration: Sequence[Tensor], config: MixQConfig
) -> PreTrainedModel:
    """Return a calibrated copy of `model` with float weights and learned grids, for a training loop of your own.

    transformers' `Trainer` takes it, `save_pretrained` and `from_pretrained` keep it trainable, and `pack_trained`
    ends it.
    """
    trainable = make_trainable(calibrate(model, plan, calibration, config)).train()
    return attach(trainable, plan, config, write_record(model, calibration, None), trainable=True)


def pack_trained(model: PreTrainedModel) -> PreTrainedModel:
    """Return the packed model of one that was trained after `prepare_for_training`."""
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, MixQConfig) or not config.trainable or config.plan is None:
        raise ValueError("Expected a model that prepare_for_training returned, found another one.")
    return attach(pack(model), BitPlan(config.plan), config, config.record)


def choose_plan(
    model: PreTrainedModel,
    calibration: Sequence[Tensor],
    batches: Sequence[Batch],
    config: MixQConfig,
    work: Path | None = None,
    known: tuple[LayerRelevance | None, SensitivityTable | None] = (None, None),
) -> tuple[BitPlan, LayerRelevance, SensitivityTable]:
    """Return the mixed-precision plan of a model within the configuration's budget, and what it was chosen from.

    In the folder `work` both measurements are kept as they grow. From there, or from `known`, they are taken where
    they fit. A budget that no plan keeps raises before anything is measured.
    """
    require_plan_exists(config, measure_costs(model, config.arithmetic))
    relevance = relate(model, batches, config, work, known[0])  # 1: what passes through each unit
    sensitivity = sense(model, calibration, batches, config, work, known[1])  # 2: what each width costs
    plans = propose_plans(model, relevance, sensitivity, config)  # 3: the best plan, by each objective
    plan = next(iter(plans.values())) if len(plans) == 1 else compare_plans(model, plans, calibration, batches, config)
    return plan, relevance, sensitivity


def write_record(model: PreTrainedModel, pixel_batches: Sequence[Tensor], dataset: str | None) -> dict[str, Any]:
    """Return what a saved configuration tells of how the model was made."""
    digests = [fingerprint(image) for batch in pixel_batches for image in batch]
    name = model.name_or_path
    return {
        # The path of somebody's folder tells nobody else anything.
        "base_model": name if name and not Path(name).exists() else None,
        "calibration": {
            "dataset": dataset,
            "images": len(digests),
            "fingerprint": hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
        },
        "versions": {package: version(package) for package in ("optimum-mixq", "transformers", "torch")},
    }


def relate(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    config: MixQConfig,
    work: Path | None = None,
    known: LayerRelevance | None = None,
) -> LayerRelevance:
    """Return the relevance of every unit: `known` or what the folder `work` holds if it fits, else measured.

    What is measured is saved in `work`, under a name made from what it was measured on.
    """
    marks = fingerprint_inputs(model, batches, {"score": config.score})
    file = None if work is None else work / f"relevance-{_short_digest(marks)}.json"
    if file is not None and file.exists():
        return LayerRelevance.load(file)
    if known is not None and fits("relevance", known.fingerprint, marks):
        return known
    measured = measure_relevance(model, batches, config.score, sum(map(len, batches)))
    relevance = replace(measured, fingerprint=marks)
    if file is not None:
        relevance.save(file)
    return relevance


def sense(
    model: PreTrainedModel,
    calibration: Sequence[Tensor],
    batches: Sequence[Batch],
    config: MixQConfig,
    work: Path | None = None,
    known: SensitivityTable | None = None,
) -> SensitivityTable:
    """Return the sensitivity of every unit at every candidate width, around the uniform baseline.

    `known` is returned where it was measured on the same, at these widths or more. In the folder `work` the sums are
    kept as they grow, under a name made from what they are measured on, so that other settings find no wrong ones.
    The candidates' layers are calibrated again when a run goes on: kept, they would take several times the model.
    """
    around = (config.baseline, config.baseline)
    candidates = measured_bits(config, target_bits(config, measure_costs(model, config.arithmetic)))
    settings = {name: value for name, value in asdict(config).items() if name in _SETTINGS_OF_SENSITIVITY}
    marks = mark_sensitivity(model, batches, settings, config.metric, around)
    if known is not None and fits("sensitivity", known.fingerprint, marks, known.covers(candidates)):
        return known
    progress_file = None
    if work is not None:
        sizes = [len(batch) for batch in batches]  # the sums grow batch by batch
        progress_file = work / f"sensitivity-{_short_digest({**marks, 'steps': str((candidates, sizes))})}.json"
    again = progress_file is not None and progress_file.exists()
    uniform = BitPlan.uniform(model, around)
    baseline, variants = calibrate_variants(
        model, uniform, calibration, config, candidates, pack_layer,
        "Calibrating all candidate bits" + (" again, to go on" if again else ""),
    )  # fmt: skip
    return measure_sensitivity(
        model, pack(baseline), around, variants, batches, config.metric, config.temperature, progress_file, settings
    )


def plan_within_budget(
    model: PreTrainedModel, relevance: LayerRelevance | None, sensitivity: SensitivityTable, config: MixQConfig
) -> BitPlan:
    """Return the best plan within the configuration's budget, by the configuration's own objective."""
    costs = measure_costs(model, config.arithmetic)
    candidates = candidate_bits(config, target_bits(config, costs), costs)
    scores = combine_scores(relevance, sensitivity, candidates, config.alpha)
    return allocate(scores, costs, budget_of(config, costs), config.overrides, config.exclude, solver=config.solver)


def propose_plans(
    model: PreTrainedModel, relevance: LayerRelevance, sensitivity: SensitivityTable, config: MixQConfig
) -> dict[str, BitPlan]:
    """Return the plans that may be the best: of the configuration's objective, and with `compare` of others too."""
    plans = {f"alpha {config.alpha:g}": plan_within_budget(model, relevance, sensitivity, config)}
    if not config.compare:
        return plans
    for alpha in OTHER_ALPHAS:
        plans[f"alpha {alpha:g}"] = plan_within_budget(model, relevance, sensitivity, replace(config, alpha=alpha))
    # Rounding noise falls fourfold per bit; how it falls in each unit is left out.
    alike = {unit: {bits: 4.0 ** -min(as_pair(bits)) for bits in row} for unit, row in sensitivity.table.items()}
    blind = replace(sensitivity, table=alike)
    plans["relevance alone"] = plan_within_budget(model, relevance, blind, replace(config, alpha=1.0))
    costs = measure_costs(model, config.arithmetic)
    uniform = BitPlan.uniform(model, target_bits(config, costs))
    if not config.overrides and not config.exclude and budget_of(config, costs).allows(costs, uniform.bits):
        plans["uniform"] = replace(
            uniform, provenance={**uniform.provenance, "achieved": costs.achieved(uniform.bits)}
        )
    return plans


def compare_plans(
    model: PreTrainedModel,
    plans: Mapping[str, BitPlan],
    calibration: Sequence[Tensor],
    batches: Sequence[Batch],
    config: MixQConfig,
) -> BitPlan:
    """Return the plan whose packed model stays nearest to the float one on the images of `batches`.

    It has the least KL of logits divided by the configuration's temperature.

    # Unlike the paper: scores of single units do not say how their errors meet in the whole network. One packed model
    # per objective costs little beside the table of sensitivities, and no plan is worse than uniform bits here.
    """
    reference, _ = measure_logits(model, batches)
    task, found = task_of(model), dict[str, float]()
    for number, (name, plan) in enumerate(plans.items(), 1):
        description = f"Calibrating plan {number} of {len(plans)}, to compare"
        packed = pack(calibrate(model, plan, calibration, config, description))
        logits, _ = measure_logits(packed, batches)
        found[name] = float(task.divergence(logits.double(), reference.double(), config.temperature).mean())
    best = min(found, key=lambda name: found[name])
    provenance = {**plans[best].provenance, "compared": found, "chosen": best}
    return replace(plans[best], provenance=provenance)


def sweep_plans(
    model: PreTrainedModel,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    config: MixQConfig,
    average_bits: Sequence[float],
) -> list[BitPlan]:
    """Return the best plan for each average of bits, from the same measurements: the whole frontier."""
    costs = measure_costs(model, config.arithmetic)
    wide = replace(config, candidate_bits=config.candidate_bits or (2, 3, 4, 5, 6))
    candidates = candidate_bits(wide, (config.baseline, config.baseline), costs)
    scores = combine_scores(relevance, sensitivity, candidates, config.alpha)
    budgets = [budget_of(replace(config, bits=float(bits)), costs) for bits in average_bits]
    return sweep(scores, costs, budgets, config.overrides, config.exclude, config.solver)


def _short_digest(marks: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(marks.items())).encode()).hexdigest()[:12]


_SETTINGS_OF_SENSITIVITY = {
    "arithmetic", "calibration_samples", "seed", "input_search", "level", "weight_search", "correction",
    "ridge", "compensation", "rounder", "clip", "balance", "temperature",
}  # fmt: skip
