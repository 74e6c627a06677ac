# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Small changes of a unit, and the gradients of one image there from one backward through the whole model."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.replay import captured_outputs
from optimum_mixq.architectures.watching import watched_units
from optimum_mixq.stages.sensitivity.changes import Change
from optimum_mixq.stages.sensitivity.traces import trace_units
from optimum_mixq.utils.bits import Bits


def wave(values):
    """Return what stands for the rounding error of a tensor: small, of both signs, and a function of its values."""
    return 1e-3 * torch.sin(37 * values)


def change_of(model, unit):
    generator = torch.Generator().manual_seed(len(unit.name))
    layers = []
    for name in unit.modules:
        layer = model.get_submodule(name)
        weight = 1e-3 * torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        bias = None if layer.bias is None else 1e-3 * torch.ones_like(layer.bias)
        layers.append((weight.to(layer.weight.device), bias))
    operands = [wave] if unit.modules else [wave, wave]
    return Change((lambda: layers) if layers else None, operands)


@dataclass(frozen=True)
class Seen:
    """Of a unit and one image: each tensor, and the gradient there of one number."""

    operands: list[tuple[Tensor, Tensor]]
    outputs: list[tuple[Tensor, Tensor]]  # of each layer
    weights: list[tuple[Tensor, Tensor]]
    biases: list[tuple[Tensor, Tensor]]


def see(model, units, image, number):
    """Return, by unit name, what is seen of an image (1, C, H, W); `number` makes one number of the logits."""
    entered, layers, image = {}, [name for unit in units for name in unit.modules], image.clone().requires_grad_()
    with watched_units(model, entered.__setitem__), captured_outputs(model, layers) as captured:
        logits = model(pixel_values=image).logits
        tensors = [tensor for unit in units for tensor in entered[unit.name]]
        tensors += [captured[name][0] for name in layers]
        gradients = torch.autograd.grad(number(logits), tensors)
        of = {id(tensor): (tensor.detach(), found) for tensor, found in zip(tensors, gradients, strict=True)}
    of_parameters = _see_parameters(model, layers, image.detach(), number)
    return {
        unit.name: Seen(
            [of[id(tensor)] for tensor in entered[unit.name]],
            [of[id(captured[name][0])] for name in unit.modules],
            [of_parameters[f"{name}.weight"] for name in unit.modules],
            [of_parameters[f"{name}.bias"] for name in unit.modules if f"{name}.bias" in of_parameters],
        )
        for unit in units
    }


def see_classes(model, units, image, temperature):
    """Yield each class's probability, and what is seen with the gradient of the temperature times its logarithm.

    With that factor the Fisher information is the curvature of the divergence, which is multiplied by T^2.
    """
    with torch.no_grad():
        shares = (model(pixel_values=image).logits / temperature).softmax(-1)[0].tolist()
    for label, share in enumerate(shares):

        def scaled_logarithm(logits, label=label):
            return temperature * (logits / temperature).log_softmax(-1)[0, label]

        yield share, see(model, units, image, scaled_logarithm)


def _see_parameters(model, layers, image, number):
    names = [f"{layer}.{name}" for layer in layers for name, _ in model.get_submodule(layer).named_parameters()]
    values = [model.get_parameter(name) for name in names]
    with torch.enable_grad():
        gradients = torch.autograd.grad(number(model(pixel_values=image).logits), values)
    return {name: (own.detach(), found) for name, own, found in zip(names, values, gradients, strict=True)}


def damages_of(method, model, pixels, start):
    """Return, by unit name, the damage (images,) of a unit's small change by a method; `start` makes the probes."""
    architecture, found = describe(model), {}
    for traces in trace_units(model, architecture, pixels, start):
        for unit in architecture.units:
            if unit.name in traces:
                changes = {Bits(2, 2): change_of(model, unit)}
                found[unit.name] = method.damages(traces[unit.name], changes, Bits(8, 8), len(pixels))[Bits(2, 2)]
    return found


def all_signs(outputs, images):
    """Return every row of signs there is: the mean over them is exact."""
    rows = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=outputs)), dtype=torch.float64)
    return rows[:, None].expand(-1, images, -1)


def numbers(values):
    return values.flatten().tolist()
