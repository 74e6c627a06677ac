# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What softmax and GELU may be rounded to: the options of `softmax`, and grids that other methods have for GELU.

    python benchmarks/grids.py --bench PATH     # measure and print the table
    python benchmarks/grids.py --table          # print what was measured before

Uniform bits in column-scaled arithmetic. Seed s calibrates on images 32 s to 32 s + 31. "Per unit" chooses among all
grids of softmax, for each attention, by the least error of what attention puts out for the calibration images. The
rows of softmax are of the packed model. Those of GELU round the input of each fc2 in front of a layer whose own grid
has 8 bits: one product of integers does not take their codes.
"""

import argparse
import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import gelu_grids
import torch
from common import (
    Subject,
    geometric_mean,
    load_subject,
    logits_of,
    machine,
    read_results,
    top1_and_divergence,
    write_result,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq import DEMO_MODELS
from optimum_mixq.architectures.describe import describe
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.quant.softmax_grids import (
    DEFAULT_SOFTMAX,
    SoftmaxGrid,
    register_softmax_grid,
    softmax_grid_names,
    softmax_grid_of,
)
from optimum_mixq.stages.calibration.blocks import calibrate
from optimum_mixq.stages.evaluation import score
from optimum_mixq.stages.packing import pack
from optimum_mixq.utils.bits import Bits


FILE = "grids.jsonl"
SOFTMAX = softmax_grid_names()  # before "per unit" is registered
EXACT = "input of fc2 at 8 bits"
GELU = (*gelu_grids.KINDS, EXACT)
NAMES = {"softmax": "softmax", "gelu": "GELU"}
# The present grids: log-sqrt2 for softmax, and one uniform grid for each channel behind a GELU.
PRESENT = ("softmax", DEFAULT_SOFTMAX)


class PerUnit(SoftmaxGrid):
    """Any grid of any kind: the setting is its place among them all."""

    name = "per unit"

    def __init__(self, bits: int, setting: int = 0) -> None:
        super().__init__(bits, setting)
        self.grid = self.choices(bits)[setting]

    @classmethod
    def choices(cls, bits: int) -> list[SoftmaxGrid]:
        kinds = [softmax_grid_of(name) for name in SOFTMAX]
        return [kind(bits, setting) for kind in kinds for setting in kind.settings(bits) or (0,)]

    @classmethod
    def settings(cls, bits: int) -> tuple[int, ...]:
        return tuple(range(len(cls.choices(bits))))

    @property
    def score_factor(self) -> float:
        return self.grid.score_factor

    def round_(self, scores: Tensor) -> Tensor:
        return self.grid.round_(scores)

    def round(self, scores: Tensor) -> Tensor:
        return self.grid.round(scores)


def main() -> None:
    arguments = parse_arguments()
    register_softmax_grid(PerUnit)
    torch.set_num_threads(1)
    for name in [] if arguments.table else arguments.models:
        subject = load_subject(name, arguments.bench)
        if arguments.images:
            subject = replace(
                subject, evaluation=subject.evaluation[: arguments.images], labels=subject.labels[: arguments.images]
            )
        reference = logits_of(subject.model, subject.evaluation)
        for seed, bits in itertools.product(arguments.seeds, arguments.bits):
            for grid in arguments.softmax:
                measure(subject, reference, "softmax", grid, bits, seed)
            for grid in arguments.gelu:
                measure(subject, reference, "gelu", grid, bits, seed)
    print(table())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder with the models and images that are not shipped")
    parser.add_argument("--models", nargs="+", default=[*DEMO_MODELS])
    parser.add_argument("--bits", nargs="+", type=int, default=[6, 4, 3])
    parser.add_argument("--softmax", nargs="*", default=[*SOFTMAX, PerUnit.name])
    parser.add_argument("--gelu", nargs="*", default=[*GELU])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="of the evaluation's, the first so many")
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    return parser.parse_args()


def measure(subject: Subject, reference: Tensor, what: str, grid: str, bits: int, seed: int) -> None:
    images = subject.calibration[32 * seed : 32 * seed + 32]
    quantize = {"softmax": quantize_softmax, "gelu": quantize_gelu}[what]
    quantized, chosen = quantize(subject, images, grid, bits)
    result = score(logits_of(quantized, subject.evaluation), subject.labels, reference)
    row = {
        "model": subject.name, "bits": bits, "what": what, "grid": grid, "seed": seed,
        "float_top1": 100 * score(reference, subject.labels).accuracy, "top1": 100 * result.accuracy,
        "kl": result.kl, "images": result.images, "told": chosen, "machine": machine(),
    }  # fmt: skip
    write_result(FILE, row)
    print(row, flush=True)


def quantize_softmax(subject: Subject, images: Tensor, grid: str, bits: int) -> tuple[PreTrainedModel, list[str]]:
    """Return the packed model whose softmax has this kind of grid, and what was chosen for each attention."""
    config = MixQConfig(bits=bits, softmax=grid, reconstruction=None)
    packed = pack(calibrate(subject.model, BitPlan.uniform(subject.model, bits), [images], config))
    own = [module.softmax_grid for module in packed.modules() if hasattr(module, "softmax_grid")]
    chosen = [each.grid if isinstance(each, PerUnit) else each for each in own]
    return packed, [f"{each.name} {each.setting}" for each in chosen] if own[0].settings(bits) else []


def quantize_gelu(subject: Subject, images: Tensor, kind: str, bits: int) -> tuple[PreTrainedModel, list[str]]:
    """Return the calibrated model in which the input of every fc2 is on one grid of this kind, and nothing to tell."""
    units = [unit for unit in describe(subject.model).units if unit.kind == "fc2"]
    plan = BitPlan.uniform(subject.model, bits)
    plan = BitPlan(plan.bits | {unit.name: Bits(bits, 8) for unit in units})
    layers = [name for unit in units for name in unit.modules]
    grids = {} if kind == EXACT else choose_grids(subject.model, images, layers, kind, bits)
    # A copy keeps the hooks: in the copy that calibration makes they round, in the float model itself they do not.
    hooks = round_inputs(subject.model, grids, spared=set(subject.model.modules()))
    calibrated = calibrate(subject.model, plan, [images], MixQConfig(bits=bits, reconstruction=None))
    for hook in hooks:
        hook.remove()
    round_inputs(calibrated, grids)
    return calibrated, []


def choose_grids(
    model: PreTrainedModel, images: Tensor, layers: list[str], kind: str, bits: int
) -> dict[str, gelu_grids.GeluGrid]:
    """Return the grid of least error for what each of the layers reads in the float model."""
    found: dict[str, gelu_grids.GeluGrid] = {}

    def choose(name: str, values: Tensor) -> None:
        rows = values.flatten(0, -2)
        found[name] = gelu_grids.choose(kind, rows[:: max(1, len(rows) // 512)], bits)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, name=name: choose(name, given[0]))
        for name in layers
    ]
    with torch.no_grad():
        model(pixel_values=images)
    for hook in hooks:
        hook.remove()
    return found


def round_inputs(
    model: PreTrainedModel, grids: Mapping[str, gelu_grids.GeluGrid], spared: Collection[nn.Module] = ()
) -> list[torch.utils.hooks.RemovableHandle]:
    """Have layers read rounded inputs, all but those that are spared."""

    def hook(grid: gelu_grids.GeluGrid):
        return lambda module, given: None if module in spared else (grid.round(given[0]), *given[1:])

    return [model.get_submodule(name).register_forward_pre_hook(hook(grid)) for name, grid in grids.items()]


def table() -> str:
    """Return a row for each width and grid: top-1 and KL of each model, and its KL in multiples of today's grids."""
    rows = read_results(FILE)
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = [f"| W/A | rounded | grid | {' | '.join(models)} | KL, times |", "|---" * (4 + len(models)) + "|"]
    present = {
        (row["model"], row["bits"], row["seed"]): row["kl"] for row in rows if (row["what"], row["grid"]) == PRESENT
    }
    for bits in sorted({row["bits"] for row in rows}, reverse=True):
        for what, grid in dict.fromkeys((row["what"], row["grid"]) for row in rows):
            own = [row for row in rows if (row["bits"], row["what"], row["grid"]) == (bits, what, grid)]
            if not own:
                continue
            cells = " | ".join(top1_and_divergence([row for row in own if row["model"] == model]) for model in models)
            times = geometric_mean(row["kl"] / present[row["model"], bits, row["seed"]] for row in own)
            name = f"{grid} (the default)" if (what, grid) == PRESENT else grid
            lines.append(f"| {bits}/{bits} | {NAMES[what]} | {name} | {cells} | {times:.2f} |")
    told = "; ".join(f"{model}: {_describe([row for row in rows if row['model'] == model])}" for model in models)
    return "\n".join([*lines, "", f"Top-1 in percent / KL to float. {told}. {rows[0]['machine']}."])


def _describe(rows: list[dict]) -> str:
    """Return how many images a model was judged on, and how many seeds were calibrated at each width."""
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    seeds = [f"{len({row['seed'] for row in rows if row['bits'] == bits})} at {bits} bits" for bits in widths]
    return f"{rows[0]['images']} images, seeds {', '.join(seeds)}"


if __name__ == "__main__":
    main()
