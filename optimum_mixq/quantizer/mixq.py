# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`MixQQuantizer`: from a model and a few images to a packed model on disk or on the Hub."""

import dataclasses
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from optimum.quantization_base import OptimumQuantizer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import threads_for
from optimum_mixq.architectures.rebuilding import require_same_shape
from optimum_mixq.artifacts import BitPlan, Known, LayerRelevance, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.export import Exported, export_model
from optimum_mixq.images.batches import Batch, Images
from optimum_mixq.images.selection import Selection, UnseenBatches, watch
from optimum_mixq.images.sources import open_images
from optimum_mixq.measurements import Measurements
from optimum_mixq.pipeline import Choice, choose, finish_choice, quantize_model, sweep_plans, train_model
from optimum_mixq.quantizer.given import (
    name_of,
    open_float_model,
    open_measurements,
    open_packed,
    open_plan,
    require_target,
    settle_plan,
)
from optimum_mixq.reporting.build import Subject, build_report
from optimum_mixq.reporting.compare import compare, score_together
from optimum_mixq.reporting.comparison import Comparison
from optimum_mixq.reporting.page import save_report
from optimum_mixq.reporting.quantized import Quantized, save_folder
from optimum_mixq.reporting.report import Report
from optimum_mixq.reporting.upload import upload
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.allocation.halves import add_certainty
from optimum_mixq.stages.allocation.propose import WIDTHS_OF_A_SWEEP, best_plan
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.stages.reconstruction.reconstruct import require_reconstructible
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.loop import EpochResult
from optimum_mixq.stages.training.objective import require_lesson
from optimum_mixq.tasks import task_of
from optimum_mixq.utils.folders import make_work_folder, work_folder, write_result


# One measurement for all averages from 2 to 6 bits.
SWEEP = MixQConfig(candidate_bits=WIDTHS_OF_A_SWEEP)


