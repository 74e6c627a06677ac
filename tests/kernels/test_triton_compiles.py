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
from optimum_mixq.kernels.triton import attention, linear, norm

POINTERS = {"codes": "*u8", "shift": "*i32"}
OPERANDS = ("query", "key", "value", "mask")
UNALIGNED = {"rows", "heads", "queries", "keys", "mask_row", "mask_column", "mask_image", "mask_head"}
NUMBERS = {"rows", "outputs", "columns", "row_octets", "rows_up_to", "octets"}

def compile(kernel, capability, constants, pointers, numbers, **options):
    types = dict.fromkeys(numbers, "i32") | {"eps": "fp32"} | pointers | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(signature.items())
        if kind not in ("constexpr", "fp32") and name not in UNALIGNED
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

def compile_attention(capability, size, masked, dtype, tile, ones=()):
    numbers = {"heads", "queries", "keys", "pairs_up_to", "queries_up_to", "keys_up_to"}
    numbers |= {f"{operand}_{side}" for operand in OPERANDS for side in ("image", "head", "token", "row", "column")}
    constants = dict(MASKED=masked, SIZE=size, DTYPE=getattr(triton.language, dtype))
    constants |= dict(CHANNELS=max(16, triton.next_power_of_2(size)), QUERIES=tile[0], KEYS=tile[1])
    constants |= dict.fromkeys(ones, 1)
    factors = ("query_factor", "steps_per_score", "octaves_per_step", "qk_code", "av_code")
    pointers = dict.fromkeys((*OPERANDS, "output"), "*bf16") | dict.fromkeys(factors, "fp32")
    options = {"num_warps": tile[2], "num_stages": tile[3]}
    compile(attention._attend_tile.fn, capability, constants, pointers, numbers, **options)

for capability, fields, by_column, largest, tile in json.loads(sys.argv[1]):
    constants = dict(FIELDS=fields, BY_COLUMN=by_column, GELU=True, LARGEST_CODE=largest, EVEN=True)
    constants |= dict(zip(("ROWS", "OUTPUTS", "OCTETS"), tile))
    pointers = POINTERS | {"weight": "*i8" if fields == 1 else "*u8", "output": "*u8" if largest else "*bf16"}
    options = {"num_warps": tile[3], "num_stages": tile[4], "enable_fp_fusion": False}
    compile(linear._multiply_tile.fn.fn, capability, constants, pointers, NUMBERS, **options)
for capability in json.loads(sys.argv[2]):
    compile_others(capability)
for case in json.loads(sys.argv[3]):
    compile_attention(*case)
"""
# Of an A100 and of an H100, what one program may have of it.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
# Of other GPUs since Ampere.
SMALLEST_SHARED_MEMORY = 99 * 1024
PRODUCT = {80: "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 90: "wgmma.mma_async"}
INTEGER_PRODUCT = {80: "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32", 90: "wgmma.mma_async"}


def compile_all(cases, others=(), attentions=()):
    """Return shared memory, size of the machine code, and assembly of each kernel."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT, *map(json.dumps, (cases, others, attentions))]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    made = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(made) == len(cases) + 2 * len(others) + len(attentions) and all(size > 0 for _, size, _ in made)
    return made


def require_compiled(cases, others=()):
    made = compile_all(cases, others)
    for (capability, *_), (shared, _, assembly) in zip(cases, made, strict=False):
        assert 0 < shared <= SHARED_MEMORY[capability]
        assert INTEGER_PRODUCT[capability] in assembly and ".s8.s8" in assembly
        assert "cp.async" in assembly  # loads run ahead of products


def test_all_kernels_compile_for_an_a100_and_an_h100():
    require_compiled([(80, 1, False, 255, (64, 64, 128, 4, 3)), (90, 1, False, 0, (64, 64, 128, 4, 3))], [80, 90])


def require_attention(cases):
    made = compile_all((), (), cases)
    for (capability, size, _, dtype, tile, *_), (shared, _, assembly) in zip(cases, made, strict=True):
        assert 0 < shared <= (SMALLEST_SHARED_MEMORY if tile[0] == 16 else SHARED_MEMORY[capability])
        fast = PRODUCT[capability if tile[0] >= 64 else 80]  # fewer rows are multiplied as an A100 does it
        assert (fast in assembly) == (dtype == "bfloat16")
        assert "cp.async" in assembly or size % 16  # loads run ahead of products


def test_attention_compiles_for_an_a100_and_an_h100():
    ones = ("heads", "queries", "keys", "mask_column")  # which the launcher makes constants
    require_attention(
        [
            (80, 256, True, "bfloat16", (16, 32, 4, 2)),
            (90, 72, False, "bfloat16", (64, 64, 4, 2)),
            (90, 12, True, "bfloat16", (16, 32, 4, 2), ones),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_attention_compiles_in_every_tile(capability):
    from optimum_mixq.kernels.triton.attention import TILES

    sizes = [(32, True), (64, True), (80, False), (128, True)]
    cases = [(capability, *each, "bfloat16", tile) for each in sizes for tile in TILES]
    smallest = [(capability, 256, True, "bfloat16", TILES[0]), (capability, 64, True, "float32", TILES[0])]
    require_attention(cases + smallest)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_tile_compiles_in_every_form(capability):
    from optimum_mixq.kernels.triton.linear import TILES

    plain = [(capability, 1, False, 255, tile) for tile in TILES]
    packed = [(capability, fields, True, 0, tile) for fields in (2, 4) for tile in TILES if tile[0] <= 64]
    require_compiled(plain + packed + [(capability, fields, False, 0, TILES[-2]) for fields in (2, 4)])
