# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Changes of weights that leave the float model's output alone and make its tensors easier to round.

Channel-wise activation scales are folded into LayerNorm and its readers, so that one scale serves all channels. With
channel scales s_c and zero points z_c, clipped, and their means s and z (z rounded), r_c = s_c / s and
b_c = s (z - z_c): LayerNorm's output x_c becomes x_c / r_c - b_c, its readers' weights W_oc r_c, and their biases
take up sum_c W_oc r_c b_c (RepQ-ViT, arXiv 2212.08254, equations 8 to 12). In exact arithmetic nothing changes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimum_mixq.quant.grids import UniformGrid, fake_quantize, round_scale
from optimum_mixq.stages.calibration.observers import searched_weight_grid


CLIP_CANDIDATES = (None, 3.0, 2.0, 1.5)


def clip_grid(grid: UniformGrid, deviations: float | None) -> UniformGrid:
    """Return the channel grid (C,) with scales and zero points within mean +- `deviations` standard deviations.

    Channels beyond saturate: the price for readers whose weight columns stay alike. None clips nothing.
    """
    if deviations is None:
        return grid
    scale = round_scale(_clip(grid.scale, deviations).clamp(min=grid.scale.amin()))
    # A clipped scale keeps the middle of its channel's range: the zero point moves away as the scale shrinks.
    middle = grid.largest_code / 2
    zero_point = middle + (grid.zero_point - middle) * grid.scale / scale
    return UniformGrid(scale, torch.floor(_clip(zero_point, deviations) + 0.5), grid.bits)


def search_clip(weight: Tensor, grid: UniformGrid, rows: Tensor, weight_bits: int) -> float | None:
    """Return the clip with which a weight (O, C), folded and plainly rounded, comes closest to its output on `rows`.

    `rows` (N, C) are what it reads, on the channel grid (C,) before it is rounded.
    """
    target = F.linear(rows, weight)
    errors = []
    for deviations in CLIP_CANDIDATES:
        clipped = clip_grid(grid, deviations)
        folded = weight * clipped.scale
        rounded = fake_quantize(folded, searched_weight_grid(folded, weight_bits)) / clipped.scale
        errors.append(float((F.linear(fake_quantize(rows, clipped), rounded) - target).square().mean()))
    return CLIP_CANDIDATES[errors.index(min(errors))]


def tensor_grid(grid: UniformGrid) -> UniformGrid:
    """Return the grid (1,) that a channel grid (C,) is folded to: the mean scale and the rounded mean zero point."""
    scale = round_scale(grid.scale.mean().view(1))
    return UniformGrid(scale, torch.floor(grid.zero_point.mean() + 0.5).view(1), grid.bits)


@torch.no_grad()
def fold(norm: nn.LayerNorm, readers: Sequence[nn.Linear], grid: UniformGrid, fold_shift: bool) -> UniformGrid:
    """Fold a channel grid (C,) into `norm` and its readers, in place, and return the grid their input has now.

    Where zeros are padded between them (`fold_shift` False), a shift would miss the padding: zero points then stay one
    per channel, which costs integer arithmetic nothing, since they only enter the bias.
    """
    target = tensor_grid(grid)
    ratio = grid.scale / target.scale  # r_c
    shift = target.scale * (grid.zero_point - target.zero_point)  # -b_c: with it, codes around z_c lie around z
    if not fold_shift:
        shift = torch.zeros_like(shift)
        target = UniformGrid(target.scale, grid.zero_point, grid.bits)
    norm.weight.div_(ratio)
    norm.bias.div_(ratio).add_(shift)
    for reader in readers:
        reader.weight.mul_(ratio)
        if fold_shift and reader.bias is None:
            reader.bias = nn.Parameter(reader.weight.new_zeros(reader.out_features))
        if fold_shift:
            reader.bias.sub_(reader.weight @ shift.to(reader.weight.dtype))
    return target


@torch.no_grad()
def balance(
    query: nn.Linear, key: nn.Linear, queries: list[Tensor], keys: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Move each channel's magnitude from query to key or back until both are alike, centre the keys; in place.

    A factor moved between a channel of the query and of the key leaves their products alone, and what is added to
    all keys adds the same number to all scores of a query, which softmax does not see. Returns what the two layers,
    in the float model, would put out now; `queries` and `keys` are what they did.
    """
    if key.bias is not None:
        centre = torch.stack([batch.flatten(0, -2).mean(0) for batch in keys]).mean(0)
        key.bias.sub_(centre)
        keys = [batch - centre for batch in keys]
    largest_query, largest_key = (
        torch.stack([batch.flatten(0, -2).abs().amax(0) for batch in batches]).amax(0) for batches in (queries, keys)
    )
    ratio = (largest_key / largest_query.clamp(min=1e-12)).sqrt().clamp(1e-3, 1e3)
    for layer, factor in ((query, ratio), (key, 1 / ratio)):
        layer.weight.mul_(factor[:, None])
        if layer.bias is not None:
            layer.bias.mul_(factor)
    return [batch * ratio for batch in queries], [batch / ratio for batch in keys]


def _clip(values: Tensor, deviations: float) -> Tensor:
    mean, spread = values.mean(), deviations * values.std()
    return values.clamp(mean - spread, mean + spread)
