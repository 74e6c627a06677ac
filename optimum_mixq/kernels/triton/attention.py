# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention on grids on a GPU, from operands to output: scores live in registers alone."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimum_mixq.kernels.attention import AttentionGrids
from optimum_mixq.kernels.triton.devices import device_of


# Queries that one program has, and keys that it multiplies at a time; its warps; loads ahead. The first fits every GPU
# since Ampere, whatever the head; the autotuner passes over tiles that do not fit.
TILES = ((16, 32, 4, 2), (32, 64, 4, 2), (64, 32, 4, 3), (64, 64, 4, 2), (128, 32, 8, 2), (128, 64, 8, 2))
# The interpreter takes as long for every tile: a small one, so that few tokens have edges and several steps.
INTERPRETED_TILES = ((16, 16, 1, 1),)
# Channels that a product takes at least.
LEAST_SIZE = 16
_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    grids: AttentionGrids,
    scaling: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return the output (B, T, heads, D) of operands (B, heads, T, D), as `AttentionGrids` has it.

    Nothing here depends on the numbers in a tensor, so that a CUDA graph may record it.
    """
    images, heads, queries, size = query.shape
    output = query.new_empty(images, queries, heads, size)
    if output.numel():
        query, key, value = (each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value))
        with device_of(query):
            _launch(query, key, value, mask, grids, scaling, dtype, output)
    return output


def _launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    grids: AttentionGrids,
    scaling: float,
    dtype: torch.dtype,
    output: Tensor,
) -> None:
    images, heads, queries, size = query.shape
    keys, steps_per_score = key.shape[2], grids.steps / math.log(2)
    spread = query if mask is None else mask.expand(images, heads, queries, keys)

    def grid(tile: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(queries, tile["QUERIES"]) * images * heads,)

    _attend_tile[grid](
        query,
        key,
        value,
        spread,
        grids.scale,
        grids.zero_point,
        output,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        *spread.stride(),
        heads,
        queries,
        keys,
        scaling * steps_per_score,
        steps_per_score,
        # As numbers that the kernel is given, a base and widths need no kernel compiled for each.
        1 / grids.steps,
        float(2**grids.qk_bits - 1),
        float(2**grids.av_bits - 1),
        triton.next_power_of_2(images * heads),
        triton.next_power_of_2(queries),
        triton.next_power_of_2(keys),
        MASKED=mask is not None,
        SIZE=size,
        CHANNELS=max(LEAST_SIZE, triton.next_power_of_2(size)),
        DTYPE=_DTYPES[dtype],
    )


def tiles_for(configurations: Sequence[Any], arguments: dict[str, Any], **_: Any) -> list[Any]:
    """Return the tiles that are worth trying: none that is mostly empty."""
    queries = max(16, arguments["queries_up_to"])
    return [tile for tile in configurations if tile.kwargs["QUERIES"] <= queries]


def configurations(tiles: Sequence[tuple[int, int, int, int]]) -> list[Any]:
    """Return tiles as Triton takes them."""
    return [
        triton.Config({"QUERIES": queries, "KEYS": keys}, num_warps=warps, num_stages=stages)
        for queries, keys, warps, stages in tiles
    ]


@triton.jit
def _grid_of(scale, zero_point, number, SIZE: tl.constexpr, CHANNELS: tl.constexpr):
    """Return one row of scales and of zero points (CHANNELS,); on the grid of channels that are not there, 0 is 0."""
    channel = tl.arange(0, CHANNELS)
    place, there = number * SIZE + channel, channel < SIZE
    return tl.load(scale + place, mask=there, other=1.0), tl.load(zero_point + place, mask=there, other=0.0)


@triton.jit
def _integers_of(
    places, token, stride, scale, zero_point, largest_code, SIZE: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Return code - zero_point, float32 (tokens, CHANNELS), of an operand of one head."""
    channel = tl.arange(0, CHANNELS)
    places += token.to(tl.int64)[:, None] * stride + channel[None, :]
    values = tl.load(places) if SIZE == CHANNELS else tl.load(places, mask=(channel < SIZE)[None, :], other=0.0)
    codes = tl.floor(values.to(tl.float32) * tl.div_rn(1.0, scale)[None, :] + (zero_point + 0.5)[None, :])
    return tl.minimum(tl.maximum(codes, 0.0), largest_code) - zero_point[None, :]


