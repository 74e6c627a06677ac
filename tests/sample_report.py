# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A report whose every number is known, for tests of pages; no model is run."""

import dataclasses

import torch

from optimum_mixq import BitPlan, Evaluation, LayerRelevance, SensitivityTable
from optimum_mixq.artifacts import UnitCosts
from optimum_mixq.reporting.comparison import Comparison, Contender
from optimum_mixq.reporting.frontier import FrontierPoint
from optimum_mixq.reporting.gallery import Disagreement, HeatMap
from optimum_mixq.reporting.report import Report


BLOCKS = ("blocks.0", "blocks.1", "blocks.2")
# Weights of a unit, and its multiply-accumulates per image.
KINDS = {"qkv": (1200, 30_000), "qk": (0, 9_000), "fc1": (1600, 40_000)}
UNITS = [f"{block}.{kind}" for block in BLOCKS for kind in KINDS]
COSTS = UnitCosts(
    {unit: KINDS[unit.rpartition(".")[2]][1] + place for place, unit in enumerate(UNITS)},
    {unit: (count,) if (count := KINDS[unit.rpartition(".")[2]][0]) else () for unit in UNITS},
    fixed_bytes=5_000, fixed_bops=10_000, arithmetic="column",
)  # fmt: skip


def plan(weight_bits, activation_bits):
    """Return a plan whose last layer has one bit more."""
    bits = {
        unit: (weight_bits, activation_bits) if COSTS.weights[unit] else (activation_bits, activation_bits)
        for unit in UNITS
    }
    bits[UNITS[-1]] = (weight_bits + 1, activation_bits + 1)
    return BitPlan(bits, {"kind": "allocated", "achieved": COSTS.achieved(bits), "objective": 1 / weight_bits})


def evaluation(accuracy, kl):
    return Evaluation(100, accuracy, None if kl is None else 1 - kl, kl)


def contenders(times=(2.0, 1.0, 1.0), accuracy=(0.9, 0.88, 0.87), kl=(None, 0.02, 0.01)):
    names, sizes = ("float", "uniform 4", "this model"), (0.0336, 0.0092, 0.0091)
    return tuple(map(Contender, names, sizes, times, map(evaluation, accuracy, kl)))


def make_report(**changes):
    damage = {
        unit: {
            pair: (0.001 + 0.002 * place) / bits if side or COSTS.weights[unit] else 0.0
            for bits in (3, 4, 5, 6)
            for side, pair in enumerate(((bits, 8), (8, bits)))
        }
        for place, unit in enumerate(UNITS)
    }
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 24, 24, generator=generator)
    measured = tuple(
        FrontierPoint(plan(bits, bits), 0.002 + 0.0015 * bits, evaluation(0.8 + 0.02 * bits, 0.1 / bits))
        for bits in (2, 3, 6)
    )
    report = Report(
        model="vit-tiny",
        title="vit-tiny, mixed bits around 4",
        date="2026-01-31",
        origin=("2026-01-31, optimum-mixq 1.0", "Budget: 4 bits", "Made by: optimum-cli mixq quantize --bits 4"),
        comparison=Comparison(contenders(), "pictures", "test", "a machine", 0),
        plan=plan(5, 4),
        uniform=(4, 4),
        costs=COSTS,
        relevance=LayerRelevance({unit: (place + 1) / 45 for place, unit in enumerate(UNITS)}, 1e-7, 32),
        sensitivity=SensitivityTable(damage, (8, 8), 0.0, "shift", 32),
        predicted=(plan(3, 3), plan(4, 4)),
        score=0.3,
        measured=measured,
        float_parts={"layernorm.weight": 96},
        heat_maps=(HeatMap(pixels, torch.randn(24, 24, generator=generator), "cat 91.0 %"),),
        disagreements=(Disagreement(pixels, "cat", ("cat 51.0 %", "dog 40.0 %"), ("dog 62.0 %", "cat 30.0 %"), 0.4),),
        disagreeing=3,
    )
    return dataclasses.replace(report, **changes)
