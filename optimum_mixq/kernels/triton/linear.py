# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The product of codes and operand on a GPU, with all that follows it while the sums are in registers."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimum_mixq.kernels.contract import Activation, Rounding
from optimum_mixq.kernels.triton.devices import device_of
from optimum_mixq.kernels.triton.weights import HeldWeight


# Rows up to which packed codes become operands in the registers of the product, without and with a scale for each
# column; with more, each tile of rows would do that again, and one pass in front takes less. By counting instructions:
# no GPU timed it.
ROWS_IN_REGISTERS = (256, 64)
# Rows, outputs and bytes of the weight's rows that one program multiplies at a time; its warps; loads ahead.
TILES = (
    (16, 32, 128, 4, 5),
    (16, 64, 128, 4, 5),
    (32, 64, 128, 4, 5),
    (64, 64, 128, 4, 5),
    (64, 128, 128, 4, 4),
    (128, 128, 64, 8, 4),
    (128, 128, 128, 8, 4),
    (128, 256, 128, 8, 3),
)
# Bytes of a row that one program unpacks.
UNPACKED_OCTETS = 512
# The interpreter takes as long for every tile: a small one, so that small products have edges and several steps.
INTERPRETED_TILES = ((16, 16, 32, 1, 1),)


def multiply(
    codes: Tensor,
    weight: HeldWeight,
    shift: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    activation: Activation,
    rounding: Rounding | None = None,
) -> Tensor:
    """Return f(scale * (codes (..., C) @ operand^T (C, O)) + bias) (..., O) in `dtype`, or its codes, uint8.

    Nothing here depends on the numbers in a tensor, so that a CUDA graph may record it.
    """
    rows = codes.reshape(-1, codes.shape[-1]).contiguous()
    count, outputs = rows.shape[0], len(scale)
    output = codes.new_empty((count, outputs), dtype=dtype if rounding is None else torch.uint8)
    if output.numel():
        with device_of(rows):
            held = weight if count <= ROWS_IN_REGISTERS[weight.by_column] else unpack(weight, scale)
            _launch(rows, held, shift, scale, bias, output, activation, rounding)
    return output.view(*codes.shape[:-1], outputs)


def unpack(weight: HeldWeight, scale: Tensor) -> HeldWeight:
    """Return the same weight as its operand, a byte for each column."""
    if weight.fields == 1:
        return weight
    outputs, octets = weight.octets.shape
    operand = torch.empty((outputs, weight.fields * octets), dtype=torch.int8, device=scale.device)
    _unpack_row[outputs, triton.cdiv(octets, UNPACKED_OCTETS)](
        weight.octets,
        weight.zero_point,
        _or(weight.weight_scale, scale),
        _or(weight.input_scale, scale),
        scale,
        operand,
        octets,
        weight.columns,
        FIELDS=weight.fields,
        BY_COLUMN=weight.by_column,
        OCTETS=UNPACKED_OCTETS,
        enable_fp_fusion=False,
    )
    return HeldWeight(operand, 1, weight.columns)


def _launch(
    rows: Tensor,
    weight: HeldWeight,
    shift: Tensor,
    scale: Tensor,
    bias: Tensor,
    output: Tensor,
    activation: Activation,
    rounding: Rounding | None,
) -> None:
    count, outputs = output.shape

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(count, tile["ROWS"]) * triton.cdiv(outputs, tile["OUTPUTS"]),)

    # What a variant does not read gets a tensor that is there.
    _multiply_tile[grid](
        rows,
        weight.octets,
        shift,
        scale,
        bias,
        output,
        _or(weight.zero_point, scale),
        _or(weight.weight_scale, scale),
        _or(weight.input_scale, scale),
        scale if rounding is None else rounding.multiplier,
        scale if rounding is None else rounding.offset,
        count,
        outputs,
        rows.shape[1],
        weight.octets.shape[1],
        triton.next_power_of_2(count),
        FIELDS=weight.fields,
        BY_COLUMN=weight.by_column,
        GELU=activation == "gelu",
        LARGEST_CODE=0 if rounding is None else rounding.largest_code,
        # As other kernels: a product and its sum are rounded one after the other.
        enable_fp_fusion=False,
    )


def _or(values: Tensor | None, otherwise: Tensor) -> Tensor:
    return otherwise if values is None else values


def tiles_for(configurations: Sequence[Any], arguments: dict[str, Any], **_: Any) -> list[Any]:
    """Return the tiles that are worth trying: none that is mostly empty, or small next to very many rows."""
    rows = arguments["rows_up_to"]
    fitting = [tile for tile in configurations if tile.kwargs["ROWS"] <= max(16, rows)]
    return [tile for tile in fitting if tile.kwargs["ROWS"] >= 64] if rows > 512 else fitting


def is_even(arguments: dict[str, Any]) -> bool:
    """Return whether tiles fill the bytes of a row exactly, and fields its columns: then nothing is masked."""
    octets = arguments["row_octets"]
    return arguments["columns"] == arguments["FIELDS"] * octets and octets % arguments["OCTETS"] == 0


def configurations(tiles: Sequence[tuple[int, int, int, int, int]]) -> list[Any]:
    """Return tiles as Triton takes them."""
    return [
        triton.Config({"ROWS": rows, "OUTPUTS": outputs, "OCTETS": octets}, num_warps=warps, num_stages=stages)
        for rows, outputs, octets, warps, stages in tiles
    ]


