# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Other methods' own code on the same weights and images, beside this package: prints the table of what was measured.

    python benchmarks/peers.py

The methods ran outside of this repository: ERQ (arXiv 2407.06794) at its commit 2f5b4ce, AdaLog (arXiv 2407.12951) at
75a57d2, this package at 6185d41, in one process each on one thread. All rows are of seed 0 and of all 2,000 evaluation
images. docs/results.md says with which settings.
"""

from common import read_results


FILE = "peers.jsonl"


def table() -> str:
    """Return a row for each method, model and width."""
    lines = [
        "| model | W/A | method | images | top-1 % | agreement % | KL to float | forwards |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in read_results(FILE):
        lines.append(
            f"| {row['model']} | {row['bits']}/{row['bits']} | {row['method']} | {row['calibration']} "
            f"| {row['top1']:.2f} | {row['agreement']:.1f} | {row['kl']:.4f} | {row['forwards']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
