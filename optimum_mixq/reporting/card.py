# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The model card: what a packed model is, how it was made, how to load it, and how it compares with the float one."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.reporting.command import changed_options, write_command
from optimum_mixq.reporting.comparison import Comparison
from optimum_mixq.reporting.wording import describe_certainty
from optimum_mixq.tasks import Task


def model_card(
    config: MixQConfig,
    plan: BitPlan,
    model_type: str,
    megabytes: float,
    float_megabytes: float,
    name: str = "PATH",
    float_name: str = "MODEL",
    comparison: Comparison | None = None,
    hub_task: str = Task.hub_task,
    embedding: str | None = None,
    loader: str = Task.auto_class.__name__,
    ends: str | None = None,
) -> ModelCard:
    """Return the card of a packed model; what was not measured is left out.

    `name` is where the model will lie: a repository on the Hub, or a folder. `float_name` is what the float model is
    called where the record names none, since it came from somebody's folder. `embedding` says where a model without a
    classifier puts out its embeddings, `loader` is the class of transformers that loads the model, and `ends` the bits
    of what is outside the plan, in words.
    """
    record = config.record or {}
    base = record.get("base_model")
    sections = [
        f"# {_title(name, model_type)}",
        _opening(config, plan, base, megabytes, float_megabytes),
        _loading(name, hub_task, embedding, loader),
        *([] if comparison is None else [_accuracy(comparison)]),
        _size(megabytes, float_megabytes, comparison),
        _plan(plan, ends),
        _reproduction(config, plan, record, float_name, hub_task),
    ]
    data = _metadata(base, model_type, name, comparison, hub_task)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _title(name: str, model_type: str) -> str:
    return f"Mixed-precision {model_type}" if name == "PATH" else name.rpartition("/")[2]


def _metadata(
    base: str | None, model_type: str, name: str, comparison: Comparison | None, hub_task: str
) -> ModelCardData:
    results = [] if comparison is None else _results(comparison, hub_task)
    extra: dict[str, Any] = {} if base is None else {"base_model": base, "base_model_relation": "quantized"}
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=hub_task,
        tags=["mixq", "optimum", "quantized", "mixed-precision", model_type],
        model_name=_title(name, model_type),
        eval_results=results or None,
        **extra,
    )


def _results(comparison: Comparison, hub_task: str) -> list[EvalResult]:
    """Return the packed model's results for the index of the Hub, those that were measured."""
    found = comparison.packed.evaluation
    metrics = [
        (comparison.accuracy_metric, comparison.accuracy_name, found.accuracy),
        (comparison.divergence_metric, comparison.divergence_name, found.kl),
    ]
    return [
        EvalResult(
            task_type=hub_task,
            dataset_type=comparison.dataset,
            dataset_name=comparison.dataset,
            dataset_split=comparison.split,
            metric_type=kind,
            metric_name=metric,
            metric_value=value,
        )
        for kind, metric, value in metrics
        if kind is not None and value is not None
    ]


def _opening(config: MixQConfig, plan: BitPlan, base: str | None, megabytes: float, float_megabytes: float) -> str:
    source = f"[{base}](https://huggingface.co/{base})" if base else "A float model"
    kind = "uniform bits" if plan.provenance.get("kind") == "uniform" else "bits chosen layer by layer"
    return (
        f"{source}, quantized by `optimum-mixq` with {kind} "
        f"({config.arithmetic} arithmetic): {megabytes:.2f} MB instead of {float_megabytes:.2f} MB. Weights, "
        "activations and both products of attention are quantized; LayerNorm, softmax's sums, GELU and residual "
        "additions stay float."
    )


def _loading(name: str, hub_task: str, embedding: str | None, loader: str) -> str:
    told = "" if embedding is None else f" An image's embedding is {embedding}."
    # A pipeline loads by Auto classes alone.
    loaded = f'model="{name}"' if loader.startswith("Auto") else f'model=model, image_processor="{name}"'
    return f"""## How to load it

```python
import optimum_mixq  # pip install optimum-mixq; registers the method with transformers
from transformers import {loader}

model = {loader}.from_pretrained("{name}")
```

or `pipeline("{hub_task}", {loaded})` after the same import.{told}"""


