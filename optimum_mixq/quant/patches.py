# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The patch embedding as products of integers, one for each channel of the pixels: each has a step of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optimum_mixq.kernels import IntegerProduct, Kernel, prepare_kernel
from optimum_mixq.quant.codes import to_bytes
from optimum_mixq.quant.grids import UniformGrid


def patch_products(
    codes: Tensor, weight_grid: UniformGrid, pixel_grid: UniformGrid, bias: Tensor
) -> list[IntegerProduct]:
    """Return one product for each channel of a weight's codes (O, C, height, width); together, with s, t the scales,

    y_o = sum_c s_c t_o sum_k q_ck (v_ock - z_o) + bias_o - sum_c s_c t_o z_c sum_k (v_ock - z_o).
    """
    scale, zero_point = weight_grid.scale.reshape(-1, 1), weight_grid.zero_point.reshape(-1, 1)  # (O, 1)
    products, rest = [], bias.float()
    for channel, (step, zero) in enumerate(
        zip(pixel_grid.scale.flatten(), pixel_grid.zero_point.flatten(), strict=True)
    ):
        operand = codes[:, channel].flatten(1).float() - zero_point  # (O, height * width)
        product_scale = scale[:, 0] * step
        shift = product_scale * (operand * zero).sum(1)
        products.append(IntegerProduct(operand.to(torch.int8), product_scale, rest - shift))
        rest = torch.zeros_like(rest)
    return products


def build_kernels(
    codes: Tensor,
    weight_grid: UniformGrid,
    pixel_grid: UniformGrid,
    bias: Tensor,
    kernel: type[Kernel] | None = None,
) -> list[Kernel]:
    """Return one kernel for each channel of a weight's codes (O, C, height, width)."""
    return [prepare_kernel(product, kernel) for product in patch_products(codes, weight_grid, pixel_grid, bias)]


def embed_patches(pixels: Tensor, grid: UniformGrid, patch: tuple[int, int], kernels: Sequence[Kernel]) -> Tensor:
    """Return the embedding (B, O, rows, columns), in the dtype of the pixels (B, C, H, W)."""
    rows, columns = pixels.shape[-2] // patch[0], pixels.shape[-1] // patch[1]
    if pixels.device.type != "cpu" or torch.compiler.is_compiling() or len(pixels) == 0:
        codes = _patch_codes(pixels, grid, patch)
    else:
        # Image by image: what lies between pixels and codes then stays in the cache.
        codes = torch.cat([_patch_codes(image[None], grid, patch) for image in pixels], 1)
    output = kernels[0](codes[0])
    for kernel, part in zip(kernels[1:], codes[1:], strict=True):
        output = output + kernel(part)
    return output.to(pixels.dtype).transpose(1, 2).unflatten(2, (rows, columns))


def _patch_codes(pixels: Tensor, grid: UniformGrid, patch: tuple[int, int]) -> Tensor:
    """Return the codes (C, B, patches, pixels of a patch), uint8; what does not fill a patch is left out."""
    height, width = patch
    rows, columns = pixels.shape[-2] // height, pixels.shape[-1] // width
    shifted = torch.addcmul(grid.zero_point + 0.5, pixels.float(), 1 / grid.scale).clamp_(0, grid.largest_code)
    codes = to_bytes(shifted, grid.bits)[..., : rows * height, : columns * width]
    parts = codes.unflatten(-2, (rows, height)).unflatten(-1, (columns, width))  # (B, C, rows, height, columns, width)
    return parts.permute(1, 0, 2, 4, 3, 5).reshape(codes.shape[1], codes.shape[0], rows * columns, height * width)
