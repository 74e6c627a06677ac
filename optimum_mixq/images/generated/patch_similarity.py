# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Images that a model tells apart from noise: PSAQ-ViT (arXiv 2203.02250)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from optimum_mixq.architectures.describe import describe
from optimum_mixq.architectures.measuring import measuring
from optimum_mixq.architectures.replay import captured_outputs
from optimum_mixq.images.generated.base import ImageGenerator, PixelScale, draw_natural, register_generator
from optimum_mixq.utils.progress import progress_bar


# Where the density of similarities, numbers in -1..1, is evaluated, and the width of its kernel.
POINTS = 64
BANDWIDTH = 0.05


@register_generator
class PatchSimilarity(ImageGenerator):
    """Noise that is optimised until its patches differ, for the model, as those of photographs do.

    In photographs some patches are alike and others are not; in noise all are equally so. The loss is the sum of
    - the differential entropy of the patches' similarities in each attention's output, negative (equations 5 to 8),
    - the cross-entropy of a class that is drawn for the image, where the model has classes (equation 9), and
    - the total variation of the pixels (equation 10).

    # Unlike PSAQ-ViT: Adam starts from noise with the spectrum of photographs, and needs a tenth of the iterations.
    """

    name = "synthetic"
    iterations = 50
    rate = 0.05  # of Adam, in pixels of 0..1
    class_weight = 1.0
    variation_weight = 0.05

    def make(self, model: PreTrainedModel, scale: PixelScale, generators: Sequence[torch.Generator]) -> Tensor:
        device, dtype = model.device, model.dtype
        start = torch.stack([draw_natural(model, generator) for generator in generators])
        classes = [int(torch.randint(2**31, (), generator=generator)) for generator in generators]
        pixels = start.to(device).requires_grad_()
        scale = PixelScale(scale.mean.to(device), scale.deviation.to(device))
        optimizer = torch.optim.Adam([pixels], lr=self.rate)
        with measuring(model), progress_bar(self.iterations, f"Making {len(start)} images", "step") as bar:
            for _ in range(self.iterations):
                with torch.enable_grad():
                    loss = self.loss(model, scale.normalize(pixels).to(dtype), torch.tensor(classes))
                    loss = loss + self.variation_weight * total_variation(pixels)
                # The sum over images: with their mean, steps would depend on the batch.
                (pixels.grad,) = torch.autograd.grad(loss.sum(), pixels)
                optimizer.step()
                pixels.data.clamp_(0, 1)
                bar.update()
        return scale.normalize(pixels.detach()).float().cpu()

    def loss(self, model: PreTrainedModel, pixel_values: Tensor, classes: Tensor) -> Tensor:
        """Return the loss of each image (B,), from what the model makes of it."""
        names = [block.attention for block in describe(model).blocks if block.attention is not None]
        with captured_outputs(model, names) as outputs:
            answer = model(pixel_values=pixel_values)
        loss = pixel_values.new_zeros(len(pixel_values), dtype=torch.float32)
        for (output,) in outputs.values():
            hidden = output[0] if isinstance(output, tuple) else output
            loss = loss - similarity_entropy(hidden.float()).reshape(len(loss), -1).mean(1)
        logits = answer.get("logits")
        if logits is not None and logits.dim() == 2 and logits.shape[1] > 1:  # not one for each pixel
            drawn = classes.to(logits.device) % logits.shape[1]
            loss = loss + self.class_weight * F.cross_entropy(logits.float(), drawn, reduction="none")
        return loss


def similarity_entropy(hidden: Tensor) -> Tensor:
    """Return the differential entropy (B,) of the cosine similarities between the tokens of each image (B, T, C).

    The density f of the similarities s is estimated by a kernel, f(x) = mean over pairs of N(x; s, bandwidth^2), and
    the entropy is the integral of -f log f over -1..1. No token is compared with itself.
    """
    directions = F.normalize(hidden, dim=-1)
    tokens = hidden.shape[-2]
    rows, columns = torch.triu_indices(tokens, tokens, offset=1, device=hidden.device)
    similarities = (directions @ directions.mT)[..., rows, columns]  # (B, pairs)
    points = torch.linspace(-1, 1, POINTS, device=hidden.device, dtype=hidden.dtype)
    density = torch.stack([_kernel(point - similarities).mean(-1) for point in points], -1)  # (B, points)
    return -(density * density.clamp(min=1e-12).log()).sum(-1) * (2 / (POINTS - 1))


def total_variation(pixels: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels (B,), in deviations of the image (B, C, H, W)."""
    down = (pixels[..., 1:, :] - pixels[..., :-1, :]).square().mean((1, 2, 3))
    right = (pixels[..., 1:] - pixels[..., :-1]).square().mean((1, 2, 3))
    return (down + right) / pixels.detach().var((1, 2, 3)).clamp(min=1e-6)


def _kernel(distances: Tensor) -> Tensor:
    """Return the normal density of distances, of the width BANDWIDTH."""
    return torch.exp(-0.5 * (distances / BANDWIDTH).square()) / (BANDWIDTH * (2 * torch.pi) ** 0.5)