@triton.jit
def _operand_of(
    octets, field: tl.constexpr, zero_point, weight_scale, input_scale, scale,
    FIELDS: tl.constexpr, BY_COLUMN: tl.constexpr,
):  # fmt: skip
    """Return the operand, int8, that one field of the bytes stands for: the formulas of `HeldWeight`, to the bit."""
    WIDTH: tl.constexpr = 8 // FIELDS
    centered = ((octets >> (field * WIDTH)) & (2**WIDTH - 1)).to(tl.float32) - zero_point
    if BY_COLUMN:
        centered = tl.floor(tl.div_rn(centered * weight_scale * input_scale, scale) + 0.5)
    return centered.to(tl.int8)


@triton.jit
def _unpack_row(
    weight, zero_point, weight_scale, input_scale, scale, operand, octets, columns,
    FIELDS: tl.constexpr, BY_COLUMN: tl.constexpr, OCTETS: tl.constexpr,
):  # fmt: skip
    """Write the operand of a part of one row."""
    row = tl.program_id(0).to(tl.int64)
    octet = tl.program_id(1) * OCTETS + tl.arange(0, OCTETS)
    read = tl.load(weight + row * octets + octet, mask=octet < octets, other=0)
    zero, step, own_scale = tl.load(zero_point + row), tl.load(weight_scale + row), tl.load(scale + row)
    for field in tl.static_range(FIELDS):
        column = field * octets + octet
        own = step
        if BY_COLUMN:
            own = tl.load(input_scale + column, mask=column < columns, other=0)
        values = _operand_of(read, field, zero, step, own, own_scale, FIELDS, BY_COLUMN)
        tl.store(operand + row * FIELDS * octets + column, values, mask=octet < octets)


@triton.autotune(
    configs=configurations(INTERPRETED_TILES if triton.knobs.runtime.interpret else TILES),
    key=["outputs", "columns", "rows_up_to", "FIELDS", "BY_COLUMN"],
    prune_configs_by={"early_config_prune": tiles_for},
)
@triton.heuristics({"EVEN": is_even})
@triton.jit
def _multiply_tile(
    codes, weight, shift, scale, bias, output, zero_point, weight_scale, input_scale, multiplier, offset,
    rows, outputs, columns, row_octets, rows_up_to,
    FIELDS: tl.constexpr, BY_COLUMN: tl.constexpr, GELU: tl.constexpr, LARGEST_CODE: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, OCTETS: tl.constexpr,
):  # fmt: skip
    """Write one tile (ROWS, OUTPUTS) of the output.

    Codes are shifted by 128 to become signed, and sums get 128 times the operand's row sums back: `shift`.
    """
    # Eight tiles of rows share what they read of the weight while it is in the cache.
    across, down = tl.cdiv(outputs, OUTPUTS), tl.cdiv(rows, ROWS)
    number = tl.program_id(0)
    first = number // (8 * across) * 8
    height = tl.minimum(down - first, 8)
    tile_row, tile_column = first + number % (8 * across) % height, number % (8 * across) // height
    row, out = tile_row * ROWS + tl.arange(0, ROWS), tile_column * OUTPUTS + tl.arange(0, OUTPUTS)
    # Beyond the edge the first rows are read once more, which takes no mask, and are not written.
    read_row, read_out = (row % rows).to(tl.int64), (out % outputs).to(tl.int64)
    own_scale = tl.load(scale + read_out)
    zero = tl.load(zero_point + read_out)
    step = tl.load(weight_scale + read_out)
    sums = tl.zeros((ROWS, OUTPUTS), dtype=tl.int32)
    for start in range(0, row_octets, OCTETS):
        octet = start + tl.arange(0, OCTETS)
        inside = octet < row_octets
        places = weight + read_out[:, None] * row_octets + octet[None, :]
        octets = tl.load(places) if EVEN else tl.load(places, mask=inside[None, :], other=0)  # (OUTPUTS, OCTETS)
        for field in tl.static_range(FIELDS):
            column = field * row_octets + octet
            places = codes + read_row[:, None] * columns + column[None, :]
            there = inside & (column < columns)
            # 128 becomes zero, which adds nothing whatever it is multiplied with.
            read = tl.load(places) if EVEN else tl.load(places, mask=there[None, :], other=128)
            signed = (read ^ 128).to(tl.int8, bitcast=True)  # (ROWS, OCTETS)
            if FIELDS == 1:
                operand = octets.to(tl.int8, bitcast=True)
            else:
                own = zero
                if BY_COLUMN:
                    own = tl.load(input_scale + column) if EVEN else tl.load(input_scale + column, mask=there, other=0)
                operand = _operand_of(
                    octets, field, zero[:, None], step[:, None], own[None, :], own_scale[:, None], FIELDS, BY_COLUMN
                )
            sums = tl.dot(signed, operand.T, sums, out_dtype=tl.int32)
    sums += tl.load(shift + read_out)[None, :]
    values = sums.to(tl.float32) * own_scale[None, :] + tl.load(bias + read_out)[None, :]
    if GELU:
        values = values * 0.5 * (1.0 + tl.erf(values * 0.7071067811865476))
    places = output + row.to(tl.int64)[:, None] * outputs + out[None, :]
    written = (row < rows)[:, None] & (out < outputs)[None, :]
    if LARGEST_CODE > 0:
        steps = values * tl.load(multiplier + read_out)[None, :] + tl.load(offset + read_out)[None, :]
        values = tl.minimum(tl.maximum(steps, 0.0), LARGEST_CODE)  # conversion truncates, which is the floor here
    tl.store(places, values.to(output.dtype.element_ty), mask=written)
