# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Quantizes models of published sizes with random weights, and loads them in another process.

    python benchmarks/published_sizes.py                       # all but those that need more than 8 GB
    python benchmarks/published_sizes.py --models swin-base    # one of them
    python benchmarks/published_sizes.py --table               # print what was measured before

For each model a mixed plan is chosen on four images of noise and saved; a fresh process loads the folder, compares the
outputs with the saved ones, and runs the pipeline of the model's task. What fails ends with an error, and has no row.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from common import machine, read_results, write_result
from PIL import Image
from transformers import PreTrainedModel

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.describe import configured_image_size
from optimum_mixq.tasks import run_model, task_of
from optimum_mixq.tasks.loading import class_that_loads
from optimum_mixq.utils.file_size import megabytes_of, saved_bytes


FILE = "published_sizes.jsonl"
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
WIDE = LARGE | {"intermediate_size": 4096}
NECK = [256, 512, 1024, 1024]
GIANT = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
# DINOv2's own processor makes images of 224 pixels; its position embeddings are those of 518.
DINOV2 = {"image_size": 518, "patch_size": 14}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "deit-tiny": lambda: hf.DeiTForImageClassification(
        hf.DeiTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    ),
    "deit-base-distilled": lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig()),
    "vit-large": lambda: hf.ViTForImageClassification(hf.ViTConfig(**WIDE)),
    "swin-base": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
    ),
    "swinv2-tiny": lambda: hf.Swinv2ForImageClassification(hf.Swinv2Config(image_size=256, window_size=8)),
    "beit-base": lambda: hf.BeitForImageClassification(hf.BeitConfig(use_relative_position_bias=True)),
    "clip-vit-large-14": lambda: hf.CLIPVisionModelWithProjection(
        hf.CLIPVisionConfig(**WIDE, patch_size=14, projection_dim=768)
    ),
    "siglip-base": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig()),
    "dinov2-base": lambda: hf.Dinov2Model(hf.Dinov2Config(**DINOV2)),
    "dinov2-large": lambda: hf.Dinov2Model(hf.Dinov2Config(**LARGE, **DINOV2)),
    "dinov3-vits16": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(num_register_tokens=4)),
    "dinov3-vitb16": lambda: hf.DINOv3ViTModel(
        hf.DINOv3ViTConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_register_tokens=4)
    ),
    "segformer-b0": lambda: hf.SegformerForSemanticSegmentation(hf.SegformerConfig(num_labels=150)),
    "segformer-b2": lambda: hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(
            num_labels=150, depths=[3, 4, 6, 3], hidden_sizes=[64, 128, 320, 512], decoder_hidden_size=768
        )
    ),
    "upernet-swin-tiny": lambda: hf.UperNetForSemanticSegmentation(
        hf.UperNetConfig(
            backbone_config=hf.SwinConfig(
                image_size=512, depths=[2, 2, 6, 2], out_features=["stage1", "stage2", "stage3", "stage4"]
            ),
            num_labels=150,
            auxiliary_in_channels=384,
        )
    ),
    "yolos-tiny": lambda: hf.YolosForObjectDetection(
        hf.YolosConfig(
            hidden_size=192,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=[800, 1333],
            num_labels=91,
            use_mid_position_embeddings=False,
        )
    ),
    "yolos-base": lambda: hf.YolosForObjectDetection(hf.YolosConfig(image_size=[800, 1344], num_labels=91)),
    "dpt-large": lambda: hf.DPTForDepthEstimation(
        hf.DPTConfig(**WIDE, image_size=384, backbone_out_indices=[5, 11, 17, 23], neck_hidden_sizes=NECK)
    ),
    "depth-anything-small": lambda: hf.DepthAnythingForDepthEstimation(
        hf.DepthAnythingConfig(
            backbone_config=hf.Dinov2Config(
                hidden_size=384,
                num_attention_heads=6,
                **DINOV2,
                reshape_hidden_states=False,
                out_features=["stage3", "stage6", "stage9", "stage12"],
            ),
            reassemble_hidden_size=384,
            neck_hidden_sizes=[48, 96, 192, 384],
            fusion_hidden_size=64,
        )
    ),
    "dinov2-giant": lambda: hf.Dinov2Model(hf.Dinov2Config(**GIANT, **DINOV2, use_swiglu_ffn=True)),
}
NEED_MORE_MEMORY = {"dinov2-giant"}
# Height and width of the images where they are not those of the configuration.
SIZES = {
    "dinov2-base": (224, 224), "dinov2-large": (224, 224), "dinov2-giant": (224, 224), "yolos-tiny": (512, 864),
    "yolos-base": (512, 864), "segformer-b0": (512, 512), "segformer-b2": (512, 512),
}  # fmt: skip
# What prepares images for the pipeline of a task; any ViT's does for the others.
PROCESSORS = {
    "image-segmentation": hf.SegformerImageProcessorPil,
    "object-detection": partial(hf.YolosImageProcessorPil, do_pad=False),
    "depth-estimation": hf.DPTImageProcessorPil,
}
CONFIG = MixQConfig(
    bits=4, calibration_samples=4, relevance_samples=2, sensitivity_samples=4, candidate_bits=(3, 4, 6), compare=False
)


