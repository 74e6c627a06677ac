# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Everything the package knows about ViT, DeiT and Swin: the only file that names their modules.

`describe(model)` returns an `Architecture`: the blocks in forward order, the units that get a bit choice, which
LayerNorm feeds which readers, the stem and the heads. All other files work with these words.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel


UnitKind = Literal["qkv", "qk", "av", "proj", "fc1", "fc2", "reduction"]


@dataclass(frozen=True)
class Unit:
    """What gets one bit choice: linear layers that share an input, or one of the two matmuls of attention."""

    name: str  # "blocks.3.qkv"
    kind: UnitKind
    modules: tuple[str, ...]  # module names of its linear layers (query, key, value in "qkv"); empty for the matmuls
    attention: str | None = None  # module name of the attention that runs this matmul

    @property
    def is_matmul(self) -> bool:
        return not self.modules


@dataclass(frozen=True)
class NormReaders:
    """A LayerNorm and the linear layers that read its output, and nothing else does."""

    norm: str
    readers: tuple[str, ...]
    # False where zeros are padded between the LayerNorm and its readers: a shift of the LayerNorm would miss them.
    shift_foldable: bool = True


@dataclass(frozen=True)
class Block:
    """One residual block, or one patch merging between Swin stages."""

    name: str  # "blocks.3", "stages.1.blocks.0", "stages.0.merging"
    module: str
    units: tuple[Unit, ...]
    norms: tuple[NormReaders, ...]
    attention: str | None = None
    activations: tuple[str, ...] = ()  # module names of the GELUs, whose output the last linear layer reads


@dataclass(frozen=True)
class Architecture:
    """The quantizable structure of one model, in forward order."""

    model_type: str
    stem: str
    heads: tuple[str, ...]
    blocks: tuple[Block, ...]
    chain: str  # the list that the model's forward loops over: its blocks, or in a Swin the stages that hold them

    @property
    def units(self) -> tuple[Unit, ...]:
        return tuple(unit for block in self.blocks for unit in block.units)

    @property
    def norms(self) -> tuple[NormReaders, ...]:
        return tuple(norm for block in self.blocks for norm in block.norms)

    @property
    def unit_of_module(self) -> dict[str, Unit]:
        """Return the unit of each linear layer inside the blocks, by module name."""
        return {module: unit for unit in self.units for module in unit.modules}


def describe(model: PreTrainedModel) -> Architecture:
    """Return the `Architecture` of a ViT, DeiT or Swin image classifier.

    Every `nn.Linear` and `nn.Conv2d` of the model stands in exactly one place of the result: stem, heads or one unit.
    """
    _refuse_wrapped(model)
    model_type = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    family = _FAMILIES.get(model_type)
    if family is None:
        supported = ", ".join(sorted(_FAMILIES))
        raise ValueError(
            f"Expected a model of type {supported}, found '{model_type}' ({type(model).__name__}). Other families are "
            "not supported: docs/add-an-architecture.md in the optimum-mixq repository says what adding one takes."
        )
    if not set(family.classifiers) & _class_names(model):
        raise ValueError(
            f"Expected an image classifier ({', '.join(family.classifiers)}, or a subclass), found "
            f"{type(model).__name__}. Only image classifiers are supported: load the checkpoint with "
            "AutoModelForImageClassification."
        )
    stem = _find(model, family.stem)
    heads = tuple(name for head in family.heads for name in _linear_layers(model, head))
    blocks = tuple(_blocks(model, family))
    architecture = Architecture(model_type, stem, heads, blocks, re.split(r"\.\d+", blocks[0].module)[0])
    _check_complete(model, architecture)
    return architecture


def _class_names(model: nn.Module) -> set[str]:
    """Return the names of a model's class and of all that it inherits from."""
    return {kind.__name__ for kind in type(model).__mro__}


