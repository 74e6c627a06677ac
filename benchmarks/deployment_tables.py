# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The tables of what `deployment.py` measured."""

from common import read_results


def table_of_times() -> str:
    """Return times in engines as multiples of bfloat16 eager, of float32 eager, and of the engine's own float32."""
    rows = read_results("deployment.jsonl")
    settings = list(dict.fromkeys((row["model"], row["batch"]) for row in rows))
    cells = {(row["contender"], row["model"], row["batch"]): row for row in rows}
    models = len({model for model, _ in settings})
    lines = [
        "| contender | " + " | ".join(f"{model}, batch {batch}" for model, batch in settings) + " | MB |",
        "|---|" + "---|" * (len(settings) + 1),
    ]
    for contender in dict.fromkeys(row["contender"] for row in rows):
        engine = next((name for name in ("ONNX Runtime", "OpenVINO") if name in contender), None)
        texts, sizes = [], {}
        for setting in settings:
            row = cells.get((contender, *setting))
            bases = ["PyTorch bfloat16", "PyTorch float32", *([f"float {engine}"] if engine else [])]
            if row is not None and row["megabytes"] is not None:
                sizes[setting[0]] = f"{row['megabytes']:.1f}"
            multiples = [f"{cells[base, *setting]['milliseconds'] / row['milliseconds']:.2f}" for base in bases if row]
            texts.append("" if row is None else f"{' / '.join(multiples)}, {row['milliseconds']:.0f} ms")
        told = sizes.values() if len(sizes) == models else (f"{size} ({model})" for model, size in sizes.items())
        lines.append(f"| {contender} | {' | '.join(texts)} | {' / '.join(told)} |")
    machines = "; ".join(sorted({f"{row['machine']}, {row['engines']}" for row in rows}))
    named = " / ".join(dict.fromkeys(model for model, _ in settings))
    return "\n".join([*lines, "", f"Megabytes are of {named}. Measured on {machines}."])


def table_of_accuracy() -> str:
    """Return top-1 and the KL to the float model of what runs in the engines."""
    rows = read_results("deployment_accuracy.jsonl")
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["contender"], row["model"]): f"{row['top1']:.1f}, {row['kl']:.4f}" for row in rows}
    lines = ["| contender | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    for contender in dict.fromkeys(row["contender"] for row in rows):
        lines.append(f"| {contender} | " + " | ".join(cells.get((contender, model), "") for model in models) + " |")
    images = sorted({row["images"] for row in rows})
    return "\n".join([*lines, "", f"Top-1 % and KL to the float model; evaluation images: {images}."])


def table_of_attention() -> str:
    """Return the KL to the float model of both ways to run attention."""
    rows = read_results("deployment_attention.jsonl")
    models = list(dict.fromkeys(row["model"] for row in rows))
    ways = list(dict.fromkeys(row["attention"] for row in rows))
    cells = {(row["bits"], row["model"], row["attention"]): f"{row['kl']:.4f}" for row in rows}
    lines = ["| bits | " + " | ".join(models) + " |", "|---|" + "---|" * len(models)]
    for bits in dict.fromkeys(row["bits"] for row in rows):
        texts = [" / ".join(cells.get((bits, model, way), "") for way in ways) for model in models]
        lines.append(f"| {bits} | {' | '.join(texts)} |")
    return "\n".join([*lines, "", f"Each cell: {' / '.join(ways)}."])
