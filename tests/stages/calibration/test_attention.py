# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from optimum_mixq.quant.softmax_grids import softmax_grid_of
from optimum_mixq.stages.calibration.attention import choose_grid


def slow_error(grid, query, key, value, mask, scaling):
    """Return the squared error of attention's output, element by element."""
    total = 0.0
    for image in range(len(query)):
        for head in range(query.shape[1]):
            for row in range(query.shape[2]):
                scores = [
                    float(query[image, head, row] @ key[image, head, other]) * scaling
                    + (0.0 if mask is None else float(mask[0, 0, row, other]))
                    for other in range(key.shape[2])
                ]
                exact = [math.exp(score - max(scores)) for score in scores]
                rounded = grid.exponentials(torch.tensor(scores, dtype=torch.float64)).tolist()
                for channel in range(value.shape[3]):
                    column = value[image, head, :, channel].tolist()
                    found, wanted = (
                        sum(share * number for share, number in zip(shares, column, strict=True)) / sum(shares)
                        for shares in (rounded, exact)
                    )
                    total += (found - wanted) ** 2
    return total


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("name", "bits"), [("adaptive-log", 3), ("twin-uniform", 4)])
def test_the_setting_of_least_error_of_the_output_is_chosen(name, bits, masked):
    generator = torch.Generator().manual_seed(bits)
    batches = []
    for _ in range(2):
        operands = [torch.randn(2, 2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
        mask = torch.randn(1, 1, 5, 5, generator=generator, dtype=torch.float64) if masked else None
        batches.append((*operands, mask, 1.5))
    kind = softmax_grid_of(name)
    errors = {
        setting: sum(slow_error(kind(bits, setting), *batch) for batch in batches) for setting in kind.settings(bits)
    }
    assert choose_grid(kind, bits, batches).setting == min(errors, key=lambda setting: errors[setting])


def test_where_there_is_nothing_to_choose_nothing_is_run():
    assert choose_grid(softmax_grid_of("log2"), 4, None).name == "log2"
