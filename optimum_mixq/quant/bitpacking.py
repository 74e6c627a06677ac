# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Codes to bytes and back, at the true width: eight codes of b bits take b bytes."""

import torch
from torch import Tensor

from optimum_mixq.utils.bits import LARGEST_BITS, SMALLEST_BITS, is_width


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that `count` codes of `bits` bits take.

    >>> packed_size(16, 3), packed_size(17, 3)
    (6, 7)
    """
    return -(-count * bits // 8)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Return integer codes in 0..2^bits - 1 of any shape as flat uint8: one stream of bits, least significant first.

    >>> pack_codes(torch.tensor([1, 2, 3]), bits=2).tolist()  # 0b11_10_01
    [57]
    """
    _check_bits(bits)
    flat = codes.flatten().to(torch.int64)
    if len(flat):
        low, high = torch.stack(flat.aminmax()).tolist()
        if low < 0 or high >= 2**bits:
            raise ValueError(f"Expected codes in 0..{2**bits - 1}, found {low}..{high}.")
    if bits == 8:
        return flat.to(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)  # (G, 8), each group becomes `bits` bytes
    shifts = torch.arange(0, 8 * bits, bits, device=codes.device)
    words = (padded << shifts).sum(1)  # (G,), at most 56 bits
    octets = (words[:, None] >> torch.arange(0, 8 * bits, 8, device=codes.device)) & 255  # (G, bits)
    return octets.flatten()[: packed_size(len(flat), bits)].to(torch.uint8)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of `pack_codes` as flat uint8."""
    _check_bits(bits)
    if packed.dtype != torch.uint8 or packed.numel() != packed_size(count, bits):
        raise ValueError(
            f"Expected {packed_size(count, bits)} bytes (uint8) for {count} codes of {bits} bits, found "
            f"{packed.numel()} of {packed.dtype}. The file is truncated, or belongs to another plan."
        )
    if bits == 8:
        return packed.flatten().clone()
    octets = torch.nn.functional.pad(packed.flatten(), (0, -packed.numel() % bits)).view(-1, bits).to(torch.int64)
    words = (octets << torch.arange(0, 8 * bits, 8, device=packed.device)).sum(1)  # (G,)
    codes = (words[:, None] >> torch.arange(0, 8 * bits, bits, device=packed.device)) & (2**bits - 1)  # (G, 8)
    return codes.flatten()[:count].to(torch.uint8)


def scale_to_int16(scale: Tensor) -> Tensor:
    """Return the float16 bits of a scale as int16, which `.half()`, `.to(bfloat16)` and loaders leave alone."""
    return scale.to(torch.float16).view(torch.int16)


def int16_to_scale(stored: Tensor) -> Tensor:
    """Return the float32 scale of `scale_to_int16`."""
    return stored.view(torch.float16).float()


def _check_bits(bits: int) -> None:
    if not is_width(bits):
        raise ValueError(f"Expected a width of {SMALLEST_BITS} to {LARGEST_BITS} bits, found {bits}.")
