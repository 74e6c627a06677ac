# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention as inference engines run it: on the model's own softmax grid, or in 8-bit integers throughout.

`attention_of(name)` returns one way; `register_attention` adds another.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from optimum_mixq.export.layers import Affine, round_to_integers
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.utils.checks import require_one_of


OPERANDS = ("query", "key", "value")
# From here on equal steps after softmax are as accurate as the model's own grid, and quicker.
FINE_BITS = 4


class ExportAttention(nn.Module, ABC):
    """Attention whose operands (B, heads, T, head size) come from layers; it stands in for an `AttentionQuantizer`.

    What is done to each channel of an operand before it is rounded, and of the output at the end, the layers around it
    may do instead: then `folded_operands` and `folded_output` are to be set.
    """

    name: ClassVar[str]
    query_scale: Tensor
    query_zero_point: Tensor
    key_scale: Tensor
    key_zero_point: Tensor
    value_scale: Tensor
    value_zero_point: Tensor

    def __init__(self, quantizer: AttentionQuantizer) -> None:
        super().__init__()
        assert quantizer.qk_bits is not None and quantizer.av_bits is not None  # packed models have both
        self.qk_bits, self.av_bits, self.softmax_grid = quantizer.qk_bits, quantizer.av_bits, quantizer.softmax_grid
        self.folded_operands = self.folded_output = False
        for operand in OPERANDS:
            grid = quantizer.grid(operand, 8)
            self.register_buffer(f"{operand}_scale", grid.scale)  # (heads, 1, head size)
            self.register_buffer(f"{operand}_zero_point", grid.zero_point)

    @abstractmethod
    def operand_affine(self, operand: str) -> Affine:
        """Return what is done to an operand before it is rounded, of shapes (heads, 1, head size)."""

    @abstractmethod
    def output_affine(self) -> Affine:
        """Return what is done to the output at the end, of shapes (heads, 1, head size)."""

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Return the output (B, heads, T, head size) between both; `mask` is added to the scaled scores."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        """Return the output (B, T, heads, head size)."""
        if not self.folded_operands:
            query, key, value = (
                self.operand_affine(name).apply(values)
                for name, values in zip(OPERANDS, (query, key, value), strict=True)
            )
        output = self.attend(query, key, value, mask, scaling)
        if not self.folded_output:
            output = self.output_affine().apply(output)
        return output.transpose(1, 2).contiguous()

    def to_codes(self, operand: str) -> Affine:
        """Return what brings an operand into the space of codes."""
        scale = self.get_buffer(f"{operand}_scale")
        return Affine(1 / scale, self.get_buffer(f"{operand}_zero_point"))


ATTENTIONS: dict[str, type[ExportAttention]] = {}

Kind = TypeVar("Kind", bound=type[ExportAttention])


def register_attention(attention: Kind) -> Kind:
    """Add a way to run attention under its name; of two with the same name, the one registered last is used."""
    ATTENTIONS[attention.name] = attention
    return attention


def attention_of(name: str) -> type[ExportAttention]:
    """Return the attention of a name; a name that nobody registered raises a ValueError."""
    require_one_of("attention", tuple(sorted(ATTENTIONS)), name)
    return ATTENTIONS[name]


@register_attention
class LogarithmicAttention(ExportAttention):
    """The model's own grids: exp(score - row maximum) is rounded by float operators, and products are float."""

    name = "logarithmic"

    def operand_affine(self, operand: str) -> Affine:
        return self.to_codes(operand)

    def output_affine(self) -> Affine:
        return Affine(self.value_scale, torch.zeros_like(self.value_scale))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        score_factor = self.softmax_grid.score_factor
        score_scale = self.query_scale * self.key_scale * (scaling * score_factor)
        queries = (round_codes(query, self.qk_bits) - self.query_zero_point) * score_scale
        keys = round_codes(key, self.qk_bits) - self.key_zero_point
        scores = torch.matmul(queries, keys.transpose(-1, -2))
        if mask is not None:
            scores = scores + mask * score_factor
        exponentials = self.softmax_grid.round(scores)
        values = round_codes(value, self.av_bits) - self.value_zero_point
        return torch.matmul(exponentials, values) / exponentials.sum(-1, keepdim=True)


@register_attention
class IntegerAttention(ExportAttention):
    """Products of 8-bit integers, and exp(score - row maximum) in 255 equal steps between them.

    Keys and values are their codes less 2^(bits - 1), which int8 holds at any width. A zero point of the keys adds the
    same to all scores of a row, which softmax does not see; that of the values is added to the output. The scales of a
    channel's query and key go into the query, which is rounded to int8 instead of to its own grid. With few bits both
    the query and the exponentials are on their own grids first, since the weights were corrected for how coarse these
    are. Rows are divided by the sum of what was rounded, so they sum to one.
    """

    name = "integer"
    query_factor: Tensor
    score_step: Tensor

    def __init__(self, quantizer: AttentionQuantizer) -> None:
        super().__init__(quantizer)
        product_scale, top = self.query_scale * self.key_scale, 2**self.qk_bits - 1
        largest = torch.maximum(self.query_zero_point, top - self.query_zero_point)
        step = (product_scale * largest).amax(-1, keepdim=True) / 127
        self.register_buffer("query_factor", product_scale / step)  # (heads, 1, head size)
        self.register_buffer("score_step", step)  # (heads, 1, 1)

    def operand_affine(self, operand: str) -> Affine:
        codes = self.to_codes(operand)
        if operand != "query":
            bits = self.qk_bits if operand == "key" else self.av_bits
            return Affine(codes.multiplier, codes.offset - 2 ** (bits - 1))
        if self.qk_bits < FINE_BITS:
            return codes
        return Affine(codes.multiplier * self.query_factor, torch.zeros_like(codes.offset))

    def output_affine(self) -> Affine:
        return Affine(self.value_scale, self.value_scale * (2 ** (self.av_bits - 1) - self.value_zero_point))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        if self.qk_bits < FINE_BITS:
            query = (round_codes(query, self.qk_bits) - self.query_zero_point) * self.query_factor
        queries = _round_operand(query, 8)
        # Transposed before rounding: ONNX Runtime 1.32 mistakes int8 for uint8 where it moves a transposition itself.
        keys = _round_operand(key.transpose(-1, -2), self.qk_bits)
        scores = torch.matmul(queries, keys) * (self.score_step * scaling)
        if mask is not None:
            scores = scores + mask
        weights = round_to_integers(self.exponentials(scores), 0, 255, scale=1 / 255)
        return torch.matmul(weights, _round_operand(value, self.av_bits)) / weights.sum(-1, keepdim=True)

    def exponentials(self, scores: Tensor) -> Tensor:
        """Return exp(score - row maximum), with few bits on the model's own grid."""
        if self.av_bits >= FINE_BITS:
            return torch.exp(scores - scores.amax(-1, keepdim=True))
        return self.softmax_grid.round(scores * self.softmax_grid.score_factor)


def round_codes(values: Tensor, bits: int) -> Tensor:
    """Return codes 0..2^bits - 1 of values in the space of codes, as floats."""
    return values.round().clamp(0.0, 2.0**bits - 1)


def _round_operand(values: Tensor, bits: int) -> Tensor:
    """Return signed integers of so many bits; at 8 bits from -127 on.

    OpenVINO 2026.4 removes a clamp that the rounding implies. It then moves the scales of the layer before into the
    rounding, and multiplies floats.
    """
    half = 2 ** (bits - 1)
    return round_to_integers(values.clamp(float(max(-half, -127)), float(half - 1)), -128, 127)
