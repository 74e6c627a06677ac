# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`MixQQuantizer`: from a model and a few images to a packed model on disk or on the Hub."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from optimum.quantization_base import OptimumQuantizer
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures import describe
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.data import Batch, Images, draw_rows, exclude_fingerprints, open_images
from optimum_mixq.pipeline import choose_plan, plan_within_budget, quantize_model, sense, sweep_plans
from optimum_mixq.stages.evaluation import Evaluation, measure_logits, score
from optimum_mixq.stages.relevance import measure_relevance


# One measurement for all averages from 2 to 6 bits.
SWEEP = MixQConfig(candidate_bits=(2, 3, 4, 5, 6))


class MixQQuantizer(OptimumQuantizer):
    """Quantizes one float model; the model itself is left as it is."""

    def __init__(self, model: PreTrainedModel, processor: BaseImageProcessor | None) -> None:
        super().__init__()
        describe(model)  # raises for what is not supported, before any work is done
        self.model, self.processor = model, processor
        self.quantized: PreTrainedModel | None = None
        self.plan: BitPlan | None = None
        self.relevance: LayerRelevance | None = None
        self.sensitivity: SensitivityTable | None = None
        self._seen: set[str] = set()

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
    ) -> "MixQQuantizer":
        """Return the quantizer of a model on the Hub, in a folder, or in memory, with its image processor."""
        if isinstance(model_or_path, PreTrainedModel):
            return cls(model_or_path, processor)
        where = {
            "revision": revision or "main", "token": token, "cache_dir": cache_dir,
            "local_files_only": local_files_only, "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        model = AutoModelForImageClassification.from_pretrained(model_or_path, dtype=torch.float32, **where)
        return cls(model, processor or AutoImageProcessor.from_pretrained(model_or_path, **where))

    def quantize(
        self,
        config: MixQConfig | None = None,
        dataset: Any = None,
        save_dir: str | Path | None = None,
        plan: BitPlan | str | Path | None = None,
        split: str | None = None,
    ) -> PreTrainedModel:
        """Return the packed model, calibrated on images of `dataset`, and save it with its processor if asked to.

        `plan` is a `BitPlan`, the path of one, or "uniform". Without it relevance and sensitivity are measured and the
        best plan within the configuration's budget is chosen. What was measured so far lies beside `save_dir`, so that
        a run that was stopped goes on when it is called again.
        """
        config = config or MixQConfig()
        target = None if save_dir is None else _require_empty(Path(save_dir))
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        if plan is None:
            work = None if target is None else target.with_name(f".{target.name}.work")
            self.plan = self._choose_plan(images, config, work)
        else:
            self.plan = self._read_plan(plan, config)
        pixel_batches = self._calibration_batches(images, config)
        self.quantized = quantize_model(self.model, self.plan, pixel_batches, config)
        if target is not None:
            self._save_atomically(target)
        return self.quantized

    def measure_relevance(
        self, dataset: Any, config: MixQConfig | None = None, split: str | None = None
    ) -> LayerRelevance:
        """Return how much of the classification passes through each unit, on images of `dataset`."""
        config = config or MixQConfig()
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        batches = self._sensitivity_batches(images, config)
        return measure_relevance(self.model, batches, config.score, sum(map(len, batches)))

    def measure_sensitivity(
        self, dataset: Any, config: MixQConfig | None = None, split: str | None = None
    ) -> SensitivityTable:
        """Return what each unit's bits cost the network, on images of `dataset`."""
        config = config or MixQConfig()
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        batches = self._sensitivity_batches(images, config)
        return sense(self.model, self._calibration_batches(images, config), batches, config)

    def allocate(
        self, relevance: LayerRelevance | None, sensitivity: SensitivityTable, config: MixQConfig | None = None
    ) -> BitPlan:
        """Return the best plan within the configuration's budget, from what was measured; nothing is run."""
        return plan_within_budget(self.model, relevance, sensitivity, config or MixQConfig())

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
        """Return the scores of the float and the packed model on the same images; calibration's are left out."""
        quantized = self._require_quantized()
        images = open_images(dataset, self.model, self.processor, "evaluation", split)
        rows = draw_rows(images, samples, seed=0)
        batches = list(exclude_fingerprints(images.batches(rows, batch_size), frozenset(self._seen)))
        reference, labels = measure_logits(self.model, batches)
        logits, _ = measure_logits(quantized, batches)
        return {"float": score(reference, labels), "quantized": score(logits, labels, reference)}

    def save_pretrained(self, save_dir: str | Path) -> None:
        self._require_quantized().save_pretrained(save_dir)
        if self.processor is not None:
            self.processor.save_pretrained(save_dir)

    def push_to_hub(self, repo_id: str, token: str | bool | None = None, private: bool | None = None) -> None:
        """Upload the packed model and its image processor."""
        self._require_quantized().push_to_hub(repo_id, token=token, private=private)
        if self.processor is not None:
            self.processor.push_to_hub(repo_id, token=token, private=private)

    def _choose_plan(self, images: Images, config: MixQConfig, work: Path | None) -> BitPlan:
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        plan, self.relevance, self.sensitivity = choose_plan(
            self.model,
            self._calibration_batches(images, config),
            self._sensitivity_batches(images, config),
            config,
            None if work is None else work / "sensitivity.json",
        )
        return plan

    def _read_plan(self, plan: BitPlan | str | Path, config: MixQConfig) -> BitPlan:
        if isinstance(plan, BitPlan):
            return plan
        if plan != "uniform":
            return BitPlan.load(plan)
        if config.bits is None or isinstance(config.bits, float):
            raise ValueError(f"Expected whole bits for a uniform plan, found {config.bits!r}.")
        return BitPlan.uniform(self.model, config.bits)

    def _calibration_batches(self, images: Images, config: MixQConfig) -> list[Tensor]:
        rows = draw_rows(images, config.calibration_samples, config.seed)
        batches = list(images.batches(rows, config.batch_size))
        self._seen |= {digest for batch in batches for digest in batch.fingerprints}
        return [batch.pixel_values for batch in batches]

    def _sensitivity_batches(self, images: Images, config: MixQConfig) -> list[Batch]:
        """Return as many images as are asked for, or all that there are."""
        rows = draw_rows(images, min(len(images), config.sensitivity_samples), config.seed)
        batches = list(images.batches(rows, config.batch_size))
        self._seen |= {digest for batch in batches for digest in batch.fingerprints}
        return batches

    def _save_atomically(self, target: Path) -> None:
        """Write beside and rename: who stops in the middle finds no half a model."""
        unfinished = target.with_name(f".{target.name}.unfinished")
        self.save_pretrained(unfinished)
        for name, artefact in (
            ("plan", self.plan),
            ("relevance", self.relevance),
            ("sensitivity", self.sensitivity),
        ):
            if artefact is not None:
                artefact.save(unfinished / f"mixq_{name}.json")
        unfinished.replace(target)
        shutil.rmtree(target.with_name(f".{target.name}.work"), ignore_errors=True)

    def _require_quantized(self) -> PreTrainedModel:
        if self.quantized is None:
            raise ValueError("There is no quantized model yet: call quantize(config, dataset=...) first.")
        return self.quantized


def _require_empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder. Choose another one, or empty it.")
    return folder
