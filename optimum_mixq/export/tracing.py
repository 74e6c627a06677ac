# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""From a converted model to an ONNX graph in memory."""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


if TYPE_CHECKING:
    import onnx_ir


# The first with 4-bit integers.
OPSET = 21
INPUT = "pixel_values"


def trace(model: PreTrainedModel, pixels: Tensor) -> "onnx_ir.Model":
    """Return the graph of a converted model, from pixels (B, C, H, W) to the tensors that it puts out, by name.

    The batch size is free, height and width are those of `pixels`. transformers' exporter traces it where the
    installed release has one (5.20 and later), else torch's.
    """
    with torch.no_grad(), _quiet():
        program = trace_with_transformers(model, pixels) if has_exporters() else trace_with_torch(model, pixels)
    return _with_own_zero_points(_without_traces(program))


def has_exporters() -> bool:
    """Return whether the installed transformers exports to ONNX."""
    return importlib.util.find_spec("transformers.exporters") is not None


def trace_with_transformers(model: PreTrainedModel, pixels: Tensor) -> "onnx_ir.Model":
    """Return the graph that transformers' exporter makes."""
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    config = OnnxConfig(opset_version=OPSET, dynamic_shapes=_free_batch())
    program, _ = OnnxExporter().export_program(model, {INPUT: pixels}, config)
    return program


def trace_with_torch(model: PreTrainedModel, pixels: Tensor) -> "onnx_ir.Model":
    """Return the graph that torch's exporter makes."""
    wrapper = _NamedOutputs(model)
    exported = torch.onnx.export(
        wrapper,
        (pixels,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(wrapper(pixels)),
        dynamic_shapes=_free_batch(),
        custom_translation_table=_translations(),
        verbose=False,
    )
    assert exported is not None  # dynamo=True returns a program
    return exported.model


class _NamedOutputs(nn.Module):
    """A model that takes pixels alone and returns its tensors by name."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {name: value for name, value in self.model(pixel_values=pixel_values).items() if value is not None}


def _translations() -> dict[Any, Any]:
    """Return what onnxscript 0.7 does not translate: dequantizing with a scale for each channel."""
    from onnxscript.onnx_opset import opset21 as operators

    def dequantize(
        input: Any, scales: Any, zero_points: Any, axis: int, low: int, high: int, dtype: int, out_dtype: int = -1
    ) -> Any:
        return operators.DequantizeLinear(input, scales, operators.CastLike(zero_points, input), axis=axis)

    return {torch.ops.quantized_decomposed.dequantize_per_channel.default: dequantize}


def _free_batch() -> dict[str, Any]:
    return {INPUT: {0: torch.export.Dim("batch")}}


def _without_traces(program: "onnx_ir.Model") -> "onnx_ir.Model":
    """Remove from the nodes, in place, the lines of source code that they came from, with paths of this machine."""
    for node in program.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in program.graph.initializers.values():
        value.metadata_props.clear()
    program.metadata_props.clear()
    return program


def _with_own_zero_points(program: "onnx_ir.Model") -> "onnx_ir.Model":
    """Give each node a signed zero point of its own, in place.

    ONNX Runtime 1.32 replaces those of products with a precise mode for CPUs without VNNI, and fails where two nodes
    share one.
    """
    import onnx_ir

    graph = program.graph
    for name, value in list(graph.initializers.items()):
        if value.dtype != onnx_ir.DataType.INT8:
            continue
        uses = [use for use in value.uses() if use.node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        for count, use in enumerate((use for use in uses if use.idx == 2), start=1):
            own = onnx_ir.Value(name=f"{name}.{count}", shape=value.shape, type=value.type)
            own.const_value = onnx_ir.tensor(value.const_value.numpy(), name=own.name)
            graph.register_initializer(own)
            use.node.replace_input_with(use.idx, own)
        if not value.uses() and uses:
            del graph.initializers[name]
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and their warnings about themselves from people (torch 2.13, transformers 5.23)."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers.exporters", "onnxscript", "onnx_ir")]
    children = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.startswith(tuple(f"{parent.name}." for parent in loggers))
    ]
    levels = {logger: logger.level for logger in (*loggers, *children)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