def main() -> None:
    arguments = parse_arguments()
    if arguments.folder is not None:
        check(arguments.folder, arguments.loader)
        return
    names = [] if arguments.table else arguments.models
    if len(names) == 1:
        measure(names[0])
    else:
        for name in names:  # in a process of its own each, whose peak memory is read at the end
            subprocess.run([sys.executable, __file__, "--models", name], check=True)
    print(table())


def measure(name: str) -> None:
    """Quantize one model, have another process load it, and write what that took."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    size = SIZES.get(name) or configured_image_size(model)
    pixels = torch.randn(4, 3, *size)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / name
        kind = PROCESSORS.get(task_of(model).hub_task, hf.ViTImageProcessorPil)
        processor = kind(size={"height": size[0], "width": size[1]})
        packed = MixQQuantizer.from_pretrained(model, processor).quantize(CONFIG, pixels, folder)
        seconds = time.process_time() - started
        with torch.no_grad():
            torch.save({"pixels": pixels, "outputs": run_model(packed, pixels)}, folder / "expected.pt")
        megabytes = megabytes_of(folder)
        command = [sys.executable, __file__, "--folder", str(folder), "--loader", class_that_loads(packed)]
        subprocess.run(command, check=True)
    row = {
        "model": name, "task": task_of(model).hub_task, "height": size[0], "width": size[1],
        "float_megabytes": saved_bytes(model) / 1e6, "megabytes": megabytes, "seconds": seconds,
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, "machine": machine(),
    }  # fmt: skip
    write_result(FILE, row)
    print(row, flush=True)


def check(folder: Path, loader: str) -> None:
    """Load a folder, compare outputs with the saved ones, and run the pipeline; an AssertionError says what fails."""
    model: Any = getattr(hf, loader).from_pretrained(folder).eval()
    expected = torch.load(folder / "expected.pt")
    with torch.no_grad():
        assert torch.equal(run_model(model, expected["pixels"]), expected["outputs"]), "other outputs"
    # A pipeline loads by Auto classes alone.
    given = str(folder) if loader.startswith("Auto") else model
    run: Any = hf.pipeline(task_of(model).hub_task, model=given, image_processor=str(folder))
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert run(Image.fromarray(noise)) is not None, "no answer of the pipeline"  # a random detector may find nothing


def table() -> str:
    """Return the last row of each model, in the order of `MODELS`."""
    rows = {row["model"]: row for row in read_results(FILE)}
    lines = [
        "| model | task | image | MB: float → packed | peak GB | processor minutes |",
        "|---|---|---|---|---|---|",
    ]
    for row in (rows[name] for name in MODELS if name in rows):
        cells = [row["model"], row["task"], f"{row['height']} x {row['width']}"]
        cells += [f"{row['float_megabytes']:.0f} → {row['megabytes']:.0f}", f"{row['peak_gigabytes']:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {row['seconds'] / 60:.1f} |")
    machines = "; ".join(sorted({row["machine"] for row in rows.values()}))
    return "\n".join([*lines, "", f"Measured on {machines}."])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=sorted(MODELS.keys() - NEED_MORE_MEMORY))
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loader", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
