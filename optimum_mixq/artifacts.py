# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What the stages hand to each other."""

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture, describe
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.bitpacking import packed_size
from optimum_mixq.utils.bits import Bits
from optimum_mixq.utils.files import read_json, write_json


PLAN_FORMAT = 1
# Numbers by unit and bits.
Rows = dict[str, dict[Bits, float]]
PLAN_FILE, RELEVANCE_FILE, SENSITIVITY_FILE = "mixq_plan.json", "mixq_relevance.json", "mixq_sensitivity.json"


@dataclass(frozen=True)
class BitPlan:
    """The bits (weights, activations) of every unit, by unit name. Matmuls have two operands and no weight: there
    both numbers are those of the operands."""

    bits: dict[str, Bits]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        normal = {unit: Bits.of(width, unit) for unit, width in self.bits.items()}
        object.__setattr__(self, "bits", normal)

    @classmethod
    def uniform(cls, model: PreTrainedModel, bits: int | Bits) -> "BitPlan":
        """Return the plan that gives every unit the same bits: one number, or (weight bits, activation bits)."""
        return cls({unit.name: Bits.of(bits, unit.name) for unit in describe(model).units}, {"kind": "uniform"})

    @classmethod
    def load(cls, path: str | Path) -> "BitPlan":
        """Read a plan that `save` wrote, or that a person wrote: {"bits": {unit: bits or [weight, activation]}}."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no JSON ({error}). A plan looks like {{'bits': {{unit: bits}}}}.") from error
        if not isinstance(content, dict) or not isinstance(content.get("bits"), dict):
            raise ValueError(f"{path} has no 'bits'. A plan looks like {{'bits': {{'blocks.0.qkv': 4, ...}}}}.")
        if content.get("format", PLAN_FORMAT) != PLAN_FORMAT:
            raise ValueError(
                f"{path} has plan format {content['format']}, this release reads {PLAN_FORMAT}: upgrade optimum-mixq."
            )
        provenance = content.get("provenance", {})
        if not isinstance(provenance, dict):
            raise ValueError(f"{path} has a 'provenance' that is no object, found {provenance!r}: leave it out.")
        return cls(content["bits"], provenance)

    def save(self, path: str | Path) -> None:
        content = {
            "format": PLAN_FORMAT,
            "bits": {unit: bits.weight if bits.same else list(bits) for unit, bits in self.bits.items()},
            "provenance": self.provenance,
        }
        write_json(path, content)

    def check_fits(self, architecture: Architecture) -> None:
        """Raise a ValueError if the plan's units are not the model's."""
        expected = {unit.name for unit in architecture.units}
        unknown, missing = sorted(set(self.bits) - expected), sorted(expected - set(self.bits))
        if unknown:
            near = difflib.get_close_matches(unknown[0], sorted(expected), n=3)
            hint = (
                f"did you mean {', '.join(near)}?" if near else f"its units are {', '.join(sorted(expected)[:6])}..."
            )
            raise ValueError(f"The plan names the unit '{unknown[0]}', which the model does not have: {hint}")
        if missing:
            raise ValueError(
                f"The plan says nothing about {len(missing)} units of the model ({', '.join(missing[:3])}...): "
                "it belongs to another model. Start from BitPlan.uniform(model, 4)."
            )


@dataclass(frozen=True)
class LayerRelevance:
    """Each unit's share of the relevance, summing to one, and how exactly relevance was conserved."""

    scores: dict[str, float]
    conservation_error: float  # largest relative deviation at a block's input
    images: int
    score: str = "absolute"
    fingerprint: dict[str, str] = field(default_factory=dict)  # of what it was measured on

    def save(self, path: str | Path) -> None:
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "LayerRelevance":
        content = read_json(path)
        try:
            return cls(**content)
        except TypeError as error:
            raise _foreign(path, "relevance", error) from error


