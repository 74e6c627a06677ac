# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Write the tables of the README from benchmarks/results, so that no number there is typed.

python benchmarks/readme.py
"""

import json
import re
import statistics
from pathlib import Path

from common import read_results

from optimum_mixq import DEMO_MODELS, demo_model_path


README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    tables = {"uniform_ptq": accuracy_table(), "demo_models": demo_table(), "latency": latency_table()}
    for name, table in tables.items():
        pattern = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.S)
    README.write_text(text, encoding="utf-8")


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
            f"| {statistics.mean(top1):.2f} ({min(top1):.2f}-{max(top1):.2f}) "
            f"| {statistics.mean(row['agreement'] for row in group):.1f} "
            f"| {statistics.mean(row['kl'] for row in group):.4f} | {'' if repq is None else f'{repq:.2f}'} "
            f"| {statistics.median(row['forwards'] for row in group):.1f} |"
        )
    images = sorted({row["images"] for row in rows})
    machines = sorted({row["machine"] for row in rows})
    return "\n".join([*lines, "", f"Evaluation images: {images}. Measured on {'; '.join(machines)}."])


def demo_table() -> str:
    lines = ["| model | top-1 % on 10,000 images | epochs | seed | minutes |", "|---|---|---|---|---|"]
    for name in DEMO_MODELS:
        record = json.loads((demo_model_path(name) / "training.json").read_text(encoding="utf-8"))
        accuracy = f"{100 * record['top1']:.2f}"
        lines.append(f"| {name} | {accuracy} | {record['epochs']} | {record['seed']} | {record['minutes']:.0f} |")
    return "\n".join(lines)


def latency_table() -> str:
    rows = read_results("latency.jsonl")
    settings = list(dict.fromkeys((row["model"], row["batch"], row["threads"]) for row in rows))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [
        "| contender | " + " | ".join(f"{model}, batch {batch}" for model, batch, _ in settings) + " |",
        "|---|" + "---|" * len(settings),
    ]
    cells = {(r["contender"], r["model"], r["batch"], r["threads"]): r for r in rows}
    for contender in contenders:
        found = [cells.get((contender, *setting)) for setting in settings]
        texts = ["" if row is None else f"{row['speedup']:.2f} x ({row['milliseconds']:.0f} ms)" for row in found]
        lines.append(f"| {contender} | " + " | ".join(texts) + " |")
    machines = sorted({row["machine"] for row in rows})
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}."])


if __name__ == "__main__":
    main()
