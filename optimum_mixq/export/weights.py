# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""How the operands of products lie in the file: as they are multiplied, or as codes that they are made from.

In the layout "operand" a weight takes 8 bits, whatever its width. In the layout "codes" it takes its own bits, and a
few operators on constants make the operand: both engines compute these once, when they load the file.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from optimum_mixq.export.layers import ExportLinear, StoredWeight
from optimum_mixq.kernels import OPERAND_BITS
from optimum_mixq.utils.checks import require_one_of


if TYPE_CHECKING:
    import onnx_ir


LAYOUTS = ("codes", "operand")
# Bits of the pieces that codes are cut into. 4-bit integers are a type of ONNX; smaller ones lie in bytes, since
# OpenVINO 2026.4 does not read ONNX's 2-bit type.
PIECES = (4, 2, 1)


def lay_out_weights(program: "onnx_ir.Model", model: nn.Module, layout: str) -> None:
    """Give the operands of a converted model the chosen layout in its traced graph, in place."""
    require_one_of("weights", LAYOUTS, layout)
    if layout == "operand":
        return
    layers = {name: module for name, module in model.named_modules() if isinstance(module, ExportLinear)}
    for name, value in list(program.graph.initializers.items()):
        layer = layers.get(name.removeprefix("model.").removesuffix(".operand"))
        if name.endswith(".operand") and layer is not None and layer.stored is not None:
            if layer.stored.codes.bits < OPERAND_BITS:
                _replace_operand(program.graph, name, value, layer.stored)


def pieces_of(bits: int) -> Iterator[tuple[int, int]]:
    """Yield the (shift, bits) of each piece that a code is cut into, the lowest bits first.

    >>> list(pieces_of(3)), list(pieces_of(6))
    ([(0, 2), (2, 1)], [(0, 4), (4, 2)])
    """
    shift = 0
    for size in PIECES:
        if bits - shift >= size:
            yield shift, size
            shift += size


def pack_piece(codes: NDArray[np.uint8], shift: int, bits: int) -> NDArray[np.uint8]:
    """Return bytes (N, 1), each holding 8 / bits neighbouring codes' bits from `shift` on, the first one lowest."""
    piece = (codes.reshape(-1) >> shift) & (2**bits - 1)
    per_byte = 8 // bits
    padded = np.zeros(-(-piece.size // per_byte) * per_byte, np.uint8)
    padded[: piece.size] = piece
    places = np.arange(per_byte, dtype=np.uint8) * bits
    return (padded.reshape(-1, per_byte) << places).sum(1, dtype=np.uint8)[:, None]


class _Constants:
    """Adds operators on constants in front of a graph."""

    def __init__(self, graph: "onnx_ir.Graph", prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self.first = graph[0]
        self.count = 0

    def constant(self, values: Any, name: str) -> "onnx_ir.Value":
        """Return a new initializer; those of one name and layer are one."""
        import onnx_ir

        full = f"{self.prefix}.{name}"
        if full not in self.graph.initializers:
            tensor = onnx_ir.tensor(values, name=full)
            shape = onnx_ir.Shape(tensor.numpy().shape)
            value = onnx_ir.Value(name=full, shape=shape, type=onnx_ir.TensorType(tensor.dtype))
            value.const_value = tensor
            self.graph.register_initializer(value)
        return self.graph.initializers[full]

    def apply(self, operator: str, *inputs: "onnx_ir.Value", **attributes: Any) -> "onnx_ir.Value":
        """Return the output of a new operator."""
        import onnx_ir

        self.count += 1
        node = onnx_ir.node(operator, inputs, attributes)
        node.name = f"{self.prefix}.{operator}_{self.count}"
        node.outputs[0].name = f"{node.name}_output"
        self.graph.insert_before(self.first, node)
        return node.outputs[0]

    def cast(self, value: "onnx_ir.Value", dtype: str) -> "onnx_ir.Value":
        import onnx_ir

        return self.apply("Cast", value, to=int(onnx_ir.DataType[dtype]))


def _replace_operand(graph: "onnx_ir.Graph", name: str, operand: "onnx_ir.Value", stored: StoredWeight) -> None:
    """Have the named operand (C, O) made from its codes by operators on constants."""
    build = _Constants(graph, name)
    uses = list(operand.uses())
    computed = _operand_of(build, stored)
    for node, index in uses:
        node.replace_input_with(index, computed)
    del graph.initializers[name]


def _operand_of(build: _Constants, stored: StoredWeight) -> "onnx_ir.Value":
    """Return the operand as the arithmetic of its layer computes it, in the same order."""
    weight = stored.codes
    codes = _codes_of(build, weight.codes.T.contiguous().numpy(), weight.bits)  # (C, O)
    values = build.apply("Sub", codes, build.constant(_floats(weight.zero_point), "zero_point"))
    if weight.input_scale is not None:
        for operator, factor, name in (
            ("Mul", weight.scale, "scale"),
            ("Mul", weight.input_scale[:, None], "input_scale"),
            ("Div", stored.scale, "step"),
        ):
            values = build.apply(operator, values, build.constant(_floats(factor), name))
        half = build.apply("Add", values, build.constant(np.float32(0.5), "half"))
        values = build.apply("Floor", half)
    if stored.factor != 1:
        values = build.apply("Mul", values, build.constant(np.float32(stored.factor), "factor"))
    return build.cast(values, "INT8")


def _codes_of(build: _Constants, codes: NDArray[np.uint8], bits: int) -> "onnx_ir.Value":
    """Return codes of so many bits, as floats in their shape."""
    parts = []
    for shift, size in pieces_of(bits):
        part = _piece_of(build, codes, shift, size)
        if shift:
            part = build.apply("Mul", part, build.constant(np.float32(2**shift), f"worth_{shift}"))
        parts.append(part)
    total = parts[0]
    for part in parts[1:]:
        total = build.apply("Add", total, part)
    return total


def _piece_of(build: _Constants, codes: NDArray[np.uint8], shift: int, bits: int) -> "onnx_ir.Value":
    """Return one piece of each code, as floats: engines fold these operators, and not all of them shifts of bits."""
    if bits == 4:
        import ml_dtypes

        nibbles = ((codes >> shift) & 15).astype(ml_dtypes.uint4)
        return build.cast(build.constant(nibbles, f"codes_{shift}"), "FLOAT")
    packed = build.cast(build.constant(pack_piece(codes, shift, bits), f"codes_{shift}"), "FLOAT")  # (N, 1)
    shares = (0.5 ** (bits * np.arange(8 // bits))).astype(np.float32)
    shifted = build.apply("Floor", build.apply("Mul", packed, build.constant(shares, f"shares_{bits}")))
    base = build.constant(np.float32(2**bits), f"base_{bits}")
    quotient = build.apply("Floor", build.apply("Div", shifted, base))
    piece = build.apply("Sub", shifted, build.apply("Mul", quotient, base))
    if codes.size % (8 // bits):
        flat = build.apply("Reshape", piece, build.constant(np.array([-1]), "flat"))
        ends = (build.constant(np.array([end]), f"end_{end}") for end in (0, codes.size))
        piece = build.apply("Slice", flat, *ends)
    return build.apply("Reshape", piece, build.constant(np.array(codes.shape), "shape"))


def _floats(values: Tensor) -> NDArray[np.float32]:
    return values.detach().cpu().float().numpy()
