# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The words in which models are described, and what a family of models has to say about itself."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel


UnitKind = Literal["qkv", "q", "kv", "qk", "av", "proj", "fc1", "fc2", "reduction"]
# Takes the arguments of a torch function and returns its output, with a rule of relevance for backward, or None where
# no rule applies.
Rule = Callable[..., Any]


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
    """A LayerNorm with weight and bias, and the linear layers that read its output, and nothing else does."""

    norm: str
    readers: tuple[str, ...]
    # False where zeros are padded between the LayerNorm and its readers: a shift of the LayerNorm would miss them.
    shift_foldable: bool = True
    # Whether the readers get the LayerNorm's output itself: it may then be codes. Not where zeros are padded, or where
    # its dtype is looked at.
    direct: bool = False


@dataclass(frozen=True)
class Activation:
    """An activation module, and the linear layer whose output it reads, and nothing else does."""

    module: str
    layer: str
    reader: str | None = None  # the linear layer that alone reads its output, as it is, if there is one


@dataclass(frozen=True)
class Residual:
    """A linear layer whose output is added, as it is, to the hidden states that a LayerNorm reads."""

    layer: str
    norm: str


@dataclass(frozen=True)
class Block:
    """One residual block, or one patch merging between Swin stages."""

    name: str  # "blocks.3", "stages.1.blocks.0", "stages.0.merging"
    module: str
    units: tuple[Unit, ...]  # in forward order
    norms: tuple[NormReaders, ...] = ()
    attention: str | None = None
    heads: int = 0
    head_size: int = 0
    # False where something stands between the layers of query and key and their product, such as a norm or a rotation,
    # or where one layer puts out both: calibration then leaves their channels unbalanced.
    plain_scores: bool = True
    # Whether the layer of the unit "proj" reads what the products of attention put out, heads one after another.
    plain_output: bool = False
    activations: tuple[Activation, ...] = ()
    residuals: tuple[Residual, ...] = ()
    passing: tuple[str, ...] = ()  # other modules that relevance passes unchanged: they scale, bend or normalise
    # True where something stands between the block before and this one, such as another patch embedding.
    apart: bool = False

    def unit(self, kind: str) -> Unit:
        """Return the block's unit of one kind."""
        for unit in self.units:
            if unit.kind == kind:
                return unit
        raise ValueError(f"'{self.name}' has no unit '{kind}': it has {', '.join(unit.kind for unit in self.units)}.")


@dataclass(frozen=True)
class Architecture:
    """The quantizable structure of one model, in forward order."""

    model_type: str
    stem: str | None  # the convolution of the patch embedding; None where it stays float
    heads: tuple[str, ...]
    blocks: tuple[Block, ...]
    chain: str  # the list that the model's forward loops over: its blocks, or in a Swin the stages that hold them
    left_float: tuple[str, ...] = ()  # linear layers and convolutions that are not quantized
    taps: tuple[str, ...] = ()  # blocks whose hidden states are read by more than the next block; there are no heads

    def __post_init__(self) -> None:
        if self.taps and self.heads:
            raise ValueError(
                f"Expected no heads where more than the last block is read ({', '.join(self.taps)}), found "
                f"{', '.join(self.heads)}. Name them under left_float."
            )

    @property
    def is_plain(self) -> bool:
        """Return whether each block is given what the one before returned, and all else reads the last one alone."""
        return not self.taps and not any(block.apart for block in self.blocks)

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


