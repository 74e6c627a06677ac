# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Attention with quantized operands: query, key and value on uniform grids, softmax on one of its own."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from optimum_mixq.kernels import AttentionGrids, AttentionKernel, prepare_attention
from optimum_mixq.quant.bitpacking import int16_to_scale, scale_to_int16
from optimum_mixq.quant.grids import UniformGrid, fake_quantize, require_storable
from optimum_mixq.quant.prepared import PreparedModule
from optimum_mixq.quant.softmax_grids import DEFAULT_SOFTMAX, SoftmaxGrid, StoredSoftmaxGrid


# Asked once: torch.compile does not trace the question (torch 2.13).
CPU_MULTIPLIES_BFLOAT16: bool = torch.cpu._is_avx512_bf16_supported()


# Scores of images or windows that are attended to at once on a CPU: 2 MB, which stay in the cache.
CACHED_SCORES = 2**19


class AttentionQuantizer(StoredSoftmaxGrid, PreparedModule):
    """Attention whose operands are rounded to their grids; bits of None leave a matmul as it is.

    `softmax` names the kind of grid that softmax has.

    Scales are float16 kept as int16 bits, since `.to(dtype)` and checkpoint loaders cast floating buffers.
    """

    mixq_query_scale: Tensor

    def __init__(
        self,
        heads: int,
        head_size: int,
        qk_bits: int | None,
        av_bits: int | None,
        device: torch.device | None = None,
        softmax: str = DEFAULT_SOFTMAX,
    ) -> None:
        super().__init__()
        self.qk_bits, self.av_bits = qk_bits, av_bits
        if av_bits is not None:
            self.register_softmax_grid(softmax, av_bits, device)
        for name in ("query", "key", "value"):
            shape = (heads, head_size)
            self.register_buffer(f"mixq_{name}_scale", torch.zeros(shape, dtype=torch.int16, device=device))
            self.register_buffer(f"mixq_{name}_zero_point", torch.zeros(shape, dtype=torch.int16, device=device))
        self._derive()

    def set_grid(self, name: str, grid: UniformGrid) -> None:
        """Take the grid (heads, head size) of "query", "key" or "value"."""
        require_storable(grid.scale)
        getattr(self, f"mixq_{name}_scale").copy_(scale_to_int16(grid.scale))
        getattr(self, f"mixq_{name}_zero_point").copy_(grid.zero_point)
        self._derive()

    def set_softmax_grid(self, grid: SoftmaxGrid) -> None:
        super().set_softmax_grid(grid)
        self._kernel = self._prepare_kernel()

    def prepare(self) -> None:
        """Read the grids' buffers: after they were filled from a checkpoint. Moving calls it."""
        if self.av_bits is not None:
            self.softmax_grid = self.read_softmax_grid()
        self._derive()

    @torch.no_grad()
    def _derive(self) -> None:
        """Make what forwards use of the grids of query, key and value, and of that of softmax."""
        self._grids: dict[str, UniformGrid] = {}
        for name in ("query", "key", "value"):
            scale = int16_to_scale(getattr(self, f"mixq_{name}_scale")).unsqueeze(1)  # (heads, 1, head size)
            self._grids[name] = UniformGrid(scale, getattr(self, f"mixq_{name}_zero_point").float().unsqueeze(1), 8)
        self._multipliers = {name: 1 / grid.scale for name, grid in self._grids.items()}
        self._offsets = {name: grid.zero_point + 0.5 for name, grid in self._grids.items()}
        self._score_scale = self._grids["query"].scale * self._grids["key"].scale
        self._kernel = self._prepare_kernel()

    def grid(self, name: str, bits: int) -> UniformGrid:
        """Return the grid of an operand, to broadcast against (B, heads, T, head size)."""
        return UniformGrid(self._grids[name].scale, self._grids[name].zero_point, bits)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float = 0.0
    ) -> Tensor:
        """Return the output (B, T, heads, head size) of operands (B, heads, T, head size).

        `mask` is added to the scaled scores.
        """
        if self.qk_bits is None or self.av_bits is None or query.requires_grad:
            return self._attend_with_gradient(query, key, value, mask, scaling, dropout)
        kernel = self._kernel
        # An exported program cannot hold the kernel.
        if kernel is not None and not torch.compiler.is_exporting() and kernel.serves(query, key, value, mask):
            return kernel(query, key, value, mask, scaling, matmul_dtype(query.device))
        # Of everything around the matmuls, passes over memory cost most: a few images or windows at a time, whose
        # scores stay in the cache.
        images = max(1, CACHED_SCORES // (query.shape[1] * query.shape[2] * key.shape[2]))
        if query.device.type != "cpu" or torch.compiler.is_compiling() or len(query) <= images:
            return self._attend(query, key, value, mask, scaling)
        output = query.new_empty(len(query), query.shape[2], query.shape[1], value.shape[3])  # (B, T, heads, size)
        for start in range(0, len(query), images):
            part = slice(start, start + images)
            own_mask = mask[part] if mask is not None and len(mask) == len(query) else mask
            output[part] = self._attend(query[part], key[part], value[part], own_mask, scaling)
        return output

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Return the output with integer operands, which bfloat16 holds exactly up to 256, in place where it can be.

        The scales of query and key, and the factor of the softmax grid, all go into the query. Between the matmuls
        numbers are float32: a CPU's passes over bfloat16 take two to eight times as long (torch 2.13).
        """
        assert self.qk_bits is not None and self.av_bits is not None
        dtype, score_factor = matmul_dtype(query.device), self.softmax_grid.score_factor
        queries = self._integers("query", query, self.qk_bits).mul_(self._score_scale * (scaling * score_factor))
        keys = _contiguous(self._integers("key", key, self.qk_bits), dtype)
        scores = torch.matmul(_contiguous(queries, dtype), keys.transpose(-1, -2)).float()  # (B, heads, T, T)
        if mask is not None:
            scores.add_(mask, alpha=score_factor)
        exponentials = self.softmax_grid.round_(scores)
        total = exponentials.sum(-1, keepdim=True)  # (B, heads, T, 1)
        values = _contiguous(self._integers("value", value, self.av_bits), dtype)
        output = torch.matmul(exponentials.to(dtype), values).float().mul_(self._grids["value"].scale).div_(total)
        return _contiguous(output.transpose(1, 2), query.dtype)

    def _attend_with_gradient(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float
    ) -> Tensor:
        if self.qk_bits is not None:
            query = fake_quantize(query, self.grid("query", self.qk_bits))
            key = fake_quantize(key, self.grid("key", self.qk_bits))
        if self.av_bits is not None:
            value = fake_quantize(value, self.grid("value", self.av_bits))
        scores = torch.matmul(query * scaling, key.transpose(-1, -2))  # (B, heads, T, T)
        if mask is not None:
            scores = scores + mask
        if self.av_bits is None:
            exponentials = torch.exp(scores - scores.amax(-1, keepdim=True))
        else:
            exponentials = self.softmax_grid.exponentials(scores)
        total = exponentials.sum(-1, keepdim=True)  # (B, heads, T, 1)
        exponentials = F.dropout(exponentials, dropout, self.training)
        return (torch.matmul(exponentials, value) / total).transpose(1, 2).contiguous()

    def renew(self) -> None:
        self.prepare()

    def _prepare_kernel(self) -> AttentionKernel | None:
        """Return what computes attention in one pass, where there is something that does."""
        if self.qk_bits is None or self.av_bits is None or self.softmax_grid.steps is None:
            return None
        scale, zero_point = (
            torch.cat([getattr(grid, part) for grid in self._grids.values()], 1).transpose(0, 1).contiguous()
            for part in ("scale", "zero_point")
        )  # (3, heads, head size)
        return prepare_attention(
            AttentionGrids(scale, zero_point, self.qk_bits, self.av_bits, self.softmax_grid.steps)
        )

    def _integers(self, name: str, operand: Tensor, bits: int) -> Tensor:
        """Return code - zero_point of an operand, as float32."""
        rounded = torch.addcmul(self._offsets[name], operand.float(), self._multipliers[name]).floor_()
        return rounded.clamp_(0, 2**bits - 1).sub_(self._grids[name].zero_point)


def matmul_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which attention multiplies: bfloat16 where the device multiplies it faster."""
    if device.type == "cpu":
        return torch.bfloat16 if CPU_MULTIPLIES_BFLOAT16 else torch.float32
    return torch.bfloat16 if device.type == "cuda" and _cuda_multiplies_bfloat16() else torch.float32


@functools.cache
def _cuda_multiplies_bfloat16() -> bool:
    # Emulated bfloat16, on GPUs before Ampere, is slower than float32.
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _contiguous(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in `dtype` and in the order of their shape, in one pass."""
    return values.to(dtype, memory_format=torch.contiguous_format)
