# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`MixQQuantizer`: from a model and a few images to a packed model on disk or on the Hub."""

from pathlib import Path
from typing import Any

import torch
from optimum.quantization_base import OptimumQuantizer
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from optimum_mixq.architectures import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.data import draw_rows, exclude_fingerprints, open_images
from optimum_mixq.pipeline import quantize_model
from optimum_mixq.stages.evaluation import Evaluation, measure_logits, score


class MixQQuantizer(OptimumQuantizer):
    """Quantizes one float model; the model itself is left as it is."""

    def __init__(self, model: PreTrainedModel, processor: BaseImageProcessor | None) -> None:
        super().__init__()
        describe(model)  # raises for what is not supported, before any work is done
        self.model, self.processor = model, processor
        self.quantized: PreTrainedModel | None = None
        self._seen: frozenset[str] = frozenset()

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
        plan: BitPlan | None = None,
        split: str | None = None,
    ) -> PreTrainedModel:
        """Return the packed model, calibrated on images of `dataset`, and save it with its processor if asked to.

        Without a plan every unit gets the bits of the configuration.
        """
        config = config or MixQConfig()
        plan = plan or BitPlan.uniform(self.model, config.bits)
        target = None if save_dir is None else _require_empty(Path(save_dir))
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        rows = draw_rows(images, config.calibration_samples, config.seed)
        batches = list(images.batches(rows, config.batch_size))
        self._seen = frozenset(digest for batch in batches for digest in batch.fingerprints)
        self.quantized = quantize_model(self.model, plan, [batch.pixel_values for batch in batches], config)
        if target is not None:
            # Written beside and renamed: who stops in the middle finds no half a model.
            unfinished = target.with_name(f".{target.name}.unfinished")
            self.save_pretrained(unfinished)
            unfinished.replace(target)
        return self.quantized

    def evaluate(
        self, dataset: Any, split: str | None = None, samples: int | None = None, batch_size: int = 32
    ) -> dict[str, Evaluation]:
        """Return the scores of the float and the packed model on the same images; calibration's are left out."""
        quantized = self._require_quantized()
        images = open_images(dataset, self.model, self.processor, "evaluation", split)
        rows = draw_rows(images, samples, seed=0)
        batches = list(exclude_fingerprints(images.batches(rows, batch_size), self._seen))
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

    def _require_quantized(self) -> PreTrainedModel:
        if self.quantized is None:
            raise ValueError("There is no quantized model yet: call quantize(config, dataset=...) first.")
        return self.quantized


def _require_empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder. Choose another one, or empty it.")
    return folder
