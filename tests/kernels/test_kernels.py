# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import DEVICE, make_model, random_pixels
from transformers import AutoModelForImageClassification

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.kernels import (
    IntegerProduct,
    IntMMKernel,
    Kernel,
    OneDNNKernel,
    ReferenceKernel,
    choose_kernel,
    prepare_kernel,
    register_kernel,
    registry,
)


KERNELS = [OneDNNKernel, IntMMKernel, ReferenceKernel]
CPU = torch.device("cpu")


def require(kernel):
    if kernel is OneDNNKernel and not kernel.supports(CPU, 8):
        pytest.skip("this CPU does not multiply uint8 by int8")


def place_of(kernel):
    return CPU if kernel is OneDNNKernel else DEVICE


def product(outputs=24, inputs=40, scale=None, device=CPU):
    operand = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scale = torch.rand(outputs) + 0.1 if scale is None else scale
    return IntegerProduct(operand.to(device), scale.to(device), torch.randn(outputs).to(device))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(0, 40), (1, 40), (3, 7, 40), (2, 0, 40)])
def test_every_kernel_sums_integers_exactly(kernel, shape):
    require(kernel)
    codes, own = torch.randint(0, 256, shape, dtype=torch.uint8).to(place_of(kernel)), product(device=place_of(kernel))
    expected = (codes.double() @ own.operand.double().T) * own.scale.double() + own.bias.double()
    output = kernel(own)(codes)
    assert output.dtype == torch.float32 and output.shape == expected.shape
    assert torch.allclose(output.double(), expected, rtol=1e-6, atol=1e-2)


