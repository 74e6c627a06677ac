# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""One packed model serves several threads: each gets the logits that it would get alone."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from conftest import make_model, random_pixels

from optimum_mixq import BitPlan, MixQConfig
from optimum_mixq.pipeline import quantize_model


THREADS, CALLS = 4, 50


@torch.no_grad()
def logits(model, pixels):
    return model(pixel_values=pixels).logits


def packed(name):
    model = make_model(name)
    return quantize_model(model, BitPlan.uniform(model, 4), [random_pixels(model, 8)], MixQConfig(bits=4))


def require_the_same(run, model, sizes):
    """Call `run` from all threads at once, in mixed order, and compare with its own answers in turn."""
    batches = [random_pixels(model, sizes[number % len(sizes)], seed=number) for number in range(12)]
    expected = [logits(run, pixels) for pixels in batches]
    barrier = Barrier(THREADS)

    def call(thread):
        barrier.wait()
        order = [(thread * 5 + number) % len(batches) for number in range(CALLS)]
        return [(number, logits(run, batches[number])) for number in order]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [pair for pairs in pool.map(call, range(THREADS)) for pair in pairs]
    assert len(found) == THREADS * CALLS
    wrong = [number for number, output in found if not torch.equal(output, expected[number])]
    assert wrong == []


@pytest.mark.parametrize("name", ["vit", "padded_swin"])
@pytest.mark.parametrize("sizes", [(3,), (1, 2, 5, 8)])
def test_threads_get_the_sequential_logits(name, sizes):
    model = packed(name)
    require_the_same(model, model, sizes)


@pytest.mark.slow
def test_threads_get_the_sequential_logits_of_a_compiled_model():
    model = packed("vit")
    require_the_same(torch.compile(model, dynamic=True), model, (1, 2, 5, 8))
