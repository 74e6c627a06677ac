# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import make_model, random_pixels
from transformers import SegformerModel

from optimum_mixq.architectures.backbones import read_embedding
from optimum_mixq.architectures.describe import describe, require_image_size


def test_queries_are_a_unit_of_their_own_where_keys_are_made_from_fewer_tokens():
    reduced, plain = (block for block in describe(make_model("segformer")).blocks if block.name.endswith(".0"))
    assert [unit.kind for unit in reduced.units] == ["q", "kv", "qk", "av", "proj", "fc1", "fc2"]
    assert reduced.norms[0].norm.endswith("sequence_reduction.layer_norm") and not reduced.plain_scores
    assert reduced.norms[0].readers == reduced.unit("kv").modules
    assert [unit.kind for unit in plain.units] == ["qkv", "qk", "av", "proj", "fc1", "fc2"]
    assert (reduced.apart, plain.apart) == (False, True)


def test_images_whose_map_is_smaller_than_the_reduction_are_refused():
    model = make_model("segmenting_segformer")
    require_image_size(model, (8, 8))
    with pytest.raises(ValueError, match="found 4 x 8 pixels: the map of stage 0 is 1 x 2, and 2 x 2 tokens"):
        require_image_size(model, (4, 8))


@torch.no_grad()
def test_the_embedding_is_what_the_classifier_reads():
    model = make_model("segformer")
    backbone: SegformerModel = model.segformer
    pixels = random_pixels(model, 2)
    embedding = read_embedding(backbone, backbone(pixel_values=pixels))
    torch.testing.assert_close(model.classifier(embedding), model(pixel_values=pixels).logits)
