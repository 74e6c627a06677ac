# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Mixed-precision quantization for Vision Transformers, as a Hugging Face Optimum plugin.

Importing the package registers the method "mixq" with transformers, so that `from_pretrained` loads packed models.
"""

from optimum_mixq.architectures.describe import Architecture, describe
from optimum_mixq.artifacts import BitPlan, LayerRelevance, SensitivityTable
from optimum_mixq.config import MixQConfig
from optimum_mixq.demo import DEMO_MODELS, demo_images_path, demo_model_path
from optimum_mixq.images.batches import Batch, Images, draw_rows
from optimum_mixq.images.sources import open_images
from optimum_mixq.pipeline import pack_trained, prepare_for_training, quantize_model, train_model
from optimum_mixq.quantizer import MixQQuantizer
from optimum_mixq.stages.evaluation import Evaluation
from optimum_mixq.stages.relevance.measure import explain, measure_relevance
from optimum_mixq.stages.training.config import MixQTrainingConfig
from optimum_mixq.stages.training.groups import parameter_groups


__all__ = [
    "DEMO_MODELS",
    "Architecture",
    "Batch",
    "BitPlan",
    "Evaluation",
    "Images",
    "LayerRelevance",
    "MixQConfig",
    "MixQQuantizer",
    "MixQTrainingConfig",
    "SensitivityTable",
    "demo_images_path",
    "demo_model_path",
    "describe",
    "draw_rows",
    "explain",
    "measure_relevance",
    "open_images",
    "pack_trained",
    "parameter_groups",
    "prepare_for_training",
    "quantize_model",
    "train_model",
]
