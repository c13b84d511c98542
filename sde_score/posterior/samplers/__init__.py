"""Samplers of posteriors: methods whose steps, and not the score alone, know the observation."""

from sde_score.posterior.samplers.base import SAMPLERS, PosteriorSampler
from sde_score.posterior.samplers.replacement import RePaint, Replacement

SAMPLERS.fill({"replacement": Replacement, "repaint": RePaint})

__all__ = ["SAMPLERS", "PosteriorSampler", "RePaint", "Replacement"]
