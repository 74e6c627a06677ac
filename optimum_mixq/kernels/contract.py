# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What a kernel is given, and what it has to answer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from optimum_mixq.kernels.handles import find_kernel, give_handle


Activation = Literal["none", "gelu"]
# The smallest width that common hardware multiplies: operands are int8.
OPERAND_BITS = 8


@dataclass(frozen=True)
class WeightCodes:
    """The codes that an operand was made from, for kernels that multiply fewer than 8 bits.

    A weight is `scale` * (code - `zero_point`). The operand of a product holds code - `zero_point` where `input_scale`
    is None, and else weight * `input_scale`, rounded once more to 8 bits.
    """

    codes: Tensor  # uint8 (O, C)
    scale: Tensor  # (O,)
    zero_point: Tensor  # (O,)
    input_scale: Tensor | None  # (C,)
    bits: int


@dataclass(frozen=True)
class IntegerProduct:
    """y (..., O) = f(scale * (codes (..., C) @ operand^T (C, O)) + bias), for codes of 0 to 255.

    f is the identity, or GELU (exact, with erf).
    """

    operand: Tensor  # int8 (O, C)
    scale: Tensor  # (O,)
    bias: Tensor  # (O,)
    weight: WeightCodes | None = None

    @property
    def bits(self) -> int:
        """Return the bits that a kernel has to multiply at least."""
        return OPERAND_BITS if self.weight is None else self.weight.bits

    @staticmethod
    def concatenate(products: "Sequence[IntegerProduct]") -> "IntegerProduct":
        """Return the product whose outputs are those of all products, one after another; they read the same codes."""
        weights = [product.weight for product in products if product.weight is not None]
        joint = None
        if len(weights) == len(products) and len({weight.bits for weight in weights}) == 1:
            joint = WeightCodes(
                torch.cat([weight.codes for weight in weights]),
                torch.cat([weight.scale for weight in weights]),
                torch.cat([weight.zero_point for weight in weights]),
                weights[0].input_scale,
                weights[0].bits,
            )
        return IntegerProduct(
            torch.cat([product.operand for product in products]),
            torch.cat([product.scale for product in products]),
            torch.cat([product.bias for product in products]),
            joint,
        )


@dataclass(frozen=True)
class Rounding:
    """How numbers (..., C) become codes: clamp(floor(number * multiplier + offset), 0, 2^bits - 1), uint8."""

    multiplier: Tensor  # float32 (C,)
    offset: Tensor  # float32 (C,)
    bits: int

    @property
    def largest_code(self) -> int:
        return 2**self.bits - 1


class Kernel(ABC):
    """One way to compute an `IntegerProduct`: prepared once per layer, when the layer is built or moved."""

    # Whether torch.compile may look inside `multiply`, to compute what follows a product together with it.
    transparent: ClassVar[bool] = False
    # Whether there are `multiply_to_codes` and `normalize_to_codes`, for what only another product reads.
    puts_out_codes: ClassVar[bool] = False

    def __init__(self, product: IntegerProduct) -> None:
        self.out_features, self.in_features = product.operand.shape
        self.scale, self.bias = product.scale.float().contiguous(), product.bias.float().contiguous()
        self.handle = give_handle(self)

    @classmethod
    @abstractmethod
    def supports(cls, device: torch.device, bits: int) -> bool:
        """Tell whether the kernel multiplies weights of so many bits exactly on the device."""

    @abstractmethod
    def multiply(self, codes: Tensor, dtype: torch.dtype, activation: Activation) -> Tensor:
        """Return (..., O) in `dtype` from uint8 codes (..., C)."""

    def multiply_to_codes(self, codes: Tensor, rounding: Rounding, activation: Activation) -> Tensor:
        """Return what `multiply` would in float32, rounded to codes (..., O) as the next product takes them."""
        raise NotImplementedError(f"{type(self).__name__} puts out no codes: ask its `puts_out_codes` first.")

    def normalize_to_codes(
        self, values: Tensor, weight: Tensor, bias: Tensor, eps: float, rounding: Rounding
    ) -> Tensor:
        """Return the LayerNorm of values (..., C), rounded to the codes that this kernel multiplies."""
        raise NotImplementedError(f"{type(self).__name__} puts out no codes: ask its `puts_out_codes` first.")

    @abstractmethod
    def operand(self) -> Tensor:
        """Return the operand (O, C), int8: what programs that leave the process carry along."""

    def __call__(self, codes: Tensor, dtype: torch.dtype = torch.float32, activation: Activation = "none") -> Tensor:
        """Return (..., O) in `dtype` from uint8 codes (..., C), also in graphs that torch traces.

        A compiled graph lives in this process and names the kernel by its number, unless the kernel is transparent:
        torch.compile cannot trace oneDNN's opaque weights (torch 2.13). An exported program can leave the process and
        holds the operand itself.
        """
        if torch.compiler.is_exporting():
            operand, scale, bias = constants_of(self.handle)
            return torch.ops.mixq.integer_product(codes, operand, scale, bias, dtype, activation)
        if torch.compiler.is_compiling() and not self.transparent:
            return torch.ops.mixq.integer_linear(codes, self.handle, self.out_features, dtype, activation)
        if torch.jit.is_tracing():
            raise ValueError("torch.jit.trace cannot hold integer kernels: use torch.export.export, or torch.compile.")
        return self.multiply(codes, dtype, activation)

    def to_codes(self, codes: Tensor, rounding: Rounding, activation: Activation = "none") -> Tensor:
        """Return codes (..., O), uint8, from codes (..., C), also in graphs that torch compiles."""
        if torch.compiler.is_compiling():
            return torch.ops.mixq.integer_codes(
                codes, self.handle, self.out_features, rounding.multiplier, rounding.offset, rounding.bits, activation
            )
        return self.multiply_to_codes(codes, rounding, activation)


@torch.compiler.assume_constant_result
def constants_of(handle: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the operand, the scale and the bias of a kernel, as real tensors even while torch traces fake ones."""
    kernel = find_kernel(handle)
    with _disable_current_modes():
        return kernel.operand(), kernel.scale, kernel.bias
