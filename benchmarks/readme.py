# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Write the tables of README.md and the documents from benchmarks/results, so that no number there is typed.

python benchmarks/readme.py
"""

import json
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import choosing
import deployment_tables
import features
import grids
import halves
import limits
import pairs
import peers
import published_sizes
import qat
import reconstruction
import scene_models
import sensitivity
import synthetic
from common import BENCH_MODELS, geometric_mean, read_results, spread

from optimum_mixq import DEMO_MODELS, demo_model_path


ROOT = Path(__file__).parents[1]
# What the summary calls the trained models.
NAMES = {
    "vit": "ViT, shipped", "deit": "DeiT, shipped", "swin": "Swin, shipped",
    "vit-small-cifar10": "ViT-S/14, CIFAR-10", "vit-small-tin200": "ViT-S/14, Tiny-ImageNet",
}  # fmt: skip


def main() -> None:
    for page, tables in pages().items():
        path = ROOT / page
        path.write_text(fill_in(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


def pages() -> dict[str, dict[str, Callable[[], str]]]:
    """Return the tables of each page, by the names that its markers have."""
    return {
        "README.md": {"summary": summary_table},
        "docs/supported-models.md": {"published_sizes": published_sizes.table},
        "docs/results.md": {
            "uniform_ptq": accuracy_table, "ablation": ablation_table, "demo_models": demo_table,
            "mixed_precision": mixed_table, "scores": sensitivity.table_of_scores,
            "scores_bench": lambda: sensitivity.table_of_scores(models=BENCH_MODELS),
            "stabiliser": sensitivity.table_of_relevances, "pairs": pairs.table, "halves": halves.table,
            "features": features.table, "scene_models": scene_models.table,
            "relevance": relevance_table, "qat": qat.table, "latency": latency_table,
            "deployment": deployment_tables.table_of_times,
            "deployment_accuracy": deployment_tables.table_of_accuracy,
            "deployment_attention": deployment_tables.table_of_attention, "choosing": choosing.table,
            "reconstruction": reconstruction.table, "defaults": reconstruction.mixed_table,
            "synthetic": synthetic.table, "peers": peers.table,
            "limits": limits.table, "grids": grids.table,
        },
    }  # fmt: skip


def fill_in(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with its tables between `<!-- name: how to measure -->` and `<!-- end -->`."""
    for name, build in tables.items():
        table = build()
        pattern = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.S)
        if found != 1:
            raise ValueError(f"Expected one place for the table '{name}', found {found}.")
    return text


