# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Which of some plans is the best, and whether more images could change that in a way that matters."""

from collections.abc import Mapping

from torch import Tensor


# A mean may be off by so many of its standard errors: looked at again and again, it will be off by two now and then.
STANDARD_ERRORS = 3
# A plan that is worse than the best by this share of its damage is as good.
NEGLIGIBLE = 0.02


def choose_nearest(damages: Mapping[str, Tensor], doubted: str) -> str:
    """Return the plan of least mean damage, or the second where the least is doubted and they are hardly apart.

    `damages` holds, by plan, the damage to each of the same images (images,). The plan `doubted`, if it is among them,
    has to be better than all others by more than the standard error of the difference.
    """
    first, *others = sorted(damages, key=lambda name: float(damages[name].mean()))
    if first != doubted or not others:
        return first
    rise = damages[others[0]] - damages[first]
    is_clear = len(rise) == 1 or float(rise.mean()) > _standard_error(rise)  # one image has no standard error
    return first if is_clear else others[0]


def is_settled(damages: Mapping[str, Tensor]) -> bool:
    """Return whether the plan of least mean damage is the best, or as good, whatever further images say.

    `damages` holds, by plan, the damage to each of the same images (images,). Images differ much more than plans do on
    one image, so that differences are what is averaged.
    """
    best = damages[min(damages, key=lambda name: float(damages[name].mean()))]
    allowed = NEGLIGIBLE * float(best.mean())
    others = (damage - best for damage in damages.values() if damage is not best)
    return all(STANDARD_ERRORS * _standard_error(rise) - float(rise.mean()) <= allowed for rise in others)


def _standard_error(values: Tensor) -> float:
    return float(values.std()) / len(values) ** 0.5