def _refuse_wrapped(model: nn.Module) -> None:
    """Raise a ValueError for a model inside another one, with the way to the plain one."""
    if "OptimizedModule" in _class_names(model):
        raise ValueError(
            "Expected the model itself, found what torch.compile made of it: pass model._orig_mod, and compile the "
            "packed model instead."
        )
    if "PeftModel" in _class_names(model):
        raise ValueError(
            f"Expected a plain model, found a {type(model).__name__} with adapters: pass model.merge_and_unload(), "
            "which adds them to the weights."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"Expected a plain model, found a {type(model).__name__} with adapters. Save them with "
            "model.save_pretrained(folder), and pass PeftModel.from_pretrained(the model without adapters, "
            "folder).merge_and_unload(), which adds them to the weights."
        )


def expected_image_size(model: PreTrainedModel) -> tuple[int, int] | None:
    """Return the only (height, width) that the model takes, or None where it takes any (Swin pads)."""
    if model.config.model_type == "swin" and not getattr(model.config, "use_absolute_embeddings", False):
        return None
    size = model.config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def require_image_size(model: PreTrainedModel, size: tuple[int, int]) -> None:
    """Raise a ValueError if the model cannot run images of this (height, width)."""
    expected = expected_image_size(model)
    if expected is not None and size != expected:
        raise ValueError(
            f"Expected images of {expected[0]} x {expected[1]} pixels, found {size[0]} x {size[1]}. Set the image "
            "processor's `size` to what the model takes."
        )
    if model.config.model_type == "swin":
        _require_windows_fit(model, size)


