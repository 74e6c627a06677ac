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
from optimum_mixq.kernels.triton import linear

kernel = linear._multiply_tile.fn.fn
POINTERS = {"codes": "*u8", "shift": "*i32"}
NUMBERS = ("rows", "outputs", "columns", "row_octets", "rows_up_to")
for capability, fields, by_column, largest, tile in json.loads(sys.argv[1]):
    constants = dict(FIELDS=fields, BY_COLUMN=by_column, GELU=True, LARGEST_CODE=largest, EVEN=True)
    constants |= dict(zip(("ROWS", "OUTPUTS", "OCTETS"), tile))
    pointers = POINTERS | {"weight": "*i8" if fields == 1 else "*u8", "output": "*u8" if largest else "*bf16"}
    signature = {
        name: "constexpr" if name in constants else "i32" if name in NUMBERS else pointers.get(name, "*fp32")
        for name in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names) if name not in constants and name != "rows"
    }
    options = {"num_warps": tile[3], "num_stages": tile[4], "enable_fp_fusion": False}
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(json.dumps([made.metadata.shared, len(made.asm["cubin"]), made.asm["ptx"]]))
"""
# Of an A100 and of an H100, what one program may have of it.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
INTEGER_PRODUCT = {80: "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32", 90: "wgmma.mma_async"}


def require_compiled(cases):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(cases)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    for (capability, *_), line in zip(cases, run.stdout.splitlines(), strict=True):
        shared, size, assembly = json.loads(line)
        assert 0 < shared <= SHARED_MEMORY[capability] and size > 0
        assert INTEGER_PRODUCT[capability] in assembly and ".s8.s8" in assembly
        assert "cp.async" in assembly  # loads run ahead of products


def test_the_product_compiles_for_an_a100_and_an_h100():
    require_compiled([(80, 1, False, 255, (64, 64, 128, 4, 3)), (90, 1, False, 0, (64, 64, 128, 4, 3))])


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_tile_compiles_in_every_form(capability):
    from optimum_mixq.kernels.triton.linear import TILES

    plain = [(capability, 1, False, 255, tile) for tile in TILES]
    packed = [(capability, fields, True, 0, tile) for fields in (2, 4) for tile in TILES if tile[0] <= 64]
    require_compiled(plain + packed + [(capability, fields, False, 0, TILES[-2]) for fields in (2, 4)])
