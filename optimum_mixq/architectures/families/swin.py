# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Swin: attention in windows, in stages between which patches are merged."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.base import Architecture, Block, Family, NormReaders, Unit
from optimum_mixq.architectures.families.encoder import Names, assemble, pair, transformer_block
from optimum_mixq.architectures.registry import register_family


@register_family
class Swin(Family):
    model_type = "swin"
    classifiers: tuple[str, ...] = ("SwinForImageClassification",)
    backbones: tuple[str, ...] = ("SwinModel",)
    embedding_words = "`outputs.pooler_output`, the mean over tokens after the last LayerNorm"
    block_class = "SwinLayer"
    merging_class = "SwinPatchMerging"

    def describe(self, model: PreTrainedModel) -> Architecture:
        blocks = list(self.blocks(model))
        return assemble(model, self.model_type, ("classifier",), blocks, left_float=self.left_float(model))

    def left_float(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the linear layers of a model that are not quantized."""
        return ()

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over tokens after the last LayerNorm: what the pooler puts out, where there is one."""
        pooled = outputs.get("pooler_output")
        if pooled is not None:
            return pooled
        return F.adaptive_avg_pool1d(outputs["last_hidden_state"].transpose(1, 2), 1).flatten(1)

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        return not getattr(self.encoder_config(model), "use_absolute_embeddings", False)

    def require_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        super().require_image_size(model, size)
        # transformers 5.23 narrows a window to its map, but not the table of relative positions that goes with it.
        config = self.encoder_config(model)
        window, sides = config.window_size, _map_sides(config, size, len(config.depths) - 1)
        if min(sides) < window:
            raise ValueError(
                f"Expected images whose maps are no smaller than the model's window of {window}, found {size[0]} x "
                f"{size[1]} pixels: the last stage's map is {sides[0]} x {sides[1]}. Use larger images, such as the "
                "model was trained on."
            )

    def block(self, model: PreTrainedModel, module: str, name: str) -> Block:
        """Return the block of one module."""
        stage = int(_numbers(module)[0])
        block = transformer_block(model, module, name, Names(), not _pads_windows(self.encoder_config(model), stage))
        # What attention puts out lies in windows: the hidden states that it is added to do not.
        # Windows are padded and shifted, and their mask takes the dtype of what attention reads.
        norms = (replace(block.norms[0], direct=False), *block.norms[1:])
        return replace(block, norms=norms, residuals=block.residuals[1:])

    def merging(self, module: str, name: str) -> Block:
        """Return the patch merging of one module."""
        reduction = f"{module}.reduction"
        unit = Unit(f"{name}.reduction", "reduction", (reduction,))
        # Padding to even sizes happens before the LayerNorm here, so its shift reaches every row that the reader sees.
        norm = NormReaders(f"{module}.norm", (reduction,), direct=True)
        return Block(f"{name}.merging", module, (unit,), (norm,))

    def blocks(self, model: PreTrainedModel) -> Iterator[Block]:
        """Yield blocks as the forward runs them: `named_modules` of a stage lists its blocks before the merging."""
        for name, module in model.named_modules():
            if type(module).__name__ == self.block_class:
                yield self.block(model, name, _name(name))
            elif type(module).__name__ == self.merging_class:
                yield self.merging(name, _name(name))


def _name(module: str) -> str:
    """Return our name of a block, or of the stage that a merging ends.

    >>> _name("swin.encoder.layers.1.blocks.0"), _name("swin.encoder.layers.0.downsample")
    ('stages.1.blocks.0', 'stages.0')
    """
    return ".".join(f"{word}.{number}" for word, number in zip(("stages", "blocks"), _numbers(module), strict=False))


def _numbers(module: str) -> list[str]:
    return re.findall(r"\.(\d+)(?=\.|$)", module)


def _pads_windows(config: Any, stage: int) -> bool:
    """Return whether a stage's map, at the configured image size, does not divide by its window."""
    return any(side % config.window_size for side in _map_sides(config, pair(config.image_size), stage))


def _map_sides(config: Any, image: Sequence[int], stage: int) -> list[int]:
    """Return height and width of a stage's map, for images of (height, width)."""
    sides = [-(-side // length) for side, length in zip(image, pair(config.patch_size), strict=True)]
    for _ in range(stage):
        sides = [-(-side // 2) for side in sides]  # merging pads odd sides, so it rounds up
    return sides