class Family(ABC):
    """Everything that is known of one family of models."""

    model_type: str  # as its configuration calls it
    classifiers: tuple[str, ...]  # names of the classes that are supported, with their subclasses
    backbones: tuple[str, ...] = ()  # and those of its classes without a classifier, whose embeddings are used
    # Names of the classes for other tasks, by what the Hub calls the task: {"image-segmentation": (...)}.
    further: Mapping[str, tuple[str, ...]] = {}
    # Where `embedding` finds the embeddings, for people.
    embedding_words: str = "`outputs.pooler_output`, or `outputs.last_hidden_state[:, 0]` without a pooler"
    # Modules of a backbone whose place may hold None. Where a checkpoint lacks their tensors they are taken out.
    optional: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of all classes that are supported."""
        return (*self.classifiers, *self.backbones, *(name for names in self.further.values() for name in names))

    def handles(self, model: nn.Module) -> bool:
        """Return whether a model belongs to this family."""
        return model_type_of(model) == self.model_type

    @abstractmethod
    def describe(self, model: PreTrainedModel) -> Architecture:
        """Return the structure of a model, float or quantized."""

    def embedding(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the embeddings (B, C) among what the forward of a backbone returned.

        By default that is what the model's pooler puts out, or the class token, the first one, where it has no pooler.
        """
        pooled = outputs.get("pooler_output")
        return outputs["last_hidden_state"][:, 0] if pooled is None else pooled

    def without_head(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return what stands under the head of a classifier in memory."""
        return model.base_model

    def rules(self) -> Mapping[Callable[..., Any], Rule]:
        """Return the rules of relevance for what this family's forward calls, by torch function.

        They come before the general ones of `stages/relevance/propagation.py`; `architectures/rules.py` has what they
        are made of.
        """
        return {}

    def adapted_attention(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Return, for each attention class that computes its products itself, a subclass that has them computed.

        The subclass overrides `forward` and calls `call_routed_attention` (`architectures/attention.py`). Modules take
        that class while their attention is watched or quantized; parameters and their names stay. Families whose
        attention goes through transformers' attention interface need none.
        """
        return {}

    def tells_metres(self, model: PreTrainedModel) -> bool:
        """Return whether a depth estimator puts out distances; most put out inverse ones, of no unit and offset."""
        return False

    def encoder_config(self, model: PreTrainedModel) -> Any:
        """Return the configuration of what the images go into: the model's, unless that holds it as a part."""
        return model.config

    def channels(self, model: PreTrainedModel) -> int:
        """Return how many channels the model's images have."""
        return int(self.encoder_config(model).num_channels)

    def image_size(self, model: PreTrainedModel) -> tuple[int, int]:
        """Return the (height, width) that the model is configured for."""
        size = self.encoder_config(model).image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def takes_any_size(self, model: PreTrainedModel) -> bool:
        """Return whether the model runs images of other sizes than it is configured for."""
        return False

    def take_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Have the model take images of this (height, width) instead of those it is configured for, in place.

        Raises a ValueError if it cannot.
        """
        self.require_image_size(model, size)
        self.encoder_config(model).image_size = size[0] if size[0] == size[1] else size

    def require_image_size(self, model: PreTrainedModel, size: tuple[int, int]) -> None:
        """Raise a ValueError if the model cannot run images of this (height, width)."""
        expected = self.image_size(model)
        if size != expected and not self.takes_any_size(model):
            raise ValueError(
                f"Expected images of {expected[0]} x {expected[1]} pixels, found {size[0]} x {size[1]}. Set the image "
                "processor's `size` to what the model takes."
            )


def model_type_of(model: nn.Module) -> str:
    """Return the model type of a configuration's class, or the class name of a module without one.

    A configuration that was read from a file of another type keeps that one's name (transformers 5.23).
    """
    return getattr(type(getattr(model, "config", None)), "model_type", None) or type(model).__name__


def class_names(model: nn.Module) -> set[str]:
    """Return the names of a model's class and of all that it inherits from."""
    return {kind.__name__ for kind in type(model).__mro__}


def find_module(model: nn.Module, suffix: str) -> str:
    """Return the name of the only module whose name ends like this."""
    matches = [name for name, _ in model.named_modules() if name.endswith(suffix)]
    if len(matches) != 1:
        raise ValueError(
            f"Expected one module named '*{suffix}' in {type(model).__name__}, found {matches or 'none'}."
        )
    return matches[0]


def linear_layers_of(model: nn.Module, head: str) -> tuple[str, ...]:
    """Return the linear layers of a head: itself, those of an MLP, or none where features come out as they are."""
    modules = (dict(model.named_modules()).get(head) or nn.Identity()).named_modules(prefix=head)
    return tuple(name for name, module in modules if hasattr(module, "in_features"))  # quantized ones have it too


def layers_under(model: nn.Module, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the linear layers and convolutions that start with one of these words."""
    layers = (name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d)))
    return tuple(name for name in layers if name.startswith(prefixes))


def chain_of(module: str) -> str:
    """Return the list that the first block's module stands in, or the list that its stage stands in.

    >>> chain_of("vit.layers.0"), chain_of("swin.encoder.layers.0.blocks.0")
    ('vit.layers', 'swin.encoder.layers')
    """
    return re.split(r"\.\d+", module)[0]


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the named one, in the same mode (training or evaluation)."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module.train(model.get_submodule(name).training))
