# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Layers of packed codes: what is saved, shared and run.

Scales are float16 kept as int16 bits, since `.to(dtype)` and checkpoint loaders cast floating buffers. What a forward
needs is derived from the buffers by `prepare`, after loading, copying or a move: at once, not at the next forward,
which may be one that torch.compile traces.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimum_mixq.kernels import Activation, IntegerProduct, Kernel, WeightCodes, prepare_kernel
from optimum_mixq.quant.bitpacking import int16_to_scale, pack_codes, packed_size, scale_to_int16, unpack_codes
from optimum_mixq.quant.codes import quantize_columns
from optimum_mixq.quant.grids import UniformGrid, quantize
from optimum_mixq.quant.layers import (
    Arithmetic,
    GriddedLinear,
    integer_bias,
    integer_operand,
    layer_arithmetic,
)
from optimum_mixq.quant.prepared import PreparedModule


class PackedLinear(PreparedModule):
    """A linear layer of packed codes that multiplies integers.

    `weight` holds the packed codes, flat uint8, under the float weight's own key: who loads the file without this
    package gets a size mismatch instead of random weights.
    """

    weight: Tensor
    mixq_weight_scale: Tensor
    mixq_weight_zero_point: Tensor
    mixq_input_scale: Tensor
    mixq_input_zero_point: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_bits: int,
        input_bits: int,
        arithmetic: Arithmetic,
        has_bias: bool,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight_bits, self.input_bits = weight_bits, input_bits
        self.arithmetic = layer_arithmetic(arithmetic, weight_bits)
        octets = packed_size(in_features * out_features, weight_bits)
        self.register_buffer("weight", torch.zeros(octets, dtype=torch.uint8, device=device))
        self.register_buffer("mixq_weight_scale", torch.zeros(out_features, dtype=torch.int16, device=device))
        self.register_buffer("mixq_weight_zero_point", torch.zeros(out_features, dtype=torch.uint8, device=device))
        self.register_buffer("mixq_input_scale", torch.zeros(in_features, dtype=torch.int16, device=device))
        self.register_buffer("mixq_input_zero_point", torch.zeros(in_features, dtype=torch.int16, device=device))
        bias = torch.zeros(out_features, device=device) if has_bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.activation: Activation = "none"
        self._kernel: Kernel | None = None
        self._joint: JointProduct | None = None

    @classmethod
    @torch.no_grad()
    def from_quant(cls, layer: GriddedLinear) -> "PackedLinear":
        """Return the packed layer that computes what `layer` computes."""
        packed = cls(
            layer.in_features, layer.out_features, layer.weight_bits, layer.input_bits, layer.arithmetic,
            layer.bias is not None, layer.weight.device,
        )  # fmt: skip
        weight_grid, input_grid = layer.weight_grid, layer.input_grid
        packed.weight.copy_(pack_codes(quantize(layer.gridded_weight(), weight_grid), layer.weight_bits))
        packed.mixq_weight_scale.copy_(scale_to_int16(weight_grid.scale.flatten()))
        packed.mixq_weight_zero_point.copy_(weight_grid.zero_point.flatten())
        packed.mixq_input_scale.copy_(scale_to_int16(input_grid.scale))
        packed.mixq_input_zero_point.copy_(input_grid.zero_point)
        if packed.bias is not None and layer.bias is not None:
            packed.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        packed.prepare()
        return packed

    @property
    def weight_grid(self) -> UniformGrid:
        scale, zero_point = int16_to_scale(self.mixq_weight_scale), self.mixq_weight_zero_point.float()
        return UniformGrid(scale[:, None], zero_point[:, None], self.weight_bits)

    @property
    def input_grid(self) -> UniformGrid:
        return UniformGrid(int16_to_scale(self.mixq_input_scale), self.mixq_input_zero_point.float(), self.input_bits)

    def codes(self) -> Tensor:
        """Return the weight's codes (O, C), uint8."""
        flat = unpack_codes(self.weight, self.weight_bits, self.out_features * self.in_features)
        return flat.view(self.out_features, self.in_features)

    def dequantized_weight(self) -> Tensor:
        """Return the float weight (O, C) that a float layer would need to do the same to a dequantized input."""
        operand, scale = self._operand(self.codes())
        return operand * scale / int16_to_scale(self.mixq_input_scale)

    @torch.no_grad()
    def to_float(self) -> nn.Linear:
        """Return the float layer with the dequantized weight; it rounds its input no more."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=self.weight.device)
        linear.weight.copy_(self.dequantized_weight())
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear

    def _operand(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers (O, C) that the input's codes are multiplied with, as floats, and their scale (O, 1)."""
        return integer_operand(codes, self.weight_grid, int16_to_scale(self.mixq_input_scale), self.arithmetic)

    @torch.no_grad()
    def prepare(self) -> None:
        """Build the integer kernel from the buffers. Who fills them calls it; copying and moving do."""
        if self._joint is not None:
            if self is self._joint.layers[0]:
                self._joint.prepare()
            return
        self._kernel = prepare_kernel(self.product())
        self._multiplier, self._offset = self.rounding()

    def product(self) -> IntegerProduct:
        """Return what the layer computes from its input's codes, before the activation."""
        codes, grid = self.codes(), self.weight_grid
        operand, scale = self._operand(codes)
        input_scale = None if self.arithmetic == "folded" else int16_to_scale(self.mixq_input_scale)
        weight = WeightCodes(codes, grid.scale[:, 0], grid.zero_point[:, 0], input_scale, self.weight_bits)
        bias = integer_bias(operand, scale, self.mixq_input_zero_point, self.bias)
        return IntegerProduct(operand.to(torch.int8), scale[:, 0], bias, weight)

    def rounding(self) -> tuple[Tensor, Tensor]:
        """Return by what an input is multiplied, and what is added, before its floor is its code; both (C,)."""
        grid = self.input_grid
        return 1 / grid.scale, grid.zero_point + 0.5

    def join(self, joint: "JointProduct | None") -> None:
        """Take part in a joint product with other layers, or with None no more."""
        self._joint, self._kernel = joint, None

    def fuse(self, activation: Activation) -> None:
        """Apply an activation to the output, or with "none" no more."""
        self.activation = activation

    def quantize_input(self, input: Tensor) -> Tensor:
        """Return the input's codes, uint8: the same arithmetic as `grids.quantize`, in fewer passes over memory."""
        return quantize_columns(input, self._multiplier, self._offset, self.input_bits)

    def forward(self, input: Tensor) -> Tensor:
        if self._joint is not None:
            return self._joint.output_of(self, input)
        if self._kernel is None:
            self.prepare()
        assert self._kernel is not None
        return self._kernel(self.quantize_input(input), input.dtype, self.activation)

    def __getstate__(self) -> dict:
        # oneDNN's opaque weight can be neither pickled nor copied; it is built again from the buffers.
        return {**self.__dict__, "_kernel": None}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if self._joint is not None:
            self._joint.complete_copy()
        else:
            self.renew()

    def renew(self) -> None:
        if self._joint is not None:
            self._joint.renew(self)
        elif not self.weight.is_meta:
            self.prepare()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, W{self.weight_bits}"
            f"A{self.input_bits}, {self.arithmetic}" + (f", {self.activation}" if self.activation != "none" else "")
        )


