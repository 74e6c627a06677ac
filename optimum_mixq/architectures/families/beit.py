# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""BEiT: a bias by relative position is added to the scores, and both branches are scaled channel by channel.

The bias reaches attention as its mask. Scales are parameters of the block itself, so relevance passes them by the rule
for factors (`stages/relevance/propagation.py`).
"""

from transformers import PreTrainedModel

from optimum_mixq.architectures.families.encoder import Encoder, Names
from optimum_mixq.architectures.registry import register_family


@register_family
class Beit(Encoder):
    model_type = "beit"
    classifiers = ("BeitForImageClassification",)
    block_class = "BeitLayer"
    names = Names(plain_sums=False)

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True  # each forward interpolates position embeddings and biases
