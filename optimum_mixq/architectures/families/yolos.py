# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""YOLOS: a ViT with detection tokens behind the patches; an MLP makes classes of each, and another one a box.

Larger ones add position embeddings to the hidden states after each block but the last.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Rule, find_module
from optimum_mixq.architectures.families.encoder import NESTED_NAMES, Encoder
from optimum_mixq.architectures.registry import register_family
from optimum_mixq.architectures.rules import passing


@register_family
class Yolos(Encoder):
    model_type = "yolos"
    classifiers = ()
    further: Mapping[str, tuple[str, ...]] = {"object-detection": ("YolosForObjectDetection",)}
    backbones = ("YolosModel",)
    embedding_words = "`outputs.last_hidden_state[:, 0]`, the class token after the last LayerNorm"
    optional = ("pooler",)
    block_class = "YolosLayer"
    heads = ("class_labels_classifier", "bbox_predictor", "pooler")
    names = NESTED_NAMES

    def describe(self, model: PreTrainedModel) -> Architecture:
        architecture = super().describe(model)
        first, *others = architecture.blocks
        apart = model.config.use_mid_position_embeddings
        return replace(architecture, blocks=(first, *(replace(block, apart=apart) for block in others)))

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the class token after the last LayerNorm; as in a ViT, the pooler behind it is mostly random."""
        return outputs["last_hidden_state"][:, 0]

    def rules(self) -> dict[Callable[..., Any], Rule]:
        return {Tensor.sigmoid: passing(Tensor.sigmoid)}  # it puts boxes into the image

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True  # each forward interpolates all position embeddings

    @torch.no_grad()
    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Interpolate the position embeddings, as each forward does."""
        embeddings: Any = model.get_submodule(find_module(model, self.stem).removesuffix(f".{self.stem}"))
        encoder: Any = model.get_submodule(find_module(model, "encoder"))
        patches = embeddings.patch_embeddings
        height, width = patches.patch_size
        if encoder.interpolation is not None and (size[0] % height or size[1] % width):
            # transformers 5.23 counts the patches of all positions but the first by the image's area.
            raise ValueError(
                f"Expected images whose sides are multiples of the patch ({height} x {width}), since this model adds "
                f"position embeddings between its blocks, found {size[0]} x {size[1]} pixels. Choose such a size."
            )
        first = embeddings.interpolation(embeddings.position_embeddings, size)
        embeddings.position_embeddings = nn.Parameter(first, embeddings.position_embeddings.requires_grad)
        if encoder.interpolation is not None:
            wanted = encoder.interpolation.mid_position_embeddings.requires_grad
            encoder.interpolation.mid_position_embeddings = nn.Parameter(encoder.interpolation(size), wanted)
        patches.num_patches = (size[0] // height) * (size[1] // width)
        patches.image_size, model.config.image_size = size, list(size)
