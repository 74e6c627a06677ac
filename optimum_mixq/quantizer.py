# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""`MixQQuantizer`: from a model and a few images to a packed model on disk or on the Hub."""

import dataclasses
import os
import shutil
import tempfile
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
from optimum_mixq.card import Evaluated, Timing, model_card
from optimum_mixq.config import MixQConfig
from optimum_mixq.data import Batch, Images, draw_rows, exclude_fingerprints
from optimum_mixq.file_size import saved_bytes
from optimum_mixq.pipeline import (
    choose_plan,
    plan_within_budget,
    quantize_model,
    relate,
    sense,
    sweep_plans,
    train_model,
)
from optimum_mixq.report import Report
from optimum_mixq.reporting import build_report
from optimum_mixq.sharing import appearing_folder, megabytes_of, require_empty, upload
from optimum_mixq.sources import open_images
from optimum_mixq.stages.evaluation import Evaluation, measure_logits, score
from optimum_mixq.stages.training import EpochResult
from optimum_mixq.training_config import MixQTrainingConfig


# One measurement for all averages from 2 to 6 bits.
SWEEP = MixQConfig(candidate_bits=(2, 3, 4, 5, 6))


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
        self.quantized: PreTrainedModel | None = None
        self.plan: BitPlan | None = None
        self.relevance: LayerRelevance | None = None
        self.sensitivity: SensitivityTable | None = None
        self.evaluated: Evaluated | None = None
        self.timing: Timing | None = None
        self.history: list[EpochResult] = []  # of the last training
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
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        device_map: str | dict[str, Any] | None = None,
    ) -> "MixQQuantizer":
        """Return the quantizer of a model on the Hub, in a folder, or in memory, with its image processor.

        Calibration and relevance want float32; they run on the model's device.
        """
        if isinstance(model_or_path, torch.nn.Module):
            return cls(model_or_path if device is None else model_or_path.to(device), processor)
        where = {
            "revision": revision or "main", "token": token, "cache_dir": cache_dir,
            "local_files_only": local_files_only, "trust_remote_code": trust_remote_code,
        }  # fmt: skip
        model = AutoModelForImageClassification.from_pretrained(
            model_or_path, dtype=dtype, device_map=device_map, **where
        )
        if device is not None:
            model = model.to(device)
        return cls(model, processor or AutoImageProcessor.from_pretrained(model_or_path, **where))

    @classmethod
    def reopen(
        cls,
        folder: str | Path,
        float_model: PreTrainedModel | str | Path | None = None,
        token: str | bool | None = None,
    ) -> "MixQQuantizer":
        """Return the quantizer of a packed model that was saved before, with what was measured for it."""
        packed = AutoModelForImageClassification.from_pretrained(folder, token=token)
        config = getattr(packed.config, "quantization_config", None)
        if not isinstance(config, MixQConfig):
            raise ValueError(f"Expected a model that optimum-mixq quantized in {folder}, found a float one.")
        base = float_model or (config.record or {}).get("base_model")
        if base is None:
            raise ValueError(f"{folder} does not say which float model it was made from: name it (--float-model).")
        processor = AutoImageProcessor.from_pretrained(folder, token=token)
        quantizer = cls.from_pretrained(base, processor, token=token)
        _require_same_shape(quantizer.model, packed, str(folder))
        quantizer.quantized, quantizer.plan = packed, BitPlan(config.plan or {})
        if (Path(folder) / "mixq_plan.json").exists():
            quantizer.plan = BitPlan.load(Path(folder) / "mixq_plan.json")
        quantizer._take_measurements(folder)
        return quantizer

    def load_measurements(self, folder: str | Path) -> None:
        """Take the relevance and sensitivity that lie in a folder, so that they are not measured again."""
        if not self._take_measurements(folder):
            raise ValueError(
                f"Expected a folder with measurements (mixq_relevance.json, mixq_sensitivity.json), found none in "
                f"{folder}. `optimum-cli mixq sweep` writes them, and quantizing with a mixed plan does."
            )

    def _take_measurements(self, folder: str | Path) -> bool:
        """Take what a folder holds, and return whether it holds something."""
        relevance, sensitivity = Path(folder) / "mixq_relevance.json", Path(folder) / "mixq_sensitivity.json"
        if relevance.exists():
            self.relevance = LayerRelevance.load(relevance)
        if sensitivity.exists():
            self.sensitivity = SensitivityTable.load(sensitivity)
        return relevance.exists() or sensitivity.exists()

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
        best plan within the configuration's budget is chosen. What this quantizer measured before is used again where
        it fits. What was measured so far lies beside `save_dir`, so that a run that was stopped goes on when it is
        called again.
        """
        config = config or MixQConfig()
        target = None if save_dir is None else require_empty(Path(save_dir))
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        if plan is None:
            work = None if target is None else target.with_name(f".{target.name}.work")
            self.plan = self._choose_plan(images, config, work)
        else:
            self.plan = self._read_plan(plan, config)
        pixel_batches = self._calibration_batches(images, config)
        self.quantized = quantize_model(self.model, self.plan, pixel_batches, config, _name_of(dataset))
        self.evaluated = self.timing = None
        self._save(target)
        return self.quantized

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

        `plan` is as in `quantize`; a quantizer that has one goes on with it. With the data set `evaluation` the
        best epoch is kept, else the last one. A training that was stopped goes on when it is called with the same
        `save_dir`.
        """
        config = config or self._config_of_plan()
        target = None if save_dir is None else require_empty(Path(save_dir))
        work = None if target is None else target.with_name(f".{target.name}.work")
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        calibration = self._calibration_batches(images, config)
        if plan is not None:
            self.plan = self._read_plan(plan, config)
        elif self.plan is None:
            self.plan = self._choose_plan(images, config, work)
        held = [] if evaluation is None else self._evaluation_batches(evaluation, evaluation_split, None, 32)
        self.quantized, self.history = train_model(
            self.model, self.plan, calibration, images, config, training or MixQTrainingConfig(), held, work,
            trackers, _name_of(dataset),
        )  # fmt: skip
        self.evaluated = self.timing = None
        self._save(target)
        return self.quantized

    def measure_relevance(
        self, dataset: Any, config: MixQConfig | None = None, split: str | None = None
    ) -> LayerRelevance:
        """Return how much of the classification passes through each unit, on images of `dataset`."""
        config = config or MixQConfig()
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        batches = self._sensitivity_batches(images, config)
        self.relevance = relate(self.model, batches, config, known=self.relevance)
        return self.relevance

    def measure_sensitivity(
        self, dataset: Any, config: MixQConfig | None = None, split: str | None = None
    ) -> SensitivityTable:
        """Return what each unit's bits cost the network, on images of `dataset`."""
        config = config or MixQConfig()
        images = open_images(dataset, self.model, self.processor, "calibration", split)
        batches = self._sensitivity_batches(images, config)
        calibration = self._calibration_batches(images, config)
        self.sensitivity = sense(self.model, calibration, batches, config, known=self.sensitivity)
        return self.sensitivity

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
        batches = self._evaluation_batches(dataset, split, samples, batch_size)
        reference, labels = measure_logits(self.model, batches)
        logits, _ = measure_logits(quantized, batches)
        scores = {"float": score(reference, labels), "quantized": score(logits, labels, reference)}
        self.evaluated = Evaluated(_name_of(dataset) or "own images", split, scores["float"], scores["quantized"])
        return scores

    def report(
        self,
        dataset: Any,
        save_dir: str | Path,
        split: str | None = None,
        samples: int | None = None,
        calibration_split: str | None = None,
    ) -> Report:
        """Compare float, uniform and this model on images of `dataset`, and write report.html and report.json.

        The uniform model is calibrated on the same images as this one was. Where `save_dir` holds the packed model,
        its card is brought up to date.
        """
        quantized, plan, config = self._require_quantized(), self._require_plan(), self._config_of_plan()
        images = open_images(dataset, self.model, self.processor, "calibration", calibration_split)
        calibration = self._calibration_batches(images, config)
        batches = self._evaluation_batches(dataset, split, samples, config.batch_size)
        report, self.evaluated, self.timing = build_report(
            self.model, quantized, plan, self.relevance, self.sensitivity, config, calibration, batches,
            _name_of(dataset) or "own images", split,
        )  # fmt: skip
        report.save(save_dir)
        if (Path(save_dir) / "config.json").exists():
            self._write_card(Path(save_dir), Path(save_dir).name)
        return report

    def save_pretrained(self, save_dir: str | Path, name: str | None = None) -> None:
        """Write the packed model, its image processor, what was measured, and its card.

        `name` is what the card calls the model: a repository on the Hub, or by default the folder.
        """
        folder = Path(save_dir)
        self._require_quantized().save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        for kind, artefact in (
            ("plan", self.plan),
            ("relevance", self.relevance),
            ("sensitivity", self.sensitivity),
        ):
            if artefact is not None:
                artefact.save(folder / f"mixq_{kind}.json")
        self._write_card(folder, name or folder.name)

    def push_to_hub(self, repo_id: str, token: str | bool | None = None, private: bool | None = None) -> str:
        """Upload the packed model, its image processor, what was measured, and its card; return the address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id)
            return upload(Path(folder), repo_id, token, private)

    def _save(self, target: Path | None) -> None:
        if target is not None and _is_main_process():
            with appearing_folder(target) as folder:
                self.save_pretrained(folder, target.name)
            shutil.rmtree(target.with_name(f".{target.name}.work"), ignore_errors=True)

    def _config_of_plan(self) -> MixQConfig:
        """Return the configuration that the quantized model was made with, else the default."""
        config = None if self.quantized is None else self.quantized.config.quantization_config
        return MixQConfig() if config is None else dataclasses.replace(config, plan=None, record=None)

    def _write_card(self, folder: Path, name: str) -> None:
        quantized = self._require_quantized()
        card = model_card(
            quantized.config.quantization_config,
            self._require_plan(),
            quantized.config.model_type,
            megabytes_of(folder),
            saved_bytes(self.model) / 1e6,
            name,
            Path(self.model.name_or_path).name or "MODEL",
            self.evaluated,
            self.timing,
        )
        card.save(folder / "README.md")

    def _choose_plan(self, images: Images, config: MixQConfig, work: Path | None) -> BitPlan:
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        plan, self.relevance, self.sensitivity = choose_plan(
            self.model,
            self._calibration_batches(images, config),
            self._sensitivity_batches(images, config),
            config,
            work,
            (self.relevance, self.sensitivity),
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

    def _evaluation_batches(
        self, dataset: Any, split: str | None, samples: int | None, batch_size: int
    ) -> list[Batch]:
        images = open_images(dataset, self.model, self.processor, "evaluation", split)
        rows = draw_rows(images, samples, seed=0)
        return list(exclude_fingerprints(images.batches(rows, batch_size), frozenset(self._seen)))

    def _require_quantized(self) -> PreTrainedModel:
        if self.quantized is None:
            raise ValueError("There is no quantized model yet: call quantize(config, dataset=...) first.")
        return self.quantized

    def _require_plan(self) -> BitPlan:
        assert self.plan is not None  # what is quantized has a plan
        return self.plan


def _require_same_shape(model: PreTrainedModel, packed: PreTrainedModel, folder: str) -> None:
    """Raise a ValueError if a packed model cannot have been made from this float one."""
    for name in _SHAPE:
        here, there = (getattr(config, name, None) for config in (model.config, packed.config))
        if here != there:
            raise ValueError(
                f"The float model does not match the packed one in {folder}: its {name} is {here!r}, the packed one's "
                f"is {there!r}. Name the model that it was made from (--float-model)."
            )


# Options of ViT, DeiT and Swin configurations that the tensors' shapes follow from.
_SHAPE = (
    "model_type", "num_labels", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "embed_dim", "depths", "num_heads", "window_size", "image_size", "patch_size", "num_channels",
)  # fmt: skip


def _is_main_process() -> bool:
    """Return whether this process is to write: the first one under `accelerate launch`, else any."""
    return os.environ.get("RANK", "0") == "0"


def _name_of(dataset: Any) -> str | None:
    """Return the name of a data set, or of a folder without the path that leads to it on this machine."""
    if not isinstance(dataset, (str, Path)):
        return None
    return Path(dataset).name if Path(dataset).is_absolute() else str(dataset)
