# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Lines that tell people what came out: of plans, comparisons, evaluations and training."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import Architecture
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import MixQConfig
from optimum_mixq.stages.allocation.costs import measure_costs
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.stages.training.loop import EpochResult


def describe_time(seconds: float) -> str:
    """Return a duration as people say it.

    >>> describe_time(7.4), describe_time(192), describe_time(4000)
    ('7 s', '3 min 12 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def describe_span(numbers: Sequence[int]) -> str:
    """Return "3 to 6", or "4" where all are the same."""
    return f"{min(numbers)} to {max(numbers)}" if min(numbers) != max(numbers) else str(min(numbers))


def describe_ends(architecture: Architecture, bits: int) -> str:
    """Return which quantized layers outside the plan a model has, and their bits."""
    stem = () if architecture.stem is None else ("patch embedding",)
    heads = () if not architecture.heads else ("head" if len(architecture.heads) == 1 else "heads",)
    return f"{' and '.join((*stem, *heads))} at {bits} bits" if stem or heads else "nothing that is quantized"


def describe_plan(plan: BitPlan, model: PreTrainedModel) -> str:
    """Return the average bits of a plan, and the span of bits of weights and of activations."""
    costs = measure_costs(model, MixQConfig().calibration)
    weight_bits = [bits for unit, (bits, _) in plan.bits.items() if costs.weights[unit]]
    input_bits = [bits for _, bits in plan.bits.values()]
    return (
        f"{costs.average_bits(plan.bits):.2f} bits per weight on average; weights have {describe_span(weight_bits)} "
        f"bits, activations {describe_span(input_bits)}"
    )


def describe_comparison(plan: BitPlan) -> list[str]:
    """Return a line on how near a chosen plan stays to the float model, and uniform bits; none if it was not compared.

    >>> describe_comparison(BitPlan({}, {"compared": {"alpha 1": 0.01, "uniform": 0.0125}, "chosen": "alpha 1"}))
    ['distance to the float model: 0.0100, 0.80 times that of uniform bits (on the images that chose the bits)']
    >>> describe_comparison(BitPlan({}))
    []
    """
    compared = plan.provenance.get("compared")
    if not compared:
        return []
    chosen, uniform = compared[plan.provenance["chosen"]], compared.get("uniform")
    beside = ""
    if plan.provenance["chosen"] == "uniform":
        beside = "; uniform bits came nearest of all plans"
    elif uniform:
        beside = f", {chosen / uniform:.2f} times that of uniform bits"
    return [f"distance to the float model: {chosen:.4f}{beside} (on the images that chose the bits)"]


def describe_certainty(plan: BitPlan) -> list[str]:
    """Return a line on how sure the choice of a plan's bits is; none where nothing is known of that.

    >>> predicted = {"damage": 0.02134, "standard_error": 0.00123}
    >>> describe_certainty(BitPlan({}, {"predicted": predicted}))
    ['predicted damage: 0.0213, with a standard error of at most 0.0012']
    >>> halves = {"images": 64, "excess": 0.013, "other_units": [1, 2]}
    >>> describe_certainty(BitPlan({"fc1": 4, "fc2": 4, "fc3": 4}, {"halves": halves}))
    ['with half of the 64 images, 1 to 2 of 3 layers would have other bits, and the plan would be 1.3 % worse']
    """
    predicted, halves = plan.provenance.get("predicted"), plan.provenance.get("halves")
    parts = []
    if predicted is not None:
        error = predicted["standard_error"]
        beside = "" if error is None else f", with a standard error of at most {error:.2g}"
        parts.append(f"predicted damage: {predicted['damage']:.3g}{beside}")
    if halves is not None:
        parts.append(_describe_halves(halves, len(plan.bits)))
    return ["; ".join(parts)] if parts else []


def _describe_halves(halves: Mapping[str, Any], units: int) -> str:
    """Return whether half of the images would have chosen other bits.

    >>> _describe_halves({"images": 64, "excess": 0.0, "other_units": [0, 0]}, 3)
    'with half of the 64 images, the bits would be the same'
    >>> _describe_halves({"images": 64, "excess": None, "other_units": [2, 2]}, 3)
    'with half of the 64 images, 2 of 3 layers would have other bits'
    """
    text, others = f"with half of the {halves['images']} images, ", halves["other_units"]
    if not any(others):
        return text + "the bits would be the same"
    text += f"{describe_span(others)} of {units} layers would have other bits"
    excess = halves["excess"]
    return text if excess is None else f"{text}, and the plan would be {100 * excess:.2g} % worse"


def describe_evaluation(result: Evaluation, accuracy_name: str = "top-1", divergence_name: str = "KL to float") -> str:
    """Return the accuracy with its interval, or without labels how near a model stays to the float one.

    >>> describe_evaluation(Evaluation(1000, 0.91, None, None))
    'top-1 91.00 % on 1000 images (95 % interval 89.07-92.62)'
    >>> describe_evaluation(Evaluation(50, 0.5, None, None, is_share=False), "mean IoU")
    'mean IoU 50.00 % on 50 images'
    >>> describe_evaluation(Evaluation(50, None, 0.98, 0.0123))
    'same prediction as float on 98.00 % of 50 images, KL to float 0.0123'
    >>> describe_evaluation(Evaluation(50, None, None, 0.0123), "", "cosine distance to float")
    'cosine distance to float 0.0123 on 50 images'
    """
    if result.accuracy is not None:
        told = f"{accuracy_name} {100 * result.accuracy:.2f} % on {result.images} images"
        if result.accuracy_interval is None:
            return told
        low, high = result.accuracy_interval
        return f"{told} (95 % interval {100 * low:.2f}-{100 * high:.2f})"
    if result.kl is None:
        return f"no labels on {result.images} images"
    distance = f"{divergence_name} {result.kl:.4f}"
    if result.agreement is None:
        return f"{distance} on {result.images} images"
    return f"same prediction as float on {100 * result.agreement:.2f} % of {result.images} images, {distance}"


def describe_training(
    history: Sequence[EpochResult],
    evaluated: bool,
    accuracy_name: str = "top-1",
    divergence_name: str = "KL to float",
) -> list[str]:
    """Return a line for each epoch, and one on which weights were kept."""
    lines = []
    for epoch in history:
        merit = "" if epoch.kl is None else f", {divergence_name} {epoch.kl:.4f}"
        if epoch.accuracy is not None:
            merit = f", {accuracy_name} {100 * epoch.accuracy:.2f} %"
        kept = ", kept" if epoch.kept else ""
        lines.append(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}{merit}, {epoch.seconds:.0f} s{kept}")
    if evaluated and not any(epoch.kept for epoch in history):
        lines.append(
            "No epoch was better than the calibrated model that training started from, so that one was kept: try a "
            "lower learning rate, or more images."
        )
    elif not evaluated:
        worse = len(history) > 1 and history[-1].loss > history[0].loss
        lines.append(
            "The last epoch was kept; "
            + ("its loss is higher than the first one's, " if worse else "")
            + "and without --evaluate nothing tells whether it is better than the model that training started from."
        )
    return lines
