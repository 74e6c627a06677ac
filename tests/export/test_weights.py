# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import onnx_ir
import pytest
from exported_models import pack
from hypothesis import given
from hypothesis import strategies as st

from optimum_mixq.export.conversion import convert
from optimum_mixq.export.layers import ExportLinear
from optimum_mixq.export.weights import LAYOUTS, lay_out_weights, pack_piece, pieces_of


@pytest.mark.parametrize("bits", range(1, 8))
def test_the_pieces_of_a_code_are_all_its_bits(bits):
    pieces = list(pieces_of(bits))
    assert sum(size for _, size in pieces) == bits
    assert [shift for shift, _ in pieces] == [sum(size for _, size in pieces[:place]) for place in range(len(pieces))]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40), st.sampled_from([1, 2]), st.integers(0, 6))
def test_a_packed_piece_holds_the_bits_of_neighbours_from_the_lowest_on(codes, bits, shift):
    packed = pack_piece(np.array(codes, np.uint8), shift, bits)
    read = [(int(byte) >> place) & (2**bits - 1) for byte in packed[:, 0] for place in range(0, 8, bits)]
    assert read[: len(codes)] == [(code >> shift) & (2**bits - 1) for code in codes]
    assert len(packed) == -(-len(codes) * bits // 8)


def graph_of(model):
    """Return a graph that holds the operands of a converted model, and passes each on."""
    names = [name for name, module in model.named_modules() if isinstance(module, ExportLinear)]
    initializers = [
        onnx_ir.Value(
            name=f"{name}.operand",
            shape=onnx_ir.Shape(model.get_submodule(name).operand.shape),
            type=onnx_ir.TensorType(onnx_ir.DataType.INT8),
            const_value=onnx_ir.tensor(model.get_submodule(name).operand.numpy(), name=f"{name}.operand"),
        )
        for name in names
    ]
    nodes = [onnx_ir.node("Identity", [value]) for value in initializers]
    for node, name in zip(nodes, names, strict=True):
        node.outputs[0].name, node.outputs[0].dtype = name, onnx_ir.DataType.INT8
    outputs = [node.outputs[0] for node in nodes]
    graph = onnx_ir.Graph([], outputs, nodes=nodes, initializers=initializers, opset_imports={"": 21}, name="operands")
    return onnx_ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("arithmetic", ["column", "folded"])
def test_operands_made_from_codes_are_those_that_packed_layers_multiply(arithmetic, tmp_path):
    import onnxruntime

    converted = convert(pack("vit", "mixed", arithmetic), "integer")
    program = graph_of(converted)
    lay_out_weights(program, converted, "codes")
    onnx_ir.save(program, tmp_path / "codes.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "codes.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for name, found in zip(names, session.run(names, {}), strict=True):
        assert np.array_equal(found, converted.get_submodule(name).operand.numpy()), name


def test_codes_take_their_own_bits():
    converted = convert(pack("vit", "mixed"), "integer")
    program = graph_of(converted)
    lay_out_weights(program, converted, "codes")
    for name, layer in converted.named_modules():
        if isinstance(layer, ExportLinear) and layer.stored is not None and layer.stored.codes.bits < 8:
            parts = [
                value.const_value
                for key, value in program.graph.initializers.items()
                if key.startswith(f"{name}.operand.codes_")
            ]
            assert sum(part.nbytes for part in parts) == layer.operand.numel() * layer.stored.codes.bits / 8
            assert f"{name}.operand" not in program.graph.initializers


def test_a_layout_that_is_unknown_is_told_the_others():
    converted = convert(pack("shallow_vit"), "integer")
    assert LAYOUTS == ("codes", "operand")
    with pytest.raises(ValueError, match=r"Expected weights to be 'codes' or 'operand', found 'int4'"):
        lay_out_weights(graph_of(converted), converted, "int4")
