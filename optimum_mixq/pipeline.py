# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""START HERE: the method, one call per stage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.measuring import image_size_of, on_fitting_threads, threads_for
from optimum_mixq.artifacts import BitPlan, Known, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch, Images, first_images, take_images
from optimum_mixq.images.fingerprints import digest_inputs, digest_settings, fits, short_digest
from optimum_mixq.integration.hf_quantizer import attach
from optimum_mixq.integration.record import write_record
from optimum_mixq.stages.allocation.candidates import measured_bits, require_plan_exists
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.allocation.halves import add_certainty, are_images_enough
from optimum_mixq.stages.allocation.propose import UNIFORM, best_plans_of_averages, objectives, propose_plans
from optimum_mixq.stages.allocation.settled import choose_nearest, is_settled
from optimum_mixq.stages.calibration.blocks import calibrate, calibrate_variants
from optimum_mixq.stages.evaluation import measure_divergences
from optimum_mixq.stages.packing import make_trainable, pack, store_layer
from optimum_mixq.stages.reconstruction.reconstruct import start_reconstruction
from optimum_mixq.stages.relevance.measure import measure_relevance
from optimum_mixq.stages.sensitivity.measure import measure_sensitivity
from optimum_mixq.stages.sensitivity.registry import FIRST_CHECK, Enough, SensitivityInputs, Variants, method_of
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.groups import suit_rates
from optimum_mixq.stages.training.loop import EpochResult, train
from optimum_mixq.utils.bits import Bits


# How many of the calibration images set the ranges while bits are chosen. More bring all plans nearer to the float
# model, so that only the chosen one is calibrated on all of them.
CHOOSING_IMAGES = 32


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

    Blocks learn one after another if the configuration has them learn.
    """
    learn = start_reconstruction(model, plan, calibration_images, config, work)
    images = calibration_images if learn is None else learn.images
    # Ranges, folding, rounding.
    return calibrate(model, plan, images, config, description, config.reconstruction is not None, learn)


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

    Plans are compared without reconstruction.
    """
    if choice.packed is None or config.reconstruction is not None:
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
    trainable = make_trainable(prepare(model, plan, calibration_images, config)).train()
    return attach(trainable, plan, config, write_record(model, calibration_images, None), trainable=True)


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


def choose(measured: "Measurements") -> Choice:
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


def compare_plans(measured: "Measurements", plans: Mapping[str, BitPlan]) -> tuple[BitPlan, PreTrainedModel]:
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


class Measurements:
    """What is measured of a model for one configuration: each thing once, when it is first asked for.

    Relevance and sensitivity are `known`, or in the folder `work` under a name made from what they were measured on,
    so that other settings find no wrong ones; else they are measured, and saved in `work` as they grow.

    Sensitivity is measured on as many of the images as the configuration's budget needs, or with `every_image` on all.
    Layers are calibrated on the first `CHOOSING_IMAGES` of the calibration images.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        calibration_images: Sequence[Tensor],
        measurement_images: Sequence[Batch],
        config: MixQConfig,
        work: Path | None = None,
        known: Known | None = None,
        every_image: bool = False,
    ) -> None:
        self.every_image = every_image
        self.model, self.config, self.work, self.known = model, config, work, known or Known()
        self.choosing_images = first_images(calibration_images, CHOOSING_IMAGES)
        self.calibrates_on_all = sum(map(len, calibration_images)) <= CHOOSING_IMAGES
        self.measurement_images = measurement_images

    @cached_property
    def costs(self) -> UnitCosts:
        return measure_costs(self.model, self.config.calibration, image_size_of(self.choosing_images))

    @cached_property
    def relevance(self) -> LayerRelevance:
        """The relevance of every unit (stage 1)."""
        marks = self._marks(self.config.relevance_options)
        file, known = self._file("relevance", marks), self.known.relevance
        if file is not None and file.exists():
            return LayerRelevance.load(file)
        if known is not None and fits("relevance", known.fingerprint, marks):
            return known
        images = take_images(self.measurement_images, self.config.relevance_samples)
        with threads_for(self.model):
            measured = measure_relevance(
                self.model, images, self.config.score, sum(map(len, images)), self.config.relevance_stabiliser
            )
        relevance = replace(measured, fingerprint=marks)
        if file is not None:
            relevance.save(file)
        return relevance

    @cached_property
    def sensitivity(self) -> SensitivityTable:
        """The sensitivity of every unit at every candidate width, around the uniform baseline (stage 2).

        The candidates' layers are calibrated again when a run goes on: kept, they would take several times the model.
        """
        config, known = self.config, self.known.sensitivity
        candidates = measured_bits(config.budget, config.baseline, self.costs)
        samples = min(config.calibration_samples, CHOOSING_IMAGES)
        settings = digest_settings(
            replace(config.calibration, calibration_samples=samples), config.sensitivity_options,
            further=method_of(config.sensitivity).settings(),
        )  # fmt: skip
        marks = {**self._inputs, **settings}
        # Relevance is measured before anything is held for sensitivity.
        enough = None if self.every_image else partial(self._is_enough, self.relevance)
        if known is not None:
            find_lack = partial(self._find_lack, known, candidates, enough)
            if fits("sensitivity", known.fingerprint, marks, find_lack):
                return known
        sizes = [len(batch) for batch in self.measurement_images]  # the sums grow batch by batch
        file = self._file("sensitivity", {**marks, "steps": str((candidates, sizes))})
        baseline = Bits(config.baseline, config.baseline)
        calibrate_candidates = partial(self._calibrate_candidates, again=file is not None and file.exists())
        inputs = SensitivityInputs(
            self.model, self.measurement_images, baseline, candidates, calibrate_candidates, config.metric,
            config.temperature, config.seed, file, enough,
        )  # fmt: skip
        with threads_for(self.model):
            return measure_sensitivity(inputs, config.sensitivity, marks)

    def _is_enough(self, relevance: LayerRelevance, sensitivity: SensitivityTable) -> bool:
        """Return whether the budget needs no more images than those of a table."""
        return are_images_enough(relevance, sensitivity, self.costs, self.config.budget)

    def _find_lack(self, known: SensitivityTable, candidates: Sequence[Bits], enough: Enough | None) -> str | None:
        """Return what a table of the right fingerprint lacks, in words: bits, or images."""
        if not known.covers(candidates):
            return "was measured with other widths"
        images = sum(map(len, self.measurement_images))
        if known.halves is None or known.images == images or (enough is not None and enough(known)):
            return None
        return f"is from the first {known.images} of {images} images, and more are needed"

    def _calibrate_candidates(self, candidates: Sequence[Bits], again: bool) -> tuple[PreTrainedModel, Variants]:
        """Return the packed model at the baseline's bits, and what stands for its units at the candidates'."""
        uniform = BitPlan.uniform(self.model, self.config.baseline)
        baseline, variants = calibrate_variants(
            self.model, uniform, self.choosing_images, self.config, candidates, store_layer,
            "Calibrating all candidate bits" + (" again, to go on" if again else ""),
        )  # fmt: skip
        return pack(baseline), variants

    @cached_property
    def _inputs(self) -> dict[str, str]:
        return digest_inputs(self.model, self.measurement_images)

    def _marks(self, *groups: Any) -> dict[str, str]:
        """Return the fingerprint of a measurement that depends on these groups of options."""
        return {**self._inputs, **digest_settings(*groups)}

    def _file(self, what: str, marks: Mapping[str, str]) -> Path | None:
        return None if self.work is None else self.work / f"{what}-{short_digest(marks)}.json"
