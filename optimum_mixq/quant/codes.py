# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Codes of activations, and their second moments."""

import torch
from torch import Tensor

from optimum_mixq.kernels import OPERAND_BITS, OneDNNKernel, Rounding
from optimum_mixq.quant.handover import Handover


# Float32 numbers that fit a core's second-level cache, with room for what they are made from.
CACHED_NUMBERS = 2**17


def quantize_columns(values: Tensor, multiplier: Tensor, offset: Tensor, bits: int) -> Tensor:
    """Return uint8 codes clamp(floor(values (..., C) * multiplier (C,) + offset (C,)), 0, 2^bits - 1).

    On a CPU, piece by piece: what lies between values and codes then stays in the cache.
    """
    largest = 2**bits - 1
    rows = max(1, CACHED_NUMBERS // values.shape[-1])
    if values.device.type != "cpu" or torch.compiler.is_compiling() or values[..., 0].numel() <= rows:
        return to_bytes(torch.addcmul(offset, values.float(), multiplier).clamp_(0, largest), bits)
    flat = values.reshape(-1, values.shape[-1])
    codes = torch.empty(flat.shape, dtype=torch.uint8)
    buffer = torch.empty(rows, flat.shape[1])
    for start in range(0, len(flat), rows):
        piece = flat[start : start + rows]
        shifted = torch.addcmul(offset, piece.float(), multiplier, out=buffer[: len(piece)]).clamp_(0, largest)
        codes[start : start + rows] = to_bytes(shifted, bits)
    return codes.view(values.shape)


def take_codes(input: Tensor, rounding: Rounding, handover: Handover | None) -> tuple[Tensor, torch.dtype]:
    """Return an input's codes (..., C), uint8, and the dtype of its numbers; what was handed over has them already.

    The same arithmetic as `grids.quantize`, in fewer passes over memory.
    """
    if handover is not None and input.dtype == torch.uint8:
        return input, handover.dtype
    return quantize_columns(input, rounding.multiplier, rounding.offset, rounding.bits), input.dtype


def to_bytes(codes: Tensor, bits: int) -> Tensor:
    """Return floor(codes) as uint8: conversion truncates, which is the floor of what is not negative.

    From float straight to uint8 eager torch does not vectorise it, and compiled torch nothing else (2.13, x86).
    """
    if torch.compiler.is_compiling():
        return codes.to(torch.uint8)
    return codes.to(torch.int8).view(torch.uint8) if bits < 8 else codes.to(torch.int32).to(torch.uint8)


def add_gram_(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows (C, C) of rows (N, C) to `total`, in place: C may be thousands.

    uint8 codes, whose total is float64, multiply as integers where the CPU does that fast.
    """
    if rows.dtype != torch.uint8:
        total.addmm_(rows.T, rows)
    elif not OneDNNKernel.supports(rows.device, OPERAND_BITS):
        total.add_(rows.T.float() @ rows.float())
    else:
        signed = (rows.to(torch.int16) - 128).to(torch.int8).T.contiguous()  # (C, N)
        total.add_(torch._int_mm(signed, signed.T))
        # q^T q = (q - 128)^T (q - 128) + 128 (sums + sums^T) + 128^2 N, for sums of q - 128
        sums = 128 * signed.sum(1, dtype=torch.int64).double()
        total.add_(sums[:, None]).add_(sums[None, :]).add_(128**2 * len(rows))
