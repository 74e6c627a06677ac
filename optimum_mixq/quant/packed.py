# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Linear layers of packed codes: what is saved, shared and run."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from optimum_mixq.kernels import Activation, IntegerProduct, Kernel, Rounding, prepare_kernel
from optimum_mixq.quant.arithmetics import arithmetic_of
from optimum_mixq.quant.bitpacking import pack_codes, packed_size, unpack_codes
from optimum_mixq.quant.codes import take_codes
from optimum_mixq.quant.grids import quantize
from optimum_mixq.quant.handover import Handover
from optimum_mixq.quant.layers import GriddedLinear, integer_bias
from optimum_mixq.quant.stored_grids import StoredGrids


if TYPE_CHECKING:
    from optimum_mixq.quant.joint import JointProduct


class PackedLinear(StoredGrids):
    """A linear layer of packed codes that multiplies integers.

    `weight` holds the packed codes, flat uint8, under the float weight's own key: anyone who loads the file without
    this package gets a size mismatch instead of random weights.

    What a forward needs is derived from the buffers when they are filled, not at the next forward, which may be one
    that torch.compile traces. A layer is in one of these states:

    | state | entered by | kept beside the buffers | a forward |
    |---|---|---|---|
    | empty | the constructor; `leave`; a copy or move to the meta device | nothing | calls `prepare` first |
    | prepared | `prepare`, which filling, loading, copying and moving call | a kernel of its own | multiplies |
    | joined | `JointProduct.join`, until `leave` | the joint product, and the layer's place in it | asks it |

    `fuse` adds an activation to a layer that is empty or prepared; a layer that is joined has none. With `hand_over`,
    what it puts out are codes for the next layer, where the kernel can.
    """

    weight: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_bits: int,
        input_bits: int,
        arithmetic: str,
        has_bias: bool,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight_bits, self.input_bits = weight_bits, input_bits
        self.arithmetic = arithmetic_of(arithmetic).of_layer(weight_bits)
        octets = packed_size(in_features * out_features, weight_bits)
        self.register_buffer("weight", torch.zeros(octets, dtype=torch.uint8, device=device))
        self.register_grids(out_features, in_features, device)
        bias = torch.zeros(out_features, device=device) if has_bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.activation: Activation = "none"
        self._kernel: Kernel | None = None
        self._joint: JointProduct | None = None
        self._place = 0  # in the joint product
        self.handover: Handover | None = None  # from the module before
        self._next: Handover | None = None  # to the layer behind

    @classmethod
    @torch.no_grad()
    def from_quant(cls, layer: GriddedLinear, prepared: bool = True) -> "PackedLinear":
        """Return the packed layer that computes what `layer` computes, empty if it is not to be prepared."""
        packed = cls(
            layer.in_features,
            layer.out_features,
            layer.weight_bits,
            layer.input_bits,
            layer.arithmetic.name,
            layer.bias is not None,
            layer.weight.device,
        )
        packed.weight.copy_(pack_codes(quantize(layer.gridded_weight(), layer.weight_grid), layer.weight_bits))
        packed.store_grids(layer.weight_grid, layer.input_grid)
        if layer.bias is not None:
            packed.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        if prepared:
            packed.prepare()
        return packed

    @property
    def joint(self) -> "JointProduct | None":
        """Return the product that the layer takes part in, if it is joined."""
        return self._joint

    def codes(self) -> Tensor:
        """Return the weight's codes (O, C), uint8."""
        flat = unpack_codes(self.weight, self.weight_bits, self.out_features * self.in_features)
        return flat.view(self.out_features, self.in_features)

    def dequantized_weight(self) -> Tensor:
        """Return the float weight (O, C) that a float layer would need to do the same to a dequantized input."""
        input_scale = self.input_grid.scale
        operand, scale = self.arithmetic.operand(self.codes(), self.weight_grid, input_scale)
        return operand * scale / input_scale

    @torch.no_grad()
    def to_float(self) -> nn.Linear:
        """Return the float layer with the dequantized weight; it does not round its input."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=self.weight.device)
        linear.weight.copy_(self.dequantized_weight())
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear

    @torch.no_grad()
    def prepare(self) -> None:
        """Build the integer kernel from the buffers: call it after filling them by hand."""
        if self._joint is None:
            self._kernel = prepare_kernel(self.product())
            self._rounding = self._make_rounding()
        elif self._place == 0:
            self._joint.prepare()

    def product(self) -> IntegerProduct:
        """Return what the layer computes from its input's codes, before the activation."""
        codes, grid, inputs = self.codes(), self.weight_grid, self.input_grid
        operand, scale = self.arithmetic.operand(codes, grid, inputs.scale)
        return IntegerProduct(
            operand.to(torch.int8),
            scale[:, 0],
            integer_bias(operand, scale, inputs.zero_point, self.bias),
            self.arithmetic.weight_codes(codes, grid, inputs.scale),
        )

    def ready_kernel(self) -> Kernel:
        """Return the layer's own kernel, prepared."""
        if self._kernel is None:
            self.prepare()
        assert self._kernel is not None
        return self._kernel

    def rounding(self) -> Rounding:
        """Return how an input becomes codes."""
        return self._make_rounding() if self._kernel is None else self._rounding

    def _make_rounding(self) -> Rounding:
        grid = self.input_grid
        return Rounding(1 / grid.scale, grid.zero_point + 0.5, grid.bits)

    def join(self, joint: "JointProduct", place: int) -> None:
        """Take a place in a joint product with other layers: `JointProduct.join` calls it."""
        self._joint, self._place, self._kernel = joint, place, None

    def leave(self) -> None:
        """Multiply alone again."""
        self._joint, self._place, self._kernel = None, 0, None

    def fuse(self, activation: Activation) -> None:
        """Apply an activation to the output; "none" undoes it."""
        if self._joint is not None:
            raise ValueError(
                "Expected a layer that multiplies alone, found one in a joint product: separate it first."
            )
        self.activation = activation
        if activation == "none":  # the module of the activation takes numbers
            self._next = None

    def hand_over(self, handover: Handover | None) -> None:
        """Put out the codes of the layer behind, where the kernel can; None undoes it."""
        self._next = handover

    def forward(self, input: Tensor) -> Tensor:
        if self._joint is not None:
            return self._joint.output_of(self._place, input)
        kernel = self.ready_kernel()
        codes, dtype = take_codes(input, self._rounding, self.handover)
        rounding = None if self._next is None or not kernel.puts_out_codes else self._next.rounding_of(codes)
        if self._next is None or rounding is None:
            return kernel(codes, dtype, self.activation)
        return self._next.pass_on(kernel.to_codes(codes, rounding, self.activation), dtype)

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
            self._joint.renew(self._place)
        elif not self.weight.is_meta:
            self.prepare()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, W{self.weight_bits}"
            f"A{self.input_bits}, {self.arithmetic.name}"
            + (f", {self.activation}" if self.activation != "none" else "")
        )
