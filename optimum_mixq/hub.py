# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The plug into transformers: saving and loading of packed models, and the attention that they run.

Importing this module registers the method "mixq", once per process.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from optimum_mixq.architectures import attention_shape, describe, replace_module
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import ATTENTION, ATTENTION_CHILD, QUANT_METHOD, STEM_AND_HEAD_BITS, MixQConfig
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.packed import PackedConv2d, PackedLinear
from optimum_mixq.quant.packing import int16_to_scale


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


class MixQHfQuantizer(HfQuantizer):
    """Swaps packed layers into a model on the meta device, so that a checkpoint's tensors find their places."""

    requires_calibration = True
    quantization_config: MixQConfig

    def __init__(self, quantization_config: MixQConfig, **kwargs: Any) -> None:
        if not kwargs.get("pre_quantized", True):
            raise ValueError(
                "A float checkpoint cannot be quantized while it is loaded: mixq needs images to calibrate on. Use "
                "MixQQuantizer.from_pretrained(model).quantize(config, dataset=...), then load what it saved."
            )
        super().__init__(quantization_config, **kwargs)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        insert_packed_layers(model, self.quantization_config)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for name, module in model.named_modules():
            if isinstance(module, (PackedLinear, PackedConv2d)):
                _check_buffers(name, module)
            if isinstance(module, (PackedLinear, PackedConv2d, AttentionQuantizer)):
                module.prepare()
        return model.requires_grad_(False)

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        return unpack(model, dtype or torch.float32)

    def is_serializable(self, **_: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


def attach(
    model: PreTrainedModel, plan: BitPlan, config: MixQConfig, record: dict[str, Any] | None = None
) -> PreTrainedModel:
    """Tell a model packed in memory what it is, so that `save_pretrained` and `push_to_hub` write it as such.

    `record` says what was done, for who reads the saved configuration.
    """
    bits = {unit: list(bits) for unit, bits in plan.bits.items()}
    done = dataclasses.replace(config, plan=bits, record=record)
    model.hf_quantizer = MixQHfQuantizer(done, pre_quantized=True)
    model.config.quantization_config = done
    model.config._is_quantized = True
    model.is_quantized, model.quantization_method = True, QUANT_METHOD
    return model


def insert_packed_layers(model: PreTrainedModel, config: MixQConfig) -> None:
    """Replace the layers that the configuration's plan names by empty packed ones, on the model's device."""
    if config.plan is None:
        raise ValueError(
            "The model's quantization_config has no plan, so its layers' bits are unknown: config.json is incomplete."
        )
    plan, architecture = BitPlan(config.plan), describe(model)
    plan.check_fits(architecture)
    # Folding a LayerNorm's shift gives its readers a bias, if they had none.
    given_bias = {
        reader
        for norm in architecture.norms
        for reader in norm.readers
        if config.arithmetic == "folded" and norm.shift_foldable
    }
    widths = {name: plan.bits[unit.name] for name, unit in architecture.unit_of_module.items()}
    widths |= dict.fromkeys(architecture.heads, (STEM_AND_HEAD_BITS, STEM_AND_HEAD_BITS))
    for name, (weight_bits, input_bits) in widths.items():
        linear = model.get_submodule(name)
        has_bias = linear.bias is not None or name in given_bias
        sizes = (linear.in_features, linear.out_features, weight_bits, input_bits)
        packed = PackedLinear(*sizes, config.arithmetic, has_bias, linear.weight.device)
        replace_module(model, name, packed)
    stem = model.get_submodule(architecture.stem)
    bits = STEM_AND_HEAD_BITS
    embedding = PackedConv2d(stem.weight.shape, stem.stride, bits, bits, stem.weight.device)
    replace_module(model, architecture.stem, embedding)
    for block in architecture.blocks:
        if block.attention is not None:
            attention = model.get_submodule(block.attention)
            heads, size = attention_shape(attention)
            qk_bits, av_bits = plan.bits[f"{block.name}.qk"][1], plan.bits[f"{block.name}.av"][1]
            quantizer = AttentionQuantizer(heads, size, qk_bits, av_bits, stem.weight.device)
            attention.add_module(ATTENTION_CHILD, quantizer)
    model.set_attn_implementation(ATTENTION)


@torch.no_grad()
def unpack(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replace, in place, packed layers by float ones with the dequantized weights; inputs are rounded no more."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (PackedLinear, PackedConv2d)):
            replace_module(model, name, layer.to_float())
        elif isinstance(layer, AttentionQuantizer):
            delattr(model.get_submodule(name.rpartition(".")[0]), ATTENTION_CHILD)
    model.set_attn_implementation("sdpa")
    return model.to(dtype)


def _check_buffers(name: str, layer: PackedLinear | PackedConv2d) -> None:
    """Raise a ValueError if a loaded layer cannot be what was saved."""
    for key, tensor in layer.state_dict().items():
        if tensor.is_meta or (tensor.is_floating_point() and not torch.isfinite(tensor).all()):
            raise ValueError(f"{name}.{key} is missing or corrupt in the checkpoint: fetch the file again.")
    for key in ("mixq_weight_scale", "mixq_input_scale"):
        scale = int16_to_scale(getattr(layer, key))
        if not (torch.isfinite(scale) & (scale > 0)).all():
            raise ValueError(f"{name}.{key} holds scales that are no positive numbers: the checkpoint is corrupt.")


def _register() -> None:
    if QUANT_METHOD in AUTO_QUANTIZER_MAPPING:
        return
    register_quantization_config(QUANT_METHOD)(MixQConfig)
    register_quantizer(QUANT_METHOD)(MixQHfQuantizer)
    AttentionInterface.register(ATTENTION, mixq_attention)
    # Without a mask function of the same name transformers drops masks. Ours are added to the scores, as eager's are.
    AttentionMaskInterface.register(ATTENTION, eager_mask)


_register()