@triton.jit
def _steps_of(
    start, query, key, mask, row, key_stride, mask_row, mask_column, scale, zero_point, largest_code, keys,
    steps_per_score, MASKED: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Return the scores (QUERIES, KEYS) of one tile of keys, in steps of the logarithmic grid."""
    column = start + tl.arange(0, KEYS)
    read = tl.minimum(column, keys - 1)
    integers = _integers_of(key, read, key_stride, scale, zero_point, largest_code, SIZE, CHANNELS).to(query.dtype)
    steps = tl.dot(query, integers.T, input_precision="ieee")
    if MASKED:
        places = mask + row.to(tl.int64)[:, None] * mask_row + read.to(tl.int64)[None, :] * mask_column
        steps += tl.load(places).to(tl.float32) * steps_per_score
    return tl.where((column < keys)[None, :], steps, float("-inf"))


@triton.autotune(
    configs=configurations(INTERPRETED_TILES if triton.knobs.runtime.interpret else TILES),
    key=["pairs_up_to", "queries_up_to", "keys_up_to", "MASKED", "SIZE"],
    prune_configs_by={"early_config_prune": tiles_for},
)
@triton.jit
def _attend_tile(
    query, key, value, mask, scale, zero_point, output,
    query_image, query_head, query_token, key_image, key_head, key_token, value_image, value_head, value_token,
    mask_image, mask_head, mask_row, mask_column,
    heads, queries, keys, query_factor, steps_per_score, octaves_per_step, qk_code, av_code,
    pairs_up_to, queries_up_to, keys_up_to,
    MASKED: tl.constexpr, SIZE: tl.constexpr, CHANNELS: tl.constexpr, DTYPE: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Write the output of one tile of queries of one head, in two passes over the keys.

    The logarithmic grid counts from the row's largest score, so that has to be known before any power is rounded.
    """
    tiles = tl.cdiv(queries, QUERIES)
    pair = (tl.program_id(0) // tiles).to(tl.int64)
    image, head = pair // heads, pair % heads
    row = tl.program_id(0) % tiles * QUERIES + tl.arange(0, QUERIES)
    # Beyond the edge the last row is read again, which takes no mask, and is not written.
    read_row = tl.minimum(row, queries - 1)
    query += image * query_image + head * query_head
    key += image * key_image + head * key_head
    value += image * value_image + head * value_head
    mask += image * mask_image + head * mask_head
    query_scale, query_zero = _grid_of(scale, zero_point, head, SIZE, CHANNELS)
    key_scale, key_zero = _grid_of(scale, zero_point, heads + head, SIZE, CHANNELS)
    value_scale, value_zero = _grid_of(scale, zero_point, 2 * heads + head, SIZE, CHANNELS)
    integers = _integers_of(query, read_row, query_token, query_scale, query_zero, qk_code, SIZE, CHANNELS)
    rows = (integers * (query_scale * key_scale * query_factor)[None, :]).to(DTYPE)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    for start in range(0, keys, KEYS):
        steps = _steps_of(
            start, rows, key, mask, read_row, key_token, mask_row, mask_column, key_scale, key_zero, qk_code, keys,
            steps_per_score, MASKED, SIZE, CHANNELS, KEYS,
        )  # fmt: skip
        largest = tl.maximum(largest, tl.max(steps, 1))
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for start in range(0, keys, KEYS):
        steps = _steps_of(
            start, rows, key, mask, read_row, key_token, mask_row, mask_column, key_scale, key_zero, qk_code, keys,
            steps_per_score, MASKED, SIZE, CHANNELS, KEYS,
        )  # fmt: skip
        exponents = tl.ceil(steps - (largest + 0.5)[:, None])  # minus the codes
        powers = tl.where(exponents > 0.5 - av_code, tl.exp2(exponents * octaves_per_step), 0.0)
        total += tl.sum(powers, 1)
        read = tl.minimum(start + tl.arange(0, KEYS), keys - 1)
        values = _integers_of(value, read, value_token, value_scale, value_zero, av_code, SIZE, CHANNELS)
        sums = tl.dot(powers.to(DTYPE), values.to(DTYPE), sums, input_precision="ieee")
    channel = tl.arange(0, CHANNELS)
    results = sums * value_scale[None, :] / total[:, None]
    places = output + ((image * queries + row) * heads + head)[:, None] * SIZE + channel[None, :]
    written = (row < queries)[:, None] & (channel < SIZE)[None, :]
    tl.store(places, results.to(output.dtype.element_ty), mask=written)