@pytest.mark.parametrize("kernel", [OneDNNKernel, IntMMKernel])
@pytest.mark.parametrize("sizes", [(24, 40), (10, 192), (5, 196), (3, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_kernel_gives_the_reference_to_the_bit(kernel, sizes, dtype):
    require(kernel)
    own = product(*sizes, scale=torch.rand(sizes[0]) / 1000, device=place_of(kernel))
    codes = torch.randint(0, 256, (21, sizes[1]), dtype=torch.uint8).to(place_of(kernel))
    assert torch.equal(kernel(own)(codes, dtype), ReferenceKernel(own)(codes, dtype))


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_computes_the_exact_gelu_of_its_outputs(kernel):
    require(kernel)
    place = place_of(kernel)
    codes, operand = torch.randint(0, 256, (50, 40), dtype=torch.uint8).to(place), product(device=place).operand
    scale, bias = torch.full((24,), 3e-5, device=place), torch.linspace(-4, 4, 24, device=place)
    values = (codes.double() @ operand.double().T) * scale.double() + bias.double()
    expected = 0.5 * values * (1 + torch.erf(values / 2**0.5))
    output = kernel(IntegerProduct(operand, scale, bias))(codes, torch.float32, "gelu")
    # oneDNN approximates erf where the CPU has AVX-512.
    assert torch.allclose(output.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_autocast_does_not_touch_sums(kernel):
    require(kernel)
    own, codes = product(device=place_of(kernel)), torch.randint(0, 256, (21, 40), dtype=torch.uint8)
    codes = codes.to(place_of(kernel))
    expected = kernel(own)(codes)
    with torch.autocast(codes.device.type, dtype=torch.bfloat16):
        assert torch.equal(kernel(own)(codes), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sizes", [(24, 40), (10, 7)])
def test_every_kernel_gives_its_operand_back(kernel, sizes):
    require(kernel)
    own = product(*sizes, device=place_of(kernel))
    assert torch.equal(kernel(own).operand(), own.operand)


def test_products_of_the_same_codes_join():
    first, second = product(8), product(16)
    codes = torch.randint(0, 256, (5, 40), dtype=torch.uint8)
    joint = prepare_kernel(IntegerProduct.concatenate([first, second]))(codes)
    assert torch.equal(joint, torch.cat([prepare_kernel(first)(codes), prepare_kernel(second)(codes)], 1))


@pytest.mark.parametrize(
    ("device", "expected"), [("cuda", IntMMKernel), ("mps", ReferenceKernel), ("meta", ReferenceKernel)]
)
def test_devices_get_their_kernel(device, expected):
    assert choose_kernel(torch.device(device), 4) is expected


@pytest.mark.parametrize("vnni", [True, False])
def test_a_cpu_gets_onednn_where_it_sums_exactly(vnni, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    expected = OneDNNKernel if vnni and torch.backends.mkldnn.is_available() else ReferenceKernel
    assert choose_kernel(CPU) is expected


def test_a_number_without_a_kernel_is_said():
    kernel = prepare_kernel(product())
    codes, handle = torch.randint(0, 256, (3, 40), dtype=torch.uint8), kernel.handle
    torch.ops.mixq.integer_linear(codes, handle, 24, torch.float32, "none")
    del kernel
    with pytest.raises(RuntimeError, match=rf"multiplies with kernel {handle}, which this process does not hold: .*"):
        torch.ops.mixq.integer_linear(codes, handle, 24, torch.float32, "none")


def test_an_attention_without_a_kernel_is_said():
    handle, operand = prepare_kernel(product()).handle, torch.zeros(1, 2, 3, 4)  # nobody keeps the kernel
    expected = rf"This graph computes attention with kernel {handle}, which this process does not hold: .* Compile the"
    with pytest.raises(RuntimeError, match=expected):
        torch.ops.mixq.attention(operand, operand, operand, None, handle, 0.5, torch.float32)


def test_the_operator_of_tensors_sees_what_changes_in_them():
    own, codes = product(), torch.randint(0, 256, (3, 40), dtype=torch.uint8)
    arguments = (own.scale, own.bias, torch.float32, "none")
    multiply = torch.ops.mixq.integer_product
    assert torch.equal(multiply(codes, own.operand, *arguments), ReferenceKernel(own)(codes))
    own.operand.neg_()
    assert torch.equal(multiply(codes, own.operand, *arguments), ReferenceKernel(own)(codes))
    other = own.bias + 1
    changed = multiply(codes, own.operand, own.scale, other, torch.float32, "none")
    assert torch.equal(changed, ReferenceKernel(IntegerProduct(own.operand, own.scale, other))(codes))


class HalfBytes(Kernel):
    """A kernel as somebody else would write it: it keeps two 4-bit codes to a byte and subtracts zero points late."""

    prepared = 0

    def __init__(self, product):
        super().__init__(product)
        weight = product.weight
        assert weight.input_scale is None and weight.codes.max() < 16
        self.halves = weight.codes[:, ::2] | weight.codes[:, 1::2] << 4
        self.zero_point = weight.zero_point
        HalfBytes.prepared += 1

    @classmethod
    def supports(cls, device, bits):
        return bits == 4

    def operand(self):
        codes = torch.stack([self.halves & 15, self.halves >> 4], 2).flatten(1)
        return (codes.float() - self.zero_point[:, None]).to(torch.int8)

    def multiply(self, codes, dtype, activation):
        products = (codes.float() @ self.operand().float().T) * self.scale + self.bias
        return (torch.nn.functional.gelu(products) if activation == "gelu" else products).to(dtype)


def test_a_kernel_from_outside_gets_codes_and_multiplies_them(monkeypatch, tmp_path):
    model = make_model("vit")
    config = MixQConfig(bits=4, arithmetic="folded", calibration_samples=8)
    pixels = random_pixels(model, 5, seed=7)

    def quantize(folder=None):
        return MixQQuantizer.from_pretrained(model).quantize(config, random_pixels(model, 8), folder, plan="uniform")

    with torch.no_grad():
        expected = quantize()(pixel_values=pixels).logits
        monkeypatch.setattr(registry, "KERNELS", [*registry.KERNELS])
        monkeypatch.setattr(HalfBytes, "prepared", 0)
        register_kernel(HalfBytes)
        found = quantize(tmp_path / "packed")(pixel_values=pixels).logits
        made, HalfBytes.prepared = HalfBytes.prepared, 0
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "packed")(pixel_values=pixels).logits
    assert made > 0 and HalfBytes.prepared > 0
    assert torch.allclose(found, expected, atol=1e-4) and torch.equal(loaded, found)
