# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""START HERE: the method, one call per stage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from optimum_mixq.architectures.measuring import on_fitting_threads, threads_for
from optimum_mixq.artifacts import BitPlan, Known, LayerRelevance, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch, Images
from optimum_mixq.integration.hf_quantizer import attach
from optimum_mixq.integration.record import write_record
from optimum_mixq.measurements import Measurements
from optimum_mixq.stages.allocation.candidates import require_plan_exists
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.allocation.halves import add_certainty
from optimum_mixq.stages.allocation.propose import UNIFORM, best_plans_of_averages, objectives, propose_plans
from optimum_mixq.stages.allocation.settled import choose_nearest, is_settled
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.evaluation import measure_divergences
from optimum_mixq.stages.packing import make_trainable, pack
from optimum_mixq.stages.reconstruction.budgets import learns
from optimum_mixq.stages.reconstruction.reconstruct import start_reconstruction
from optimum_mixq.stages.sensitivity.registry import FIRST_CHECK
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.groups import suit_rates
from optimum_mixq.stages.training.loop import EpochResult, train


logger = logging.get_logger(__name__)


@on_fitting_threads
def quantize_model(
    model: PreTrainedModel,
    plan: BitPlan,
    calibration_images: Sequence[Tensor],
    config: MixQConfig,
    dataset_name: str | None = None,
    description: str = "Calibrating",
    work: Path | None = None,
) -> PreTrainedModel:
    """Return a packed copy of `model` with the bits of `plan`, ready to run, save and share.

    `calibration_images` are batches (B, C, H, W), `dataset_name` says where they come from, for the record, and
    `description` is the progress bar's. In the folder `work` blocks are kept once they have learned, if the
    configuration has them learn.
    """
    prepared = prepare(model, plan, calibration_images, config, description, work)  # 4
    packed = pack(prepared)  # 5: integer codes
    return attach(packed, plan, config, write_record(model, calibration_images, dataset_name))


def prepare(
    model: PreTrainedModel,
    plan: BitPlan,
    calibration_images: Sequence[Tensor],
    config: MixQConfig,
    description: str = "Calibrating",
    work: Path | None = None,
) -> PreTrainedModel:
    """Return a copy of `model` with the bits of `plan`, whose layers and attention are fake-quantized.

    Blocks learn one after another if the configuration has them learn. If that leads the whole model away, they have
    not learned.
    """
    learn = start_reconstruction(model, plan, calibration_images, config, work)
    if learn is not None:
        learned = calibrate(model, plan, learn.images, config, description, learn)
        rival = calibrate(model, plan, learn.images, config, "Calibrating without learning, to compare")
        if learning_helped(model, learned, rival, learn.held_out, config.temperature):
            return learned
    # Ranges, folding, rounding.
    return calibrate(model, plan, calibration_images, config, description)


def learning_helped(
    model: PreTrainedModel,
    learned: PreTrainedModel,
    calibrated: PreTrainedModel,
    held_out: Sequence[Tensor],
    temperature: float,
) -> bool:
    """Return whether the model that learned is nearer to the float one on held-out images than the calibrated one.

    `held_out` are batches (B, C, H, W), and logits are divided by the temperature, so that all images have a say.
    Blocks that come nearer one by one may lead the logits away.
    """
    models, batches = {"learned": learned, "calibrated": calibrated}, [Batch(pixels, None, ()) for pixels in held_out]
    damages = measure_divergences(model, models, batches, temperature, lambda _: True, sum(map(len, held_out)))
    distances = {name: float(damage.mean()) for name, damage in damages.items()}
    logger.info("Divergence on held-out images: %(learned).4g learned, %(calibrated).4g calibrated.", distances)
    return distances["learned"] < distances["calibrated"]


@dataclass(frozen=True)
class Choice:
    """A plan, what it was chosen from, and its packed model where one on all calibration images was compared."""

    plan: BitPlan
    relevance: LayerRelevance
    sensitivity: SensitivityTable
    packed: PreTrainedModel | None


def finish_choice(
    choice: Choice,
    model: PreTrainedModel,
    calibration_images: Sequence[Tensor],
    config: MixQConfig,
    dataset_name: str | None = None,
    work: Path | None = None,
) -> PreTrainedModel:
    """Return what `quantize_model` returns for a chosen plan; what was packed to compare it serves again.

    Plans are compared without blocks that learn.
    """
    if choice.packed is None or learns(config.reconstruction):
        description = "Calibrating the chosen plan"
        return quantize_model(model, choice.plan, calibration_images, config, dataset_name, description, work)
    return attach(choice.packed, choice.plan, config, write_record(model, calibration_images, dataset_name))


@on_fitting_threads
def train_model(
    model: PreTrainedModel,
    plan: BitPlan,
    calibration_images: Sequence[Tensor],
    training_images: Images,
    config: MixQConfig,
    training: MixQTrainingConfig,
    evaluation_images: Sequence[Batch] = (),
    work: Path | None = None,
    trackers: Sequence[Any] = (),
    dataset_name: str | None = None,
) -> tuple[PreTrainedModel, list[EpochResult]]:
    """Return a packed copy of `model` with the bits of `plan`, trained on `training_images`, and how that went."""
    config = _start_of_training(config)
    prepared = prepare(model, plan, calibration_images, config, work=work)  # 4: where training starts
    trainable = make_trainable(prepared)
    training = suit_rates(trainable, training)
    history = train(trainable, model, training_images, training, evaluation_images, work, trackers)  # 6: learning
    record = write_record(model, calibration_images, dataset_name)
    record["training"] = {**asdict(training), "history": [asdict(epoch) for epoch in history]}
    return attach(pack(trainable), plan, config, record), history  # 5: integer codes


