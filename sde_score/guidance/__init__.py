"""Guidance: models made of models; samplers, likelihoods and views take them like any other."""

from sde_score.guidance.thresholding import Clipped, LimitedDenoiser, Thresholded

__all__ = ["Clipped", "LimitedDenoiser", "Thresholded"]