def replace_module(model: PreTrainedModel, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the named one, in the same mode (training or evaluation)."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module.train(model.get_submodule(name).training))


def attention_shape(attention: Any) -> tuple[int, int]:
    """Return the number of heads of an attention module, and their size."""
    return attention.num_attention_heads, attention.head_dim


@dataclass(frozen=True)
class _Family:
    classifiers: tuple[str, ...]
    stem: str  # suffix of the patch embedding's convolution
    heads: tuple[str, ...]
    block_class: str
    merging_class: str | None = None


# transformers 5.9 to 5.23: the same names inside a block for all three families.
_FAMILIES = {
    "vit": _Family(("ViTForImageClassification",), "patch_embeddings.projection", ("classifier",), "ViTLayer"),
    "deit": _Family(
        ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
        "patch_embeddings.projection",
        ("classifier", "cls_classifier", "distillation_classifier"),
        "DeiTLayer",
    ),
    "swin": _Family(
        ("SwinForImageClassification",),
        "patch_embeddings.projection",
        ("classifier",),
        "SwinLayer",
        "SwinPatchMerging",
    ),
}


def _find(model: PreTrainedModel, suffix: str) -> str:
    matches = [name for name, _ in model.named_modules() if name.endswith(suffix)]
    if len(matches) != 1:
        raise ValueError(
            f"Expected one module named '*{suffix}' in {type(model).__name__}, found {matches or 'none'}."
        )
    return matches[0]


def _linear_layers(model: PreTrainedModel, head: str) -> list[str]:
    """Return the linear layers of a head: itself, those of an MLP, or none where features come out as they are."""
    modules = getattr(model, head, nn.Identity()).named_modules(prefix=head)
    return [name for name, module in modules if hasattr(module, "in_features")]  # quantized ones have it too


def _blocks(model: PreTrainedModel, family: _Family) -> Iterator[Block]:
    """Yield blocks as the forward runs them. `named_modules` of a Swin stage lists its blocks before the merging."""
    for name, module in model.named_modules():
        if type(module).__name__ == family.block_class:
            yield _transformer_block(model, name)
        elif type(module).__name__ == family.merging_class:
            yield _merging_block(name)


def _transformer_block(model: PreTrainedModel, module: str) -> Block:
    name = _canonical(module)
    attention, mlp = f"{module}.attention", f"{module}.mlp"
    readers = tuple(f"{attention}.{projection}" for projection in ("q_proj", "k_proj", "v_proj"))
    units = (
        Unit(f"{name}.qkv", "qkv", readers),
        Unit(f"{name}.qk", "qk", (), attention),
        Unit(f"{name}.av", "av", (), attention),
        Unit(f"{name}.proj", "proj", (f"{attention}.o_proj",)),
        Unit(f"{name}.fc1", "fc1", (f"{mlp}.fc1",)),
        Unit(f"{name}.fc2", "fc2", (f"{mlp}.fc2",)),
    )
    norms = (
        NormReaders(f"{module}.layernorm_before", readers, not _pads_windows(model, name)),
        NormReaders(f"{module}.layernorm_after", (f"{mlp}.fc1",)),
    )
    return Block(name, module, units, norms, attention, (f"{mlp}.activation_fn",))


def _merging_block(module: str) -> Block:
    stage = _canonical(module.removesuffix(".downsample"))
    reduction = f"{module}.reduction"
    unit = Unit(f"{stage}.reduction", "reduction", (reduction,))
    # Padding to even sizes happens before the LayerNorm here, so its shift reaches every row that the reader sees.
    return Block(f"{stage}.merging", module, (unit,), (NormReaders(f"{module}.norm", (reduction,)),))


def _canonical(module: str) -> str:
    """Return our name of a block or a Swin stage.

    >>> _canonical("vit.layers.3"), _canonical("swin.encoder.layers.1.blocks.0"), _canonical("swin.encoder.layers.0")
    ('blocks.3', 'stages.1.blocks.0', 'stages.0')
    """
    numbers = re.findall(r"\.(\d+)(?=\.|$)", module)
    if module.startswith("swin."):
        return ".".join(f"{word}.{number}" for word, number in zip(("stages", "blocks"), numbers, strict=False))
    return f"blocks.{numbers[0]}"


def _pads_windows(model: PreTrainedModel, name: str) -> bool:
    """Return whether a Swin block's map, at the configured image size, does not divide by its window."""
    config = model.config
    if config.model_type != "swin":
        return False
    image = config.image_size if isinstance(config.image_size, (tuple, list)) else (config.image_size,) * 2
    sides = _map_sides(model, image, int(name.split(".")[1]))
    return any(side % config.window_size for side in sides)


def _map_sides(model: PreTrainedModel, image: Sequence[int], stage: int) -> list[int]:
    """Return height and width of a Swin stage's map, for images of (height, width)."""
    patch = model.config.patch_size
    patches = (patch, patch) if isinstance(patch, int) else patch
    sides = [-(-side // length) for side, length in zip(image, patches, strict=True)]
    for _ in range(stage):
        sides = [-(-side // 2) for side in sides]  # merging pads odd sides, so it rounds up
    return sides


def _require_windows_fit(model: PreTrainedModel, image: tuple[int, int]) -> None:
    # transformers 5.23 narrows a window to its map, but not the table of relative positions that goes with it.
    window, last = model.config.window_size, len(model.config.depths) - 1
    sides = _map_sides(model, image, last)
    if min(sides) < window:
        raise ValueError(
            f"Expected images whose maps are no smaller than the model's window of {window}, found {image[0]} x "
            f"{image[1]} pixels: the last stage's map is {sides[0]} x {sides[1]}. Use larger images, such as the "
            "model was trained on."
        )


def _check_complete(model: PreTrainedModel, architecture: Architecture) -> None:
    modules = dict(model.named_modules())
    described = [architecture.stem, *architecture.heads, *architecture.unit_of_module]
    layers = {name for name, module in modules.items() if isinstance(module, (nn.Linear, nn.Conv2d))}
    missing, absent = sorted(layers - set(described)), sorted(set(described) - set(modules))
    if missing or absent or len(described) != len(set(described)):
        raise ValueError(
            f"{type(model).__name__} does not have the structure that optimum-mixq knows: "
            f"layers without a place {missing or 'none'}, places without a layer {absent or 'none'}. "
            "This release of transformers may have moved modules: please open an issue with its version."
        )
