"""Noise scales: the multi-noise view of a diffusion."""
