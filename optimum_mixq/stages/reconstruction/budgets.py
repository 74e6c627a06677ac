# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How long blocks learn, by the names that the option `reconstruction` may have."""

from dataclasses import dataclass

from optimum_mixq.utils.checks import require_one_of


@dataclass(frozen=True)
class Budget:
    """How a block learns.

    Rates are those of Adam at the start; they fall as a cosine to zero. They count in units of what learns: a
    weight's in the steps of its grid, a step's in shares of itself, an offset's in steps. Grids are searched before,
    and near their best: Adam, which takes steps of one size, would move them about with a larger rate.
    """

    iterations: int  # with none, closed forms alone bring blocks back
    batch_size: int = 8  # many small steps come nearer than few large ones at the same cost
    weight_rate: float = 0.03
    grid_rate: float = 1e-3
    other_rate: float = 1e-3  # of biases and LayerNorms, in shares of their root mean square


BUDGETS = {"light": Budget(iterations=0), "full": Budget(iterations=400)}


def budget_names() -> tuple[str, ...]:
    """Return the names that the option `reconstruction` may have."""
    return tuple(BUDGETS)


def budget_of(name: str) -> Budget:
    """Return the budget of a name."""
    require_one_of("reconstruction", budget_names(), name)
    return BUDGETS[name]


def learns(name: str | None) -> bool:
    """Return whether blocks learn under a value of the option `reconstruction`."""
    return name is not None and budget_of(name).iterations > 0
