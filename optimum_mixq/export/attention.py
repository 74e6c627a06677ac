# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention as inference engines run it: on the model's own logarithmic grid, or in 8-bit integers throughout.

`attention_of(name)` returns one way; `register_attention` adds another.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from optimum_mixq.export.layers import Affine, round_to_integers
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.log_grid import log_steps
from optimum_mixq.utils.checks import require_one_of


OPERANDS = ("query", "key", "value")
# From here on equal steps after softmax are as accurate as the model's own grid, and quicker.
FINE_BITS = 4


class ExportAttention(nn.Module, ABC):
    """Attention whose operands (B, heads, T, head size) come from layers; it stands in for an `AttentionQuantizer`.

    Where the layers put out codes before rounding (x / scale + zero_point), `reads_codes` is to be set.
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
        self.qk_bits, self.av_bits = quantizer.qk_bits, quantizer.av_bits
        self.reads_codes = False
        for operand in OPERANDS:
            grid = quantizer.grid(operand, 8)
            self.register_buffer(f"{operand}_scale", grid.scale)  # (heads, 1, head size)
            self.register_buffer(f"{operand}_zero_point", grid.zero_point)

    def output_grid(self, operand: str) -> Affine:
        """Return what turns the output (..., heads * head size) of an operand's layer into codes before rounding."""
        scale, zero_point = self.get_buffer(f"{operand}_scale"), self.get_buffer(f"{operand}_zero_point")
        return Affine(1 / scale.flatten().double(), zero_point.flatten().double())

    def in_codes(self, operand: str, values: Tensor) -> Tensor:
        """Return an operand in the space of codes, before rounding."""
        if self.reads_codes:
            return values
        return values / self.get_buffer(f"{operand}_scale") + self.get_buffer(f"{operand}_zero_point")

    @abstractmethod
    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        """Return the output (B, T, heads, head size); `mask` is added to the scaled scores."""


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
    """The model's own grids: exp(score - row maximum) rounded to powers of two by float operators, float products."""

    name = "logarithmic"

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        steps = log_steps(self.av_bits)
        steps_per_score = steps / math.log(2)
        score_scale = self.query_scale * self.key_scale * (scaling * steps_per_score)
        keys = self._integers("key", key, self.qk_bits)
        scores = torch.matmul(self._integers("query", query, self.qk_bits) * score_scale, keys.transpose(-1, -2))
        if mask is not None:
            scores = scores + mask * steps_per_score
        powers = powers_on_grid(scores, self.av_bits)
        output = torch.matmul(powers, self._integers("value", value, self.av_bits))
        return (output / powers.sum(-1, keepdim=True) * self.value_scale).transpose(1, 2).contiguous()

    def _integers(self, operand: str, values: Tensor, bits: int) -> Tensor:
        """Return code - zero_point."""
        codes = self.in_codes(operand, values).round().clamp(0.0, 2.0**bits - 1)
        return codes - self.get_buffer(f"{operand}_zero_point")


@register_attention
class IntegerAttention(ExportAttention):
    """Products of 8-bit integers, and exp(score - row maximum) in 255 equal steps between them.

    With few bits these values are on the model's own grid first: its weights were corrected for how coarse that is.
    Rows are divided by the sum of what was rounded, so they sum to one, and the largest weight of each is exact.
    """

    name = "integer"
    query_factor: Tensor
    score_step: Tensor

    def __init__(self, quantizer: AttentionQuantizer) -> None:
        super().__init__(quantizer)
        factor, step = _score_factor(self.query_scale * self.key_scale, self.query_zero_point, self.qk_bits)
        self.register_buffer("query_factor", factor)
        self.register_buffer("score_step", step)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        codes = self.in_codes("query", query).round().clamp(0.0, 2.0**self.qk_bits - 1)
        queries = round_to_integers((codes - self.query_zero_point) * self.query_factor, -128, 127)
        # Transposed before rounding: ONNX Runtime 1.32 mistakes int8 for uint8 where it moves a transposition itself.
        keys = self._centred("key", key, self.qk_bits, transposed=True)
        # A zero point of the keys adds the same to all scores of a row, which softmax does not see.
        scores = torch.matmul(queries, keys) * (self.score_step * scaling)
        if mask is not None:
            scores = scores + mask
        weights = round_to_integers(self.exponentials(scores), 0, 255, scale=1 / 255)
        output = torch.matmul(weights, self._centred("value", value, self.av_bits))
        output = output / weights.sum(-1, keepdim=True) + (2 ** (self.av_bits - 1) - self.value_zero_point)
        return (output * self.value_scale).transpose(1, 2).contiguous()

    def exponentials(self, scores: Tensor) -> Tensor:
        """Return exp(score - row maximum), with few bits on the logarithmic grid."""
        if self.av_bits >= FINE_BITS:
            return torch.exp(scores - scores.amax(-1, keepdim=True))
        return powers_on_grid(scores * (log_steps(self.av_bits) / math.log(2)), self.av_bits)

    def _centred(self, operand: str, values: Tensor, bits: int, transposed: bool = False) -> Tensor:
        """Return code - 2^(bits - 1), which int8 holds at any width."""
        half = 2 ** (bits - 1)
        values = self.in_codes(operand, values) - half
        return round_to_integers(values.transpose(-1, -2) if transposed else values, -half, half - 1)


def powers_on_grid(scores: Tensor, bits: int) -> Tensor:
    """Return exp(score - row maximum) on the logarithmic grid, of scores (..., T) that are counted in its steps.

    The same as `powers_of_steps_` of `quant/log_grid.py`, of operators that both engines have.
    """
    # Minus the codes: -floor(x + 1/2) = ceil(-x - 1/2).
    exponents = (scores - (scores.amax(-1, keepdim=True) + 0.5)).ceil()
    powers = torch.exp(exponents * (math.log(2) / log_steps(bits)))
    return torch.where(exponents > -(2**bits - 1.5), powers, 0.0)  # the last code is zero


def _score_factor(product_scale: Tensor, zero_point: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return what integers of the query are multiplied by (heads, 1, head size), and the step (heads, 1, 1) of scores.

    The scales of a channel's query and key go into the query, which is rounded to int8 once more. Where all channels
    of a head share them the integers stay as they are.
    """
    largest = torch.maximum(zero_point, 2**bits - 1 - zero_point)
    shared = (product_scale == product_scale[..., :1]).all(-1, keepdim=True) & (largest <= 127).all(-1, keepdim=True)
    step = (product_scale * largest).amax(-1, keepdim=True) / 127
    step = torch.where(shared, product_scale[..., :1], step)
    return product_scale / step, step
