# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""SegFormer: stages with overlapping patch embeddings, and attention to fewer tokens than ask for it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Block, Family, NormReaders, Rule, Unit, linear_layers_of
from optimum_mixq.architectures.convolution_rules import DECODER_RULES
from optimum_mixq.architectures.families.encoder import Names, transformer_block
from optimum_mixq.architectures.registry import register_family


SEGMENTERS = ("SegformerForSemanticSegmentation",)
# Convolutions between layers, and what reads the maps of all stages.
LEFT_FLOAT = (".patch_embeddings.proj", ".sequence_reduction.sequence_reduction", ".dwconv.dwconv")
DECODER = "decode_head."


@register_family
class Segformer(Family):
    model_type = "segformer"
    classifiers: tuple[str, ...] = ("SegformerForImageClassification",)
    backbones: tuple[str, ...] = ("SegformerModel",)
    further: Mapping[str, tuple[str, ...]] = {"image-segmentation": SEGMENTERS}
    embedding_words = "`outputs.last_hidden_state.mean((2, 3))`, the mean over the last stage's map"

    def describe(self, model: PreTrainedModel) -> Architecture:
        prefix = "" if hasattr(model, "stages") else f"{model.base_model_prefix}."
        blocks = tuple(self._blocks(model, f"{prefix}stages"))
        decoded = hasattr(model, "decode_head")
        last = {block.name.rpartition(".blocks.")[0]: block.name for block in blocks}
        return Architecture(
            self.model_type,
            None,
            linear_layers_of(model, "classifier"),
            blocks,
            f"{prefix}stages",
            tuple(self._left_float(model)),
            tuple(last.values()) if decoded else (),
        )

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        hidden = outputs["last_hidden_state"]  # (B, C, H, W), or (B, T, C) where the last stage is not reshaped
        return hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)

    def rules(self) -> Mapping[Callable[..., Any], Rule]:
        return DECODER_RULES

    def image_size(self, model: PreTrainedModel) -> tuple[int, int]:
        """Return the size in the configuration. transformers 5.23 has none there, but published models do."""
        size = getattr(model.config, "image_size", 512)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return True

    def require_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        sides = size
        for stage, (stride, ratio) in enumerate(zip(model.config.strides, model.config.sr_ratios, strict=True)):
            sides = (-(-sides[0] // stride), -(-sides[1] // stride))
            if min(sides) < ratio:
                raise ValueError(
                    "Expected images whose maps are no smaller than what attention reduces them by, found "
                    f"{size[0]} x {size[1]} pixels: the map of stage {stage} is {sides[0]} x {sides[1]}, and "
                    f"{ratio} x {ratio} tokens are made one. Use larger images, such as the model was trained on."
                )

    def _blocks(self, model: PreTrainedModel, stages: str) -> Iterator[Block]:
        for stage, depth in enumerate(model.config.depths):
            reduced = model.config.sr_ratios[stage] > 1
            for number in range(depth):
                module, name = f"{stages}.{stage}.blocks.{number}", f"stages.{stage}.blocks.{number}"
                block = transformer_block(model, module, name, Names())
                # A convolution stands between the first layer of the MLP and the activation.
                block = replace(block, activations=(), passing=(f"{module}.{Names().activation}",))
                block = _split_projections(block) if reduced else block
                yield replace(block, apart=stage > 0 and number == 0)

    def _left_float(self, model: PreTrainedModel) -> Iterator[str]:
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and (name.endswith(LEFT_FLOAT) or name.startswith(DECODER)):
                yield name


def _split_projections(block: Block) -> Block:
    """Return a block whose keys and values are made from fewer tokens than its queries: two units.

    The LayerNorm before attention is read by the convolution, too, that reduces the tokens; one of its own follows.
    """
    qkv, *others = block.units
    query, *rest = qkv.modules
    stem = block.name
    units = (Unit(f"{stem}.q", "q", (query,)), Unit(f"{stem}.kv", "kv", tuple(rest)), *others)
    norm = f"{block.attention}.sequence_reduction.layer_norm"
    norms = (NormReaders(norm, tuple(rest)), *block.norms[1:])
    return replace(block, units=units, norms=norms, plain_scores=False)
