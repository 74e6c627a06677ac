# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How a GPU's memory holds the weight of a product: as its operand, or as two or four codes to a byte."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.kernels.contract import IntegerProduct


# Bytes of a row: loads of 16 bytes want multiples of 16.
ALIGNMENT = 16
# Codes of more bits would fill a byte.
PACKED_BITS = 4


@dataclass(frozen=True)
class HeldWeight:
    """A weight (O, C) as bytes (O, C'), of `fields` codes each, or of one number of the operand.

    Byte j holds column j in its lowest bits, then column C' + j, and so on: the columns of one field are neighbours,
    and so are the codes that they are multiplied with.
    """

    octets: Tensor  # (O, C'): int8 operand, or uint8 codes
    fields: int  # 1, 2 or 4
    columns: int
    # Of codes: the operand is code - zero_point or, where there is an input_scale,
    # floor((code - zero_point) * weight_scale * input_scale / scale + 1/2), with the product's own scale.
    zero_point: Tensor | None = None  # (O,)
    weight_scale: Tensor | None = None  # (O,)
    input_scale: Tensor | None = None  # (C,)

    @property
    def by_column(self) -> bool:
        return self.input_scale is not None

    def operand(self, scale: Tensor) -> Tensor:
        """Return the operand (O, C), int8, of a product with this scale (O,): what the kernel unpacks in registers."""
        if self.zero_point is None:
            return self.octets[:, : self.columns].contiguous()
        width = 8 // self.fields
        codes = torch.cat([self.octets >> (field * width) & (2**width - 1) for field in range(self.fields)], 1)
        operand = codes[:, : self.columns].float() - self.zero_point[:, None]
        if self.weight_scale is not None and self.input_scale is not None:
            operand = torch.floor(operand * self.weight_scale[:, None] * self.input_scale / scale[:, None] + 0.5)
        return operand.to(torch.int8)


def hold_weight(product: IntegerProduct) -> HeldWeight:
    """Return the weight of a product: packed where its codes have at most four bits and give the operand exactly."""
    columns, weight = product.operand.shape[1], product.weight
    if weight is not None and weight.bits <= PACKED_BITS:
        fields = 4 if weight.bits <= 2 else 2
        by_column = weight.input_scale is not None
        packed = HeldWeight(
            _join_fields(weight.codes, fields),
            fields,
            columns,
            weight.zero_point.float().contiguous(),
            weight.scale.float().contiguous() if by_column else None,
            weight.input_scale.float().contiguous() if weight.input_scale is not None else None,
        )
        # An arithmetic of somebody else's may round in another way.
        if torch.equal(packed.operand(product.scale.float()), product.operand):
            return packed
    return HeldWeight(F.pad(product.operand, (0, -columns % ALIGNMENT)).contiguous(), 1, columns)


def _join_fields(codes: Tensor, fields: int) -> Tensor:
    """Return codes (O, C) as bytes (O, C') of so many fields."""
    length = -(-codes.shape[1] // (fields * ALIGNMENT)) * ALIGNMENT
    parts = F.pad(codes, (0, fields * length - codes.shape[1])).split(length, 1)
    octets = torch.zeros_like(parts[0])
    for field, part in enumerate(parts):
        octets |= part << (field * (8 // fields))
    return octets.contiguous()