def _accuracy(comparison: Comparison) -> str:
    told = f"Both models on the same {comparison.describe_images()}, through the same pipeline. "
    heads = (
        "model", f"{comparison.accuracy_name} %", "95 % interval", "same prediction as float %",
        comparison.divergence_name,
    )  # fmt: skip
    rows = []
    for name, contender in (("float", comparison.float_model), ("quantized", comparison.packed)):
        result = contender.evaluation
        interval = result.accuracy_interval
        cells = (
            name,
            "" if result.accuracy is None else f"{100 * result.accuracy:.2f}",
            "" if interval is None else f"{100 * interval[0]:.2f}-{100 * interval[1]:.2f}",
            "" if result.agreement is None else f"{100 * result.agreement:.2f}",
            "" if result.kl is None else f"{result.kl:.4f}",
        )
        rows.append(cells)
    # What was not measured of any model has no column.
    table = [column for column in zip(heads, *rows, strict=True) if any(column[1:])]
    lines = ["| " + " | ".join(row) + " |" for row in zip(*table, strict=True)]
    lines.insert(1, "|" + "---|" * len(table))
    return "\n".join(["## Accuracy", "", told + comparison.describe_selection(), "", *lines])


def _size(megabytes: float, float_megabytes: float, comparison: Comparison | None) -> str:
    text = f"## Size and speed\n\n{megabytes:.2f} MB on disk, {float_megabytes / megabytes:.1f} x smaller."
    if comparison is not None and comparison.milliseconds:
        times = ", ".join(f"{name} {milliseconds:.2f} ms" for name, milliseconds in comparison.milliseconds.items())
        text += f" Per image, interleaved in one process on {comparison.machine}: {times}."
    return text


def _plan(plan: BitPlan, ends: str | None) -> str:
    lines = ["## Plan", "", f"{_bits_summary(plan)}{'' if ends is None else f'; {ends}'}."]
    for title, key in (("Budget", "budget"), ("Achieved", "achieved")):
        found = {name: value for name, value in (plan.provenance.get(key) or {}).items() if value is not None}
        if found:
            values = ", ".join(describe_cost(name, value) for name, value in found.items())
            lines += ["", f"{title}: {values}."]
    for line in describe_certainty(plan):
        lines += ["", f"{line[0].upper()}{line[1:]}."]
    rows = [f"| {unit} | {bits} |" for unit, bits in plan.bits.items()]
    head = ["| unit | bits (weights/activations, where they differ) |", "|---|---|"]
    lines += ["", "<details><summary>every unit</summary>", "", *head, *rows, "", "</details>"]
    return "\n".join(lines)


def _bits_summary(plan: BitPlan) -> str:
    weight_bits, input_bits = ({bits[side] for bits in plan.bits.values()} for side in (0, 1))
    if all(weight == input_ for weight, input_ in plan.bits.values()):
        counts = Counter(weight for weight, _ in plan.bits.values())
        return ", ".join(f"{count} units at {bits} bits" for bits, count in sorted(counts.items()))
    return f"Weights at {_span(weight_bits)} bits, activations at {_span(input_bits)}"


def _span(numbers: set[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else str(min(numbers))


def _reproduction(config: MixQConfig, plan: BitPlan, record: Mapping[str, Any], float_name: str, hub_task: str) -> str:
    dataset = (record.get("calibration") or {}).get("dataset") or "DATASET"
    uniform = plan.provenance.get("kind") == "uniform"
    arguments = ", ".join(f"{name}={value!r}" for name, value in changed_options(config).items())
    base = record.get("base_model") or float_name
    task = "" if hub_task == Task.hub_task else f', task="{hub_task}"'
    lines = [
        "## How to make it again",
        "",
        "```python",
        f'quantizer = MixQQuantizer.from_pretrained("{base}"{task})',
        f'quantizer.quantize(MixQConfig({arguments}), dataset="{dataset}", save_dir="out"'
        + (', plan="uniform")' if uniform else ")"),
        "```",
    ]
    command = write_command(config, plan, base, dataset, hub_task)
    if command is not None:
        lines += ["", "```bash", command, "```"]
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    return "\n".join([*lines, "", f"Made with {versions}." if versions else ""]).rstrip()


def describe_cost(name: str, value: float) -> str:
    """Return a budget or what a plan achieved, by its name in a plan's provenance, in the units that people use.

    >>> describe_cost("bytes", 566_962), describe_cost("bops", 1_491_491_328), describe_cost("average_bits", 3.998)
    ('0.567 MB', '1.491 G bit operations', '3.998 bits per weight on average')
    """
    if name == "bytes":
        return f"{value / 1e6:.3f} MB"
    if name == "bops":
        return f"{value / 1e9:.3f} G bit operations"
    if name == "average_bits":
        return f"{value:.4g} bits per weight on average"
    return f"{name.replace('_', ' ')} {value:.4g}"
