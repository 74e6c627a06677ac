# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How sure a choice of bits is: whether half of the images would have chosen others, and what that would cost."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable, UnitCosts
from optimum_mixq.config import BudgetOptions
from optimum_mixq.stages.allocation.allocate import combine_scores
from optimum_mixq.stages.allocation.candidates import candidate_bits
from optimum_mixq.stages.allocation.propose import best_plan, objectives
from optimum_mixq.utils.bits import Bits


# Of two halves of the images, the plans may be worse than that of all of them by this share of its score. Then more
# images are not worth their time (docs/decisions.md).
LARGEST_EXCESS = 0.02


@dataclass(frozen=True)
class Halves:
    """The best plans of the two halves of the images beside that of all of them.

    `excess` is how much larger their scores are by all images, as a share of the best plan's and a mean of the two. It
    is None where the best plan's score is not positive.
    """

    images: int  # in both halves together
    excess: float | None
    other_units: tuple[int, int]  # that have other bits in each half's plan


def compare_halves(
    plan: BitPlan,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    costs: UnitCosts,
    options: BudgetOptions,
) -> Halves | None:
    """Return how the best plan by the options' objective compares with those of half the images.

    It is None where the table does not hold its halves.
    """
    halves = sensitivity.half_tables()
    if halves is None:
        return None
    scores = combine_scores(relevance, sensitivity, candidate_bits(options, costs), options.alpha)

    def score(bits: Mapping[str, Bits]) -> float:
        # Bits that an override fixes may have no score; they are the same in every plan.
        return math.fsum(scores[unit].get(width, 0.0) for unit, width in bits.items())

    others = [best_plan(relevance, half, costs, options).bits for half in halves]
    best = score(plan.bits)
    more = max(0.0, sum(map(score, others)) / 2 - best)
    even, odd = (sum(bits[unit] != width for unit, width in plan.bits.items()) for bits in others)
    return Halves(sensitivity.images, more / best if best > 0 else None, (even, odd))


def are_images_enough(
    relevance: LayerRelevance | None, sensitivity: SensitivityTable, costs: UnitCosts, options: BudgetOptions
) -> bool:
    """Return whether the plans of half the images would do nearly as well, by each objective that is compared."""
    for objective in objectives(options).values():
        plan = best_plan(relevance, sensitivity, costs, objective)
        halves = compare_halves(plan, relevance, sensitivity, costs, objective)
        if halves is None or halves.excess is None or halves.excess > LARGEST_EXCESS:
            return False
    return True


def add_certainty(
    plan: BitPlan,
    relevance: LayerRelevance | None,
    sensitivity: SensitivityTable,
    costs: UnitCosts,
    options: BudgetOptions | None,
) -> BitPlan:
    """Return the plan with what the table tells of it in its provenance.

    "predicted" holds its damage and standard error, "halves" how the plans of half the images compare. `options` are
    those whose objective the plan is best by; without them sensitivity did not choose it, and "halves" is left out.
    """
    provenance = dict(plan.provenance)
    if all(sensitivity.tells(unit, bits) for unit, bits in plan.bits.items()):
        damage, error = sensitivity.plan_damage(plan.bits)
        provenance["predicted"] = {"damage": damage, "standard_error": error}
    halves = None if options is None else compare_halves(plan, relevance, sensitivity, costs, options)
    if halves is not None:
        provenance["halves"] = asdict(halves) | {"other_units": list(halves.other_units)}
    return replace(plan, provenance=provenance)
