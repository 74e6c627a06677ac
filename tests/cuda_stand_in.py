# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What CUDA would refuse, where there is none: its rules for `torch._int_mm`, and its being another device.

`other_device` lets tensors on another device exist whose numbers lie on the CPU. An operation that gets tensors of
both devices raises, as it would on CUDA, and what brings numbers to the host is written down.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from optimum_mixq.kernels import IntMMKernel, Kernel


# The one device type that every build of torch 2.13 has, that is not the CPU and that nobody uses.
DEVICE = torch.device("lazy:0")
int_mm_of_cpu = torch._int_mm
# Operations that wait for the device, since the host gets a number or a size.
WAITING = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim")


def strict_int_mm(left, right):
    """Multiply as `torch._int_mm` does on CUDA, or raise what it raises (torch 2.13, cuda/Blas.cpp)."""
    for name, matrix in (("self", left), ("mat2", right)):
        if matrix.dim() != 2:
            raise RuntimeError(f"Expected {name} to be of dimension 2 but got {matrix.dim()}")
        if matrix.dtype != torch.int8:
            raise RuntimeError(f"expected scalar type Char but found {matrix.dtype} for {name}")
    if left.device != right.device:
        raise RuntimeError(f"Expected all tensors to be on the same device, found {left.device} and {right.device}")
    if left.size(0) <= 16:
        raise RuntimeError(f"self.size(0) needs to be greater than 16, but got {left.size(0)}")
    if left.size(1) == 0 or left.size(1) % 8:
        raise RuntimeError(f"self.size(1) needs to be greater than 0 and a multiple of 8, but got {left.size(1)}")
    if left.size(1) != right.size(0):
        raise RuntimeError(f"self.size(1) needs to match mat2.size(0) but got {left.size(1)} and {right.size(0)}")
    if right.size(1) == 0 or right.size(1) % 8:
        raise RuntimeError(f"mat2.size(1) needs to be greater than 0 and a multiple of 8, but got {right.size(1)}")
    # "cuBLAS is currently broken for some combination of transposed inputs": this one is what torchao relies on.
    if not left.is_contiguous():
        raise RuntimeError("Expected a contiguous left side")
    return int_mm_of_cpu(left, right)


class Unwaiting(TorchDispatchMode):
    """Refuses what waits for a device: no CUDA graph could record it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in WAITING
        return function(*args, **(kwargs or {}))


class HostedTensor(torch.Tensor):
    """A tensor that says it is on the other device and keeps its numbers on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, layout=inner.layout,
            device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"HostedTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} ran on a hosted tensor outside of other_device()")

    def tolist(self):
        return self.cpu().tolist()


class Crossings(list):
    """The names of the operations that brought numbers to the host, or whose outputs' sizes depend on numbers."""

    def __init__(self):
        super().__init__()
        self.from_host = []  # the names of those that brought numbers from there


class _OtherDevice(TorchDispatchMode):
    def __init__(self, to_host):
        super().__init__()
        self.to_host = to_host

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        hosted = any(isinstance(tensor, HostedTensor) for tensor in tensors)
        if hosted and name not in ("_to_copy", "copy_"):
            _require_one_device(name, tensors)
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if name == "copy_":
            target = args[0].device
        stays = hosted if target is None else target.type == DEVICE.type
        if hosted and (not stays or name in WAITING or _selects(name, args)):
            self.to_host.append(name)
        if name in ("_to_copy", "copy_") and stays and not isinstance(args[name == "copy_"], HostedTensor):
            self.to_host.from_host.append(name)
        if target is not None and name != "copy_":
            kwargs["device"] = "cpu"
        run = strict_int_mm if name == "_int_mm" else function
        result = run(*tree_map(_without_host, args), **tree_map(_without_host, kwargs))
        if not stays:
            return args[0] if name == "copy_" else result
        result = tree_map(lambda leaf: HostedTensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)
        return return_and_correct_aliasing(function, args, kwargs, result) if hosted else result


def _selects(name, args):
    return name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])


def _require_one_device(name, tensors):
    # A tensor of no dimensions may lie on the CPU, on CUDA as well, and so may what another is indexed with.
    if name == "index":
        tensors = tensors[:1]
    if any(tensor.dim() and not isinstance(tensor, HostedTensor) for tensor in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {DEVICE} and cpu")


def _without_host(leaf):
    return leaf.inner if isinstance(leaf, HostedTensor) else leaf


@contextmanager
def other_device(kernel: type[Kernel] = IntMMKernel) -> Iterator[Crossings]:
    """Let tensors on `DEVICE` exist while the block runs, multiplied by one kernel.

    Yields the names of the operations that brought numbers to the host.
    """
    to_host = Crossings()
    supports = classmethod(lambda own, device, bits: device.type == DEVICE.type)
    # Inference mode takes no subclasses of tensors (torch 2.13).
    without = patch.object(torch, "inference_mode", torch.no_grad)
    with patch.object(kernel, "supports", supports), without, _OtherDevice(to_host):
        yield to_host
