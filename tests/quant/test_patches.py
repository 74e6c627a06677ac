# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
import torch.nn.functional as F

from optimum_mixq.kernels import IntMMKernel, ReferenceKernel, choose_kernel
from optimum_mixq.quant.grids import UniformGrid, dequantize, fake_quantize, quantize
from optimum_mixq.quant.patches import build_kernels, embed_patches
from optimum_mixq.stages.calibration.observers import searched_weight_grid


KERNELS_HERE = sorted({ReferenceKernel, IntMMKernel, choose_kernel(torch.device("cpu"))}, key=str)


def embedding(patch, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(10, channels, *patch, generator=generator)
    bias = torch.randn(10, generator=generator)
    grid = searched_weight_grid(weight.flatten(1), 8)
    scale = torch.tensor([0.017, 0.02, 0.011][:channels]).view(-1, 1, 1)
    return weight, bias, grid, UniformGrid(scale, torch.tensor([120.0, 90.0, 140.0][:channels]).view(-1, 1, 1), 8)


@pytest.mark.parametrize("patch", [(4, 4), (7, 3), (16, 16)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS_HERE)
def test_the_products_are_the_convolution_of_what_the_codes_stand_for(patch, channels, kernel):
    weight, bias, grid, pixel_grid = embedding(patch, channels)
    codes = quantize(weight.flatten(1), grid).view(weight.shape)
    kernels = build_kernels(codes, grid, pixel_grid, bias, kernel)
    pixels = torch.randn(3, channels, 2 * patch[0], 3 * patch[1], generator=torch.Generator().manual_seed(1))
    found = embed_patches(pixels, pixel_grid, patch, kernels)
    values = dequantize(codes.flatten(1), grid).view(weight.shape).double()
    expected = F.conv2d(fake_quantize(pixels, pixel_grid).double(), values, bias.double(), patch)
    assert found.shape == expected.shape == (3, 10, 2, 3)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS_HERE)
@pytest.mark.parametrize("patch", [(8, 8), (14, 14), (3, 5)])
def test_kernels_agree_to_the_bit(patch, kernel):
    weight, bias, grid, pixel_grid = embedding(patch)
    codes = quantize(weight.flatten(1), grid).view(weight.shape)
    pixels = torch.randn(2, 3, 4 * patch[0], 4 * patch[1])
    outputs = [
        embed_patches(pixels, pixel_grid, patch, build_kernels(codes, grid, pixel_grid, bias, each))
        for each in (ReferenceKernel, kernel)
    ]
    assert torch.equal(*outputs)


def test_no_images_give_no_embeddings():
    weight, bias, grid, pixel_grid = embedding((4, 4))
    kernels = build_kernels(quantize(weight.flatten(1), grid).view(weight.shape), grid, pixel_grid, bias)
    assert embed_patches(torch.zeros(0, 3, 8, 12), pixel_grid, (4, 4), kernels).shape == (0, 10, 2, 3)


def test_pixels_that_fill_no_patch_are_left_out_as_a_convolution_leaves_them():
    weight, bias, grid, pixel_grid = embedding((4, 4))
    kernels = build_kernels(quantize(weight.flatten(1), grid).view(weight.shape), grid, pixel_grid, bias)
    pixels = torch.randn(2, 3, 11, 14)
    assert torch.equal(
        embed_patches(pixels, pixel_grid, (4, 4), kernels),
        embed_patches(pixels[..., :8, :12], pixel_grid, (4, 4), kernels),
    )


def test_the_output_has_the_dtype_of_the_pixels():
    weight, bias, grid, pixel_grid = embedding((4, 4))
    kernels = build_kernels(quantize(weight.flatten(1), grid).view(weight.shape), grid, pixel_grid, bias)
    pixels = torch.randn(2, 3, 8, 8).to(torch.bfloat16)
    assert embed_patches(pixels, pixel_grid, (4, 4), kernels).dtype == torch.bfloat16