@dataclass(frozen=True)
class SensitivityTable:
    """What it costs the network to have one unit at other bits while all others stay at the baseline.

    `table` holds the rise of the metric over the baseline's: {unit: {(weight bits, activation bits): damage}}; it
    may be given with one number for bits that are the same for both. Negative: more bits than the baseline's heal.
    `errors` holds the standard error of each entry, and `halves` the entries from the images at even and from those at
    odd positions, both by unit and bits like `table`, where the method keeps them.
    """

    table: dict[str, dict[Bits, float]]
    baseline: Bits
    baseline_damage: float  # the metric of the baseline itself
    metric: str
    images: int
    fingerprint: dict[str, str] = field(default_factory=dict)
    errors: Rows | None = None
    halves: tuple[Rows, Rows] | None = None
    image_size: tuple[int, int] | None = None  # (height, width), where it is known

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", _with_bits(self.table))
        object.__setattr__(self, "baseline", Bits.of(self.baseline, "the baseline"))
        if self.errors is not None:
            object.__setattr__(self, "errors", _with_bits(self.errors))
        if self.halves is not None:
            object.__setattr__(self, "halves", tuple(map(_with_bits, self.halves)))

    def damage(self, unit: str, bits: Bits) -> float:
        """Return the damage at (weight bits, activation bits); what was measured apart adds up."""
        return sum(self.table[unit][part] for part in self._entries(unit, bits))

    def plan_damage(self, plan: Mapping[str, Bits]) -> tuple[float, float | None]:
        """Return the damage of all units of a plan together, and the most that its standard error can be.

        That is the sum of the units' standard errors. It is reached where all units suffer on the same images.
        """
        damage = sum(self.damage(unit, bits) for unit, bits in plan.items())
        if self.errors is None:
            return damage, None
        return damage, sum(self.errors[unit][part] for unit in plan for part in self._entries(unit, plan[unit]))

    def half_tables(self) -> "tuple[SensitivityTable, SensitivityTable] | None":
        """Return the tables of the two halves of the images, if they are known."""
        if self.halves is None:
            return None
        even, odd = self.halves
        number = self.images // 2
        return (
            replace(self, table=even, images=self.images - number, errors=None, halves=None),
            replace(self, table=odd, images=number, errors=None, halves=None),
        )

    def tells(self, unit: str, bits: Bits) -> bool:
        """Return whether the damage at these bits was measured, or its parts were."""
        return unit in self.table and all(part in self.table[unit] for part in self._entries(unit, bits))

    def _entries(self, unit: str, bits: Bits) -> list[Bits]:
        if bits == self.baseline:
            return []
        if bits in self.table[unit]:
            return [bits]
        weight, activation = bits
        apart = Bits(weight, self.baseline.activation), Bits(self.baseline.weight, activation)
        return [part for part in apart if part != self.baseline]

    def covers(self, candidates: Iterable[Bits]) -> bool:
        """Return whether every unit was measured at all of these bits."""
        wanted = set(candidates)
        return all(wanted <= set(row) for row in self.table.values())

    def as_text(self) -> dict[str, dict[str, float]]:
        """Return the table with bits as JSON can hold them."""
        return _with_text(self.table)

    def save(self, path: str | Path) -> None:
        content = dataclasses.asdict(self) | {
            "table": self.as_text(),
            "errors": None if self.errors is None else _with_text(self.errors),
            "halves": None if self.halves is None else [_with_text(rows) for rows in self.halves],
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "SensitivityTable":
        content = read_json(path)
        try:
            table = content | {"table": _parse_rows(content["table"])}
            if table.get("errors") is not None:
                table["errors"] = _parse_rows(table["errors"])
            if table.get("halves") is not None:
                even, odd = map(_parse_rows, table["halves"])
                table["halves"] = (even, odd)
            if table.get("image_size") is not None:
                height, width = table["image_size"]
                table["image_size"] = (int(height), int(width))
            return cls(**table)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise _foreign(path, "sensitivity", error) from error


@dataclass(frozen=True)
class Known:
    """What was measured of a model before, as far as it was."""

    relevance: LayerRelevance | None = None
    sensitivity: SensitivityTable | None = None

    @classmethod
    def load(cls, folder: str | Path) -> "Known":
        """Return what a folder holds."""
        relevance, sensitivity = Path(folder) / RELEVANCE_FILE, Path(folder) / SENSITIVITY_FILE
        return cls(
            LayerRelevance.load(relevance) if relevance.exists() else None,
            SensitivityTable.load(sensitivity) if sensitivity.exists() else None,
        )

    def save(self, folder: str | Path) -> None:
        if self.relevance is not None:
            self.relevance.save(Path(folder) / RELEVANCE_FILE)
        if self.sensitivity is not None:
            self.sensitivity.save(Path(folder) / SENSITIVITY_FILE)


@dataclass(frozen=True)
class UnitCosts:
    """What a plan costs, counted from the model's shapes with exact integers.

    A column-scaled layer multiplies activations with an 8-bit operand, whatever bits its weight is stored with
    (docs/pipeline.md, "Two arithmetics"): its bit operations are MACs x 8 x activation bits.
    """

    macs: dict[str, int]  # multiply-accumulates per image, by unit
    weights: dict[str, tuple[int, ...]]  # numbers of weights of each of the unit's layers; empty for the matmuls
    fixed_bytes: int  # of the saved file: its header, scales, zero points, float parts, stem and heads
    fixed_bops: int  # stem and heads
    arithmetic: str

    @property
    def total_weights(self) -> int:
        return sum(map(sum, self.weights.values()))

    def weight_bits(self, unit: str, bits: Bits) -> int:
        """Return the bits of all weights of a unit together."""
        return sum(self.weights[unit]) * bits[0]

    def unit_bytes(self, unit: str, bits: Bits) -> int:
        return sum(packed_size(count, bits[0]) for count in self.weights[unit])

    def unit_bops(self, unit: str, bits: Bits) -> int:
        """Return the unit's bit operations per image: MACs x bits of one operand x bits of the other."""
        weight, activation = bits
        if not self.weights[unit]:
            return self.macs[unit] * activation * activation
        return self.macs[unit] * arithmetic_of(self.arithmetic).bit_operations(weight, activation)

    def average_bits(self, plan: dict[str, Bits]) -> float:
        return sum(self.weight_bits(unit, bits) for unit, bits in plan.items()) / self.total_weights

    def bytes(self, plan: dict[str, Bits]) -> int:
        return self.fixed_bytes + sum(self.unit_bytes(unit, bits) for unit, bits in plan.items())

    def bops(self, plan: dict[str, Bits]) -> int:
        return self.fixed_bops + sum(self.unit_bops(unit, bits) for unit, bits in plan.items())

    def achieved(self, plan: dict[str, Bits]) -> dict[str, float]:
        """Return all that a plan costs, for its provenance."""
        return {
            "average_bits": self.average_bits(plan),
            "bytes": self.bytes(plan),
            "bops": self.bops(plan),
        }


def _with_bits(rows: Mapping[str, Mapping[Any, float]]) -> Rows:
    return {unit: {Bits.of(bits, unit): value for bits, value in row.items()} for unit, row in rows.items()}


def _with_text(rows: Rows) -> dict[str, dict[str, float]]:
    return {unit: {str(bits): value for bits, value in row.items()} for unit, row in rows.items()}


def _parse_rows(rows: Mapping[str, Mapping[str, float]]) -> Rows:
    return {unit: {Bits.parse(bits): value for bits, value in row.items()} for unit, row in rows.items()}


def _foreign(path: str | Path, what: str, error: Exception) -> ValueError:
    return ValueError(f"{path} holds no {what} that this release reads ({error!r}): delete it and measure again.")
