# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Layers whose grids are learned with the weights (LSQ, Esser et al., arXiv 1902.08153; LSQ+, Bhalgat et al.,
arXiv 2004.09576), and which in evaluation compute what the packed model will."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.grids import LARGEST_ZERO_POINT, SMALLEST_SCALE, UniformGrid
from optimum_mixq.quant.layers import GriddedLinear, QuantLinear
from optimum_mixq.quant.prepared import PreparedModule
from optimum_mixq.quant.softmax_grids import DEFAULT_SOFTMAX, StoredSoftmaxGrid


class LearnedRounding(Function):
    """y = s (clamp(round(x / s) + z, 0, Q) - z), z = round(-offset / s): values on a grid whose step s is learned.

    With v = x / s and f the gradient scale, per element

        dy/dx      = 1                inside the grid, else 0
        dy/ds      = f (round(v) - v) inside, else f times the code at that end: 0 below, Q above
        dy/doffset = f                outside the grid, else 0                          (LSQ+, equations 5 and 6)

    Without an offset z is fixed (a weight's), so that the ends are s (0 - z) and s (Q - z) and dy/ds is
    f (0 - z) and f (Q - z) there.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, step: Tensor, zero_point: Tensor, offset: Tensor | None, bits: int, factor: float
    ) -> Tensor:
        largest = 2**bits - 1
        inverse = 1 / step
        codes = torch.addcmul(zero_point + 0.5, values, inverse).floor_()
        clamped = codes.clamp(0, largest)
        ctx.save_for_backward(values, step, zero_point, codes.clamp_(-1, largest + 1).to(torch.int16))
        ctx.largest, ctx.factor, ctx.learns_offset = largest, factor, offset is not None
        return clamped.sub_(zero_point).mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, Tensor | None, None, None]:
        values, step, zero_point, codes = ctx.saved_tensors
        below, above = codes < 0, codes > ctx.largest
        outside = below | above
        inner = gradient.masked_fill(outside, 0)
        outer = gradient - inner
        # inside: round(v) - v = code - z - x / s
        residue = torch.addcmul(codes - zero_point, values, -1 / step)
        step_gradient = inner.mul(residue)
        if ctx.learns_offset:
            step_gradient.addcmul_(outer, above.to(gradient.dtype), value=ctx.largest)
            offset_gradient = outer.sum_to_size(step.shape).mul_(ctx.factor)
        else:
            ends = above.to(gradient.dtype).mul_(ctx.largest).sub_(zero_point)
            step_gradient.addcmul_(outer, ends)
            offset_gradient = None
        return inner, step_gradient.sum_to_size(step.shape).mul_(ctx.factor), None, offset_gradient, None, None


class LearnedLinear(GriddedLinear):
    """A linear layer that learns its weight, the weight's steps (O, 1), the input's steps (C,) and offsets (C,).

    The weight's zero points stay what they are; the input's are round(-offset / step), integers at every moment.
    """

    mixq_weight_zero_point: Tensor

    def take_grids(self, weight_grid: UniformGrid, input_grid: UniformGrid) -> None:
        self.mixq_weight_step = nn.Parameter(weight_grid.scale.clone())
        self.register_buffer("mixq_weight_zero_point", weight_grid.zero_point.clone())
        self.mixq_input_step = nn.Parameter(input_grid.scale)
        self.mixq_input_offset = nn.Parameter(-input_grid.zero_point * input_grid.scale)

    @classmethod
    def from_quant(cls, layer: QuantLinear) -> "LearnedLinear":
        """Return the layer that starts where calibration ended."""
        bias = None if layer.bias is None else layer.bias.detach().clone()
        return cls(layer.weight.detach().clone(), bias, layer.weight_grid, layer.input_grid, layer.arithmetic.name)

    @property
    def weight_grid(self) -> UniformGrid:
        return UniformGrid(stored_step(self.mixq_weight_step), self.mixq_weight_zero_point, self.weight_bits)

    @property
    def input_grid(self) -> UniformGrid:
        return learned_grid(self.mixq_input_step, self.mixq_input_offset, self.input_bits)

    def rounded_weight(self) -> Tensor:
        """Return the weight (O, C) that multiplies the dequantized input, with gradients for it and for its steps."""
        input_scale = self.input_grid.scale
        step = stored_step(self.mixq_weight_step)
        # LSQ, section 2.2: 1 / sqrt(N Q), N the weights that share a step.
        factor = 1 / math.sqrt(self.in_features * (2**self.weight_bits - 1))
        gridded = self.arithmetic.to_grid(self.weight, input_scale)
        values = LearnedRounding.apply(gridded, step, self.mixq_weight_zero_point, None, self.weight_bits, factor)
        return self.arithmetic.effective_weight(values, input_scale)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return self.forward_in_integers(input)
        rounded = round_learned(input, self.mixq_input_step, self.mixq_input_offset, self.input_bits)
        return F.linear(rounded.to(input.dtype), self.rounded_weight().to(input.dtype), self.bias)

    def dampening(self) -> Tensor:
        """Return the sum of squared distances of the weights to their grid's values, in steps.

        Weights that lie between two values flip back and forth; this pulls them to one (Nagel et al., arXiv
        2203.11086, section 4.1).
        """
        step = stored_step(self.mixq_weight_step).detach()
        codes = self.gridded_weight() / step + self.mixq_weight_zero_point
        clipped = codes.clamp(0, 2**self.weight_bits - 1)
        return (clipped - clipped.detach().add(0.5).floor()).square().sum()


class LearnedAttention(StoredSoftmaxGrid, PreparedModule):
    """Attention that learns the grids of query, key and value, one step and offset per channel (heads, head size).

    The grid of softmax stays what it is.
    """

    def __init__(
        self,
        heads: int,
        head_size: int,
        qk_bits: int,
        av_bits: int,
        device: torch.device | None = None,
        softmax: str = DEFAULT_SOFTMAX,
    ) -> None:
        super().__init__()
        self.qk_bits, self.av_bits = qk_bits, av_bits
        self.register_softmax_grid(softmax, av_bits, device)
        for name in ("query", "key", "value"):
            self.register_parameter(f"mixq_{name}_step", nn.Parameter(torch.ones(heads, head_size, device=device)))
            self.register_parameter(f"mixq_{name}_offset", nn.Parameter(torch.zeros(heads, head_size, device=device)))

    @classmethod
    def from_quant(cls, quantizer: AttentionQuantizer) -> "LearnedAttention":
        """Return the attention that starts where calibration ended."""
        assert quantizer.qk_bits is not None and quantizer.av_bits is not None
        heads, size = quantizer.mixq_query_scale.shape
        device, softmax = quantizer.mixq_query_scale.device, quantizer.softmax_grid.name
        learned = cls(heads, size, quantizer.qk_bits, quantizer.av_bits, device, softmax)
        learned.set_softmax_grid(quantizer.softmax_grid)
        with torch.no_grad():
            for name in ("query", "key", "value"):
                grid = quantizer.grid(name, 8)
                getattr(learned, f"mixq_{name}_step").copy_(grid.scale[:, 0])
                getattr(learned, f"mixq_{name}_offset").copy_((-grid.zero_point * grid.scale)[:, 0])
        return learned

    @torch.no_grad()
    def settled(self) -> AttentionQuantizer:
        """Return the attention of the packed model."""
        heads, size = self.get_parameter("mixq_query_step").shape
        device = self.get_parameter("mixq_query_step").device
        quantizer = AttentionQuantizer(heads, size, self.qk_bits, self.av_bits, device, self.softmax_kind.name)
        quantizer.set_softmax_grid(self.softmax_grid)
        for name, bits in (("query", self.qk_bits), ("key", self.qk_bits), ("value", self.av_bits)):
            step, offset = self.get_parameter(f"mixq_{name}_step"), self.get_parameter(f"mixq_{name}_offset")
            quantizer.set_grid(name, learned_grid(step, offset, bits))
        return quantizer.eval()

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        """Return the output (B, T, heads, head size) of operands (B, heads, T, head size)."""
        if not self.training:
            return self.settled()(query, key, value, mask, scaling)
        query, key = self._round("query", query, self.qk_bits), self._round("key", key, self.qk_bits)
        value = self._round("value", value, self.av_bits)
        scores = torch.matmul(query * scaling, key.transpose(-1, -2))  # (B, heads, T, T)
        if mask is not None:
            scores = scores + mask
        exponentials = self.softmax_grid.exponentials(scores)
        total = exponentials.sum(-1, keepdim=True)
        exponentials = F.dropout(exponentials, dropout, self.training)
        return (torch.matmul(exponentials, value) / total).transpose(1, 2).contiguous()

    def renew(self) -> None:
        self.softmax_grid = self.read_softmax_grid()

    def _round(self, name: str, operand: Tensor, bits: int) -> Tensor:
        step = self.get_parameter(f"mixq_{name}_step").unsqueeze(1)  # (heads, 1, head size)
        offset = self.get_parameter(f"mixq_{name}_offset").unsqueeze(1)
        return round_learned(operand, step, offset, bits).to(operand.dtype)


def round_learned(values: Tensor, step: Tensor, offset: Tensor, bits: int) -> Tensor:
    """Return activations on their learned grid, with gradients for them, for the steps and for the offsets."""
    grid = learned_grid(step, offset, bits)
    # LSQ, section 2.2: N is the number of features of one image that share the step.
    factor = 1 / math.sqrt(values[0].numel() / step.numel() * grid.largest_code)
    return LearnedRounding.apply(values.float(), stored_step(step), grid.zero_point, offset, bits, factor)


def learned_grid(step: Tensor, offset: Tensor, bits: int) -> UniformGrid:
    """Return the grid that a packed layer will store, without gradients."""
    scale = stored_step(step.detach())
    zero_point = torch.floor(-offset.detach() / scale + 0.5).clamp(-LARGEST_ZERO_POINT, LARGEST_ZERO_POINT)
    return UniformGrid(scale, zero_point, bits)


def stored_step(step: Tensor) -> Tensor:
    """Return the step as float16 stores it, positive, with a straight-through gradient."""
    exact = step.float()
    stored = exact.detach().clamp(min=SMALLEST_SCALE).to(torch.float16).float()
    return stored + (exact - exact.detach()) if step.requires_grad else stored