class MixQQuantizer(OptimumQuantizer):
    """Quantizes one float model; the model itself is left as it is."""

    def __init__(self, model: PreTrainedModel, processor: BaseImageProcessor | None) -> None:
        super().__init__()
        describe(model)  # raises for what is not supported, before any work is done
        if getattr(model, "quantization_method", None) is not None:
            raise ValueError(
                "Expected a float model, found one that is quantized already. Load the float checkpoint; "
                "MixQQuantizer.reopen(folder, float_model) evaluates and reports a quantized one."
            )
        self.model, self.processor = model, processor
        self.result: Quantized | None = None  # the last model that was quantized, with all that belongs to it
        self.known = Known()  # what was measured of the float model
        self.selection = Selection()  # which images made the quantized model: they are left out when it is evaluated

    @property
    def quantized(self) -> PreTrainedModel | None:
        """The last model that was quantized."""
        return None if self.result is None else self.result.model

    @property
    def plan(self) -> BitPlan | None:
        """The plan of the last model that was quantized."""
        return None if self.result is None else self.result.plan

    @property
    def history(self) -> list[EpochResult]:
        """How the last training went."""
        return [] if self.result is None else list(self.result.history)

    @property
    def comparison(self) -> Comparison | None:
        """The last comparison of the quantized model with the float one."""
        return None if self.result is None else self.result.comparison

    @property
    def relevance(self) -> LayerRelevance | None:
        """The relevance that was measured last, or read."""
        return self.known.relevance

    @property
    def sensitivity(self) -> SensitivityTable | None:
        """The sensitivity that was measured last, or read."""
        return self.known.sensitivity

    @classmethod
    def from_pretrained(
        cls,
        model_or_path: PreTrainedModel | str | Path,
        processor: BaseImageProcessor | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        device_map: str | dict[str, Any] | None = None,
        task: str | None = None,
    ) -> "MixQQuantizer":
        """Return the quantizer of a model on the Hub, in a folder, or in memory, with its image processor.

        `task` is "image-classification", "image-feature-extraction", "image-segmentation", "object-detection" or
        "depth-estimation"; without it the checkpoint's class tells. For features, a classifier is taken without its
        head. Calibration and relevance want float32; they run on the model's device.
        """
        place = {
            "revision": revision or "main", "token": token, "cache_dir": cache_dir,
            "local_files_only": local_files_only, "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        options = {"dtype": dtype, "device_map": device_map}
        return cls(*open_float_model(model_or_path, processor, task, device, place, **options))

    @classmethod
    def reopen(
        cls,
        folder: str | Path,
        float_model: PreTrainedModel | str | Path | None = None,
        token: str | bool | None = None,
    ) -> "MixQQuantizer":
        """Return the quantizer of a packed model that was saved before, with what was measured for it."""
        opened, base, processor = open_packed(folder, float_model, token)
        quantizer = cls.from_pretrained(base, processor, task=task_of(opened.quantized.model).hub_task)
        require_same_shape(quantizer.model, opened.quantized.model, str(folder))
        quantizer.result, quantizer.known = opened.quantized, opened.known
        quantizer.selection = Selection(opened.served)
        return quantizer

    def load_measurements(self, folder: str | Path) -> None:
        """Read relevance and sensitivity from a folder, so that they are not measured again."""
        self.known = open_measurements(folder)

    def quantize(
        self,
        config: MixQConfig | None = None,
        dataset: Any = None,
        save_dir: str | Path | None = None,
        plan: BitPlan | str | Path | None = None,
        split: str | None = None,
    ) -> PreTrainedModel:
        """Return the packed model, calibrated on images of `dataset`, and save it with its processor if asked to.

        `plan` is a `BitPlan`, the path of one, "uniform" or "mixed", the default: relevance and sensitivity are
        measured, and the best plan within the configuration's budget is chosen. What this quantizer measured before
        is used again where it fits. Measurements are kept next to `save_dir` while they grow, so that a run that was
        stopped resumes when it is called again.
        """
        config = config or MixQConfig()
        target = require_target(save_dir, self.model)
        plan = open_plan(plan, self.model)
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        calibration = self.selection.calibration(images, config)
        require_reconstructible(self.model, calibration, config)
        given = settle_plan(plan, self.model, config, calibration)
        work = None if target is None else work_folder(target)
        if given is not None:
            quantized = quantize_model(
                self.model, given, calibration, config, name_of(dataset), "Calibrating the plan", work
            )
            return self._finish(quantized, given, target)
        choice = self._choose(images, calibration, config, target)
        quantized = finish_choice(choice, self.model, calibration, config, name_of(dataset), work)
        return self._finish(quantized, choice.plan, target)

    def train(
        self,
        dataset: Any,
        training: MixQTrainingConfig | None = None,
        config: MixQConfig | None = None,
        plan: BitPlan | str | Path | None = None,
        save_dir: str | Path | None = None,
        split: str | None = None,
        evaluation: Any = None,
        evaluation_split: str | None = None,
        trackers: Sequence[Any] = (),
    ) -> PreTrainedModel:
        """Return the packed model after quantization-aware training on images of `dataset`, and save it if asked to.

        `plan` is as in `quantize`; without one, a quantizer that has a plan uses it. With the data set `evaluation`
        the best epoch is kept, judged on those of its images that are not trained on; without it the last one is kept.
        Training that was stopped resumes when it is called with the same `save_dir`.
        """
        config = config or self._config_of_plan()
        target = require_target(save_dir, self.model)
        training = training or MixQTrainingConfig()
        require_lesson(task_of(self.model), training)
        plan = open_plan(plan, self.model)
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        if training.distillation < 1:  # then labels have to be the model's
            images = open_images(images, self.model, self.processor, "evaluation")
        images = watch(images)
        calibration = self.selection.calibration(images, config)
        require_reconstructible(self.model, calibration, config)
        chosen = self.plan if plan is None else settle_plan(plan, self.model, config, calibration)
        held: list[Batch] = []
        if evaluation is not None:
            self.selection.training(images)
            unseen = self._evaluation_images(evaluation, evaluation_split, None, 32)
            held = list(unseen)
            self.selection.tell(unseen)
        chosen = chosen or self._choose(images, calibration, config, target).plan
        quantized, history = train_model(
            self.model, chosen, calibration, images, config, training, held,
            None if target is None else work_folder(target), trackers, name_of(dataset),
        )  # fmt: skip
        self.selection.training(images)
        return self._finish(quantized, chosen, target, history)

    def measure_relevance(
        self,
        dataset: Any,
        config: MixQConfig | None = None,
        split: str | None = None,
        work: str | Path | None = None,
    ) -> LayerRelevance:
        """Return how much of the model's answer passes through each unit, on images of `dataset`.

        In the folder `work` it is kept, and taken from there when the same is measured again.
        """
        config = config or MixQConfig()
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        relevance = self._measurements(images, [], config, work).relevance
        self.known = dataclasses.replace(self.known, relevance=relevance)
        return relevance

    def measure_sensitivity(
        self,
        dataset: Any,
        config: MixQConfig | None = None,
        split: str | None = None,
        work: str | Path | None = None,
    ) -> SensitivityTable:
        """Return what each unit's bits cost the network, on images of `dataset`.

        In the folder `work` it is kept as it grows: a run that was stopped goes on from there.
        """
        config = config or MixQConfig()
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        calibration = self.selection.calibration(images, config)
        # Which budgets the table will serve is not known here.
        sensitivity = self._measurements(images, calibration, config, work, every_image=True).sensitivity
        self.known = dataclasses.replace(self.known, sensitivity=sensitivity)
        return sensitivity

    def allocate(
        self, relevance: LayerRelevance | None, sensitivity: SensitivityTable, config: MixQConfig | None = None
    ) -> BitPlan:
        """Return the best plan within the configuration's budget, from what was measured; nothing is run."""
        config = config or MixQConfig()
        costs = measure_costs(self.model, config.calibration, sensitivity.image_size)
        plan = best_plan(relevance, sensitivity, costs, config.budget)
        return add_certainty(plan, relevance, sensitivity, costs, config.budget)

    def sweep(
        self,
        relevance: LayerRelevance | None,
        sensitivity: SensitivityTable,
        average_bits: Sequence[float],
        config: MixQConfig | None = None,
    ) -> list[BitPlan]:
        """Return the best plan for each average of bits, from what was measured; nothing is run."""
        return sweep_plans(self.model, relevance, sensitivity, config or SWEEP, average_bits)

    def evaluate(
        self, dataset: Any, split: str | None = None, samples: int | None = None, batch_size: int = 32
    ) -> dict[str, Evaluation]:
        """Return the scores of the float and the packed model on the same images.

        Images that made the packed model are left out, with a warning that says how many.
        """
        result = self._require_result()
        models = {"float": self.model, "quantized": result.model}
        batches = self._evaluation_images(dataset, split, samples, batch_size)
        scores = score_together(models, batches)
        self.selection.tell(batches)
        found = compare(models, scores, batches, name_of(dataset) or "own images", split)
        self.result = dataclasses.replace(result, comparison=found.with_times_of(result.comparison))
        return scores

    def report(
        self,
        dataset: Any,
        save_dir: str | Path,
        split: str | None = None,
        samples: int | None = None,
        calibration_split: str | None = None,
        frontier: int = 5,
    ) -> Report:
        """Compare float, uniform and this model on images of `dataset`, and write report.html and report.json.

        The uniform model is calibrated on the same images as this one was. Where sensitivity was measured, `frontier`
        plans from the fewest to the most bits are calibrated, packed and run on the images too: each takes about as
        long as the uniform model, and the memory of a packed model while the images go by; 0 leaves them out. Where
        `save_dir` holds the packed model, its card is brought up to date.
        """
        result, config = self._require_result(), self._config_of_plan()
        images = open_images(dataset, self.model, self.processor, "calibration", calibration_split)
        calibration = self.selection.calibration(images, config)
        batches = self._evaluation_images(dataset, split, samples, config.batch_size)
        subject = Subject(self.model, result.model, result.plan, config, self.relevance, self.sensitivity)
        with threads_for(self.model):
            report = build_report(subject, calibration, batches, name_of(dataset) or "own images", split, frontier)
        self.selection.tell(batches)
        self.result = dataclasses.replace(result, comparison=report.comparison)
        save_report(report, save_dir)
        if (Path(save_dir) / "config.json").exists():
            self.result.write_card(Path(save_dir), Path(save_dir).name, self.model)
        return report

    def save_pretrained(self, save_dir: str | Path, name: str | None = None) -> None:
        """Write the packed model, its image processor, what was measured, and its card.

        `name` is what the card calls the model: a repository on the Hub, or by default the folder.
        """
        folder, result = Path(save_dir), self._require_result()
        served = self.selection.served
        save_folder(folder, name or folder.name, result, self.model, self.processor, self.known, served)

    def export(
        self,
        target: str,
        save_dir: str | Path,
        weights: str = "codes",
        attention: str = "integer",
        image_size: int | None = None,
        dataset: Any = None,
        split: str | None = None,
    ) -> Exported:
        """Write the packed model for an inference engine, "onnx" or "openvino", run it there, and say how it went.

        The options are explained in docs/deployment.md. The file is checked on images of `dataset`, or on generated
        ones, and one that fails is not left behind.
        """
        result = self._require_result()
        return export_model(
            result.model, result.plan, self.processor, target, save_dir, weights, attention, image_size, dataset, split
        )

    def push_to_hub(self, repo_id: str, token: str | bool | None = None, private: bool | None = None) -> str:
        """Upload the packed model, its image processor, what was measured, and its card; return the address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id)
            return upload(Path(folder), repo_id, token, private)

    def _finish(
        self, quantized: PreTrainedModel, plan: BitPlan, target: Path | None, history: Sequence[EpochResult] = ()
    ) -> PreTrainedModel:
        """Take the quantized model with all that belongs to it, and save it."""
        self.result = Quantized(quantized, plan, tuple(history))
        if target is not None:
            write_result(target, partial(self.save_pretrained, name=target.name))
        return quantized

    def _config_of_plan(self) -> MixQConfig:
        """Return the configuration that the quantized model was made with, else the default."""
        return MixQConfig() if self.result is None else dataclasses.replace(self.result.config, plan=None, record=None)

    def _choose(
        self, images: Images, calibration: Sequence[Tensor], config: MixQConfig, target: Path | None
    ) -> Choice:
        work = None if target is None else work_folder(target)
        choice = choose(self._measurements(images, calibration, config, work))
        self.known = Known(choice.relevance, choice.sensitivity)
        return choice

    def _measurements(
        self,
        images: Images,
        calibration: Sequence[Tensor],
        config: MixQConfig,
        work: str | Path | None,
        every_image: bool = False,
    ) -> Measurements:
        measurement, work = self.selection.measurement(images, config), make_work_folder(work)
        return Measurements(self.model, calibration, measurement, config, work, self.known, every_image)

    def _evaluation_images(
        self, dataset: Any, split: str | None, samples: int | None, batch_size: int
    ) -> UnseenBatches:
        images = open_images(dataset, self.model, self.processor, "evaluation", split)
        return self.selection.evaluation(images, samples, batch_size)

    def _require_result(self) -> Quantized:
        if self.result is None:
            raise ValueError("There is no quantized model yet: call quantize(config, dataset=...) first.")
        return self.result
