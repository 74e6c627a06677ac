# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What both engines make of exported files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from exported_models import pack, pixels_for
from processors import WHY
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.export import tracing
from optimum_mixq.export.attention import ExportAttention, LogarithmicAttention
from optimum_mixq.export.conversion import convert, integer_products
from optimum_mixq.export.processor import saturates
from optimum_mixq.export.targets import TARGETS
from optimum_mixq.export.targets.onnx import INTEGER_OPERATORS
from optimum_mixq.export.targets.openvino import OpenVINO
from optimum_mixq.export.tracing import has_exporters, trace
from optimum_mixq.export.weights import lay_out_weights


@dataclass(frozen=True)
class Case:
    """A converted model, its traced graph, and a folder with its file for each target."""

    converted: PreTrainedModel
    program: onnx_ir.Model
    folder: Path


# Name, bits, arithmetic, layout of weights, attention, and whether products are of matrices, which only ONNX Runtime
# runs whatever the model is.
CASES = {
    "ViT, column, mixed plan": ("shallow_vit", "mixed", "column", "codes", "integer", True),
    "ViT, folded, 6 bits, own grids": ("shallow_vit", 6, "folded", "operand", "logarithmic", True),
    "DeiT with two heads, folded, 3 bits": ("shallow_deit_with_teacher", 3, "folded", "codes", "integer", False),
    "Swin, column, W4A8": ("shallow_swin", (4, 8), "column", "codes", "integer", False),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    name, bits, arithmetic, weights, attention, as_matrices = CASES[request.param]
    converted = convert(pack(name, bits, arithmetic), attention, as_matrices)
    program = trace(converted, pixels_for(converted, 2))
    lay_out_weights(program, converted, weights)
    folder = tmp_path_factory.mktemp("exported")
    for target in TARGETS.values():
        (folder / target.name).mkdir()
        target.write(program, folder / target.name)
    return Case(converted, program, folder)


@pytest.fixture(params=sorted(TARGETS))
def engine(request, case):
    return TARGETS[request.param].load(case.folder / request.param)


def outputs_of(model, pixels):
    with torch.no_grad():
        found = model(pixel_values=pixels)
    return {name: value.numpy() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("count", [1, 8])
def test_an_engine_puts_out_what_pytorch_does_for_any_batch_size(case, engine, count):
    if saturates() and isinstance(engine, OpenVINO):
        pytest.skip(WHY)
    pixels = pixels_for(case.converted, count)
    expected, found = outputs_of(case.converted, pixels), engine.run(pixels.numpy())
    assert set(found) == set(expected)
    for name, values in found.items():
        assert values.shape == (count, 5)
        # A code that lies between two may go to either: that moves some images a little, and most not at all.
        distance = np.abs(values - expected[name]).max(-1)
        assert np.median(distance) < 0.02 * expected[name].std() and distance.max() < 0.3 * expected[name].std()


def test_every_quantized_layer_is_a_product_of_8_bit_integers(case, engine):
    architecture = describe(case.converted)
    layers = len(architecture.unit_of_module) + len(architecture.heads)
    assert engine.integer_products() == layers + 3 == integer_products(case.converted)


def integer_products_of_attention(engine):
    """Return how many products of two activations an engine multiplies as integers."""
    if hasattr(engine, "graph"):
        found = sum(node.op_type in INTEGER_OPERATORS for node in engine.graph.node)
        return found - engine.integer_products()
    kinds = [node.get_rt_info() for node in engine.model.get_runtime_model().get_ops()]
    return sum(
        kind["layerType"].astype(str) == "MatMul" and kind["runtimePrecision"].astype(str) in ("u8", "i8")
        for kind in kinds
    )


def test_attention_multiplies_8_bit_integers_unless_it_runs_on_its_own_grids(case, engine):
    blocks = [block for block in describe(case.converted).blocks if block.attention is not None]
    own_grids = isinstance(next(attentions(case.converted)), LogarithmicAttention)
    assert integer_products_of_attention(engine) == (0 if own_grids else 2 * len(blocks))


def attentions(model):
    return (module for module in model.modules() if isinstance(module, ExportAttention))


def test_the_file_tells_nothing_of_the_machine_it_was_made_on(case):
    for file in case.folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(word.encode() in content for word in (str(Path.home()), "site-packages", "stack_trace"))


def test_clips_stand_before_activations_of_fewer_than_8_bits(case):
    graph = onnx.load(case.folder / "onnx" / "model.onnx").graph
    producers = {node.output[0]: node.op_type for node in graph.node}
    rounded = [producers[node.input[0]] for node in graph.node if node.op_type == "QuantizeLinear"]
    layers = [module for module in case.converted.modules() if type(module).__name__ == "Rounding"]
    narrow = sum(module.bits < 8 for module in layers)
    assert rounded.count("Clip") >= narrow / 3  # of three layers that read one input, one rounds it


def test_no_two_nodes_share_a_signed_zero_point(case):
    graph = onnx.load(case.folder / "onnx" / "model.onnx").graph
    signed = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    read = [node.input[2] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    signed_read = [name for name in read if name in signed]
    assert signed_read and len(signed_read) == len(set(signed_read))


@pytest.mark.skipif(not has_exporters(), reason="the installed transformers has no exporters")
def test_both_exporters_make_the_same_graph(monkeypatch):
    converted = convert(pack("shallow_vit"), "integer")
    pixels = pixels_for(converted, 2)
    first = trace(converted, pixels)
    monkeypatch.setattr(tracing, "has_exporters", lambda: False)
    second = trace(converted, pixels)
    kinds, others = ([node.op_type for node in program.graph] for program in (first, second))
    assert kinds == others
    for values in ("inputs", "outputs"):
        assert [value.name for value in getattr(first.graph, values)] == [
            value.name for value in getattr(second.graph, values)
        ]
    named, plain = (
        {name.removeprefix("model.") for name in program.graph.initializers} for program in (first, second)
    )
    operands = {f"{name}.operand" for name, layer in converted.named_modules() if hasattr(layer, "operand")}
    assert operands <= named and operands <= plain
