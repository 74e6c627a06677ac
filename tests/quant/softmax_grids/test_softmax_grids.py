# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""What holds for every softmax grid."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_mixq import MixQConfig
from optimum_mixq.quant.attention import AttentionQuantizer
from optimum_mixq.quant.learned import LearnedAttention
from optimum_mixq.quant.softmax_grids import DEFAULT_SOFTMAX, softmax_grid_names, softmax_grid_of


NAMES = softmax_grid_names()
ONES = [(kind, bits) for kind in NAMES for bits in range(2, 9)]


@st.composite
def grids(draw):
    kind, bits = softmax_grid_of(draw(st.sampled_from(NAMES))), draw(st.integers(2, 8))
    return kind(bits, draw(st.sampled_from(kind.settings(bits) or (0,))))


def draw_scores(seed, rows=20, columns=17):
    return 5 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=100, deadline=None)
@given(grid=grids(), seed=st.integers(0, 1000))
def test_no_grid_has_more_values_than_codes_and_zero_and_one_are_among_them(grid, seed):
    scores = draw_scores(seed)
    scores[:, 0] = scores.amax(-1) - 1000
    found = grid.exponentials(scores)
    values = found.unique()  # sorted
    # exp2 of one number may differ in the last digit from place to place.
    assert 1 + int((values.diff() > 1e-5 * values[1:]).sum()) <= 2**grid.bits
    assert (found.amax(-1) == 1).all() and (found[:, 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(grid=grids(), seed=st.integers(0, 1000))
def test_a_larger_score_never_gets_a_smaller_value(grid, seed):
    ordered = grid.exponentials(draw_scores(seed, rows=1, columns=200).sort(-1).values)
    assert (ordered.diff(dim=-1) >= -1e-7).all()


@pytest.mark.parametrize(("name", "bits"), ONES)
def test_both_ways_to_round_agree_and_one_leaves_the_scores_as_they_are(name, bits):
    kind = softmax_grid_of(name)
    for setting in kind.settings(bits) or (0,):
        grid = kind(bits, setting)
        scores = draw_scores(bits) * grid.score_factor
        before = scores.clone()
        found = grid.round(scores)
        assert torch.equal(scores, before)
        # A score that lies between two values may go to either.
        assert torch.isclose(found, grid.round_(scores), rtol=1e-5, atol=1e-7).float().mean() > 0.99


@pytest.mark.parametrize(("name", "bits"), ONES)
def test_rows_of_softmax_sum_to_one_and_the_scores_are_left_as_they_are(name, bits):
    kind, scores = softmax_grid_of(name), draw_scores(bits)
    grid = kind(bits, (kind.settings(bits) or (0,))[-1])
    before = scores.clone()
    weights, exponentials = grid.softmax(scores), grid.exponentials(scores)
    assert torch.equal(scores, before)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20))
    torch.testing.assert_close(weights * exponentials.sum(-1, keepdim=True), exponentials)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_exponential(name):
    kind = softmax_grid_of(name)
    scores = torch.tensor([0.3, -1.2, 2.0], requires_grad=True)
    kind(3, (kind.settings(3) or (0,))[0]).exponentials(scores).sum().backward()
    torch.testing.assert_close(scores.grad, torch.exp(scores.detach() - 2.0))


def test_a_wrong_name_is_told_the_others():
    expected = "Expected softmax to be 'adaptive-log', 'log-sqrt2', 'log2', 'twin-uniform' or 'uniform', found 'log'"
    for make in (lambda: MixQConfig(softmax="log"), lambda: softmax_grid_of("log")):
        with pytest.raises(ValueError, match=expected):
            make()
    assert MixQConfig().softmax == DEFAULT_SOFTMAX == "log-sqrt2"


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_a_buffer_only_where_there_is_something_to_choose(name):
    kind = softmax_grid_of(name)
    attention = AttentionQuantizer(2, 4, 4, 3, softmax=name)
    assert ("mixq_softmax_setting" in attention.state_dict()) == bool(kind.settings(3))
    assert attention.has_valid_softmax_grid()
    if kind.settings(3):
        last = kind(3, kind.settings(3)[-1])
        attention.set_softmax_grid(last)
        other = AttentionQuantizer(2, 4, 4, 3, softmax=name)
        other.load_state_dict(attention.state_dict())
        learned = LearnedAttention.from_quant(other)
        for each in (attention, other.to(torch.bfloat16), learned.settled()):
            assert each.softmax_grid.setting == last.setting
        attention.mixq_softmax_setting.fill_(-1)
        assert not attention.has_valid_softmax_grid()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_attention_in_training_reads_its_setting_when_it_is_filled_and_in_no_forward(name, training, monkeypatch):
    kind = softmax_grid_of(name)
    last = kind(3, *kind.settings(3)[-1:])
    filled = LearnedAttention(2, 4, 4, 3, softmax=name)
    filled.set_softmax_grid(last)
    learned = LearnedAttention(2, 4, 4, 3, softmax=name).train(training)
    learned.load_state_dict(filled.state_dict())
    moved = copy.deepcopy(learned).to(torch.float32)

    def refuse(self):
        raise AssertionError("a forward read the buffer")

    monkeypatch.setattr(LearnedAttention, "read_softmax_grid", refuse)
    monkeypatch.setattr(AttentionQuantizer, "read_softmax_grid", refuse)
    operands = [torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    expected = filled.train(training)(*operands, None, 0.5)
    for each in (learned, moved):
        assert each.softmax_grid.setting == last.setting
        assert torch.equal(each(*operands, None, 0.5), expected)
