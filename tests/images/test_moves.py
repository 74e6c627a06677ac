# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq.images.moves import Move, draw_move


@pytest.mark.parametrize("move", [Move(), Move(2, -1), Move(-1, 3, mirrored=True)])
def test_a_pixel_comes_from_where_the_move_says(move):
    image = torch.arange(2 * 5 * 6).reshape(2, 5, 6).float()
    moved = move(image)
    for row in range(5):
        for column in range(6):
            seen = 5 - column if move.mirrored else column
            source = min(max(row - move.down, 0), 4), min(max(seen - move.right, 0), 5)
            assert torch.equal(moved[:, row, column], image[:, *source])


def test_moves_stay_within_the_share_and_go_both_ways():
    generator = torch.Generator().manual_seed(0)
    moves = [draw_move((20, 10), 0.1, True, generator) for _ in range(200)]
    assert {move.down for move in moves} == {-2, -1, 0, 1, 2} and {move.right for move in moves} == {-1, 0, 1}
    assert {move.mirrored for move in moves} == {False, True}
    assert draw_move((20, 10), 0.0, False, generator) == Move()