def summary_table() -> str:
    """Return a row per model: accuracy and size of the trained ones, speed and size of the usual sizes."""
    lines = [
        "| model | float | uniform 4 | mixed 4 | uniform 3 | mixed 3 | MB: float → 4 bits | speed: 1, 8 images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = read_results("summary.jsonl")
    for row in rows:
        accuracies = [row["top1"], *mean_accuracies(row["model"])] if "top1" in row else []
        cells = [f"{accuracy:.1f}" for accuracy in accuracies] or [""] * 5
        sizes = f"{row['float_megabytes']:.1f} → {row['packed_megabytes']['4']:.1f}"
        lines.append(f"| {' | '.join([NAMES.get(row['model'], row['model']), *cells, sizes, speeds(row['model'])])} |")
    compiled = multiples("ViT-B/16", 1, "mixq mixed 3-6 compiled")
    told = (
        f"Accuracy: top-1 %, mean of three seeds that draw 256 calibration images, on {rows[0]['images']} images for "
        f"the shipped models and {rows[3]['images']} for the others. Speed: multiples of bfloat16 eager (in brackets: "
        "of float32 eager) of a plan of 3 to 6 bits in eager mode; `torch.compile` takes ViT-B/16 to "
        f"{compiled} for 1 image. "
        f"Measured on {machines_of(1)}. Empty cells were not measured."
    )
    return "\n".join([*lines, "", told])


def mean_accuracies(model: str) -> list[float]:
    """Return top-1 of uniform and mixed 4 bits, then of uniform and mixed 3 bits."""
    return [reconstruction.default_accuracy(plan, model, target) for target in (4, 3) for plan in ("uniform", "mixed")]


def speeds(model: str) -> str:
    found = [multiples(model, batch, "mixq mixed 3-6 eager") for batch in (1, 8)]
    return ", ".join(text for text in found if text is not None)


def multiples(model: str, batch: int, contender: str, threads: int = 1) -> str | None:
    """Return how many times as fast as bfloat16 eager a contender is, and in brackets as float32 eager."""
    setting = (model, batch, threads)
    times = {row["contender"]: row["milliseconds"] for row in timings() if setting_of(row) == setting}
    if contender not in times:
        return None
    return f"{times['bfloat16 eager'] / times[contender]:.2f} ({times['float32 eager'] / times[contender]:.2f})"


def timings() -> list[dict[str, Any]]:
    return read_results("latency.jsonl")


def setting_of(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["model"], row["batch"], row["threads"]


def machines_of(threads: int) -> str:
    return "; ".join(sorted({row["machine"] for row in timings() if row["threads"] == threads}))


def accuracy_table() -> str:
    from uniform_ptq import REPQ_VIT

    rows = [row for row in read_results("uniform_ptq.jsonl") if row["variant"] == "default"]
    lines = [
        "| model | float | W/A | arithmetic | top-1 % | agreement % | KL to float | RepQ-ViT | forwards |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["model"], row["bits"], row["arithmetic"]) for row in rows):
        group = [row for row in rows if (row["model"], row["bits"], row["arithmetic"]) == key]
        top1 = [row["top1"] for row in group]
        repq = REPQ_VIT.get(key[:2])
        lines.append(
            f"| {key[0]} | {group[0]['float_top1']:.2f} | {key[1]}/{key[1]} | {key[2]} "
            f"| {spread(top1)} "
            f"| {statistics.mean(row['agreement'] for row in group):.1f} "
            f"| {statistics.mean(row['kl'] for row in group):.4f} | {'' if repq is None else f'{repq:.2f}'} "
            f"| {statistics.median(row['forwards'] for row in group):.1f} |"
        )
    images = sorted({row["images"] for row in rows})
    machines = sorted({row["machine"] for row in rows})
    costs = [
        f"{row['forwards']:.1f} forwards and {row['peak_gigabytes']:.2f} GB ({row['model']})"
        for row in read_results("calibration.jsonl")
    ]
    told = f"Calibration at 224 pixels takes {', '.join(costs)}, by benchmarks/calibration.py."
    return "\n".join([*lines, "", f"Evaluation images: {images}. Measured on {'; '.join(machines)}. {told}"])


def ablation_table() -> str:
    rows = [row for row in read_results("uniform_ptq.jsonl") if row["variant"] != "default"]
    lines = ["| model | W/A | variant | top-1 % | KL to float | forwards |", "|---|---|---|---|---|---|"]
    for key in dict.fromkeys((row["model"], row["bits"], row["variant"]) for row in rows):
        group = [row for row in rows if (row["model"], row["bits"], row["variant"]) == key]
        lines.append(
            f"| {key[0]} | {key[1]}/{key[1]} | {key[2]} | {spread([row['top1'] for row in group])} "
            f"| {statistics.mean(row['kl'] for row in group):.4f} "
            f"| {statistics.median(row['forwards'] for row in group):.1f} |"
        )
    return "\n".join(lines)


def mixed_table() -> str:
    rows = [row for row in read_results("mixed_precision.jsonl") if not row["decide"]]
    names = {
        ("default", "gradient"): "mixed (default)", ("default", "measured"): "mixed, measured table",
        ("uniform", "measured"): "uniform",
    }  # fmt: skip
    groups: dict[tuple[str, int, tuple[str, str]], list[dict[str, Any]]] = {}
    for row in rows:
        kind = (row["plan"], row.get("sensitivity", "measured"))
        if kind in names or row["plan"].startswith("random"):
            groups.setdefault((row["model"], row["target"], kind), []).append(row)
    lines = [
        "| model | bits | plan | top-1 % | KL to float | uniform's KL, times, by seed | better random plans |",
        "|---|---|---|---|---|---|---|",
    ]
    compared = []
    for model, target in dict.fromkeys(key[:2] for key in groups):
        uniform = {row["seed"]: row["kl"] for row in groups[model, target, ("uniform", "measured")]}
        rivals = [
            row["kl"] for key in groups if key[:2] == (model, target) and key[2] not in names for row in groups[key]
        ]
        for kind, name in names.items():
            group = groups.get((model, target, kind), [])
            if not group:
                continue
            first = next(row["kl"] for row in group if row["seed"] == 0)
            ratios = ", ".join(f"{row['kl'] / uniform[row['seed']]:.2f}" for row in group)
            better = f"{sum(kl < first for kl in rivals)} of {len(rivals)}" if rivals else ""
            lines.append(
                f"| {model} | {target} | {name} | {spread([row['top1'] for row in group])} "
                f"| {spread([row['kl'] for row in group], 4)} | {ratios} | {better} |"
            )
        before = {row["seed"]: row["kl"] for row in groups[model, target, ("default", "measured")]}
        compared += [
            row["kl"] / before[row["seed"]] for row in groups.get((model, target, ("default", "gradient")), [])
        ]
    images = sorted({row["images"] for row in rows})
    told = (
        f"Evaluation images: {images}. Over the {len(compared)} cases of model, bits and seed in which both were "
        f"measured, the default has {geometric_mean(compared):.3f} times the KL of the measured table, as a geometric "
        f"mean."
    )
    return "\n".join([*lines, "", told])


def relevance_table() -> str:
    rows = read_results("relevance.jsonl")
    lines = ["| model | Spearman, 256 against 256 images | Spearman, 32 against 512 images |", "|---|---|---|"]
    for row in (row for row in rows if row["kind"] == "stability"):
        lines.append(f"| {row['model']} | {row['spearman_halves_256']:.3f} | {row['spearman_32_to_all']:.3f} |")
    lines += ["", "| size | x forward and backward | MB per image |", "|---|---|---|"]
    for row in (row for row in rows if row["kind"] == "cost"):
        lines.append(f"| {row['model']} | {row['ratio']:.2f} | {row['megabytes_per_image']:.0f} |")
    return "\n".join(lines)


def demo_table() -> str:
    lines = ["| model | top-1 % on 10,000 images | epochs | seed | minutes |", "|---|---|---|---|---|"]
    for name in DEMO_MODELS:
        record = json.loads((demo_model_path(name) / "training.json").read_text(encoding="utf-8"))
        accuracy = f"{100 * record['top1']:.2f}"
        lines.append(f"| {name} | {accuracy} | {record['epochs']} | {record['seed']} | {record['minutes']:.0f} |")
    return "\n".join(lines)


def latency_table() -> str:
    rows = timings()
    settings = list(dict.fromkeys(map(setting_of, rows)))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [
        "| contender | "
        + " | ".join(f"{model}, batch {batch}, {count_threads(threads)}" for model, batch, threads in settings)
        + " |",
        "|---|" + "---|" * len(settings),
    ]
    cells = {(row["contender"], *setting_of(row)): row["milliseconds"] for row in rows}
    for contender in contenders:
        texts = []
        for setting in settings:
            time = cells.get((contender, *setting))
            base, plain = cells["bfloat16 eager", *setting], cells["float32 eager", *setting]
            texts.append("" if time is None else f"{base / time:.2f} ({plain / time:.2f}), {time:.0f} ms")
        lines.append(f"| {contender} | " + " | ".join(texts) + " |")
    machines = sorted({row["machine"] for row in rows})
    lines += [
        "",
        f"Measured on {'; '.join(machines)}.",
        "",
        "Where the time of a packed W4A4 forward goes, eager, per cent:",
        "",
    ]
    profiles = {row["model"]: row["shares"] for row in read_results("latency_profile.jsonl")}
    kinds = list(next(iter(profiles.values()), {}))
    lines += ["| | " + " | ".join(profiles) + " |", "|---|" + "---|" * len(profiles)]
    for kind in kinds:
        lines.append(f"| {kind} | " + " | ".join(f"{100 * shares[kind]:.0f}" for shares in profiles.values()) + " |")
    memory = [
        f"{row['model']} {row['megabytes']['float32']:.0f} MB float32, {row['megabytes']['mixq W4A4']:.0f} MB packed"
        for row in read_results("latency_memory.jsonl")
    ]
    return "\n".join(
        [*lines, "", f"By how much a process grows that loads a model and runs an image: {'; '.join(memory)}."]
    )


def count_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


if __name__ == "__main__":
    main()