class JointProduct:
    """One product for packed layers that read the same tensor, one after another, on the same grid.

    The first layer's call computes the outputs of all, and each of the others takes its own once. A layer that is
    called again, or given another tensor than the first was, computes anew.
    """

    def __init__(self, layers: Sequence[PackedLinear]) -> None:
        self.layers = tuple(layers)
        self._kernel: Kernel | None = None
        self._kept: tuple[Tensor, dict[int, Tensor]] | None = None  # the input, and outputs by place, not yet taken

    def output_of(self, layer: PackedLinear, input: Tensor) -> Tensor:
        """Return the output (..., O) of one of the layers."""
        place = next(number for number, own in enumerate(self.layers) if own is layer)
        if place == 0:
            self._kept = (input, dict(enumerate(self._outputs(input))))
        kept, output = self._kept, None
        if kept is not None and kept[0] is input:
            output = kept[1].pop(place, None)
            if not kept[1]:
                self._kept = None
        return self._outputs(input)[place] if output is None else output

    def renew(self, layer: PackedLinear) -> None:
        """Build anew what is derived from the layers' buffers: they change in turn, and the last of them counts."""
        self._kernel = self._kept = None
        if layer is self.layers[-1] and not layer.weight.is_meta:
            self.prepare()

    def complete_copy(self) -> None:
        """Build what is derived from the layers' buffers if all of a copy's layers are there."""
        layers = self.__dict__.get("layers", ())
        if layers and all("_buffers" in layer.__dict__ and not layer.weight.is_meta for layer in layers):
            self.prepare()

    @torch.no_grad()
    def prepare(self) -> None:
        self._kernel = prepare_kernel(IntegerProduct.concatenate([layer.product() for layer in self.layers]))
        self._multiplier, self._offset = self.layers[0].rounding()

    def _outputs(self, input: Tensor) -> tuple[Tensor, ...]:
        if self._kernel is None:
            self.prepare()
        assert self._kernel is not None
        codes = quantize_columns(input, self._multiplier, self._offset, self.layers[0].input_bits)
        return self._kernel(codes, input.dtype).split([layer.out_features for layer in self.layers], -1)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kernel": None, "_kept": None}
