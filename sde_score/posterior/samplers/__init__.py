"""Samplers of posteriors: methods whose steps, and not the score alone, know the observation."""

from sde_score.posterior.samplers.base import SAMPLERS, PosteriorSampler

__all__ = ["SAMPLERS", "PosteriorSampler"]
