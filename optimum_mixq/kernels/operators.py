# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Kernels as torch operators: for compiled graphs by number, for programs that leave the process by their tensors."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from optimum_mixq.kernels.contract import Activation, IntegerProduct, Kernel, Rounding
from optimum_mixq.kernels.handles import find_kernel
from optimum_mixq.kernels.registry import prepare_kernel


# Kernels of the operands that exported programs hold, with the scale and the bias that they were prepared from.
_prepared: "WeakTensorKeyDictionary" = WeakTensorKeyDictionary()


def integer_linear(
    codes: Tensor, handle: int, out_features: int, dtype: torch.dtype, activation: Activation
) -> Tensor:
    """Multiply with the kernel of a number; `out_features` is for tracing."""
    return find_kernel(handle).multiply(codes, dtype, activation)


def integer_codes(
    codes: Tensor,
    handle: int,
    out_features: int,
    multiplier: Tensor,
    offset: Tensor,
    bits: int,
    activation: Activation,
) -> Tensor:
    """Multiply with the kernel of a number, and round to the codes of the next product."""
    return find_kernel(handle).multiply_to_codes(codes, Rounding(multiplier, offset, bits), activation)


def integer_product(
    codes: Tensor, operand: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, activation: Activation
) -> Tensor:
    """Multiply with a kernel that is prepared at the first call with these tensors, on whatever device they are."""
    return _kernel_of(operand, scale, bias).multiply(codes, dtype, activation)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    handle: int,
    scaling: float,
    dtype: torch.dtype,
) -> Tensor:
    """Attend with the kernel of a number."""
    return find_kernel(handle, "computes attention").attend(query, key, value, mask, scaling, dtype)


def _kernel_of(operand: Tensor, scale: Tensor, bias: Tensor) -> Kernel:
    # Tensors made in inference mode count no changes.
    version = 0 if operand.is_inference() else operand._version
    known = _prepared.get(operand)
    if known is not None and known[0] == version and known[1] is scale and known[2] is bias:
        return known[3]
    kernel = prepare_kernel(IntegerProduct(operand, scale, bias))
    _prepared[operand] = (version, scale, bias, kernel)
    return kernel


def _describe_linear(
    codes: Tensor, handle: int, out_features: int, dtype: torch.dtype, activation: Activation
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], out_features), dtype=dtype)


def _describe_codes(
    codes: Tensor,
    handle: int,
    out_features: int,
    multiplier: Tensor,
    offset: Tensor,
    bits: int,
    activation: Activation,
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], out_features))


def _describe_product(
    codes: Tensor, operand: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype, activation: Activation
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], operand.shape[0]), dtype=dtype)


def _describe_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    handle: int,
    scaling: float,
    dtype: torch.dtype,
) -> Tensor:
    images, heads, tokens, size = query.shape
    return query.new_empty((images, tokens, heads, size))


# `torch.library.custom_op` checks each call's outputs for aliases, which takes 0.2 ms per layer (torch 2.13).
_library = torch.library.Library("mixq", "DEF")
_library.define(
    "integer_linear(Tensor codes, int handle, int out_features, ScalarType dtype, str activation) -> Tensor"
)
_library.define(
    "integer_product(Tensor codes, Tensor operand, Tensor scale, Tensor bias, ScalarType dtype, str activation) "
    "-> Tensor"
)
_library.define(
    "integer_codes(Tensor codes, int handle, int out_features, Tensor multiplier, Tensor offset, int bits, "
    "str activation) -> Tensor"
)
_library.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, int handle, float scaling, ScalarType dtype) "
    "-> Tensor"
)
_library.impl("integer_linear", integer_linear, "CompositeExplicitAutograd")
_library.impl("integer_product", integer_product, "CompositeExplicitAutograd")
torch.library.register_fake("mixq::integer_linear", _describe_linear, lib=_library)
_library.impl("integer_codes", integer_codes, "CompositeExplicitAutograd")
torch.library.register_fake("mixq::integer_codes", _describe_codes, lib=_library)
torch.library.register_fake("mixq::integer_product", _describe_product, lib=_library)
_library.impl("attention", attention, "CompositeExplicitAutograd")
torch.library.register_fake("mixq::attention", _describe_attention, lib=_library)
