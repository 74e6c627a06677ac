# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Triton compiles its kernels for GPUs that are not there, down to machine code, with integer tensor cores."""

import json
import os
import subprocess
import sys

import pytest


pytest.importorskip("triton", reason="Triton is not installed")

# Compiles variants of the product as the launcher would, in a process where Triton does not interpret.
SCRIPT = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from optimum_mixq.kernels.triton import linear, norm

POINTERS = {"codes": "*u8", "shift": "*i32"}
NUMBERS = {"rows", "outputs", "columns", "row_octets", "rows_up_to", "octets"}

def compile(kernel, capability, constants, pointers, numbers, **options):
    types = dict.fromkeys(constants, "constexpr") | dict.fromkeys(numbers, "i32") | {"eps": "fp32"} | pointers
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(signature.items()) if kind not in ("constexpr", "fp32") and name != "rows"
    }
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(json.dumps([made.metadata.shared, len(made.asm["cubin"]), made.asm["ptx"]]))

def compile_others(capability):
    pointers = {"weight": "*u8", "operand": "*i8"}
    constants = dict(FIELDS=2, BY_COLUMN=True, OCTETS=512)
    compile(linear._unpack_row, capability, constants, pointers, NUMBERS, enable_fp_fusion=False)
    pointers = {"rows": "*bf16", "weight": "*bf16", "bias": "*bf16", "codes": "*u8"}
    compile(norm._normalize_row, capability, dict(LARGEST_CODE=15, COLUMNS=1024), pointers, {"columns"}, num_warps=4)

for capability, fields, by_column, largest, tile in json.loads(sys.argv[1]):
    constants = dict(FIELDS=fields, BY_COLUMN=by_column, GELU=True, LARGEST_CODE=largest, EVEN=True)
    constants |= dict(zip(("ROWS", "OUTPUTS", "OCTETS"), tile))
    pointers = POINTERS | {"weight": "*i8" if fields == 1 else "*u8", "output": "*u8" if largest else "*bf16"}
    options = {"num_warps": tile[3], "num_stages": tile[4], "enable_fp_fusion": False}
    compile(linear._multiply_tile.fn.fn, capability, constants, pointers, NUMBERS, **options)
for capability in json.loads(sys.argv[2]):
    compile_others(capability)
"""
# Of an A100 and of an H100, what one program may have of it.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
INTEGER_PRODUCT = {80: "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32", 90: "wgmma.mma_async"}


def require_compiled(cases, others=()):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(cases), json.dumps(others)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    made = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(made) == len(cases) + 2 * len(others) and all(size > 0 for _, size, _ in made)
    for (capability, *_), (shared, _, assembly) in zip(cases, made, strict=False):
        assert 0 < shared <= SHARED_MEMORY[capability]
        assert INTEGER_PRODUCT[capability] in assembly and ".s8.s8" in assembly
        assert "cp.async" in assembly  # loads run ahead of products


def test_all_kernels_compile_for_an_a100_and_an_h100():
    require_compiled([(80, 1, False, 255, (64, 64, 128, 4, 3)), (90, 1, False, 0, (64, 64, 128, 4, 3))], [80, 90])


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_tile_compiles_in_every_form(capability):
    from optimum_mixq.kernels.triton.linear import TILES

    plain = [(capability, 1, False, 255, tile) for tile in TILES]
    packed = [(capability, fields, True, 0, tile) for fields in (2, 4) for tile in TILES if tile[0] <= 64]
    require_compiled(plain + packed + [(capability, fields, False, 0, TILES[-2]) for fields in (2, 4)])
