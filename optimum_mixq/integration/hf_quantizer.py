# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The plug into transformers: saving and loading of packed models.

Importing this module registers the method "mixq", once per process.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from optimum_mixq.architectures.attention import release_attention
from optimum_mixq.architectures.backbones import drop_absent, is_backbone
from optimum_mixq.architectures.base import class_names
from optimum_mixq.architectures.describe import describe, replace_module
from optimum_mixq.architectures.registry import family_of
from optimum_mixq.architectures.skeletons import Widths, insert_skeleton, packed_skeleton, trainable_skeleton
from optimum_mixq.artifacts import BitPlan
from optimum_mixq.config import ATTENTION, ATTENTION_CHILD, QUANT_METHOD, MixQConfig
from optimum_mixq.integration.digests import check_files, digest_tensors, names_in
from optimum_mixq.integration.fusion import fuse_layers, separate_layers
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.bitpacking import int16_to_scale
from optimum_mixq.quant.packed import PackedLinear
from optimum_mixq.quant.packed_embedding import PackedConv2d
from optimum_mixq.quant.prepared import PreparedModule
from optimum_mixq.quant.softmax_grids import DEFAULT_SOFTMAX, StoredSoftmaxGrid
from optimum_mixq.tasks import auto_class_named
from optimum_mixq.tasks.loading import hub_task_of
from optimum_mixq.utils.memory import return_freed_memory


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

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """Refuse another attention than our own; transformers 5.23 asks here, 5.9 does not and takes ours."""
        if config._attn_implementation not in (None, ATTENTION):
            raise ValueError(
                f"attn_implementation={config._attn_implementation!r} cannot be honoured: a quantized model runs "
                "attention of its own, on its grids. Leave it out."
            )
        return config

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        config = self.quantization_config
        _require_own_class(model)
        if checkpoint_files and is_backbone(model):
            drop_absent(model, names_in(checkpoint_files))
        bits = _read_plan(model, config).bits
        make = trainable_skeleton if config.trainable else packed_skeleton
        insert_skeleton(model, make(model, Widths(bits, config.stem_and_head_bits, config.arithmetic, config.softmax)))
        _keep_attention(model)
        if not config.trainable:
            saved_names = {names[0]: saved for saved, names in _names_in_files(model).items() if len(names) == 1}
            tensors = _tensors_in_files(model)
            check_files(checkpoint_files or (), tensors, saved_names, _reading(config), config.digests)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        _forget_prefix(model)
        if self.quantization_config.trainable:
            for module in model.modules():
                if isinstance(module, PreparedModule):
                    module.renew()
            model.register_load_state_dict_pre_hook(rename_checkpoint)
            return model
        fuse_layers(model)
        _check_tensors(model)
        for module in model.modules():
            if isinstance(module, (PackedLinear, PackedConv2d, AttentionQuantizer)):
                module.prepare()
        return_freed_memory()  # of weights unpacked on the way into kernels, up to several times the model
        return model.requires_grad_(False)

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
        if self.quantization_config.trainable:
            raise ValueError("Expected a packed model to dequantize, found one in training: pack it first.")
        # `save_pretrained` leaves the dtype's name in the model's configuration (transformers 5.9 to 5.23).
        return unpack(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32)

    def get_state_dict_and_metadata(self, model: PreTrainedModel) -> tuple[None, dict[str, str]]:
        """Digest what is saved: `save_pretrained` asks before it writes config.json (transformers 5.9 to 5.23).

        Checkpoints of training are left without digests.
        """
        config = model.config.quantization_config
        config.digests = None
        if not config.trainable:
            config.digests = digest_tensors(_tensors_in_files(model), _reading(config))
        return None, {}

    def is_serializable(self, **_: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return self.quantization_config.trainable

    @property
    def is_qat_trainable(self) -> bool:
        return self.quantization_config.trainable

    @property
    def is_compileable(self) -> bool:
        return True


def attach(
    model: PreTrainedModel,
    plan: BitPlan,
    config: MixQConfig,
    record: dict[str, Any] | None = None,
    trainable: bool = False,
) -> PreTrainedModel:
    """Tell a model quantized in memory what it is, so that `save_pretrained` and `push_to_hub` write it as such.

    `record` says what was done, for who reads the saved configuration.
    """
    bits = {unit: list(bits) for unit, bits in plan.bits.items()}
    done = dataclasses.replace(config, plan=bits, record=record, digests=None, trainable=trainable)
    if trainable:
        model.register_load_state_dict_pre_hook(rename_checkpoint)
    else:
        fuse_layers(model)
    model.hf_quantizer = MixQHfQuantizer(done, pre_quantized=True)
    model.config.quantization_config = done
    model.config._is_quantized = True
    model.is_quantized, model.quantization_method = True, QUANT_METHOD
    _forget_prefix(model)
    _keep_attention(model)
    return model


def refuse_other_attention() -> bool:
    """Stand in for transformers' question whether a model's attention can be set."""
    raise ValueError(
        "A quantized model runs attention of its own, on its grids: set_attn_implementation would drop them. "
        "model.dequantize() returns a float model that takes any."
    )


def rename_checkpoint(model: PreTrainedModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give a state dict that `save_pretrained` wrote the names that the model has in memory, in place.

    transformers 5.9 to 5.23 save under the names of older releases, and `Trainer`'s resume_from_checkpoint loads such
    a file with strict=False: without this most tensors would stay as they are, and nothing would be said.
    """
    expected = set(model.state_dict())
    if prefix or expected <= set(state):
        return
    for saved, names in _names_in_files(model).items():
        if saved in state and not any(name in state for name in names):
            whole = state.pop(saved)
            state.update(zip(names, [whole] if len(names) == 1 else whole.chunk(len(names)), strict=True))
    missing = sorted(expected - set(state))
    if missing:
        raise ValueError(
            f"The checkpoint lacks {len(missing)} of {len(expected)} tensors of the model ({missing[0]}, ...): "
            "it belongs to another model or plan."
        )


def _names_in_files(model: PreTrainedModel) -> dict[str, list[str]]:
    """Return the names of the model's tensors by the names under which `save_pretrained` writes them.

    Of several names, the tensors lie in one, one below the other: transformers 5.23 merges gate and up of a DINOv2.
    """
    names: dict[str, list[str]] = {}
    for name, tensor in model.state_dict().items():
        names.setdefault(next(iter(revert_weight_conversion(model, {name: tensor}))), []).append(name)
    return names


def _tensors_in_files(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the model's tensors as `save_pretrained` writes them, and those that it merges as they are in memory."""
    state = model.state_dict()
    merged = {name: state[name] for names in _names_in_files(model).values() if len(names) > 1 for name in names}
    return revert_weight_conversion(model, state) | merged


def _reading(config: MixQConfig) -> list[Any]:
    """Return what of the configuration decides how tensors are read."""
    plan = {unit: list(bits) for unit, bits in BitPlan(config.plan or {}).bits.items()}
    # Models were saved before other grids of softmax were known.
    return [config.arithmetic, plan] + ([] if config.softmax == DEFAULT_SOFTMAX else [config.softmax])


def _read_plan(model: PreTrainedModel, config: MixQConfig) -> BitPlan:
    if config.plan is None:
        raise ValueError(
            "The model's quantization_config has no plan, so its layers' bits are unknown: config.json is incomplete."
        )
    if not isinstance(config.plan, dict):
        raise ValueError(f"Expected the plan in config.json to be bits by unit, found {config.plan!r}.")
    plan = BitPlan(config.plan)
    plan.check_fits(describe(model))
    return plan


def _require_own_class(model: PreTrainedModel) -> None:
    """Raise a ValueError if a packed model is loaded by another class of its family, such as one without its head."""
    family, own = family_of(model), class_names(model)
    wrong = [name for name in model.config.architectures or () if name in family.classes and name not in own]
    if wrong:
        task = hub_task_of(wrong)
        loader = wrong[0] if task == hub_task_of(own) else auto_class_named(task).__name__
        raise ValueError(
            f"The packed checkpoint is that of a {wrong[0]}, and {type(model).__name__} was to take it: load it with "
            f"{loader}. For another task, quantize the float model for that one."
        )


def _forget_prefix(model: PreTrainedModel) -> None:
    """Have a model saved without the prefix that the names had in the checkpoint of a larger one.

    transformers 5.23 would give that of the vision tower in a CLIP to a tower that came from there, and to no other.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions is not None:
        model._weight_conversions = [each for each in conversions if type(each).__name__ != "PrefixChange"]


def _keep_attention(model: PreTrainedModel) -> None:
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            # `set_attn_implementation` asks it before any change (transformers 5.9 to 5.23).
            module._can_set_attn_implementation = refuse_other_attention


def _allow_other_attention(model: PreTrainedModel) -> None:
    for module in model.modules():
        module.__dict__.pop("_can_set_attn_implementation", None)


@torch.no_grad()
def unpack(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replace, in place, packed layers by float ones with the dequantized weights; inputs are rounded no more."""
    separate_layers(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (PackedLinear, PackedConv2d)):
            replace_module(model, name, layer.to_float())
        elif isinstance(layer, AttentionQuantizer):
            delattr(model.get_submodule(name.rpartition(".")[0]), ATTENTION_CHILD)
    _allow_other_attention(model)
    release_attention(model)
    return model.to(dtype)


def _check_tensors(model: PreTrainedModel) -> None:
    """Raise a ValueError if a loaded model cannot be what was saved."""
    for key, tensor in model.state_dict(keep_vars=True).items():
        # transformers marks what it loaded (5.23); what was missing holds whatever lay in memory.
        loaded = getattr(tensor, "_is_hf_initialized", False)
        if not loaded or (tensor.is_floating_point() and not torch.isfinite(tensor).all()):
            raise ValueError(f"{key} is missing or corrupt in the checkpoint: fetch the file again.")
        if "mixq_" in key and key.endswith("_scale"):
            scale = int16_to_scale(tensor)
            if not (torch.isfinite(scale) & (scale > 0)).all():
                raise ValueError(f"{key} holds scales that are no positive numbers: the checkpoint is corrupt.")
    for name, module in model.named_modules():
        if isinstance(module, StoredSoftmaxGrid) and not module.has_valid_softmax_grid():
            found, kind = int(module.mixq_softmax_setting), module.softmax_kind
            raise ValueError(
                f"{name}.mixq_softmax_setting is {found}, which the softmax grid '{kind.name}' does not have: the "
                "checkpoint is corrupt."
            )


def _register() -> None:
    if QUANT_METHOD in AUTO_QUANTIZER_MAPPING:
        return
    register_quantization_config(QUANT_METHOD)(MixQConfig)
    register_quantizer(QUANT_METHOD)(MixQHfQuantizer)


_register()
