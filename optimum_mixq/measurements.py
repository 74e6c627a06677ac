# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What bits are chosen from: relevance, sensitivity and costs, measured once and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.measuring import image_size_of, threads_for
from optimum_mixq.artifacts import BitPlan, Known, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import MixQConfig
from optimum_mixq.images.batches import Batch, first_images, take_images
from optimum_mixq.images.fingerprints import digest_inputs, digest_settings, fits, short_digest
from optimum_mixq.stages.allocation.candidates import measured_bits
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.allocation.halves import are_images_enough
from optimum_mixq.stages.calibration.blocks import calibrate_variants
from optimum_mixq.stages.packing import pack, store_layer
from optimum_mixq.stages.relevance.measure import measure_relevance
from optimum_mixq.stages.sensitivity.measure import measure_sensitivity
from optimum_mixq.stages.sensitivity.registry import Enough, SensitivityInputs, Variants, method_of
from optimum_mixq.utils.bits import Bits


# How many of the calibration images set the ranges while bits are chosen. More bring all plans nearer to the float
# model, so that only the chosen one is calibrated on all of them.
CHOOSING_IMAGES = 32


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
