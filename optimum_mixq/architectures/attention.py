# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Has a model's attention computed by a function that is registered with transformers' attention interface.

Most families go through that interface. For the others, the family names a subclass of each attention class
(`Family.adapted_attention`), and the modules change their class for it, as `torch.nn.utils.parametrize` does it: names
of parameters, copies and pickles stay what they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from optimum_mixq.architectures.registry import family_of


# The attribute of an adapted attention module that names the function which computes its products.
ROUTE = "mixq_route"


def route_attention(model: PreTrainedModel, name: str) -> None:
    """Have the model's attention computed by the function registered under this name, in place."""
    adapted = family_of(model).adapted_attention()
    for module in model.modules():
        if type(module) in adapted:
            module.__class__ = adapted[type(module)]
        if type(module) in adapted.values():
            setattr(module, ROUTE, name)
    if not adapted:
        _set_implementation(model, name)


def release_attention(model: PreTrainedModel) -> None:
    """Have the model compute its attention as after loading, in place."""
    adapted = family_of(model).adapted_attention()
    original = {adapter: kind for kind, adapter in adapted.items()}
    for module in model.modules():
        if type(module) in original:
            module.__class__ = original[type(module)]
            vars(module).pop(ROUTE, None)
    if not adapted:
        _set_implementation(model, "sdpa" if model._supports_sdpa else "eager")


@contextmanager
def routed_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Have the model's attention computed by the named function inside the block; on exit all is as it was."""
    before = model.config._attn_implementation
    kinds = {module: (type(module), vars(module).get(ROUTE)) for module in model.modules()}
    route_attention(model, name)
    try:
        yield
    finally:
        for module, (kind, route) in kinds.items():
            if vars(module).get(ROUTE) == route:
                continue
            module.__class__ = kind
            vars(module).pop(ROUTE)
            if route is not None:
                setattr(module, ROUTE, route)
        if model.config._attn_implementation != before:
            _set_implementation(model, before)


def call_routed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Return attention's output (B, T, heads, head size) of operands (B, heads, T, head size), for adapted modules.

    `mask` is added to the scaled scores.
    """
    attend = ALL_ATTENTION_FUNCTIONS[getattr(module, ROUTE)]
    output: Tensor = attend(module, query, key, value, mask, scaling=scaling)[0]
    return output


def _set_implementation(model: PreTrainedModel, name: str) -> None:
    """Set the attention of the model and of the models inside it, and leave other parts of its configuration alone."""
    inside = {id(module.config) for module in model.modules() if isinstance(module, PreTrainedModel)}
    parts = [part for part in model.config.sub_configs if id(getattr(model.config, part)) in inside]
    # transformers 5.23 warns about parts that no model in memory has, such as the text model of an image classifier.
    model.set_attn_implementation({"": name, **dict.fromkeys(parts, name)} if model.config.sub_configs else name)
