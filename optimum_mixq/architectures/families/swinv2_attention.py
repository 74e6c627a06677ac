# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The attention of Swin V2, with its products computed by the function that it is routed to."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention

from optimum_mixq.architectures.attention import call_routed_attention


class RoutedSwinv2SelfAttention(Swinv2SelfAttention):
    """As transformers 5.9 to 5.23 write it, up to the products; it returns no attention weights."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool | None = False
    ) -> tuple[Tensor | None, ...]:
        query, key, value = (self._heads(layer, hidden_states) for layer in (self.query, self.key, self.value))
        # Each head has a scale of its own; the query takes it.
        query = F.normalize(query, dim=-1) * torch.clamp(self.logit_scale, max=math.log(1.0 / 0.01)).exp()
        mask = self._bias()
        if attention_mask is not None:
            # (images * windows, heads, T, T); transformers adds the windows' mask twice.
            windows = (2 * attention_mask).repeat(hidden_states.shape[0] // attention_mask.shape[0], 1, 1)
            mask = mask + windows.unsqueeze(1)
        output = call_routed_attention(self, query, F.normalize(key, dim=-1), value, mask, 1.0).flatten(2)
        return (output, None) if output_attentions else (output,)

    def _heads(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return what a layer puts out as (B, heads, T, head size)."""
        output: Tensor = layer(hidden)
        return output.unflatten(-1, (self.num_attention_heads, self.attention_head_size)).transpose(1, 2)

    def _bias(self) -> Tensor:
        """Return the bias by relative position (1, heads, T, T)."""
        table = self.continuous_position_bias_mlp(self.relative_coords_table).view(-1, self.num_attention_heads)
        tokens = self.window_size[0] * self.window_size[1]
        bias = table[self.relative_position_index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1)
        return 16 * torch.sigmoid(bias).unsqueeze(0)
