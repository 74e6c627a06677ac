# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantization-aware training with Accelerate: weights and grids learn together, the float model teaches."""

import copy
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from optimum_mixq.images.batches import Batch, Images
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.data import build_loader
from optimum_mixq.stages.training.groups import parameter_groups, suit_rates
from optimum_mixq.stages.training.objective import Objective, require_lesson
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.meters import join_meters
from optimum_mixq.utils.files import write_json
from optimum_mixq.utils.progress import progress_bar


if TYPE_CHECKING:
    from accelerate import Accelerator

# Accelerate is imported where training starts: `import optimum_mixq` should not wait for it.

# Steps from one loss that the progress bar shows to the next.
SHOWN_STEPS = 10


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to; accuracy is None without labels."""

    epoch: int
    loss: float  # mean over the epoch's training images
    accuracy: float | None
    kl: float | None  # to the float model, on the evaluation images
    seconds: float
    kept: bool = False  # whether training ended with the weights of this epoch; with none of them, with the start's


def train(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    images: Images,
    config: MixQTrainingConfig,
    evaluation: Sequence[Batch] = (),
    work: str | Path | None = None,
    trackers: Sequence[Any] = (),
) -> list[EpochResult]:
    """Train what `make_trainable` returned, in place, and leave the best epoch's weights in it, in eval mode.

    The best epoch has the highest accuracy on `evaluation`, or the least KL to the teacher where there are no labels;
    the start counts too. Without evaluation images it is the last. With the folder `work` the state is saved as
    training goes on, and a run that was stopped continues where it was. Under `accelerate launch` a batch is spread
    over the processes.
    """
    return _Training(model, teacher, images, config, evaluation, work, trackers).run()


class _Training:
    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        images: Images,
        config: MixQTrainingConfig,
        evaluation: Sequence[Batch],
        work: str | Path | None,
        trackers: Sequence[Any],
    ) -> None:
        config = suit_rates(model, config)
        self.config, self.evaluation = config, evaluation
        self.work = None if work is None else Path(work)
        self.accelerator = _accelerator(config, trackers, self.work)
        self.task = task_of(teacher)
        require_lesson(self.task, config)
        loader = build_loader(images, config, self.task)
        self.steps_per_epoch = len(loader) // config.gradient_accumulation_steps
        self.total_steps = min(config.max_steps or math.inf, config.epochs * self.steps_per_epoch)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(parameter_groups(model, config))
        scheduler = get_cosine_schedule_with_warmup(
            optimizer, round(config.warmup * self.total_steps), int(self.total_steps)
        )
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            model, optimizer, loader, scheduler
        )
        self.teacher = copy.deepcopy(teacher).to(self.accelerator.device).eval().requires_grad_(False)
        self.objective = Objective(self.model, self.teacher, config, self.accelerator, int(self.total_steps))
        self.average = None
        if config.ema:
            plain = self.accelerator.unwrap_model(self.model)
            self.average = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
            self.accelerator.register_for_checkpointing(self.average)
        self.history: list[EpochResult] = []
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.kept: int | None = None  # the epoch that `best` is of; None is the start
        self.step = 0

    def run(self) -> list[EpochResult]:
        self._resume()
        bar = progress_bar(int(self.total_steps), "Training", "step", shown=self.accelerator.is_main_process)
        bar.update(self.step)
        if self.step == 0:
            self._keep_best(None, *self._evaluate())  # training may not make it better
        while self.step < self.total_steps:
            self._run_epoch(self.step // self.steps_per_epoch, bar)
        bar.close()
        self.accelerator.end_training()
        plain = self.accelerator.unwrap_model(self.model)
        if self.best is not None:
            plain.load_state_dict(self.best[1])
        elif self.average is not None:
            plain.load_state_dict(self.average.module.state_dict())
        plain.eval()
        return [replace(result, kept=result.epoch == self.kept) for result in self.history]

    def _run_epoch(self, epoch: int, bar: Any) -> None:
        started, losses = time.perf_counter(), []
        done = self.step % self.steps_per_epoch
        parts = self.config.gradient_accumulation_steps
        loader = self.accelerator.skip_first_batches(self.loader, done * parts) if done else self.loader
        loader.set_epoch(epoch)  # Accelerate hands its own count on to the sampler, which starts anew when resumed
        self.model.train()
        for number, (pixels, targets) in enumerate(loader):
            if number >= (self.steps_per_epoch - done) * parts:
                break  # what is left does not fill a batch
            with self.accelerator.accumulate(self.model):
                loss = self.objective.loss(pixels, targets, self.step, number % parts)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            losses.append(loss.detach())
            if self.accelerator.sync_gradients:
                self._finish_step(bar, loss)
                if self.step >= self.total_steps:
                    break
        loss_mean = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))
        accuracy, kl = self._evaluate()
        result = EpochResult(epoch, loss_mean, accuracy, kl, time.perf_counter() - started)
        self.history.append(result)
        told = {name: value for name, value in asdict(result).items() if value is not None and name != "kept"}
        self.accelerator.log(told, step=self.step)
        self._keep_best(epoch, accuracy, kl)
        self._save_state()

    def _finish_step(self, bar: Any, loss: Tensor) -> None:
        self.step += 1
        if self.average is not None:
            self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        bar.update()
        if self.step % SHOWN_STEPS == 0:  # asking for a number waits for the device
            bar.set_postfix(loss=f"{float(loss.detach()):.4f}")
        at_end = self.step % self.steps_per_epoch == 0
        if self.config.save_steps and self.step % self.config.save_steps == 0 and not at_end:
            self._save_state()

    @torch.no_grad()
    def _evaluate(self) -> tuple[float | None, float | None]:
        """Return accuracy and KL to the teacher of what will be kept, on the evaluation images."""
        from accelerate.utils import gather_object

        if not self.evaluation:
            return None, None
        model = self.average.module if self.average is not None else self.accelerator.unwrap_model(self.model)
        model.eval()
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        sums = torch.zeros(3, dtype=torch.float64)  # images, labelled images, KL
        meter = self.task.meter()
        for batch in self.evaluation[rank::processes]:
            pixels = batch.pixel_values.to(self.accelerator.device)
            logits, reference = run_model(model, pixels), run_model(self.teacher, pixels)
            sums[0] += len(batch)
            sums[2] += float(self.task.divergence(logits.double(), reference.double()).sum())
            if batch.labels is not None and self.task.has_loss:
                sums[1] += len(batch)
                meter.add(logits.float().cpu(), batch.labels)
        images, labelled, kl = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").tolist()
        return (join_meters(gather_object([meter])).value() if labelled == images else None), kl / images

    def _keep_best(self, epoch: int | None, accuracy: float | None, kl: float | None) -> None:
        if kl is None:
            self.kept = epoch  # without evaluation images it is the last
            return
        merit = accuracy if accuracy is not None else -kl
        if self.best is None or merit > self.best[0]:
            model = self.average.module if self.average is not None else self.accelerator.unwrap_model(self.model)
            self.kept = epoch
            self.best = merit, {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def _save_state(self) -> None:
        """Write beside and rename, so that a process that is killed finds the state before or after."""
        if self.work is None:
            return
        unfinished, state = self.work / ".state.unfinished", self.work / "state"
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(unfinished))
        self.accelerator.wait_for_everyone()  # each process writes its own random state into the folder
        if self.accelerator.is_main_process:
            if self.best is not None:
                torch.save(self.best, unfinished / "best.pt")
            record = {
                "config": asdict(self.config), "step": self.step, "kept": self.kept,
                "history": [asdict(r) for r in self.history],
            }  # fmt: skip
            write_json(unfinished / "training.json", record)
            shutil.rmtree(state, ignore_errors=True)
            unfinished.rename(state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        if self.work is None or not (self.work / "state" / "training.json").exists():
            return
        state = self.work / "state"
        record = json.loads((state / "training.json").read_text(encoding="utf-8"))
        different = [name for name, value in asdict(self.config).items() if record["config"].get(name) != value]
        if different:
            raise ValueError(
                f"{state} holds a training with other {', '.join(different)}. Delete it to train anew, or choose "
                "another folder."
            )
        self.accelerator.load_state(str(state))
        self.step, self.history = record["step"], [EpochResult(**result) for result in record["history"]]
        self.kept = record.get("kept")
        if (state / "best.pt").exists():
            self.best = torch.load(state / "best.pt", map_location="cpu", weights_only=True)


def _accelerator(config: MixQTrainingConfig, trackers: Sequence[Any], work: Path | None) -> "Accelerator":
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.mixed_precision:
        # Accelerate 1.14 keeps one precision per process, also when an earlier training has ended.
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        # A batch is a batch, on one process or many: so the same training comes out.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration() if work is None else ProjectConfiguration(project_dir=str(work)),
    )
    if trackers:
        accelerator.init_trackers("optimum-mixq", asdict(config))
    return accelerator
