# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch

from optimum_mixq import MixQConfig
from optimum_mixq.stages.relevance import scores
from optimum_mixq.stages.relevance.scores import register_score, require_score, score_names


@pytest.mark.parametrize("name", ["absolute", "signed", "mean", "gradient"])
def test_the_scores_are_those_of_their_equations(name):
    generator = torch.Generator().manual_seed(0)
    relevance, gradient = torch.randn(3, 7, generator=generator), torch.randn(3, 7, generator=generator)
    expected = []
    for image in range(3):
        total = 0.0
        for r, g in zip(relevance[image].tolist(), gradient[image].tolist(), strict=True):
            total += {"absolute": abs(r), "signed": r, "mean": abs(r) / 7, "gradient": max(g * r, 0.0)}[name]
        expected.append(total)
    score = require_score(name)
    found = score.function(relevance, gradient if score.needs_gradient else None)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert score.needs_gradient == (name == "gradient")


def test_a_registered_score_is_one_that_the_configuration_takes(monkeypatch):
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    message = "Expected score to be 'absolute', 'signed', 'mean' or 'gradient', found 'largest'"
    with pytest.raises(ValueError, match=message):
        MixQConfig(score="largest")
    register_score("largest")(lambda relevance, gradient: relevance.abs().amax(1))
    assert MixQConfig(score="largest").score == "largest"
    assert score_names() == ("absolute", "signed", "mean", "gradient", "largest")


def test_a_saved_configuration_is_read_where_its_score_is_not_registered():
    saved = MixQConfig(plan={"blocks.0.qkv": [4, 4]}).to_dict() | {"score": "largest"}
    assert MixQConfig.from_dict(saved).score == "largest"
