# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""OpenVINO's intermediate representation, under the file names that optimum-intel uses."""

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from optimum_mixq.export.targets.base import Engine, Target, register_target


if TYPE_CHECKING:
    import onnx_ir


FILE = "openvino_model.xml"


@register_target
class OpenVINOTarget(Target):
    """A graph in XML, and its weights in a file beside it."""

    name = "openvino"
    packages = ("onnx", "onnxscript", "openvino")
    extra = "openvino"
    # OpenVINO 2026.4 fails to move scales through some of the reshapes around matrices, such as those of a Swin-T.
    as_matrices = False
    without_vnni = "OpenVINO has no mode that avoids it: use a CPU with VNNI, or export to 'onnx'."

    def write(self, program: "onnx_ir.Model", folder: Path) -> None:
        import onnx_ir

        openvino = _openvino()
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "model.onnx"
            onnx_ir.save(program, file)
            # Read and not converted: conversion would compute the weights that the file is to hold as codes.
            model = openvino.Core().read_model(file)
            # The reader keeps the names of other tensors with the same values beside the outputs' own.
            for output, value in zip(model.outputs, program.graph.outputs, strict=True):
                output.get_tensor().set_names({value.name})
            # In float16 the folded scales would not be those that the model was calibrated with.
            openvino.save_model(model, folder / FILE, compress_to_fp16=False)

    def load(self, folder: Path) -> Engine:
        return OpenVINO(folder / FILE)


class OpenVINO(Engine):
    def __init__(self, file: Path) -> None:
        openvino = _openvino()
        # Float32 between the products: on CPUs with bfloat16 units the default is bfloat16, which hides differences.
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().read_model(file)
        self.outputs = [output.any_name for output in model.outputs]  # compiling adds names of inner tensors
        self.model = openvino.Core().compile_model(model, "CPU", options)

    def run(self, pixels: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        return dict(zip(self.outputs, self.model([pixels]).values(), strict=True))

    def integer_products(self) -> int:
        # A layer that several others read may be computed for each of them: its weight is counted once.
        return len(
            {_weight_of(node) for node in self.model.get_runtime_model().get_ops() if _is_integer_product(node)}
        )


def _is_integer_product(node: Any) -> bool:
    kind = node.get_rt_info()
    return kind["layerType"].astype(str) == "FullyConnected" and kind["runtimePrecision"].astype(str) in ("u8", "i8")


def _weight_of(node: Any) -> str:
    return str(node.input_value(1).get_node().get_friendly_name())


def _openvino() -> Any:
    # mypy does not follow how OpenVINO 2026.4 names what it exports.
    return importlib.import_module("openvino")
