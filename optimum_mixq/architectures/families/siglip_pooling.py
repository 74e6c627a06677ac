# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The rule of relevance of SigLIP's pooling head, where one learned query attends to all patches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.architectures.rules import Identity, MatrixProduct, PositiveLinear


def pool_with_rules(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    size: int,
    heads: int,
    weight: Tensor,
    bias: Tensor,
    *others: Any,
    **options: Any,
) -> tuple[Tensor, None] | None:
    """Return what `F.multi_head_attention_forward` does, (1, B, C), without attention weights.

    `query` (1, B, C) depends on no image, and is the same for each; `key` and `value` are one tensor (T, B, C).
    """
    if not key.requires_grad:
        return None
    _, _, _, _, out_weight, out_bias = others[:6]  # further keys, zeros and dropout, none of which SigLIP has
    weights, biases = weight.chunk(3), bias.chunk(3)
    split = (heads, size // heads)
    asked = F.linear(query[0, 0], weights[0], biases[0]).view(split) * split[1] ** -0.5
    keys, values = (
        PositiveLinear.apply(key, weights[place], biases[place]).unflatten(-1, split).permute(1, 2, 0, 3)
        for place in (1, 2)
    )  # (B, heads, T, size of a head)
    # A product with a query that no image changes is a linear layer of the keys.
    scores = torch.cat([PositiveLinear.apply(keys[:, head], asked[head, None], None) for head in range(heads)], -1)
    shares = Identity.apply(scores.mT.unsqueeze(2), lambda values: values.softmax(-1))  # (B, heads, 1, T)
    pooled = MatrixProduct.apply(shares, values).permute(2, 0, 1, 3).flatten(2)
    return PositiveLinear.apply(pooled, out_weight, out_bias), None
