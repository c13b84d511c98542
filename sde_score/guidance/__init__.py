"""Guidance: models made of models, which every sampler takes like any other."""

from sde_score.guidance.thresholding import Clipped, Limited, Thresholded

__all__ = ["Clipped", "Limited", "Thresholded"]
