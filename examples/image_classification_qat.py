# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantization-aware training with a loop of one's own, on one process or many.

    python examples/image_classification_qat.py --model optimum_mixq/demo/models/vit --dataset optimum_mixq/demo/images
    accelerate launch --num_processes 2 examples/image_classification_qat.py --model ... --dataset ...

`MixQQuantizer.train` runs such a loop with more options; this one is here to be changed.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, get_cosine_schedule_with_warmup

from optimum_mixq import (
    BitPlan,
    MixQConfig,
    MixQTrainingConfig,
    open_images,
    pack_trained,
    parameter_groups,
    prepare_for_training,
)
from optimum_mixq.stages.training.data import TrainingImages
from optimum_mixq.stages.training.metrics import load_accuracy
from optimum_mixq.tasks import task_of


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a float model on the Hub or a folder")
    parser.add_argument("--dataset", required=True, help="an image folder, or a data set on the Hub")
    parser.add_argument("--plan", type=Path, help="bits of every unit, as `optimum-cli mixq sweep` writes them")
    parser.add_argument("--bits", type=int, default=2, help="uniform bits where there is no plan")
    parser.add_argument("--output", type=Path, default=Path("trained"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="per process")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--gradient-accumulation-steps", type=int, default=1)
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--resume-from", type=Path, help="a folder epoch-N of an earlier run")
    parser.add_argument("--with-tracking", action="store_true", help="log to all trackers that are installed")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    accelerator = Accelerator(
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        mixed_precision=arguments.mixed_precision,
        log_with="all" if arguments.with_tracking else None,
        project_dir=str(arguments.output),
    )
    set_seed(arguments.seed)
    teacher = AutoModelForImageClassification.from_pretrained(arguments.model, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    images = open_images(arguments.dataset, teacher, processor, "calibration")
    held = open_images(arguments.dataset, teacher, processor, "evaluation")

    # Calibrate before `prepare`: DistributedDataParallel copies what the first process has to the others.
    plan = BitPlan.load(arguments.plan) if arguments.plan else BitPlan.uniform(teacher, arguments.bits)
    calibration = [next(images.batches(range(32), 32)).pixel_values]
    model = prepare_for_training(teacher, plan, calibration, MixQConfig(seed=arguments.seed))

    task = task_of(teacher)
    recipe = MixQTrainingConfig(flip=False, learning_rate=arguments.learning_rate, seed=arguments.seed)
    loader = DataLoader(
        TrainingImages(images, recipe, task), batch_size=arguments.batch_size, shuffle=True, drop_last=True
    )
    held_loader = DataLoader(TrainingImages(held, MixQTrainingConfig(flip=False, shift=0.0), task), batch_size=64)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe))
    steps = arguments.epochs * (len(loader) // arguments.gradient_accumulation_steps)
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(0.05 * steps), steps)
    model, optimizer, loader, held_loader, scheduler = accelerator.prepare(
        model, optimizer, loader, held_loader, scheduler
    )
    teacher.to(accelerator.device)
    if arguments.with_tracking:
        accelerator.init_trackers("image_classification_qat", vars(arguments))
    first = 0
    if arguments.resume_from:
        accelerator.load_state(str(arguments.resume_from))
        first = int(arguments.resume_from.name.rpartition("-")[2]) + 1

    for epoch in range(first, arguments.epochs):
        model.train()
        for pixels, _ in tqdm(loader, disable=not accelerator.is_local_main_process, desc=f"Epoch {epoch}"):
            with accelerator.accumulate(model):
                with torch.no_grad():
                    reference = teacher(pixel_values=pixels).logits
                loss = task.divergence(model(pixel_values=pixels).logits, reference).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        accuracy = evaluate_top1(accelerator, model, held_loader)
        accelerator.print(f"epoch {epoch}: loss {loss.item():.4f}, top-1 {100 * accuracy:.2f} %")
        accelerator.log({"accuracy": accuracy, "loss": loss.item()}, step=epoch)
        accelerator.save_state(str(arguments.output / f"epoch-{epoch}"))

    accelerator.end_training()
    if accelerator.is_main_process:
        packed = pack_trained(accelerator.unwrap_model(model))
        packed.save_pretrained(arguments.output / "packed")
        processor.save_pretrained(arguments.output / "packed")
        print(f"The packed model is {arguments.output / 'packed'}")


@torch.no_grad()
def evaluate_top1(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader) -> float:
    metric = load_accuracy()
    model.eval()
    for pixels, targets in loader:
        predictions, labels = model(pixel_values=pixels).logits.argmax(-1), targets.argmax(-1)
        # Leaves out the images that fill up the last batch of some processes.
        predictions, labels = accelerator.gather_for_metrics((predictions, labels))
        metric.add_batch(predictions=predictions.cpu(), references=labels.cpu())
    return metric.compute()["accuracy"]


if __name__ == "__main__":
    main()
