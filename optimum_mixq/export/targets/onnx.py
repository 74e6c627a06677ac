# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""ONNX, for ONNX Runtime."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from optimum_mixq.export.targets.base import Engine, Target, register_target


if TYPE_CHECKING:
    import onnx_ir


FILE = "model.onnx"
# Has sums of 8-bit products be exact where the CPU has no VNNI, and changes nothing elsewhere (ONNX Runtime 1.32).
PRECISE_SUMS = "session.x64quantprecision"
# What ONNX Runtime 1.32 makes of products of integers.
INTEGER_OPERATORS = {"QGemm", "MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger"}


@register_target
class OnnxTarget(Target):
    """One file, with its weights inside."""

    name = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    # With more dimensions and a free batch size ONNX Runtime 1.32 adds the bias separately.
    as_matrices = True
    without_vnni = (
        f'Give sessions options.add_session_config_entry("{PRECISE_SUMS}", "1"), as the check of the file did.'
    )

    def write(self, program: "onnx_ir.Model", folder: Path) -> None:
        import onnx_ir

        onnx_ir.save(program, folder / FILE)

    def load(self, folder: Path) -> Engine:
        return OnnxRuntime(folder / FILE)


class OnnxRuntime(Engine):
    def __init__(self, file: Path) -> None:
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry(PRECISE_SUMS, "1")
        options.log_severity_level = 3  # the optimized graph is for this machine: it warns of that
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(optimized)
            self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            self.graph = onnx.load(optimized, load_external_data=False).graph
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, pixels: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        (name,) = (entry.name for entry in self.session.get_inputs())
        return dict(zip(self.outputs, self.session.run(self.outputs, {name: pixels}), strict=True))

    def integer_products(self) -> int:
        constants = {tensor.name for tensor in self.graph.initializer}
        return sum(
            node.op_type in INTEGER_OPERATORS and bool(constants & {*node.input[1:4]} & self._operands(node))
            for node in self.graph.node
        )

    def _operands(self, node: Any) -> set[str]:
        # QGemm reads a, its scale and zero point, then b; the others read a, b.
        return {node.input[3 if node.op_type in ("QGemm", "QLinearMatMul") else 1]}
