# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Integer matrix products: unsigned codes times a signed 8-bit operand, summed in int32, scaled per output.

A kernel is prepared once per layer, when the layer is built or moved, and then called through one custom operator that
`torch.compile` takes as it is. `choose_backend` says which one a device gets.
"""

import itertools
import weakref
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


Backend = Literal["onednn", "int_mm", "float"]
Activation = Literal["none", "gelu"]

# Float32 numbers that fit a core's second-level cache, with room for what they are made from.
CACHED_NUMBERS = 2**17

_handles = itertools.count()
# torch.compile cannot trace oneDNN's opaque weights (torch 2.13), so graphs name a kernel by number.
_kernels: "weakref.WeakValueDictionary[int, IntegerLinear]" = weakref.WeakValueDictionary()


def choose_backend(device: torch.device) -> Backend:
    """Return the fastest exact backend of a device."""
    if device.type == "cuda":
        return "int_mm"
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and _has_x86_int8():
        return "onednn"
    return "float"


class IntegerLinear:
    """y (N, O) = f(scale * (codes (N, C) @ operand^T (C, O)) + bias), for codes in 0..255 and an int8 operand (O, C).

    f is the identity, or GELU (exact, with erf), which oneDNN computes while the sums are in registers.
    """

    def __init__(
        self,
        operand: Tensor,
        scale: Tensor,
        bias: Tensor,
        backend: Backend | None = None,
        activation: Activation = "none",
    ) -> None:
        self.backend = backend or choose_backend(operand.device)
        self.activation = activation
        self.out_features = len(operand)
        self.scale, self.bias = scale.float().contiguous(), bias.float().contiguous()
        if self.backend == "onednn":
            self.operand = torch.ops.onednn.qlinear_prepack(operand.contiguous(), None)
            self.zero_points = torch.zeros(self.out_features, dtype=torch.int32)
        elif self.backend == "int_mm":
            # _int_mm takes signed operands: codes are shifted by 128, which adds 128 times the row sums.
            self.operand = operand.t().contiguous()
            self.bias = self.bias + 128 * self.scale * operand.float().sum(1)
        else:
            self.operand = operand.float()
        self.handle = next(_handles)
        _kernels[self.handle] = self

    def __call__(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return (..., O) in `dtype` from uint8 codes (..., C)."""
        if torch.compiler.is_compiling():
            return torch.ops.mixq.integer_linear(codes, self.handle, self.out_features, dtype)
        return self.multiply(codes, dtype)

    def multiply(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        if self.backend == "onednn" and dtype in (torch.float32, torch.bfloat16):
            return torch.ops.onednn.qlinear_pointwise(
                codes, 1.0, 0, self.operand, self.scale, self.zero_points, self.bias, 1.0, 0, dtype,
                self.activation, [], "none",
            )  # fmt: skip
        if self.backend == "onednn":
            return self.multiply(codes, torch.float32).to(dtype)
        products = self._products(codes)
        return (F.gelu(products) if self.activation == "gelu" else products).to(dtype)

    def _products(self, codes: Tensor) -> Tensor:
        if self.backend == "float":
            return F.linear(codes.float(), self.operand) * self.scale + self.bias
        rows = (codes.flatten(0, -2).to(torch.int16) - 128).to(torch.int8)
        # CUDA's _int_mm wants more than 16 rows and multiples of 8 (torch 2.13).
        padding = max(17 - len(rows), 0) if rows.is_cuda else 0
        products = torch._int_mm(F.pad(rows, (0, 0, 0, padding)), self.operand)[: len(rows)]
        return (products * self.scale + self.bias).view(*codes.shape[:-1], self.out_features)


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
    elif choose_backend(rows.device) != "onednn":
        total.add_(rows.T.float() @ rows.float())
    else:
        signed = (rows.to(torch.int16) - 128).to(torch.int8).T.contiguous()  # (C, N)
        total.add_(torch._int_mm(signed, signed.T))
        # q^T q = (q - 128)^T (q - 128) + 128 (sums + sums^T) + 128^2 N, for sums of q - 128
        sums = 128 * signed.sum(1, dtype=torch.int64).double()
        total.add_(sums[:, None]).add_(sums[None, :]).add_(128**2 * len(rows))


def _multiply(codes: Tensor, handle: int, out_features: int, dtype: torch.dtype) -> Tensor:
    return _kernels[handle].multiply(codes, dtype)


def _describe_product(codes: Tensor, handle: int, out_features: int, dtype: torch.dtype) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], out_features), dtype=dtype)


# `torch.library.custom_op` checks each call's outputs for aliases, which takes 0.2 ms per layer (torch 2.13).
_library = torch.library.Library("mixq", "DEF")
_library.define("integer_linear(Tensor codes, int handle, int out_features, ScalarType dtype) -> Tensor")
_library.impl("integer_linear", _multiply, "CompositeExplicitAutograd")
torch.library.register_fake("mixq::integer_linear", _describe_product, lib=_library)


def _has_x86_int8() -> bool:
    # oneDNN runs u8 x s8 without overflow only with VNNI; older x86 sums pairs in int16, which saturates.
    return bool(torch.cpu._is_vnni_supported())