def prepare_for_training(
    model: PreTrainedModel, plan: BitPlan, calibration_images: Sequence[Tensor], config: MixQConfig
) -> PreTrainedModel:
    """Return a calibrated copy of `model` with float weights and learned grids, for a training loop of your own.

    transformers' `Trainer` takes it, `save_pretrained` and `from_pretrained` keep it trainable, and `pack_trained`
    ends it.
    """
    config = _start_of_training(config)
    trainable = make_trainable(prepare(model, plan, calibration_images, config)).train()
    return attach(trainable, plan, config, write_record(model, calibration_images, None), trainable=True)


def _start_of_training(config: MixQConfig) -> MixQConfig:
    """Return the configuration without layers that mend what came before them, unless blocks are to learn.

    Models start nearer to float with them, and end farther from it: docs/decisions.md has the numbers.
    """
    return config if learns(config.reconstruction) else replace(config, reconstruction=None)


def pack_trained(model: PreTrainedModel) -> PreTrainedModel:
    """Return the packed model of one that was trained after `prepare_for_training`."""
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, MixQConfig) or not config.trainable or config.plan is None:
        raise ValueError("Expected a model that prepare_for_training returned, found another one.")
    return attach(pack(model), BitPlan(config.plan), config, config.record)


def choose_plan(
    model: PreTrainedModel,
    calibration_images: Sequence[Tensor],
    measurement_images: Sequence[Batch],
    config: MixQConfig,
    work: Path | None = None,
    known: Known | None = None,
) -> tuple[BitPlan, LayerRelevance, SensitivityTable]:
    """Return the mixed-precision plan of a model within the configuration's budget, and what it was chosen from.

    In the folder `work` both measurements are kept as they grow. From there, or from `known`, they are taken where
    they fit. A budget that no plan keeps raises before anything is measured.
    """
    choice = choose(Measurements(model, calibration_images, measurement_images, config, work, known))
    return choice.plan, choice.relevance, choice.sensitivity


def choose(measured: Measurements) -> Choice:
    """Return what `choose_plan` returns, and the plan's packed model where it was compared with others."""
    options = measured.config.budget
    with threads_for(measured.model):
        require_plan_exists(options, measured.costs)
        relevance = measured.relevance  # 1: what passes through each unit
        sensitivity = measured.sensitivity  # 2: what each width costs
        plans = propose_plans(relevance, sensitivity, measured.costs, options)  # 3: the best, by each objective
        (name, plan), packed = next(iter(plans.items())), None
        if len(plans) > 1:
            plan, packed = compare_plans(measured, plans)
            name = plan.provenance["chosen"]
        plan = add_certainty(plan, relevance, sensitivity, measured.costs, objectives(options).get(name))
    return Choice(plan, relevance, sensitivity, packed if measured.calibrates_on_all else None)


def compare_plans(measured: Measurements, plans: Mapping[str, BitPlan]) -> tuple[BitPlan, PreTrainedModel]:
    """Return the plan whose packed model stays nearest to the float one on the measurement images, and that model.

    It has the least KL of logits divided by the configuration's temperature, which uniform bits have to have by more
    than a standard error. Images are taken until it is settled which plan that is.

    # Unlike the paper: scores of single units do not say how their errors meet in the whole network. One packed model
    # per objective costs little beside the table of sensitivities, and none is clearly worse than uniform bits here.
    """
    model, images, config = measured.model, measured.measurement_images, measured.config
    packed: dict[str, PreTrainedModel] = {}
    standing: dict[str, str] = {}  # the first plan with the same bits
    for number, (name, plan) in enumerate(plans.items(), 1):
        standing[name] = next((other for other in packed if plans[other].bits == plan.bits), name)
        if standing[name] == name:
            description = f"Calibrating plan {number} of {len(plans)}, to compare"
            packed[name] = pack(calibrate(model, plan, measured.choosing_images, config, description))
    damages = measure_divergences(model, packed, images, config.temperature, is_settled, FIRST_CHECK)
    distances = {name: float(damages[standing[name]].mean()) for name in plans}
    chosen = choose_nearest(damages, UNIFORM)
    compared = {"compared": distances, "chosen": chosen, "compared_on": len(damages[chosen])}
    return replace(plans[chosen], provenance={**plans[chosen].provenance, **compared}), packed[chosen]


def sweep_plans(
    model: PreTrainedModel,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    config: MixQConfig,
    average_bits: Sequence[float],
) -> list[BitPlan]:
    """Return the best plan for each average of bits, from the same measurements: the whole frontier."""
    costs = measure_costs(model, config.calibration, sensitivity.image_size)
    return best_plans_of_averages(relevance, sensitivity, costs, config.budget, average_bits)
