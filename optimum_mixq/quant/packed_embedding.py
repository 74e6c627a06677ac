# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The packed patch embedding: see `packed.py` for what packed layers have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from optimum_mixq.kernels import Kernel
from optimum_mixq.quant.bitpacking import pack_codes, packed_size, unpack_codes
from optimum_mixq.quant.grids import UniformGrid, dequantize, quantize
from optimum_mixq.quant.layers import QuantConv2d
from optimum_mixq.quant.patches import build_kernels, embed_patches
from optimum_mixq.quant.stored_grids import StoredGrids


class PackedConv2d(StoredGrids):
    """A patch embedding of packed codes that multiplies integers.

    ViT and DeiT read `weight.dtype` and cast pixels to it (transformers 5.9 to 5.23), so the codes lie in
    `mixq_codes` here, and `weight` is the dequantized weight.
    """

    mixq_codes: Tensor
    bias: nn.Parameter

    def __init__(
        self,
        shape: Sequence[int],
        stride: tuple[int, int],
        weight_bits: int,
        input_bits: int,
        device: torch.device | None = None,
        bias_added: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.stride, self.bias_added = tuple(shape), stride, bias_added
        self.weight_bits, self.input_bits = weight_bits, input_bits
        octets = packed_size(torch.Size(shape).numel(), weight_bits)
        self.register_buffer("mixq_codes", torch.zeros(octets, dtype=torch.uint8, device=device))
        self.register_grids(shape[0], shape[1], device)
        self.bias = nn.Parameter(torch.zeros(shape[0], device=device), requires_grad=False)
        self._weight: Tensor | None = None
        self._kernels: list[Kernel] = []

    @classmethod
    @torch.no_grad()
    def from_quant(cls, layer: QuantConv2d) -> "PackedConv2d":
        """Return the packed layer that computes what `layer` computes."""
        packed = cls(
            layer.weight.shape,
            layer.stride,
            layer.weight_bits,
            layer.input_bits,
            layer.weight.device,
            layer.bias_added,
        )
        packed.mixq_codes.copy_(pack_codes(quantize(layer.weight.flatten(1), layer.weight_grid), layer.weight_bits))
        packed.store_grids(layer.weight_grid, layer.input_grid)
        packed.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        packed.prepare()
        return packed

    @property
    def weight(self) -> Tensor:
        """Return the dequantized weight (O, C, height, width), in the dtype of the bias."""
        if self._weight is None:
            if self.mixq_codes.is_meta:
                return self.bias
            self.prepare()
        assert self._weight is not None
        return self._weight

    @torch.no_grad()
    def to_float(self) -> nn.Conv2d:
        """Return the float layer with the dequantized weight; it rounds its input no more.

        A bias that was added is left out again unless training changed it.
        """
        outputs, inputs, height, width = self.shape
        has_bias = not self.bias_added or bool(self.bias.any())
        where = self.mixq_codes.device
        convolution = nn.Conv2d(inputs, outputs, (height, width), self.stride, bias=has_bias, device=where)
        convolution.weight.copy_(self.weight)
        if convolution.bias is not None:
            convolution.bias.copy_(self.bias)
        return convolution

    @torch.no_grad()
    def prepare(self) -> None:
        grid, inputs = self.weight_grid, self.input_grid
        codes = unpack_codes(self.mixq_codes, self.weight_bits, torch.Size(self.shape).numel()).view(self.shape)
        self._weight = dequantize(codes.flatten(1), grid).view(self.shape).to(self.bias.dtype)
        self._pixel_grid = UniformGrid(inputs.scale.view(-1, 1, 1), inputs.zero_point.view(-1, 1, 1), inputs.bits)
        self._kernels = build_kernels(codes, grid, self._pixel_grid, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if self._weight is None:
            self.prepare()
        return embed_patches(input, self._pixel_grid, self.stride, self._kernels)

    def __getstate__(self) -> dict:
        # oneDNN's opaque weights can be neither pickled nor copied; they are built again from the buffers.
        return {**self.__dict__, "_weight": None, "_kernels": []}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.renew()

    def renew(self) -> None:
        self._weight = None
        if not self.mixq_codes.is_meta:
            self.prepare()
