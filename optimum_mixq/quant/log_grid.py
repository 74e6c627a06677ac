# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The logarithmic grid of softmax, for numbers in [0, 1]: 2^(-code / steps), and zero for the last code.

RepQ-ViT (arXiv 2212.08254, section 3.3) sets what lies below the grid to zero next to its 2^bits codes, which no b-bit
number can store; here 2^bits codes are all.
"""

import math

import torch
from torch import Tensor


def log_steps(bits: int) -> int:
    """Return the steps per octave of the logarithmic grid: 2, which is log-sqrt2, and from 6 bits on more.

    # Unlike the paper: 2^bits codes at two per octave reach below 2^-30 from 6 bits on, where nothing is left to tell
    # apart, while neighbouring values stay 41 % apart. Finer steps that reach 2^-16 spend the bits better.

    >>> [log_steps(bits) for bits in (2, 4, 5, 6, 7, 8)]
    [2, 2, 2, 4, 8, 16]
    """
    return max(2, 2 ** (bits - 4))


def quantized_softmax(scores: Tensor, bits: int) -> Tensor:
    """Return softmax(scores) (..., T) with exp(score - row maximum) on the logarithmic grid, rows summing to one.

    >>> quantized_softmax(torch.tensor([0.0, -math.log(2), -20.0]), bits=3).tolist()  # 1, 1/2, below the grid
    [0.6666666865348816, 0.3333333432674408, 0.0]
    """
    powers = log_grid_powers(scores, bits)
    return powers / powers.sum(-1, keepdim=True)


def log_grid_powers(scores: Tensor, bits: int) -> Tensor:
    """Return exp(score - row maximum) (..., T) on the logarithmic grid, with a straight-through gradient.

    # Unlike the paper: the grid is applied before the division by the row's sum, not after it. So the largest weight
    # of each row is exact, no scale has to be calibrated, and the rows still sum to one.
    """
    exact = scores.detach().to(torch.promote_types(scores.dtype, torch.float32), copy=True)
    powers = log_grid_powers_(exact, bits).to(scores.dtype)
    if not scores.requires_grad:
        return powers
    smooth = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
    return smooth + (powers - smooth).detach()


def log_grid_powers_(scores: Tensor, bits: int) -> Tensor:
    """Turn scores (..., T) in place into exp(score - row maximum) on the logarithmic grid.

    log2 exp(d) = d / ln 2, so the code of an element is round(steps (maximum - score) / ln 2): no logarithm is taken.
    """
    return powers_of_steps_(scores.mul_(log_steps(bits) / math.log(2)), bits)


def powers_of_steps_(scores: Tensor, bits: int) -> Tensor:
    """Turn scores (..., T), counted in steps of the logarithmic grid, in place into powers on it."""
    steps = log_steps(bits)
    # minus the code: -floor(x + 1/2) = ceil(-x - 1/2)
    exponents = scores.sub_(scores.amax(-1, keepdim=True).add_(0.5)).ceil_()
    # The last code is zero: cut halfway between it and the last but one.
    return torch.threshold_(exponents.mul_(1 / steps).exp2_(), 2 ** (-(2**bits - 1.5) / steps), 0.0)
