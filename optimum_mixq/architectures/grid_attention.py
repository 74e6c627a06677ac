# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The attention that quantized models run: a function of transformers' interface, and a child that has the grids.

Importing this module registers the function.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from optimum_mixq.config import ATTENTION, ATTENTION_CHILD


def mixq_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Run the attention module's own quantizer; the signature is that of transformers' attention interface.

    Like transformers' fused attention it returns no attention weights.
    """
    if scaling is None:
        scaling = query.size(-1) ** -0.5
    return getattr(module, ATTENTION_CHILD)(query, key, value, attention_mask, scaling, dropout), None


AttentionInterface.register(ATTENTION, mixq_attention)
# Without a mask function of the same name transformers drops masks. Ours are added to the scores, as eager's are.
AttentionMaskInterface.register(ATTENTION, eager_mask)
