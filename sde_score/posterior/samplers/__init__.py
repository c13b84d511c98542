"""Samplers of posteriors: methods whose steps, and not the score alone, know the observation."""

from functools import partial

from sde_score.posterior.samplers.base import SAMPLERS, PosteriorSampler
from sde_score.posterior.samplers.inpainting import PublishedInpainting
from sde_score.posterior.samplers.replacement import RePaint, Replacement

SAMPLERS.fill(
    {
        "replacement": Replacement,
        "repaint": RePaint,
        "pc-inpaint": partial(Replacement, predictor="reverse-diffusion", corrector="langevin"),
        "pc-inpaint-published": PublishedInpainting,
    }
)

__all__ = ["SAMPLERS", "PosteriorSampler", "PublishedInpainting", "RePaint", "Replacement"]
